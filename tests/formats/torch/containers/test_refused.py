"""Files that people have and that are not read: each is called by its name, and the hint says what to do."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import ckptconv
from ckptconv.errors import CkptconvError, CorruptFileError, FileAccessError, UnknownFormatError, UnsupportedError
from tests.support.craft import FOUR_FLOATS, archive, saved, state_dict, tensor, zip_bytes

if TYPE_CHECKING:
    from pathlib import Path


def error_of(path: Path) -> CkptconvError:
    with pytest.raises(CkptconvError) as error:
        ckptconv.open(path)
    assert error.value.hint
    assert error.value.path == path
    assert "\n" not in str(error.value)
    return error.value


def test_a_plain_tensor_on_a_quantized_storage(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.pth", state_dict(w=tensor(storage="QInt8Storage")), {"0": FOUR_FLOATS})
    assert "storage" in str(error_of(path))


def test_an_invalid_storage_class(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.pth", state_dict(w=tensor(storage="Foo")), {"0": FOUR_FLOATS})
    assert isinstance(error_of(path), UnsupportedError)


def test_another_zip(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(zip_bytes([("hello.txt", b"hi")]))
    assert isinstance(error_of(tmp_path / "x.pth"), UnknownFormatError | UnsupportedError)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


OTHERS = {
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    "a web page": (b"<!DOCTYPE html><html></html>", "download"),
    "a web page in lower case": (b"<!doctype html><html></html>", "download"),
    "an empty file": (b"", "copy the file again"),
    "an empty zip archive": (b"PK\x05\x06" + bytes(18), "save it again"),
    "a zip archive": (zip_bytes([("hello.txt", b"hi")]), "name it"),
    "a bzip2 file": (b"BZh9" + bytes(20), "tar xjf"),
    "Flax's parameters": (b"\x81\xa6params\x80", "flax"),
    "a 7-Zip archive": (b"7z\xbc\xaf\x27\x1c" + bytes(20), "7z x"),
    "a RAR archive": (b"Rar!\x1a\x07\x01\x00" + bytes(20), "unrar x"),
    "a server's answer": (b"Entry not found", "in place of a download"),
    "an lz4 file": (b"\x04\x22\x4d\x18" + bytes(20), "unlz4"),
    "a zlib stream": (b"\x78\x5e\xb4\xfd" + bytes(20), "pigz"),
    "an array of joblib's of before 0.10": (b"ZF0x12" + bytes(20), "joblib"),
    "a SavedModel's graph": (b"\x08\x01\x12\xff\x10" + bytes(20), "the folder that it is in"),
    "a model in onnxruntime's": (b"\x38\0\0\0ORTM" + bytes(20), "ONNX"),
    "an ExecuTorch program": (b"\x38\0\0\0ET12" + bytes(20), "made from"),
    "a TensorRT engine": (b"ftrt" + bytes(20), "ONNX"),
    "an RKNN model": (b"RKNN" + bytes(20), "ONNX"),
    "an ncnn graph in binary": (b"\xdd\x85\x76\0\2\0\0\0\2\0\0\0", "name the .param"),
    "a file of Lua Torch's": (b"\4\0\0\0\1\0\0\0\3\0\0\0V 1" + bytes(20), "torchfile"),
    "a table of Lua Torch's, as text": (b"4\n1\n3\nV 1\n13\nnn.Sequential\n", "torchfile"),
    "an XGBoost model": (b"{L" + bytes(7) + b"\x07learner{", "no tensors"),
    "trees of XGBoost's in JSON": (b'{"learner":{"attributes":{}}}', "no tensors"),
    "trees of LightGBM's": (b"tree\nversion=v4\nnum_class=1\n", "no tensors"),
    "trees of CatBoost's": (b"CBM1" + bytes(20), "no tensors"),
    "trees of CatBoost's in JSON": (b'{\n  "features_info":\n    {', "no tensors"),
    "trees of LightGBM's in JSON": (b'{"name": "tree", "version": "v4",', "no tensors"),
    "a spaCy model": (b"\x84\xa5nodes\x90\xa5attrs\x90\xa6params\x90\xa5shims\x90", "get_param"),
    "a spaCy pipeline": (b"\x82\xa5vocab\xc5\x00\x01\x80\xa4meta\xc0", "get_param"),
    "a component of a spaCy pipeline": (b"\x81\xa3cfg\xd9\x02{}", "get_param"),
    "a dlib network": (b"\1\1\1\x0dloss_metric_2\3\x0a\xd7", "made from"),
    "a Kaldi model": (b"\0B<TransitionModel> " + bytes(20), "made from"),
    "a SentencePiece vocabulary": (b"\n\x0e\n\5<unk>\x15\0\0\0\0\x18\2", "file of the weights"),
    "word vectors, as text": (b"3 2\nc -0.0067 0.0029\n", "gensim"),
    "word vectors of GloVe": (
        b"the 0.418 0.24968 -0.41242 0.1217 0.34527 -0.044457 -0.49688 -0.17862 1e-05\n",
        "no_header",
    ),
    "a record of Burn's": (b"\x82\xa8metadata\x81\xa5float\xa3f32\xa4item\x80", "burn-store"),
    "Circle": (b"\x1c\0\0\0CIR0" + bytes(24), "tflite"),
    "MindSpore Lite": (b"\x1c\0\0\0MSL2" + bytes(24), ".ckpt"),
    "Ascend": (b"IMOD" + bytes(28), "ONNX"),
    "word vectors, binary": (b"3 2\nc " + bytes(8) + b"\nd ", "gensim"),
    "a fastText model": (b"\xba\x16\x4f\x2f\x0c\0\0\0", "get_input_matrix"),
    "a Parquet file": (b"PAR1\x15\x04" + bytes(20), "file of the weights"),
    "a MATLAB file": (b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM", "loadmat"),
    "noise": (b"\x17\x23" * 100, "ckptconv formats"),
}


@pytest.mark.parametrize(("data", "hint"), OTHERS.values(), ids=OTHERS.keys())
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "x"])
def test_other_files_are_named_whatever_their_suffix(name: str, data: bytes, hint: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    error = error_of(tmp_path / name)
    assert isinstance(error, UnknownFormatError)
    assert hint in str(error.hint)


def test_a_name_says_what_bytes_do_not(tmp_path: Path) -> None:
    named = {"x.mnn": "an MNN model", "x.WEIGHTS": "Darknet weights", "x.engine": "a TensorRT engine"}
    for name, what in named.items():
        (tmp_path / name).write_bytes(bytes(16) + b"\4\0\0\0\x08\5")
        error = error_of(tmp_path / name)
        assert isinstance(error, UnknownFormatError)
        assert error.message.startswith("no known format starts like this file; by its name it is")
        assert what in error.message


def test_a_text_is_quoted_as_far_as_it_says_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_text('{\n  "error": "Repository not found"\n}\n')
    said = """this is text, not weights: '{ "error": "Repository not found" }'"""
    assert error_of(tmp_path / "x.pth").message == said
    (tmp_path / "x.json").write_text('{"meta":{"x":1}}')  # what would be the length of a safetensors is text
    assert error_of(tmp_path / "x.json").message == """this is text, not weights: '{"meta":{"x":1}}'"""
    (tmp_path / "long.pth").write_text("ä" * 1000)
    assert error_of(tmp_path / "long.pth").message == f"this is text, not weights: '{'ä' * 80}…'"


@pytest.mark.parametrize(
    ("file", "hint"),
    [("model_index.json", "unet"), ("saved_model.pb", "copy all of its files again")],
)
def test_other_folders_are_named(file: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / file).write_bytes(b"{}")
    error = error_of(tmp_path)
    assert isinstance(error, UnknownFormatError)
    assert hint in str(error.hint)


def pipeline(folder: Path) -> Path:
    """As diffusers saves one: a folder for each model, two forms of one of them, and folders without weights."""
    for name in ("scheduler", "text_encoder", "unet", "vae"):
        (folder / name).mkdir(parents=True)
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    for file in ("text_encoder/model", "unet/weights", "unet/weights.fp16", "vae/weights"):
        save_file({"w": torch.ones(2)}, folder / f"{file}.safetensors")
    return folder


@pytest.mark.parametrize("index", ["model_index.json", None])
def test_a_folder_of_checkpoints_lists_them_with_the_command_that_shows_each(index: str | None, tmp_path: Path) -> None:
    folder = pipeline(tmp_path / "pipe")
    if index is not None:
        (folder / index).write_text("{}")
    error = error_of(folder)
    assert isinstance(error, UnknownFormatError)
    assert "'text_encoder', 'unet', 'vae'" in str(error)
    assert ("diffusers" in str(error)) == (index is not None)
    parts = [str(folder / name) for name in ("text_encoder", "unet", "vae")]
    assert error.hint == f"name one of them, such as {parts[0]}; ckptconv inspect {' '.join(parts)} shows each"
    assert error_of(folder / "scheduler").hint == f"ckptconv inspect {folder / 'scheduler'} says what of it would run"


def test_folders_are_looked_into_once_and_not_further(tmp_path: Path) -> None:
    """Neither a tree of folders, nor one that leads back to itself, is walked through."""
    pipeline(tmp_path / "above" / "below")
    (tmp_path / "above" / "back").symlink_to(tmp_path / "above")
    for folder in (tmp_path, tmp_path / "above"):
        assert error_of(folder).hint == f"ckptconv inspect {folder} says what of it would run"


def test_a_slash_behind_a_files_name_changes_nothing(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"w": torch.ones(2)})
    with ckptconv.open(f"{path}/") as checkpoint:
        assert list(checkpoint) == ["w"]


class Unpicklable:
    def __reduce__(self) -> str:
        raise TypeError("no")


def test_an_archive_that_torch_save_left_is_reported(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="no"):
        torch.save({"w": torch.ones(2), "x": Unpicklable()}, tmp_path / "x.pth")
    error = error_of(tmp_path / "x.pth")
    assert isinstance(error, CorruptFileError)
    assert error.message.startswith("torch.save ended before it wrote anything of its object")


def test_a_folder_names_its_checkpoints_before_its_files(tmp_path: Path) -> None:
    for name in ("model", "optimizer"):
        ckptconv.convert(saved(tmp_path / "w.npz", {"w": torch.ones(2)}), tmp_path / name, to_format="torch-dcp")
    (tmp_path / "w.npz").rename(tmp_path / "scheduler.bin")
    error = error_of(tmp_path)
    assert error.message == (
        "this folder is not a checkpoint itself; in it: 'model', 'optimizer', and the files 'scheduler.bin'"
    )
    assert f"such as {tmp_path / 'model'}" in str(error.hint)


def test_a_hint_knows_names_in_another_case_and_paths_as_addresses(tmp_path: Path) -> None:
    saved(tmp_path / "model.pth", {"w": torch.ones(2)})
    assert error_of(tmp_path / "MODEL.PTH").hint == f"did you mean '{tmp_path / 'model.pth'}'?"
    with pytest.raises(FileAccessError) as caught:
        ckptconv.open(f"file://{tmp_path}/model.pth")
    assert caught.value.hint == f"give the path by itself: {tmp_path}/model.pth"
