"""TensorDicts: pickles of them, and their folders. What tensordict itself reads stands beside the fixtures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ckptconv
from ckptconv.api.inspect import inspect
from ckptconv.core.arrays import NUMPY_NAMES
from ckptconv.errors import CkptconvError, CorruptFileError, LimitError, LossError, UnsupportedError
from ckptconv.formats.torch.others import memmaps
from tests.hostile.cases import SYSTEM, call, named
from tests.hostile.implicit import new, state
from tests.support.craft import text

FILES = Path(__file__).parents[4] / "fixtures" / "others" / "tensordict"
MAPPED = FILES / "memmap"


def read_by_tensordict(file: str) -> dict[str, np.ndarray]:
    with np.load(FILES / "read.npz") as read:
        return {name.partition("|")[2]: read[name] for name in read.files if name.startswith(f"{file}|")}


@pytest.mark.parametrize("file", ["whole.pth", "memmap"])
def test_the_tensors_are_those_that_tensordict_reads(file: str) -> None:
    expected = read_by_tensordict(file)
    with ckptconv.open(FILES / file) as found:
        assert set(found) == set(expected)
        for name, array in expected.items():
            tensor = found[name]
            assert tensor.info.shape == array.shape
            assert bytes(tensor.read()) == array.tobytes(), name
            kind = NUMPY_NAMES[tensor.info.dtype]
            assert kind == ("ml_dtypes.bfloat16" if name == "bfloat16" else array.dtype.name)


# Pickles


@pytest.mark.parametrize("file", ["whole.pth", "class.pth"])
def test_a_pickled_one_is_no_alarm(file: str) -> None:
    assert inspect(FILES / file).to_dict()["verdict"] == "opaque"


def test_a_pickled_one_becomes_a_dict_by_consent(tmp_path: Path) -> None:
    with pytest.raises(LossError, match=r"tensordict\._td\.TensorDict, which would become a dict of its tensors"):
        ckptconv.convert(FILES / "whole.pth", tmp_path / "x.pth")
    ckptconv.convert(FILES / "whole.pth", tmp_path / "x.pth", allow_loss=["opaque"])
    saved = torch.load(tmp_path / "x.pth")
    assert saved["text"] == "a text"
    assert saved["numbers"] == {"k": [1, 2.5, None]}
    assert [part["q"].shape for part in saved["stack"]] == [(3,), (4,)]
    expected = read_by_tensordict("whole.pth")
    assert np.array_equal(saved["inner"]["turned"].numpy(), expected["inner.turned"])
    ckptconv.convert(FILES / "class.pth", tmp_path / "y.pth", allow_loss=["opaque"])
    saved = torch.load(tmp_path / "y.pth")
    assert (saved["rows"].tolist(), saved["name"]) == ([[1, 1], [1, 1]], "ours")


def test_what_a_pickled_one_is_comes_back_from_safetensors(tmp_path: Path) -> None:
    ckptconv.convert(FILES / "whole.pth", tmp_path / "x.safetensors")
    assert ckptconv.diff(FILES / "whole.pth", tmp_path / "x.safetensors").equal


CLASS = named("tensordict._td", "TensorDict")
STATE = {"_tensordict": b"}", "_batch_size": call("torch", "Size", b")"), "_device": b"N"}


def made(cls: bytes = CLASS, **changed: bytes) -> bytes:
    return call("tensordict._reductions", "_make_td", cls, state(**(STATE | changed)))


HARMLESS = {
    "an empty one": made(),
    "one in another": made(_tensordict=b"}" + text("a") + made() + b"s"),
    "a stack": made(
        named("tensordict._lazy", "LazyStackedTensorDict"), tensordicts=b"]", _hook_out=b"N", _hook_in=b"N"
    ),
}
CALLS = {
    "another class": made(named("tensordict.persistent", "PersistentTensorDict")),
    "a class of another's": made(named("models", "TensorDict")),
    "another attribute": made(_tensordict=b"}", batch_size=b"K\1\x85"),
    "a method of it": made(__class__=named("tensordict._td", "Other")),
    "a hook": made(_hook_out=named("models", "run")),
    "a class among the values": made(_tensordict=b"}" + text("a") + named("models", "Net") + b"s"),
    "an object among the values": made(_tensordict=b"}" + text("a") + new("models", "Net") + b"s"),
    "a call among the values": made(_tensordict=b"}" + text("a") + SYSTEM + b"s"),
    "no state": call("tensordict._reductions", "_make_td", CLASS),
    "a state that is none": call("tensordict._reductions", "_make_td", CLASS, b"N"),
}


@pytest.mark.parametrize(("code", "verdict"), [
    *(pytest.param(code, "opaque", id=name) for name, code in HARMLESS.items()),
    *(pytest.param(code, "would run code", id=name) for name, code in CALLS.items()),
])  # fmt: skip
def test_only_what_tensordict_pickles_is_harmless(code: bytes, verdict: str, tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04}" + text("k") + code + b"s.")
    assert inspect(tmp_path / "x.pkl").to_dict()["verdict"] == verdict


# Folders


def test_what_is_beside_the_tensors_is_metadata() -> None:
    with ckptconv.open(MAPPED) as found:
        values = {"text": "a text", "numbers": {"k": [1, 2.5, None]}, "each": ["one", "two"]}
        kept: Any = found.metadata["values"]
        assert {key: kept[key] for key in values} == values
        assert found.metadata["batch_size"] == {"": [2], "inner": [2]}
        assert found.metadata["names"] == {"": ["time"], "inner": ["time"]}
        assert found.metadata["stack_dim"] == {"stack": 0}


def test_a_value_in_a_pickle_is_reported_and_needs_consent(tmp_path: Path) -> None:
    assert inspect(MAPPED).to_dict()["verdict"] == "plain"
    with pytest.raises(LossError, match=r"other\.pickle"):
        ckptconv.convert(MAPPED, tmp_path / "x.safetensors")
    ckptconv.convert(MAPPED, tmp_path / "x.safetensors", allow_loss=["opaque"])
    with ckptconv.open(tmp_path / "x.safetensors") as found:
        assert set(found) == set(read_by_tensordict("memmap"))
    shutil.copytree(MAPPED, tmp_path / "hostile")
    (tmp_path / "hostile" / "set" / "other.pickle").write_bytes(b"\x80\4" + SYSTEM + b".")
    assert inspect(tmp_path / "hostile").to_dict()["verdict"] == "would run code"


def folder(path: Path, **changed: Any) -> Path:
    """A TensorDict of one tensor, its listing changed; None leaves an entry out."""
    said = {
        "w": {"device": "cpu", "shape": [2, 3], "dtype": "torch.float32", "is_nested": False}, "shape": [2],
        "device": "cpu", "_type": "<class 'tensordict._td.TensorDict'>",
    } | changed  # fmt: skip
    path.mkdir()
    (path / "meta.json").write_text(json.dumps({key: value for key, value in said.items() if value is not None}))
    (path / "w.memmap").write_bytes(bytes(24))
    return path


def entry(**changed: Any) -> dict[str, Any]:
    return {"shape": [2, 3], "dtype": "torch.float32", "is_nested": False} | changed


REFUSED: dict[str, tuple[dict[str, Any], type[CkptconvError], str]] = {
    "a file that is too short": ({"w": entry(shape=[2, 4])}, CorruptFileError, "ask for 32"),
    "a file that is too long": ({"w": entry(shape=[2, 2])}, CorruptFileError, "ask for 16"),
    "a file that is missing": ({"v": entry()}, CorruptFileError, "no file of 'v'"),
    "a folder that is missing": ({"v": {"type": "TensorDict"}}, CorruptFileError, "no folder of 'v'"),
    "a folder elsewhere": ({"../w": {"type": "TensorDict"}}, CorruptFileError, "no folder of"),
    "a file elsewhere": ({"../x/w": entry()}, CorruptFileError, "no file of"),
    "a nested tensor": ({"w": entry(is_nested=True)}, UnsupportedError, "nested"),
    "another element type": ({"w": entry(dtype="torch.qint8x")}, UnsupportedError, "qint8x"),
    "an element type that is a number": ({"w": entry(dtype=4)}, UnsupportedError, "'4'"),
    "a negative shape": ({"w": entry(shape=[-2, -3])}, CorruptFileError, "shape"),
    "a shape of text": ({"w": entry(shape="23")}, CorruptFileError, "shape"),
    "a shape of flags": ({"w": entry(shape=[True, 6])}, CorruptFileError, "shape"),
    "no shape": ({"w": {"dtype": "torch.float32"}}, CorruptFileError, "shape"),
    "a huge shape": ({"w": entry(shape=[1 << 62, 1 << 62])}, CorruptFileError, "shape"),
    "a batch size that is none": ({"shape": [-1]}, CorruptFileError, "batch size"),
}


@pytest.mark.parametrize(("changed", "error", "said"), REFUSED.values(), ids=REFUSED)
def test_what_contradicts_the_listing_is_refused(
    changed: dict[str, Any], error: type[CkptconvError], said: str, tmp_path: Path
) -> None:
    with ckptconv.open(folder(tmp_path / "good")) as found:
        assert list(found) == ["w"]
    with pytest.raises(error, match=said) as refused:
        ckptconv.open(folder(tmp_path / "bad", **changed))
    assert refused.value.hint
    assert refused.value.path == tmp_path / "bad"


def test_a_folder_whose_listing_is_of_something_else_is_none(tmp_path: Path) -> None:
    for number, kind in enumerate([None, 3, "a class", "<class 'models.Net'>"]):
        with pytest.raises(CkptconvError, match="folder"):
            ckptconv.open(folder(tmp_path / str(number), _type=kind))


def test_a_value_alone_is_no_checkpoint() -> None:
    for name in ("text", "each", "set"):
        with pytest.raises(CkptconvError, match="folder"):
            ckptconv.open(MAPPED / name)


def test_keys_that_give_one_name_are_told_apart(tmp_path: Path) -> None:
    home = folder(tmp_path / "x", **{"a.w": entry(), "a": {"type": "TensorDict"}, "w": None})
    (home / "w.memmap").rename(home / "a.w.memmap")
    folder(home / "a")
    with ckptconv.open(home) as found:
        assert list(found) == ["a.w", "a.w#2"]


def test_a_stack_without_one_of_its_folders_is_refused(tmp_path: Path) -> None:
    shutil.copytree(MAPPED, tmp_path / "x")
    shutil.rmtree(tmp_path / "x" / "stack" / "0")
    with pytest.raises(CorruptFileError, match="no folder 0"):
        ckptconv.open(tmp_path / "x")


def test_folders_are_only_so_many_and_so_deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAX_FILES", "MAX_TENSORS"):
        monkeypatch.setattr(memmaps, name, 2)
        with pytest.raises(LimitError):
            ckptconv.open(MAPPED)
        monkeypatch.undo()
    monkeypatch.setattr(memmaps, "MAX_DEPTH", 1)
    with pytest.raises(LimitError):
        ckptconv.open(MAPPED)


def test_a_folder_that_links_reach_again_is_refused(tmp_path: Path) -> None:
    """Of 18 folders with two links each 100,000 would be visited."""
    listing = {"_type": "<class 'tensordict._td.TensorDict'>", "shape": []}
    for level in range(18):
        folder = tmp_path / str(level)
        folder.mkdir()
        links = {key: {"type": "TensorDict"} for key in "ab"} if level < 17 else {}
        for key in links:
            (folder / key).symlink_to(tmp_path / str(level + 1))
        (folder / "meta.json").write_text(json.dumps({**listing, **links}))
    with pytest.raises(CorruptFileError, match="a part of this TensorDict already"):
        ckptconv.open(tmp_path / "0")
