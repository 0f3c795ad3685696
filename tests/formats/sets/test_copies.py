"""A folder of the hub without torch's weights stands for those that another framework has of the same model."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest
import torch
from onnx import helper, numpy_helper

import ckptconv
from ckptconv.errors import CorruptFileError, UnknownFormatError
from ckptconv.formats.sets.copies import NAMES

OTHERS = Path(__file__).parents[3] / "fixtures" / "others"
FILES = {
    "tf_model.h5": "keras-bert.h5", "flax_model.msgpack": "flax-bert.msgpack", "model.keras": "keras-3.keras",
    "model.weights.h5": "keras-recurrent.h5", "openvino_model.xml": "runtimes/openvino-net.xml",
}  # fmt: skip


def put(folder: Path, *names: str) -> Path:
    """A folder with these files, those of the fixtures or made here."""
    folder.mkdir(exist_ok=True)
    for name in names:
        if name in FILES:
            shutil.copy(OTHERS / FILES[name], folder / name)
        elif name == "rust_model.ot":
            torch.jit.save(torch.jit.script(torch.nn.Linear(2, 3)), folder / name)
        else:
            value = numpy_helper.from_array(torch.ones(2, 3).numpy(), "w")
            graph = helper.make_graph([], "g", [], [], [value])
            onnx.save(helper.make_model(graph), str(folder / name))
    if "openvino_model.xml" in names:
        shutil.copy(OTHERS / "runtimes" / "openvino-net.bin", folder / "openvino_model.bin")
    return folder


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_folder_with_one_of_them_is_read_as_that_file(name: str, tmp_path: Path) -> None:
    folder = put(tmp_path / "model", name)
    with ckptconv.open(folder) as whole, ckptconv.open(folder / name) as alone:
        assert whole.format == alone.format
        assert list(whole) == list(alone)
        assert all(whole[key].read() == alone[key].read() for key in alone)
        assert whole.path == folder


def test_the_first_of_several_is_read_and_the_others_are_named(tmp_path: Path) -> None:
    folder = put(tmp_path / "model", "model.onnx", "openvino_model.xml", "flax_model.msgpack", "tf_model.h5")
    with ckptconv.open(folder) as found:
        assert found.format == "hdf5"
        said = [finding.message for finding in found.findings if finding.code == "file"]
    others = "'flax_model.msgpack', 'model.onnx', 'openvino_model.xml'"
    assert said == [f"'tf_model.h5' is read, and no other copy: {others}"]
    (folder / "tf_model.h5").unlink()
    with ckptconv.open(folder) as found:
        assert found.format == "flax"  # and not the graph, though a folder of OpenVINO is a format itself


def test_other_weights_beside_it_are_named(tmp_path: Path) -> None:
    folder = put(tmp_path / "model", "flax_model.msgpack")
    torch.save({"w": torch.ones(2)}, folder / "best.pth")
    with ckptconv.open(folder) as found:
        (said,) = [finding.message for finding in found.findings if finding.code == "file"]
    assert said == "'flax_model.msgpack' is read, and not what else looks like weights: 'best.pth'"


def test_torchs_own_weights_come_first_and_the_copies_are_named(tmp_path: Path) -> None:
    folder = put(tmp_path / "model", "tf_model.h5")
    torch.save({"w": torch.ones(2)}, folder / "pytorch_model.bin")
    with ckptconv.open(folder) as found:
        assert list(found) == ["w"]
        (said,) = [finding.message for finding in found.findings if finding.code == "file"]
    assert said == "'pytorch_model.bin' is read, as the hub's libraries do, and no other copy: 'tf_model.h5'"


def test_a_name_that_anyone_may_give_does_not_hide_a_trainers_files(tmp_path: Path) -> None:
    folder = put(tmp_path / "model", "model.onnx")
    for name in ("best.pth", "last.pth"):
        torch.save({"w": torch.ones(2)}, folder / name)
    with pytest.raises(UnknownFormatError, match=r"'best.pth', 'last.pth', 'model.onnx'"):
        ckptconv.open(folder)


def test_a_flax_folder_becomes_torchs_and_fits_its_configuration(tmp_path: Path) -> None:
    folder = put(tmp_path / "model", "flax_model.msgpack")
    (folder / "config.json").write_text('{"model_type": "bert", "architectures": ["BertForMaskedLM"]}')
    assert ckptconv.validate(folder).valid
    edits = ckptconv.Edits(names=[ckptconv.NameRule("translate", "flax")])
    ckptconv.convert(folder, tmp_path / "a.pth", edits=edits, bare=True)
    assert "bert.embeddings.word_embeddings.weight" in torch.load(tmp_path / "a.pth", weights_only=True)


def test_a_damaged_one_is_an_error_and_another_is_not_read_in_its_place(tmp_path: Path) -> None:
    folder = put(tmp_path / "model", "tf_model.h5", "flax_model.msgpack")
    whole = (folder / "tf_model.h5").read_bytes()
    (folder / "tf_model.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptFileError):
        ckptconv.open(folder)
