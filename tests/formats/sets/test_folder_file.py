"""Which file of a folder stands for its checkpoint, and folders in which several could."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import ckptconv
from ckptconv.errors import UnknownFormatError, UsageError
from tests.formats.sets.set_files import error_of, findings, write_index

if TYPE_CHECKING:
    from collections.abc import Callable


def only(*names: str) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        for name in names:
            if name.endswith(".json"):
                (folder / name).write_text('{"metadata": {}, "weight_map": {}}')
            elif name.endswith(".bin"):
                torch.save({"w": torch.ones(2)}, folder / name)
            else:
                save_file({"w": torch.ones(2)}, folder / name)

    return build


@pytest.mark.parametrize(
    ("names", "format"),
    [
        (["model.safetensors"], "safetensors"),
        (["model.fp16.safetensors"], "safetensors"),
        (["anything.safetensors", "training_args.bin", "optimizer.bin"], "safetensors"),
        (["pytorch_model.bin", "training_args.bin"], "torch"),
        (["adapter_model.bin"], "torch"),
        (["model.safetensors", "consolidated.safetensors"], "safetensors"),
        (["model.safetensors.index.json"], "safetensors-sharded"),
        (["model.safetensors.index.fp16.json"], "safetensors-sharded"),
        (["pytorch_model.bin.index.json", "config.json"], "torch-sharded"),
    ],
)
def test_the_weights_of_a_folder_are_found(names: list[str], format: str, tmp_path: Path) -> None:
    only(*names)(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with ckptconv.open(tmp_path) as checkpoint:
        assert checkpoint.format == format


def test_an_index_of_one_file_that_has_no_number_is_not_another_checkpoint(tmp_path: Path) -> None:
    """As mlx-lm writes it, whatever the size."""
    save_file({"w": torch.ones(2), "v": torch.ones(3)}, tmp_path / "model.safetensors", {"format": "mlx"})
    write_index(tmp_path, dict.fromkeys("vw", "model.safetensors"), total_size=20, total_parameters=5)
    with ckptconv.open(tmp_path) as checkpoint:
        assert (checkpoint.format, sorted(checkpoint)) == ("safetensors-sharded", ["v", "w"])
    assert findings(tmp_path) == []


def test_mlx_lms_last_adapter_is_read_of_those_of_all_steps(tmp_path: Path) -> None:
    only("adapters.safetensors", "0000100_adapters.safetensors", "0000200_adapters.safetensors")(tmp_path)
    assert findings(tmp_path) == []
    only("model.safetensors")(tmp_path)
    with ckptconv.open(tmp_path) as checkpoint:
        assert checkpoint.file is not None
        assert Path(checkpoint.file.path).name == "model.safetensors"


def test_a_header_whose_length_begins_like_a_pickle_is_a_safetensors(tmp_path: Path) -> None:
    """One in 32 does: lengths are multiples of 8, and a pickle begins with 0x80."""
    name = "n"
    while True:
        save_file({name: torch.ones(2)}, tmp_path / "model.safetensors")
        if (tmp_path / "model.safetensors").read_bytes()[:1] == b"\x80":
            break
        name += "n"
    with ckptconv.open(tmp_path) as checkpoint:
        assert (checkpoint.format, list(checkpoint)) == ("safetensors", [name])


@pytest.mark.parametrize(
    "names",
    [
        ["model.safetensors", "model.safetensors.index.json"],
        ["model.safetensors", "model.fp16.safetensors"],
        ["model.fp16.safetensors", "pytorch_model.bin"],
        ["model.safetensors", "adapter_model.bin"],
        ["model.safetensors", "pytorch_model.bin", "adapter_model.safetensors"],
        ["pytorch_model.bin", "pytorch_model.bin.index.json"],
        ["one.safetensors", "two.safetensors"],
    ],
)
def test_a_folder_with_several_checkpoints_lists_them(names: list[str], tmp_path: Path) -> None:
    only(*names)(tmp_path)
    error = error_of(tmp_path)
    assert isinstance(error, UsageError)
    assert all(repr(name) in error.message for name in names)
    assert error.hint
    assert str(tmp_path) in error.hint


@pytest.mark.parametrize(
    ("read", "others"),
    [
        ("model.safetensors", ["pytorch_model.bin"]),
        ("model.safetensors", ["pytorch_model.bin", "pytorch_model.fp16.bin"]),
        ("model.safetensors", ["pytorch_model.bin.index.json"]),
        ("diffusion_pytorch_model.safetensors", ["diffusion_pytorch_model.bin"]),
        ("adapter_model.safetensors", ["adapter_model.bin"]),
    ],
)
def test_of_two_copies_the_one_is_read_that_transformers_loads(read: str, others: list[str], tmp_path: Path) -> None:
    only(read, *others)(tmp_path)
    with ckptconv.open(tmp_path) as checkpoint:
        assert checkpoint.format == "safetensors"
        (finding,) = checkpoint.findings
    assert (finding.code, finding.where) == ("file", read)
    assert all(repr(other) in finding.message for other in others)


def test_a_folder_of_other_files_of_weights_lists_them(tmp_path: Path) -> None:
    for name in ("best.pth", "last.pth"):
        torch.save({"w": torch.ones(2)}, tmp_path / name)
    error = error_of(tmp_path)
    assert "'best.pth', 'last.pth'" in error.message
    assert error.hint == f"name one of them, such as {tmp_path / 'best.pth'}"


@pytest.mark.parametrize(
    ("names", "likeliest"),
    [
        ({"ckpt_metadata.pkl": 1, "ckpt_state_dict.pt": 900, "optimizer.pt": 1800}, "ckpt_state_dict.pt"),
        ({"checkpoint_2.pt": 900, "checkpoint_10.pt": 901, "checkpoint_9.pt": 902}, "checkpoint_10.pt"),
        ({"best_model.pt": 900, "model_7.pt": 900}, "best_model.pt"),
        ({"discriminator.pt": 90, "generator.pt": 900}, "generator.pt"),
    ],
)
def test_of_a_folder_of_files_the_one_is_named_that_a_model_is_likely_in(
    names: dict[str, int], likeliest: str, tmp_path: Path
) -> None:
    for name, size in names.items():
        torch.save({"w": torch.ones(size)}, tmp_path / name)
    assert error_of(tmp_path).hint == f"name one of them, such as {tmp_path / likeliest}"


@pytest.mark.parametrize(
    ("home", "marks", "network"),
    [
        ("", "rllib_checkpoint.json", "learner_group/learner/rl_module/default_policy/module_state.pkl"),
        ("", "rllib_checkpoint.json", "policies/default_policy/policy_state.pkl"),
        ("learner_group", "class_and_ctor_args.pkl", "learner/rl_module/default_policy/module_state.pkl"),
        ("p", "class_and_ctor_args.pkl", "module_state.pkl"),
    ],
)
def test_in_a_folder_of_rllibs_the_network_is_named(home: str, marks: str, network: str, tmp_path: Path) -> None:
    """As ray 2.56 writes them, and the API of before."""
    folder = tmp_path / home
    (folder / network).parent.mkdir(parents=True)
    (folder / marks).write_bytes(pickle.dumps({"class": "PPO"}))
    (folder / network).write_bytes(pickle.dumps({"w": np.ones(2)}))
    (folder / "algorithm_state.pkl").write_bytes(pickle.dumps({"config": {}}))
    with pytest.raises(UnknownFormatError, match="RLlib") as error:
        ckptconv.convert(folder, tmp_path / "out.pth")
    assert error.value.hint == f"name {folder / network}"
    ckptconv.convert(folder / network, tmp_path / "out.pth")


def test_a_file_of_no_usual_name_is_said_to_be_the_one_that_is_read(tmp_path: Path) -> None:
    only("lora.safetensors", "optimizer.bin")(tmp_path)
    assert findings(tmp_path) == [("file", "lora.safetensors")]


def test_from_says_which_of_two_kinds_is_meant(tmp_path: Path) -> None:
    only("model.safetensors", "pytorch_model.bin")(tmp_path)
    for wanted, format in (("safetensors-sharded", "safetensors"), ("torch-sharded", "torch")):
        with ckptconv.open(tmp_path, format=wanted) as checkpoint:
            assert checkpoint.format == format


def test_a_folder_of_something_else_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "b.index.json").write_text('{"a": 1}')
    assert isinstance(error_of(tmp_path), UnknownFormatError)
    with pytest.raises(UsageError):
        ckptconv.open(tmp_path, format="safetensors-sharded")
