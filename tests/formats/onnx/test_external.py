"""Weights in files beside the model: what onnx.save writes, and what a stranger might."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import onnx
import pytest

import ckptconv
from ckptconv.errors import CkptconvError, FileAccessError, SourceChangedError, UnsupportedError
from ckptconv.formats.onnx import external
from ckptconv.formats.onnx.tensors import DTYPE_BY_CODE
from ckptconv.testing.damage import reading

from .models import image, model, tensor, write

if TYPE_CHECKING:
    from pathlib import Path

SHAPES = [(), (0,), (5,), (300, 7), (2, 3, 4)]


def outside(*, location: str = "w.bin", **entries: object) -> onnx.ModelProto:
    """A model whose one weight (8 bytes) is said to be in another file."""
    proto = onnx.TensorProto(name="w", data_type=1, dims=[2], data_location=onnx.TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        proto.external_data.add(key=key, value=str(value))
    return model(initializers=[proto])


@pytest.mark.parametrize("one_file", [True, False])
def test_external_data_is_what_the_onnx_package_reads(tmp_path: Path, one_file: bool) -> None:
    weights = [tensor(f"t{code}.{i}", code, shape) for code in sorted(DTYPE_BY_CODE) for i, shape in enumerate(SHAPES)]
    path = tmp_path / "m.onnx"
    onnx.save_model(
        model(initializers=weights), path, save_as_external_data=True, all_tensors_to_one_file=one_file,
        location="m.data" if one_file else None, size_threshold=0,
    )  # fmt: skip
    expected = {
        one.name: (DTYPE_BY_CODE[one.data_type].name, tuple(one.dims), image(one))
        for one in onnx.load(path).graph.initializer
    }
    with ckptconv.open(path) as found:
        assert reading(found).tensors == expected
        assert not found.ties
        found.check_unchanged()


def test_more_files_than_may_stay_open_are_read_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external, "MAX_HANDLES", 2)
    weights = [tensor(f"t{i}", 1, (10,), seed=i) for i in range(9)]
    onnx.save_model(
        model(initializers=weights), tmp_path / "m.onnx", save_as_external_data=True, all_tensors_to_one_file=False,
        size_threshold=0,
    )  # fmt: skip
    with ckptconv.open(tmp_path / "m.onnx") as found:
        assert [bytes(lazy.read(4, 40)) for lazy in found.values()] == [one.raw_data[4:] for one in weights]
        ckptconv.convert(tmp_path / "m.onnx", tmp_path / "m.safetensors")
        (tmp_path / "t0").write_bytes(bytes(40))  # which has no handle by now
        with pytest.raises(SourceChangedError):
            found["t0"].read()
        with pytest.raises(SourceChangedError):
            found.check_unchanged()


def test_offset_and_length_may_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(range(8)))
    for entries in ({}, {"offset": 0}, {"length": 8}, {"offset": 0, "length": 8, "checksum": "x", "whatever": "y"}):
        with ckptconv.open(write(tmp_path / "m.onnx", outside(**entries))) as found:
            assert bytes(found["w"].read()) == bytes(range(8))


def test_one_place_of_a_file_under_two_names_is_a_tie(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(16))
    made = outside(offset=8)
    made.graph.initializer.append(made.graph.initializer[0])
    made.graph.initializer[1].name = "v"
    made.graph.initializer.append(outside(offset=0).graph.initializer[0])
    made.graph.initializer[2].name = "u"
    with ckptconv.open(write(tmp_path / "m.onnx", made)) as found:
        assert found.ties == [["w", "v"]]


@pytest.mark.parametrize(
    "location",
    ["../w.bin", "sub/../../w.bin", "/etc/passwd", "sub\\..\\w.bin", "w.bin\0x", "", "..", ".", "link", "folder/w.bin"],
)
def test_a_place_outside_of_the_models_folder_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(8))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "w.bin")
    (folder / "folder").symlink_to(tmp_path)
    with pytest.raises(UnsupportedError, match="not inside the model's folder") as caught:
        ckptconv.open(write(folder / "m.onnx", outside(location=location)))
    assert caught.value.hint


def test_a_link_within_the_models_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_bytes(bytes(8))
    (tmp_path / "link").symlink_to("sub/w.bin")
    for location in ("link", "sub/w.bin", "./sub//w.bin"):
        with ckptconv.open(write(tmp_path / "m.onnx", outside(location=location))) as found:
            assert len(found["w"].read()) == 8


def test_the_folder_is_the_models_own_and_not_the_current_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_bytes(bytes(8))
    write(tmp_path / "sub" / "m.onnx", outside())
    monkeypatch.chdir(tmp_path)
    with ckptconv.open("sub/m.onnx") as found:
        monkeypatch.chdir(tmp_path / "sub")
        assert len(found["w"].read()) == 8


@pytest.mark.parametrize(
    "entries",
    [
        {"offset": 1}, {"offset": -1}, {"offset": "0x0"}, {"offset": ""}, {"offset": " 0"}, {"offset": "1" * 30},
        {"offset": (1 << 63) - 1}, {"length": 7}, {"length": 9}, {"length": -8}, {"length": "eight"}, {"offset": "²"},
    ],
)  # fmt: skip
def test_a_place_past_the_files_end_or_no_number_is_refused(tmp_path: Path, entries: dict[str, Any]) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(8))
    with pytest.raises(CkptconvError) as caught:
        ckptconv.open(write(tmp_path / "m.onnx", outside(**entries)))
    assert caught.value.hint


def test_an_entry_that_comes_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(8))
    made = outside()
    made.graph.initializer[0].external_data.add(key="location", value="w.bin")
    with pytest.raises(CkptconvError, match="twice"):
        ckptconv.open(write(tmp_path / "m.onnx", made))


def test_a_missing_file_a_folder_and_a_pipe_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for location in ("missing", "folder", "pipe"):
        with pytest.raises(FileAccessError, match=f"'{location}'") as caught:
            ckptconv.open(write(tmp_path / "m.onnx", outside(location=location)))
        assert caught.value.hint
