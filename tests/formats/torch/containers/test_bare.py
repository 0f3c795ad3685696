"""Bare pickles, as ``pickle.dump`` writes them, with Python's own unpickler as the judge."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, ClassVar

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

import ckptconv
from ckptconv.errors import CkptconvError, CorruptFileError, UnknownFormatError, UnsafeError, UnsupportedError
from ckptconv.io.source import Source
from tests.formats.torch.judges import assert_detected_whatever_its_name, assert_same_tensors
from tests.support.nodes import load

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
WIDE = np.random.default_rng(0).random((40, 30), np.float32)
ARRAYS: dict[str, np.ndarray[Any, Any]] = {
    "wide": WIDE,
    "small": np.arange(3),
    "zeros": np.zeros(5, np.uint8),
    "Fortran": np.asfortranarray(WIDE[:5, :4]),
    "Fortran, wide": np.asfortranarray(WIDE),
    "big-endian": WIDE.astype(">f4"),
    "big-endian, small": np.arange(3, dtype=">i2"),
    "big-endian complex": (WIDE[0] + 1j).astype(">c16"),
    "empty": np.zeros((0, 3)),
    "no dimensions": np.array(5.0),
    "bool": np.array([True, False]),
    "half": WIDE.astype(np.float16),
    "complex": (WIDE[0] + 1j).astype(np.complex64),
    "bfloat16": WIDE.astype(ml_dtypes.bfloat16),
    "float8": WIDE.astype(ml_dtypes.float8_e4m3fn),
    "strided": WIDE[::2, ::3],
}
SHARED = torch.arange(600.0)
STATES: dict[str, dict[str, torch.Tensor]] = {
    "a network": nn.Sequential(nn.Linear(40, 30), nn.BatchNorm1d(30)).state_dict(),
    "ties and views": {"a": SHARED, "b": SHARED},
    "element types": {
        str(dtype): torch.arange(5).to(dtype)
        for dtype in (
            torch.float64,
            torch.float16,
            torch.bfloat16,
            torch.int64,
            torch.int8,
            torch.bool,
            torch.complex64,
        )
    },
    "odd shapes": {"n": torch.tensor(7), "none": torch.empty(0, 3), "turned": SHARED.reshape(20, 30).t()},
}


def dumped(path: Path, value: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


def little(array: np.ndarray[Any, Any]) -> bytes:
    return array.astype(array.dtype.newbyteorder("<")).tobytes()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_are_tensors_and_all_else_is_metadata(protocol: int, tmp_path: Path) -> None:
    rest = {"lr": 0.1, "names": np.array(["x", "yy"]), "step": np.int64(3), "long": "x" * 5000, "raw": b"\xff" * 5000}
    path = dumped(tmp_path / "a.pkl", {**ARRAYS, **rest, "history": [{"loss": 1.5}]}, protocol)
    with ckptconv.open(path) as checkpoint:
        assert checkpoint.format == "pickle"
        assert list(checkpoint) == list(ARRAYS)
        for name, array in ARRAYS.items():
            found = checkpoint[name]
            assert found.info.shape == array.shape, name
            assert bytes(found.read()) == little(array), name
    target = tmp_path / "b.safetensors"
    ckptconv.convert(path, target)
    assert ckptconv.diff(path, target).equal
    back = tmp_path / "c.pth"
    ckptconv.convert(target, back)
    loaded = load(back, weights_only=False)
    assert {key: loaded[key] for key in ("lr", "step", "long", "raw", "history")} == {
        "lr": 0.1, "step": 3, "long": "x" * 5000, "raw": b"\xff" * 5000, "history": [{"loss": 1.5}]
    }  # fmt: skip
    assert list(loaded["names"]) == ["x", "yy"]
    assert torch.equal(loaded["wide"], torch.from_numpy(WIDE))


def test_every_element_type_of_numpy_and_ml_dtypes_is_the_one_that_the_package_loads(tmp_path: Path) -> None:
    kept = {name: array for name, array in ARRAYS.items() if not name.startswith(("big-endian", "float8"))}
    ckptconv.convert(dumped(tmp_path / "a.pkl", kept), tmp_path / "b.safetensors")
    seen = load_file(tmp_path / "b.safetensors")
    for name, array in kept.items():
        assert (seen[name].dtype, seen[name].tobytes()) == (array.dtype, array.tobytes()), name


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_tensors_of_torch_are_read_as_python_loads_them(
    state: dict[str, torch.Tensor], protocol: int, tmp_path: Path
) -> None:
    path = dumped(tmp_path / "a.pkl", state, protocol)
    loaded = pickle.loads(path.read_bytes())
    with ckptconv.open(path) as checkpoint:
        assert_same_tensors(checkpoint, loaded)
        assert all(use.known for use in checkpoint.notes.globals)
    assert ckptconv.inspect(path).verdict == "plain"


def test_a_whole_module_is_the_dict_that_its_state_dict_would_be(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(40, 30), nn.BatchNorm1d(30))
    path = dumped(tmp_path / "a.pkl", {"model": network, "epoch": 3})
    with ckptconv.open(path) as checkpoint:
        assert_same_tensors(checkpoint, network.state_dict())
        assert checkpoint.metadata["epoch"] == 3
    assert ckptconv.inspect(path).verdict == "opaque"


def test_python_2_wrote_arrays_as_text(tmp_path: Path) -> None:
    """Detectron2's model zoo is such pickles: numpy takes the text as Latin-1, we as bytes."""
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "wide": WIDE,
        "zeros": np.zeros(9, np.float32),
        "few": np.array([-2, 7], np.int8),
        "e": np.array(195, "u1"),
    }
    data = pickle.dumps({"model": arrays, "__author__": "x"}, 2)
    for array in arrays.values():  # as numpy of Python 2 did: T or U, a length and the bytes
        raw = array.tobytes()
        text = raw.decode("latin-1").encode()
        spelled = b"X" + len(text).to_bytes(4, "little") + text
        long = b"T" + len(raw).to_bytes(4, "little") + raw
        old = long if len(raw) > 255 else b"U" + bytes([len(raw)]) + raw
        assert spelled in data
        start = data.index(spelled)
        end = data.index(b"R", start + len(spelled)) + 1  # BINPUT, BINGET of "latin1", TUPLE2, BINPUT, REDUCE
        encode = data.rindex(b"h\x05" if data[start - 2 : start] == b"h\x05" else b"h", 0, start)
        data = data[:encode] + old + data[end:]
    path = tmp_path / "a.pkl"
    path.write_bytes(data)
    expected = pickle.loads(data, encoding="latin1")["model"]
    assert {name: array.tobytes() for name, array in expected.items()} == {k: v.tobytes() for k, v in arrays.items()}
    with ckptconv.open(path) as checkpoint:
        assert {name: bytes(tensor.read()) for name, tensor in checkpoint.items()} == {
            name: array.tobytes() for name, array in arrays.items()
        }


@pytest.mark.filterwarnings("ignore:.*invalid .*escape sequence:DeprecationWarning")
@pytest.mark.parametrize(
    "literal",
    [rb"'\101\7z\60'", rb"'\x41\x7e'", rb"'\a\b\f\n\r\t\v\\\'\"'", rb"'\q\8'", rb'"it\'s \0"', rb"'\1234\18'"],
)
def test_escapes_in_the_texts_of_python_2_are_those_of_python(literal: bytes, tmp_path: Path) -> None:
    data = pickle.dumps({"w": WIDE, "text": "MARK"}, 0).replace(b"VMARK\n", b"S" + literal + b"\n")
    (tmp_path / "x.pkl").write_bytes(data)
    with ckptconv.open(tmp_path / "x.pkl") as checkpoint:
        assert checkpoint.metadata["text"] == pickle.loads(data)["text"]


def test_a_frame_ends_where_the_pickle_does_at_the_latest(tmp_path: Path) -> None:
    data = bytearray(pickle.dumps({"w": ARRAYS["small"]}, 4))
    size = int.from_bytes(data[3:11], "little")
    assert (bytes(data[2:3]), size) == (b"\x95", len(data) - 11)
    data[3:11] = (size + 1).to_bytes(8, "little")
    (tmp_path / "x.pkl").write_bytes(data)
    with pytest.raises(pickle.UnpicklingError):
        pickle.loads(bytes(data))
    with pytest.raises(CorruptFileError, match="a frame is longer than the pickle"):
        ckptconv.open(tmp_path / "x.pkl")


def test_long_runs_of_bytes_stay_in_the_file_when_it_is_opened(tmp_path: Path, monkeypatch: Any) -> None:
    read: list[tuple[int, int]] = []
    original = Source.read_at

    def counting(self: Source, offset: int, length: int) -> memoryview:
        read.append((offset, length))
        return original(self, offset, length)

    monkeypatch.setattr(Source, "read_at", counting)
    big = np.zeros((1000, 1000), np.float32)
    path = dumped(tmp_path / "a.pkl", {"a": big, "t": torch.zeros(1000, 1000), "b": big + 1}, 5)
    with ckptconv.open(path) as checkpoint:
        assert len(checkpoint) == 3
        spans = [tensor.span for tensor in checkpoint.values()]
        assert all(span is not None and isinstance(span.file, Source) for span in spans)
    assert sum(length for _, length in read) < 64 << 10


class Jax:
    """Pickles as JAX's arrays do (jax/_src/array.py)."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array = array

    def __reduce__(self) -> tuple[Any, ...]:
        function, arguments, state = tuple(self.array.__reduce__())
        return Named("jax._src.array", "_reconstruct_array"), (function, arguments, state, {"weak_type": False})


class Named:
    """A function that is not installed."""

    def __init__(self, module: str, name: str) -> None:
        self.__module__, self.__qualname__ = module, name
        self.__name__ = name

    def __call__(self, *_: object) -> None:
        """It is never called."""


PYTHONS: Any = vars(pickle)["_Pickler"]


class Pickler(PYTHONS):
    """Python's, that does not look whether a function can be imported."""

    dispatch: ClassVar = dict(PYTHONS.dispatch)

    def save_named(self, named: Named) -> None:
        self.write(f"c{named.__module__}\n{named.__name__}\n".encode())
        self.memoize(named)

    dispatch[Named] = save_named


def as_others_dump(value: object, protocol: int) -> bytes:
    buffer = io.BytesIO()
    Pickler(buffer, protocol).dump(value)
    return buffer.getvalue()


@pytest.mark.parametrize("protocol", [2, 4])
def test_jax_arrays_are_tensors(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(as_others_dump({"mlp/~/linear_0": {"w": Jax(WIDE), "b": Jax(WIDE[0].astype("f2"))}}, protocol))
    with ckptconv.open(path) as checkpoint:
        assert {name: bytes(tensor.read()) for name, tensor in checkpoint.items()} == {
            "w": WIDE.tobytes(), "b": WIDE[0].astype("f2").tobytes()
        }  # fmt: skip
    assert ckptconv.inspect(path).verdict == "plain"


class Paddle:
    """Pickles as PaddlePaddle's tensors do within other objects (paddle/framework/io.py)."""

    def __init__(self, name: str, array: np.ndarray[Any, Any]) -> None:
        self.name, self.array = name, array

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, ((self.name, self.array),)


def test_paddle_s_tensors_go_by_their_keys_and_keep_their_names(tmp_path: Path) -> None:
    state = OrderedDict([("0.weight", Paddle("linear_0.w_0", WIDE)), ("0.bias", Paddle("linear_0.b_0", WIDE[0]))])
    path = dumped(tmp_path / "a.pdparams", {"model": state, "pair": ("x", 1)})
    with ckptconv.open(path) as checkpoint:
        assert list(checkpoint) == ["0.weight", "0.bias"]
        assert checkpoint.metadata == {"pair": ("x", 1)}
    ckptconv.convert(path, tmp_path / "b.pth")
    weight = torch.load(tmp_path / "b.pth")["model"]["0.weight"]
    assert torch.equal(weight, torch.from_numpy(WIDE))
    assert weight.paddle_name == "linear_0.w_0"


def test_what_is_set_on_objects_and_in_sets_is_kept(tmp_path: Path) -> None:
    class_of_numpy = np.random.RandomState(0)
    path = dumped(
        tmp_path / "a.pkl", {"w": WIDE, "random": class_of_numpy, "deep": [({"x": (WIDE[0], {"y": WIDE[1]})},)]}
    )
    with ckptconv.open(path) as checkpoint:
        names = list(checkpoint.all_tensors)
    assert "w" in names
    assert "deep.0.0.x.0" in names
    ckptconv.convert(path, tmp_path / "b.safetensors")
    assert ckptconv.diff(path, tmp_path / "b.safetensors").equal


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = dumped(tmp_path / "a.pkl", {"w": WIDE, "b": np.ones(3), "t": torch.ones(4)}).read_bytes()
    path = tmp_path / "cut.pkl"
    for size in [*range(2, len(whole), 41), *range(len(whole) - 300, len(whole))]:
        path.write_bytes(whole[:size])
        with pytest.raises((CorruptFileError, UnknownFormatError)):
            ckptconv.open(path)


def test_bytes_after_the_pickle_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"w": WIDE}) + pickle.dumps(3))
    with ckptconv.open(path) as checkpoint:
        assert [finding.code for finding in checkpoint.findings] == ["trailing"]


def with_storage(storage: bytes) -> bytes:
    """A tensor of three floats, on a storage whose file is this."""
    class_ = b"ctorch._utils\n_rebuild_tensor_v2\n(ctorch.storage\n_load_from_bytes\n"
    loaded = b"B" + len(storage).to_bytes(4, "little") + storage + b"\x85R"
    return b"\x80\x03}X\1\0\0\0w" + class_ + loaded + b"K\0K\3\x85K\1\x85\x89ccollections\nOrderedDict\n)RtRs."


def storage_file(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


CLASS = storage_file([torch.arange(3.0)._typed_storage(), nn.Linear])
LONGER = pickle.dumps({"w": np.arange(3.0)}).replace(b"K\x03\x85", b"K\x04\x85")
STORAGE = storage_file(torch.arange(3.0)._typed_storage())
DISGUISED = b"\x80\4]Vjoblib.numpy_pickle\nVNumpyArrayWr\\u0061pper\n\x93a."
REFUSED: dict[str, tuple[bytes, type[CkptconvError]]] = {
    "a storage that is not a file of torch's": (with_storage(b"x" * 50), CorruptFileError),
    "a storage's file that is cut": (with_storage(STORAGE[:-3]), CorruptFileError),
    "a file of another value": (with_storage(storage_file({"x": 1})), CorruptFileError),
    "a file that names a class": (with_storage(CLASS), UnsafeError),
    "a storage that is too small": (with_storage(storage_file(torch.arange(2.0)._typed_storage())), CorruptFileError),
    "an array of the wrong size": (LONGER, CorruptFileError),
    "a persistent id": (b"\x80\x02}X\1\0\0\0wX\1\0\0\0aQs.", CorruptFileError),
    "joblib's wrapper in disguise": (DISGUISED, UnsupportedError),
}  # fmt: skip


@pytest.mark.parametrize(("data", "error"), REFUSED.values(), ids=REFUSED)
def test_a_bare_pickle_that_cannot_be_read_is_refused(data: bytes, error: type[CkptconvError], tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(data)
    with pytest.raises(error) as refused:
        ckptconv.open(path)
    assert refused.value.hint


def test_a_whole_storage_of_that_kind_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(with_storage(STORAGE))
    assert torch.equal(pickle.loads(path.read_bytes())["w"], torch.arange(3.0))
    with ckptconv.open(path) as checkpoint:
        assert bytes(checkpoint["w"].read()) == np.arange(3, dtype="f4").tobytes()


LOOKALIKES: dict[str, Callable[[], bytes]] = {
    "text in parentheses": lambda: b"(see above)\n.",
    "JSON": lambda: b'[1, 2, "."]',
    "text that starts as a class": lambda: b"copy\nthis\nplease.",
}


@pytest.mark.parametrize("data", [make() for make in LOOKALIKES.values()], ids=LOOKALIKES)
def test_text_is_no_pickle(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(CkptconvError):
        ckptconv.open(path)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_it_is_detected_whatever_its_name(protocol: int, tmp_path: Path) -> None:
    assert_detected_whatever_its_name(dumped(tmp_path / "a.pkl", {"w": WIDE}, protocol), "pickle")


def test_a_safetensors_header_of_the_same_first_bytes_is_none(tmp_path: Path) -> None:
    from safetensors.numpy import save

    for size in range(500, 640):  # 0x280 is 640
        data = save({"w": np.ones(1, np.float32)}, {"pad": "x" * size})
        if data[:2] == b"\x80\x02":
            break
    assert data[:2] == b"\x80\x02"
    (tmp_path / "a").write_bytes(data)
    with ckptconv.open(tmp_path / "a") as checkpoint:
        assert checkpoint.format == "safetensors"
