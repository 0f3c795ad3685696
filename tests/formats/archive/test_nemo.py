"""NeMo's archives, packed as its SaveRestoreConnector packs them: weights, configuration, and what that would run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

import ckptconv
from ckptconv.errors import CorruptFileError, UnsupportedError
from tests.cli.conftest import run as run  # the fixture
from tests.support.archive_files import CONFIG, nemo, nemo_folder, state
from tests.support.nodes import image

if TYPE_CHECKING:
    from tests.cli.conftest import Run


MEGATRON = Path(__file__).parents[3] / "fixtures" / "others" / "megatron" / "gated-2x1" / "dist"


@pytest.mark.parametrize("mode", ["w:", "w:gz"])
def test_weights_and_configuration_are_read(mode: str, tmp_path: Path) -> None:
    folder = nemo_folder(tmp_path / "n")
    with ckptconv.open(nemo(tmp_path / "m.nemo", folder, mode)) as checkpoint:
        assert (checkpoint.format, checkpoint.metadata) == ("nemo", {"model_config.yaml": CONFIG})
        assert {name: bytes(one.read()) for name, one in checkpoint.items()} == {
            name: image(one) for name, one in state().items()
        }
        assert checkpoint.findings[1].message == "1 member of the archive stays behind: '5f3c_tokenizer.model'"
    assert ckptconv.inspect(tmp_path / "m.nemo").verdict == "plain"
    ckptconv.convert(tmp_path / "m.nemo", tmp_path / "m.pth", bare=True)
    assert all(torch.equal(value, state()[name]) for name, value in torch.load(tmp_path / "m.pth").items())


def test_weights_of_torch_before_1_6_are_read(tmp_path: Path) -> None:
    folder = nemo_folder(tmp_path / "n")
    torch.save(state(), folder / "model_weights.ckpt", _use_new_zipfile_serialization=False)
    with ckptconv.open(nemo(tmp_path / "m.nemo", folder, "w:gz")) as checkpoint:
        assert list(checkpoint) == list(state())


def test_a_folder_of_distributed_weights_is_read(tmp_path: Path) -> None:
    folder = nemo_folder(tmp_path / "n")
    ckptconv.convert(folder / "model_weights.ckpt", folder / "model_weights", to_format="torch-dcp")
    (folder / "model_weights.ckpt").unlink()
    with ckptconv.open(nemo(tmp_path / "m.nemo", folder)) as checkpoint:
        assert {name: bytes(one.read()) for name, one in checkpoint.items()} == {
            name: image(one) for name, one in state().items()
        }
        used = [one.name for one in checkpoint.notes.members if one.use == "model"]
        assert sorted(used) == ["model_weights/.metadata", "model_weights/__0_0.distcp"]


def test_the_folder_of_a_model_of_megatrons_is_read(tmp_path: Path) -> None:
    folder = nemo_folder(tmp_path / "n")
    (folder / "model_weights.ckpt").unlink()
    shutil.copytree(MEGATRON, folder / "model_weights")
    for mode in ("w:", "w:gz"):
        path = nemo(tmp_path / "m.nemo", folder, mode)
        with ckptconv.open(path) as checkpoint:
            assert "decoder.layers.1.mlp.linear_fc1.weight" in checkpoint
            assert checkpoint.metadata["iteration"] == 7
        ckptconv.convert(path, tmp_path / "one.safetensors", bare=True, force=True)
        ckptconv.convert(MEGATRON, tmp_path / "two.safetensors", bare=True, force=True)
        assert ckptconv.diff(tmp_path / "one.safetensors", tmp_path / "two.safetensors").equal


def test_weights_in_slices_are_refused_by_name(tmp_path: Path) -> None:
    folder = nemo_folder(tmp_path / "n")
    for rank in ("mp_rank_00", "mp_rank_01"):
        (folder / rank).mkdir()
        shutil.copyfile(folder / "model_weights.ckpt", folder / rank / "model_weights.ckpt")
    (folder / "model_weights.ckpt").unlink()
    path = nemo(tmp_path / "m.nemo", folder)
    with pytest.raises(UnsupportedError, match="slices for 2 ranks") as error:
        ckptconv.open(path)
    assert error.value.details == ("mp_rank_00/model_weights.ckpt", "mp_rank_01/model_weights.ckpt")
    with ckptconv.open(path / "mp_rank_01" / "model_weights.ckpt") as checkpoint:
        assert list(checkpoint) == list(state())


def test_a_configuration_without_weights_is_no_model_of_nemos(tmp_path: Path) -> None:
    folder = nemo_folder(tmp_path / "n")
    (folder / "model_weights.ckpt").unlink()
    path = nemo(tmp_path / "m.nemo", folder)
    with pytest.raises(CorruptFileError, match="has no 'model_weights"):
        ckptconv.open(path, format="nemo")


RUNS = {
    "a call": "a:\n  _target_: os.system\n  command: id\n",
    "in braces": "a: {_target_: os.system, command: id}\n",
    "quoted": "a:\n  \"_target_\": 'os.system'\n",
    "escaped": 'a:\n  "\\x5ftarget\\x5f": os.system\n',
    "escaped in sixteen bits": 'a:\n  "\\u005ftarget_": os.system\n',
    "cut by a line": 'a:\n  "_tar\\\n    get_": os.system\n',
    "an explicit key": "a:\n  ? _target_\n  : os.system\n",
    "on the next line": "a:\n  _target_:\n    os.system\n",
    "torch's own loader": "a:\n  _target_: torch.hub.load\n",
    "an alias": "b: &k _target_\na:\n  *k : os.system\n",
    "an interpolation": "a:\n  _target_: ${b}\nb: os.system\n",
    "a module of torch's imports": "a:\n  _target_: torch.nn.parallel.distributed.os.system\n  command: id\n",
    "a class that NeMo imports": "a: {_target_: nemo.core.classes.common.subprocess.Popen, args: id}\n",
    "a function of NeMo's": "a: {_target_: nemo.core.classes.modelPT.import_class_by_path, path: os.system}\n",
    "the model's class": "target: os.system\n",
    "the model's class, explicit": "? target\n: os.system\n",
    "behind a megabyte": "a: [" + "1, " * 400_000 + "]\nb: {_target_: os.system}\n",
    "the model's class, quoted": '"target": "os.system"\n',
}


@pytest.mark.parametrize("config", RUNS.values(), ids=RUNS.keys())
def test_what_hydra_would_call_is_reported(config: str, tmp_path: Path, run: Run) -> None:
    path = nemo(tmp_path / "m.nemo", nemo_folder(tmp_path / "n", CONFIG.partition("\n")[2] + config))
    found = ckptconv.inspect(path)
    assert found.verdict == "would run code"
    assert len(found.opaque) == 1
    assert found.opaque[0].where.startswith("model_config.yaml: ")
    assert "loading it with NeMo would make 1 call" in run("inspect", str(path)).stdout
    assert run("inspect", "--fail-on-code", str(path)).exit_code == 1
    assert run("convert", str(path), str(tmp_path / "out.safetensors")).exit_code == 0  # a text stays one


@pytest.mark.parametrize(
    "config", ["{target: os.system}", '---\n{"a": 1, "target": "os.system"}', "\ufefftarget: os.system"]
)
def test_the_models_class_is_found_however_it_is_written(config: str, tmp_path: Path) -> None:
    path = nemo(tmp_path / "m.nemo", nemo_folder(tmp_path / "n", config))
    assert [use.node.name for use in ckptconv.inspect(path).opaque] == ["os.system"]


def test_every_archive_that_is_cut_is_refused(tmp_path: Path) -> None:
    path = nemo(tmp_path / "m.nemo", nemo_folder(tmp_path / "n"))
    whole = path.read_bytes()
    end = len(whole.rstrip(b"\0"))
    for size in range(0, end, 37):
        path.write_bytes(whole[:size])
        with pytest.raises(ckptconv.CkptconvError):
            ckptconv.open(path)


def test_flipped_bits_end_in_an_error_or_in_the_same_weights(tmp_path: Path) -> None:
    path = nemo(tmp_path / "m.nemo", nemo_folder(tmp_path / "n"))
    whole, expected = path.read_bytes(), {name: image(one) for name, one in state().items()}
    for at in range(0, 1024, 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        try:
            with ckptconv.open(path) as checkpoint:
                assert {name: bytes(one.read()) for name, one in checkpoint.items()} == expected
        except ckptconv.CkptconvError:
            pass
