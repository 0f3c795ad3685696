"""npz archives, with numpy as the judge both ways."""

from __future__ import annotations

import io
import pickle
import tempfile
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
import torch

import ckptconv
from ckptconv.cli.text.metadata import spelled
from ckptconv.errors import CkptconvError, CorruptFileError, DamagedTensorError, LimitError, UnsupportedError
from tests.support.craft import zip_bytes
from tests.support.nodes import load

if TYPE_CHECKING:
    from collections.abc import Callable

WIDE = [
    f"{order}{word}" for order in "<>" for word in ["i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16"]
]
DTYPES = ["?", "i1", "u1", *WIDE]
ORDERS: dict[str, Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]] = {
    "C": lambda a: a, "Fortran": np.asfortranarray, "transposed": lambda a: a.T, "a slice": lambda a: a[:, ::2],
}  # fmt: skip
SHAPES = [(), (1,), (0,), (3, 0, 4), (5, 6), (2, 3, 4, 5)]
SAVERS: dict[str, Any] = {"savez": np.savez, "savez_compressed": np.savez_compressed}
ODD = [
    "a.weight",
    "a/b",
    "権重",
    " with spaces ",
    "line\nfeed",
    "back\\slash",
    "../up",
    "",
    "ckptconv.json",
    "x" * 300,
]


def numbers(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray[Any, Any]:
    made = np.random.default_rng(0).standard_normal(shape) * 50
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that negative numbers wrap around
        return made.astype(dtype)


def assert_reads_as_numpy(path: Path) -> None:
    with np.load(path) as theirs, ckptconv.open(path) as ours:
        assert ours.format == "npz"
        assert list(ours) == theirs.files
        for name in theirs.files:
            array, tensor = theirs[name], ours[name]
            assert tensor.info.shape == array.shape
            found = tensor.numpy()
            assert found.dtype == array.dtype.newbyteorder("=")
            assert found.tobytes() == array.astype(found.dtype).tobytes(), name


@pytest.mark.parametrize("save", SAVERS.values(), ids=SAVERS.keys())
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
def test_arrays_of_every_type_and_order_are_read(save: Any, order: Any, tmp_path: Path) -> None:
    save(tmp_path / "x.npz", **{dtype: order(numbers((5, 6), dtype)) for dtype in DTYPES})
    assert_reads_as_numpy(tmp_path / "x.npz")


@pytest.mark.parametrize("save", SAVERS.values(), ids=SAVERS.keys())
def test_arrays_of_every_shape_and_name_are_read(save: Any, tmp_path: Path) -> None:
    save(tmp_path / "x.npz", **{str(shape): np.asfortranarray(numbers(shape)) for shape in SHAPES})
    assert_reads_as_numpy(tmp_path / "x.npz")
    save(tmp_path / "y.npz", *[numbers((2,))] * 3, **dict.fromkeys(ODD, numbers((3,))))
    assert_reads_as_numpy(tmp_path / "y.npz")


def npy(text: str, data: bytes, version: tuple[int, int] = (1, 0)) -> bytes:
    width = 2 if version == (1, 0) else 4
    return b"\x93NUMPY" + bytes(version) + len(text).to_bytes(width, "little") + text.encode("utf-8") + data


def archived(path: Path, *arrays: bytes) -> Path:
    path.write_bytes(zip_bytes([(f"a{i}.npy", data) for i, data in enumerate(arrays)]))
    return path


FOUR = numbers((2, 2)).tobytes()
OTHERS_HEADERS = {
    "version 2.0": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }\n", FOUR, (2, 0)),
    "version 3.0": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }\n", FOUR, (3, 0)),
    "numbers of Python 2": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 2L), }\n", FOUR),
    "another order, no comma, no spaces": npy("{'shape':(2,2),'fortran_order':True,'descr':'<f4'}", FOUR),
    "native order": npy("{'descr': '=f4', 'fortran_order': False, 'shape': (2, 2), }\n", FOUR),
    "a long word": npy("{'descr': 'float32', 'fortran_order': False, 'shape': (2, 2), }\n", FOUR),
    "a letter": npy("{'descr': 'f', 'fortran_order': False, 'shape': (2, 2), }\n", FOUR),
    "a letter with an order": npy("{'descr': '>f', 'fortran_order': False, 'shape': (2, 2), }\n", FOUR),
    "booleans by their letter": npy("{'descr': '|?', 'fortran_order': False, 'shape': (2, 2), }\n", b"\1\0\0\1"),
    "padding of 16": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }".ljust(69) + "\n", FOUR),
}


@pytest.mark.parametrize("array", OTHERS_HEADERS.values(), ids=OTHERS_HEADERS.keys())
def test_headers_that_other_writers_write_are_read_as_numpy_does(array: bytes, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's of headers from Python 2
        assert_reads_as_numpy(archived(tmp_path / "x.npz", array))


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def no_tensors(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    return {
        "an object": np.array([Canary(folder / "ran")], dtype=object),
        "a date": np.array(["2020-01-01"], dtype="M8[D]"),
        "a duration": np.array([1], dtype="m8[s]"),
        "fields": np.zeros(2, dtype=[("a", "<f4"), ("b", "<i4")]),
        "void of five": np.zeros(2, dtype="V5"),
        "an 8-bit float": np.zeros(2, dtype=ml_dtypes.float8_e4m3fn),
        "a long double": np.zeros(2, dtype=np.longdouble),
    }


@pytest.mark.parametrize("name", no_tensors(Path()))
def test_what_is_no_tensor_is_refused_by_name_and_no_pickle_is_read(name: str, tmp_path: Path) -> None:
    arrays: Any = {"good": numbers((2,)), name: no_tensors(tmp_path)[name]}
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(UnsupportedError) as refused:
        ckptconv.open(tmp_path / "x.npz")
    assert repr(name + ".npy") in refused.value.message
    assert refused.value.hint
    assert not (tmp_path / "ran").exists()


TEXTS: dict[str, np.ndarray[Any, Any]] = {
    "words": np.array(["a", "bc", "權"]), "big-endian": np.array(["a", "bc"], dtype=">U3"), "one": np.array("me"),
    "bytes": np.array([b"a", b"bc"]), "Fortran": np.asfortranarray(np.array([["a", "b"], ["c", "d"], ["e", ""]])),
    "none": np.zeros((0, 2), dtype="<U1"),
}  # fmt: skip


@pytest.mark.parametrize("save", SAVERS.values(), ids=SAVERS.keys())
def test_texts_are_metadata_between_the_tensors_and_come_back(save: Any, tmp_path: Path) -> None:
    arrays = {
        name: array for i, text in enumerate(TEXTS) for name, array in ((text, TEXTS[text]), (f"t{i}", np.eye(2)))
    }
    save(tmp_path / "x.npz", **arrays)
    with ckptconv.open(tmp_path / "x.npz") as found:
        assert list(found) == [f"t{i}" for i in range(len(TEXTS))]
        assert list(found.metadata) == list(TEXTS)
    ckptconv.convert(tmp_path / "x.npz", tmp_path / "y.safetensors")
    ckptconv.convert(tmp_path / "y.safetensors", tmp_path / "z.npz")
    for path in ("x.npz", "y.safetensors", "z.npz"):
        ckptconv.convert(tmp_path / path, tmp_path / "back.pth", force=True)
        back = torch.load(tmp_path / "back.pth", weights_only=False)
        assert list(back) == list(arrays)
        for name, array in TEXTS.items():
            theirs = np.asarray(back[name])
            assert theirs.dtype.newbyteorder("=") == array.dtype.newbyteorder("=")
            assert np.array_equal(theirs, array), name


def test_texts_are_shown_as_numpy_orders_them(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", w=np.eye(2), texts=TEXTS["Fortran"])
    with ckptconv.open(tmp_path / "x.npz") as found:
        assert "'a', 'b', 'c', 'd', 'e', ''" in spelled(found.metadata["texts"])


def test_texts_that_are_cut_short_too_many_or_beside_our_record_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = "{'descr': '<U3', 'fortran_order': False, 'shape': (2,), }\n"
    for data in (bytes(23), bytes(25)):
        with pytest.raises(CorruptFileError, match="a0"):
            ckptconv.open(archived(tmp_path / "x.npz", npy(header, data)))
    huge = npy("{'descr': '<U999999999', 'fortran_order': False, 'shape': (99999999,), }\n", bytes(24))
    with pytest.raises(CorruptFileError, match="a0"):
        ckptconv.open(archived(tmp_path / "x.npz", huge))
    np.savez(tmp_path / "many.npz", w=np.eye(2), a=np.array("a" * 20), b=np.array("b" * 20))
    monkeypatch.setattr("ckptconv.formats.npz.read.MAX_NPZ_TEXT", 100)
    with pytest.raises(LimitError) as refused:
        ckptconv.open(tmp_path / "many.npz")
    assert refused.value.hint
    with zipfile.ZipFile(tmp_path / "many.npz", "a") as archive:
        archive.writestr("ckptconv.json", "{}")
    monkeypatch.undo()
    with pytest.raises(UnsupportedError, match=r"ckptconv\.json"):
        ckptconv.open(tmp_path / "many.npz")


def test_the_payload_of_that_object_is_live(tmp_path: Path) -> None:
    array = no_tensors(tmp_path)["an object"]
    pickle.loads(pickle.dumps(array))[0].close()
    assert (tmp_path / "ran").exists()


WRONG = {
    "no magic": b"NUMPY" + bytes(100),
    "eleven bytes": b"\x93NUMPY\1\0\0\0\0",
    "version 4.0": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }\n", FOUR, (4, 0)),
    "a header past the end": b"\x93NUMPY\1\0\xff\x20" + bytes(100),
    "a header that is too long": b"\x93NUMPY\2\0\xff\xff\xff\x7f" + bytes(100),
    "no Python": npy("{'descr': '<f4', 'fortran_order", FOUR),
    "a call": npy("__import__('os').getpid()", FOUR),
    "brackets without end": npy("(" * 9_000, FOUR),
    "a list": npy("[1, 2]", FOUR),
    "a key more": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), 'x': 1}\n", FOUR),
    "a key less": npy("{'descr': '<f4', 'shape': (2, 2)}\n", FOUR),
    "a shape of text": npy("{'descr': '<f4', 'fortran_order': False, 'shape': ('2', 2)}\n", FOUR),
    "a shape of booleans": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (True, 4)}\n", FOUR),
    "a size below zero": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -2)}\n", FOUR),
    "a size that is huge": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 9223372036854775808)}\n", FOUR),
    "a product that is huge": npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {(1 << 62, 1 << 62)}}}\n", FOUR),
    "65 dimensions": npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {(1,) * 65}}}\n", FOUR[:4]),
    "an order that is not a boolean": npy("{'descr': '<f4', 'fortran_order': 1, 'shape': (2, 2)}\n", FOUR),
    "a type of nothing": npy("{'descr': '', 'fortran_order': False, 'shape': (2, 2)}\n", FOUR),
    "a type that is a number": npy("{'descr': 4, 'fortran_order': False, 'shape': (2, 2)}\n", FOUR),
    "a type that is none": npy("{'descr': '<q9', 'fortran_order': False, 'shape': (2, 2)}\n", FOUR),
    "a long word with an order": npy("{'descr': '>float32', 'fortran_order': False, 'shape': (2, 2)}\n", FOUR),
    "two types": npy("{'descr': 'f4,f4', 'fortran_order': False, 'shape': (2, 2)}\n", FOUR),
    "a type of arrays": npy("{'descr': '(2,)f4', 'fortran_order': False, 'shape': (2,)}\n", FOUR),
    "a byte less": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2)}\n", FOUR[:-1]),
    "a byte more": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2)}\n", FOUR + b"\0"),
}


@pytest.mark.parametrize("array", WRONG.values(), ids=WRONG.keys())
def test_a_header_that_is_wrong_is_one_error_with_a_hint(array: bytes, tmp_path: Path) -> None:
    path = archived(tmp_path / "x.npz", array)
    with pytest.raises(CkptconvError) as refused:
        ckptconv.open(path)
    assert isinstance(refused.value, CorruptFileError | UnsupportedError | LimitError)
    assert "a0.npy" in refused.value.message or "a0" in refused.value.message
    assert refused.value.hint


def test_jaxs_types_are_read_as_what_they_must_be(tmp_path: Path) -> None:
    halves, eighths = (numbers((3, 4)).astype(t) for t in (ml_dtypes.bfloat16, ml_dtypes.float8_e5m2))
    np.savez(tmp_path / "x.npz", halves=halves, turned=halves.T, eighths=eighths)
    with ckptconv.open(tmp_path / "x.npz") as found:
        assert [tensor.info.dtype.name for tensor in found.values()] == ["BF16", "BF16", "F8_E5M2"]
        for name, expected in {"halves": halves, "turned": halves.T, "eighths": eighths}.items():
            assert found[name].numpy().tobytes() == np.ascontiguousarray(expected).tobytes()
        assert [finding.code for finding in found.findings] == ["read-as"]


def test_numpy_reads_what_we_write_and_finds_arrays_alone(tmp_path: Path) -> None:
    state = OrderedDict({"a.weight": torch.randn(4, 3), "a.bias": torch.arange(3), "on": torch.tensor([True, False])})
    state["half"], state["scalar"], state["none"] = torch.randn(2, 2).half(), torch.tensor(2.5), torch.empty(0, 4)
    torch.save(state, tmp_path / "x.pth")
    ckptconv.convert(tmp_path / "x.pth", tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as found:
        assert found.files == list(state)
        for name, tensor in state.items():
            assert (found[name] == tensor.numpy()).all()
            assert (found[name].dtype, found[name].shape) == (tensor.numpy().dtype, tuple(tensor.shape))
    ckptconv.convert(tmp_path / "x.npz", tmp_path / "back.pth")
    back = load(tmp_path / "back.pth")
    assert isinstance(back, OrderedDict)
    assert all(torch.equal(back[name], tensor) and back[name].dtype == tensor.dtype for name, tensor in state.items())


def test_a_copy_of_numpys_archive_holds_the_same_and_numpy_can_map_it(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", a=numbers((3, 4)).T, b=numbers((7,), ">i2"), c=numbers((2,), "c16"))
    ckptconv.convert(tmp_path / "x.npz", tmp_path / "y.npz")
    with np.load(tmp_path / "x.npz") as source, np.load(tmp_path / "y.npz") as target:
        assert source.files == target.files
        assert all((source[name] == target[name]).all() for name in source.files)
    data = (tmp_path / "y.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "y.npz") as file:
        assert {entry.compress_type for entry in file.infolist()} == {zipfile.ZIP_STORED}
    starts = [at for at in range(len(data)) if data.startswith(b"\x93NUMPY", at)]
    assert len(starts) == 3
    assert all(at % 64 == 0 for at in starts)


def test_types_that_numpy_lacks_come_back_and_are_reported(tmp_path: Path) -> None:
    state = {
        "bf": torch.randn(3, 4).bfloat16(), "f8": torch.randn(3, 4).to(torch.float8_e4m3fn),
        "ch": torch.tensor([[1 + 2j]], dtype=torch.complex32), "deep": torch.ones((1,) * 40), "nul\0": torch.ones(2),
        "w.npy": torch.zeros(2), "w": torch.ones(3), "lone\ud800": torch.ones(4), "x" * 70_000: torch.ones(5),
    }  # fmt: skip
    torch.save(state, tmp_path / "x.pth")
    report = ckptconv.convert(tmp_path / "x.pth", tmp_path / "x.npz")
    told = {finding.where for finding in report.findings}
    assert {"bf", "f8", "ch", "nul\0"} <= told
    with np.load(tmp_path / "x.npz") as found:
        assert (found["bf"].view(ml_dtypes.bfloat16).astype("f4") == state["bf"].float().numpy()).all()
        assert found["f8"].shape == (3, 4)
        assert found["w"].shape == (3,)
    ckptconv.convert(tmp_path / "x.npz", tmp_path / "y.pth")
    assert ckptconv.diff(tmp_path / "x.pth", tmp_path / "y.pth").equal


@pytest.mark.parametrize("save", SAVERS.values(), ids=SAVERS.keys())
def test_an_element_that_fails_the_checksum_is_not_copied(save: Any, tmp_path: Path) -> None:
    save(tmp_path / "x.npz", a=np.zeros(1000), b=numbers((50,)))
    data = bytearray((tmp_path / "x.npz").read_bytes())
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        entry = file.getinfo("b.npy")
    at = entry.header_offset + 30 + len("b.npy") + 20 + entry.compress_size - 1
    data[at] ^= 1
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises((DamagedTensorError, CorruptFileError)):
        ckptconv.convert(tmp_path / "x.npz", tmp_path / "y.pth")
    assert not (tmp_path / "y.pth").exists()


def test_opening_a_compressed_archive_inflates_headers_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "x.npz", a=np.zeros(4_000_000))

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a temporary file was asked for")

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    with ckptconv.open(tmp_path / "x.npz") as found:
        assert found["a"].info.shape == (4_000_000,)


def test_an_archive_without_arrays_is_refused_and_one_of_no_tensors_comes_back(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz")
    with pytest.raises(UnsupportedError, match="empty"):
        ckptconv.open(tmp_path / "x.npz", format="npz")
    torch.save({}, tmp_path / "x.pth")
    ckptconv.convert(tmp_path / "x.pth", tmp_path / "y.npz")
    assert ckptconv.diff(tmp_path / "x.pth", tmp_path / "y.npz").equal


def test_another_zip_archive_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(zip_bytes([("a.npy", OTHERS_HEADERS["version 2.0"]), ("README.txt", b"hello")]))
    with pytest.raises(CkptconvError):
        ckptconv.open(tmp_path / "x.npz")
    with pytest.raises(UnsupportedError, match=r"README\.txt"):
        ckptconv.open(tmp_path / "x.npz", format="npz")


@pytest.mark.parametrize("bare", [False, True])
def test_a_file_without_arrays_is_read_again(bare: bool, tmp_path: Path) -> None:
    source = tmp_path / "empty.pth"
    torch.save({}, source)
    ckptconv.convert(source, tmp_path / "empty.npz", bare=bare)
    with np.load(tmp_path / "empty.npz") as file:
        assert file.files == ["ckptconv.json"]
    assert ckptconv.diff(source, tmp_path / "empty.npz").equal
