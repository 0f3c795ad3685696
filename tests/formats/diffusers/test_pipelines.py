"""A pipeline of diffusers is one checkpoint, of which each model is one as well."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import ckptconv
from ckptconv.errors import (
    CkptconvError,
    CorruptFileError,
    UnknownFormatError,
    UnsafeError,
    UnsupportedError,
    UsageError,
)
from tests.edits.dialects.test_to_ldm import of_diffusers
from tests.support.archive_files import zipped
from tests.support.pipelines import save_pipeline

if TYPE_CHECKING:
    from pathlib import Path

    from ckptconv.core.checkpoint import Checkpoint

PARTS: dict[str, dict[str, np.ndarray[Any, Any]]] = {
    "unet": {"conv_in.weight": np.arange(6, dtype="f4").reshape(2, 3), "conv_in.bias": np.ones(2, "f2")},
    "vae": {"conv_in.weight": np.arange(4, dtype="f4")},
    "text_encoder": {"embeddings.w": np.zeros((3, 2), "f4")},
}
WHOLE = {f"{part}.{name}": array for part, arrays in PARTS.items() for name, array in arrays.items()}
INDEX = "model_index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_pipeline(tmp_path / "pipe", PARTS)


def assert_whole(checkpoint: Checkpoint) -> None:
    assert {name: (tensor.info.shape, bytes(tensor.read())) for name, tensor in checkpoint.items()} == {
        name: (array.shape, array.tobytes()) for name, array in WHOLE.items()
    }


def test_names_begin_with_the_component(folder: Path) -> None:
    with ckptconv.open(folder) as opened:
        assert opened.format == "diffusers"
        assert opened.metadata == {}
        assert_whole(opened)
        assert all(tensor.span is not None for tensor in opened.values())


def test_each_folder_is_a_checkpoint_by_itself(folder: Path) -> None:
    for part, arrays in PARTS.items():
        with ckptconv.open(folder / part) as opened:
            assert opened.keys() == arrays.keys()


def test_components_may_be_of_torch_and_in_shards(folder: Path) -> None:
    for part in ("unet", "vae"):
        (folder / part / "diffusion_pytorch_model.safetensors").unlink()
    shared = torch.nn.Parameter(torch.arange(4.0))
    torch.save({"conv_in.weight": shared, "again": shared}, folder / "vae" / "diffusion_pytorch_model.bin")
    unet = {name: torch.from_numpy(array) for name, array in PARTS["unet"].items()}
    torch.save(unet, folder / "whole.bin")
    ckptconv.convert(folder / "whole.bin", folder / "unet" / "model.safetensors.index.json", shard_size=1)
    (folder / "whole.bin").unlink()
    with ckptconv.open(folder) as opened:
        assert opened.ties == [["vae.conv_in.weight", "vae.again"]]
        assert opened.notes.tensors["vae.again"].parameter
        found = {name: bytes(tensor.read()) for name, tensor in opened.items() if name != "vae.again"}
        assert found == {name: array.tobytes() for name, array in WHOLE.items()}
    ckptconv.convert(folder, folder / "one.pth")
    assert torch.load(folder / "one.pth").keys() == {*WHOLE, "vae.again"}


def test_what_a_components_file_says_besides_stands_under_its_name(folder: Path, tmp_path: Path) -> None:
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    shutil.move(file, tmp_path / "plain.safetensors")
    ckptconv.convert(tmp_path / "plain.safetensors", file, metadata={"epoch": 3})
    with ckptconv.open(folder) as opened:
        assert opened.metadata == {"vae": {"epoch": 3}}
        assert_whole(opened)


def test_a_pipeline_in_an_archive_is_read_as_well(folder: Path, tmp_path: Path) -> None:
    members = {str(file.relative_to(tmp_path)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    with ckptconv.open(zipped(tmp_path / "pipe.zip", members)) as opened:
        assert_whole(opened)


def test_a_file_of_weights_beside_the_index_is_what_the_folder_means(folder: Path) -> None:
    shutil.copy(folder / "vae" / "diffusion_pytorch_model.safetensors", folder / "v1-5-pruned.safetensors")
    with ckptconv.open(folder) as opened:
        assert opened.keys() == PARTS["vae"].keys()
    with ckptconv.open(folder, format="diffusers") as opened:
        assert_whole(opened)


def test_what_is_missing_is_named(folder: Path) -> None:
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(CorruptFileError, match=r"no weights beside its config\.json") as caught:
        ckptconv.open(folder)
    assert caught.value.path == folder / "vae"
    shutil.rmtree(folder / "vae")
    with pytest.raises(CorruptFileError, match="names 'vae', and there is no such folder"):
        ckptconv.open(folder)


def test_folders_of_no_model_are_skipped_and_may_be_missing(folder: Path) -> None:
    shutil.rmtree(folder / "scheduler")
    shutil.rmtree(folder / "tokenizer")
    with ckptconv.open(folder) as opened:
        assert_whole(opened)


def test_two_forms_of_one_model_are_refused_by_its_folder(folder: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        shutil.copy(folder / "unet" / "diffusion_pytorch_model.safetensors", folder / "unet" / name)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(UsageError, match="holds 2 safetensors files") as caught:
        ckptconv.open(folder)
    assert caught.value.path == folder / "unet"


def test_what_else_a_component_holds_stands_under_its_name(folder: Path, tmp_path: Path) -> None:
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    content = {
        "state_dict": {"conv_in.weight": torch.arange(4.0)},
        "optimizer": {"state": {0: torch.ones(2)}},
        "epoch": 3,
    }
    torch.save(content, folder / "vae" / "diffusion_pytorch_model.bin")
    with ckptconv.open(folder) as opened:
        assert_whole(opened)
        assert opened.extras.keys() == {"vae.optimizer.state.0"}
        assert opened.metadata["vae"]["epoch"] == 3  # type: ignore[index]
    ckptconv.convert(folder, tmp_path / "one.pth")
    found = torch.load(tmp_path / "one.pth")
    assert found["vae"]["optimizer"]["state"][0].tolist() == [1, 1]
    assert found["state_dict"].keys() == WHOLE.keys()


class Attack:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("pwned",)


def test_a_component_that_would_run_code_is_seen(folder: Path, tmp_path: Path) -> None:
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    content = {"conv_in.weight": torch.arange(4.0), "x": Attack()}
    torch.save(content, folder / "vae" / "diffusion_pytorch_model.bin")
    assert ckptconv.inspect(folder).verdict == "would run code"
    with pytest.raises(UnsafeError):
        ckptconv.convert(folder, tmp_path / "one.safetensors")


def with_index(folder: Path, text: str | bytes) -> None:
    (folder / INDEX).write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", "1", "nul", '{"unet": 1}', '{"unet": [1, 2]}', '{"unet": [null, null]}', '{"_a": ["a", "b"]}',
     '{"s": ["diffusers", "DDIMScheduler"]}', b"\xff\xfe", "[" * 100_000, '{"unet": ["diffusers", "X"], }'],
)  # fmt: skip
def test_an_index_that_names_no_model_leaves_the_folders_to_choose_from(text: str | bytes, folder: Path) -> None:
    with_index(folder, text)
    with pytest.raises(UnknownFormatError, match="in it: 'text_encoder', 'unet', 'vae'"):
        ckptconv.open(folder)
    if text in ("{", b"\xff\xfe", "[" * 100_000):
        with pytest.raises(CorruptFileError, match="is not JSON"):
            ckptconv.open(folder, format="diffusers")


@pytest.mark.parametrize("name", ["..", "../pipe/unet", "/etc", "unet/../unet", "", "a\0b", "pipe"])
def test_a_name_that_is_no_folder_in_it_is_refused(name: str, folder: Path) -> None:
    with_index(folder, json.dumps({name: ["diffusers", "X"]}))
    with pytest.raises(CorruptFileError, match=r"no such folder|cannot be a component"):
        ckptconv.open(folder)


def test_a_folder_that_is_itself_a_component_is_refused_at_once(folder: Path) -> None:
    names = [f"m{i}" for i in range(60)]
    for name in names:
        (folder / name).symlink_to(folder, target_is_directory=True)
    with_index(folder, json.dumps({name: ["diffusers", "X"] for name in names}))
    with pytest.raises(UnsupportedError, match="a pipeline in a pipeline"):
        ckptconv.open(folder)


def test_a_folder_whose_name_has_a_dot_is_no_component(folder: Path) -> None:
    (folder / "unet").rename(folder / "unet.x")
    with_index(folder, json.dumps({"unet.x": ["diffusers", "X"]}))
    with pytest.raises(CorruptFileError, match="cannot be a component"):
        ckptconv.open(folder)


def test_too_many_models_and_too_large_an_index_are_refused(folder: Path) -> None:
    with_index(folder, json.dumps({f"m{i}": ["diffusers", "X"] for i in range(65)}))
    with pytest.raises(CorruptFileError, match="names 65 models"):
        ckptconv.open(folder, format="diffusers")
    with_index(folder, b"{" + b" " * (16 << 20))
    with pytest.raises(CorruptFileError, match="16,777,217 bytes"):
        ckptconv.open(folder, format="diffusers")


def test_an_index_cut_anywhere_is_refused_and_a_changed_one_is_read_or_refused(folder: Path) -> None:
    text = (folder / INDEX).read_bytes().rstrip()
    for length in range(0, len(text), 7):
        with_index(folder, text[:length])
        with pytest.raises(UnknownFormatError):
            ckptconv.open(folder)
    for at in range(0, len(text), 5):
        with_index(folder, text[:at] + bytes([text[at] ^ 4]) + text[at + 1 :])
        try:
            ckptconv.open(folder).close()
        except CkptconvError:
            continue


@pytest.mark.parametrize("parts", [["unet"], ["unet", "vae"]])
def test_a_component_is_not_replaced_by_the_whole(parts: list[str], tmp_path: Path) -> None:
    folder = save_pipeline(tmp_path / "pipe", {part: PARTS[part] for part in parts})
    with pytest.raises(UsageError, match="one of the files that the source consists of"):
        ckptconv.convert(folder, folder / "unet" / "diffusion_pytorch_model.safetensors", force=True)


def test_validate_says_how_each_model_is_checked(folder: Path) -> None:
    with pytest.raises(UsageError, match="of several models") as caught:
        ckptconv.validate(folder)
    assert caught.value.hint == "ckptconv validate " + " ".join(str(folder / part) for part in PARTS)


def test_validate_says_so_of_one_that_could_be_translated_too(tmp_path: Path) -> None:
    folder = save_pipeline(tmp_path / "pipe", of_diffusers("sdxl", tmp_path))
    with pytest.raises(UsageError, match="of several models"):
        ckptconv.validate(folder)


def test_a_changed_component_is_noticed(folder: Path) -> None:
    with ckptconv.open(folder) as opened:
        with (folder / "vae" / "diffusion_pytorch_model.safetensors").open("ab") as file:
            file.write(b"x")
        with pytest.raises(CkptconvError):
            opened.check_unchanged()
