"""Files of MXNet's: what it loads of them is what is read here."""

from __future__ import annotations

from pathlib import Path
from struct import pack

import numpy as np
import pytest
from safetensors.numpy import load_file

import ckptconv
from ckptconv.errors import CkptconvError, CorruptFileError, LimitError, UnsupportedError
from ckptconv.io import forward
from tests.support.reads import bytes_read, expect_no_cut_to_open

RUNTIMES = Path(__file__).parents[3] / "fixtures" / "others" / "runtimes"
FILES = sorted(path.stem for path in RUNTIMES.glob("mxnet-*.params"))
V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA


def read_by_mxnet(name: str) -> dict[str, np.ndarray]:
    with np.load(RUNTIMES / "mxnet.npz") as arrays:
        return {key.split("|")[1]: arrays[key] for key in arrays.files if key.startswith(f"{name}|")}


@pytest.mark.parametrize("name", FILES)
def test_every_array_is_what_mxnet_loads(name: str, tmp_path: Path) -> None:
    expected = read_by_mxnet(name)
    with ckptconv.open(RUNTIMES / f"{name}.params") as checkpoint:
        assert checkpoint.format == "mxnet"
        assert list(checkpoint) == [key.removeprefix("arg:").removeprefix("aux:") for key in expected]
        for found, value in zip(checkpoint.values(), expected.values(), strict=True):
            assert found.info.shape == value.shape
            assert found.numpy().dtype == value.dtype
            assert np.array_equal(found.numpy(), value)
            assert found.span is not None
    ckptconv.convert(RUNTIMES / f"{name}.params", tmp_path / "x.safetensors")
    seen = load_file(tmp_path / "x.safetensors")
    assert all(np.array_equal(seen[key.split(":")[-1]], value) for key, value in expected.items())


def array(magic: int | None, shape: list[int], data: bytes, *, kind: int = 0, code: int = 0) -> bytes:
    if magic is None:
        head = pack(f"<I{len(shape)}I", len(shape), *shape)
    else:
        head = (
            pack("<I", magic)
            + (b"" if magic == V1 else pack("<i", kind))
            + pack(f"<i{len(shape)}q", len(shape), *shape)
        )
    return head + pack("<3i", 1, 0, code) + data


def file(arrays: list[bytes], names: list[str]) -> bytes:
    named = b"".join(pack("<Q", len(name)) + name.encode() for name in names)
    return pack("<3Q", 0x112, 0, len(arrays)) + b"".join(arrays) + pack("<Q", len(names)) + named


ONE_TWO = pack("<2f", 1, 2)


@pytest.mark.parametrize("magic", [None, V1, V2, V3])
def test_arrays_of_every_version(magic: int | None, tmp_path: Path) -> None:
    (tmp_path / "x.params").write_bytes(file([array(magic, [2], ONE_TWO)], ["w"]))
    with ckptconv.open(tmp_path / "x.params") as checkpoint:
        assert checkpoint["w"].numpy().tolist() == [1, 2]


def test_names_keep_what_stands_before_them_where_they_would_be_the_same(tmp_path: Path) -> None:
    (tmp_path / "x.params").write_bytes(file([array(V2, [2], ONE_TWO)] * 2, ["arg:w", "aux:w"]))
    with ckptconv.open(tmp_path / "x.params") as checkpoint:
        assert list(checkpoint) == ["arg:w", "aux:w"]


def test_invalid_arrays_are_reported(tmp_path: Path) -> None:
    data = file([pack("<IiI", V2, 0, 0), array(V3, [], ONE_TWO[:4]), pack("<Iii", V3, 0, -1)], ["a", "b", "c"])
    (tmp_path / "x.params").write_bytes(data)
    with ckptconv.open(tmp_path / "x.params") as checkpoint:
        assert {name: one.info.shape for name, one in checkpoint.items()} == {"b": ()}
        assert "'a', 'c'" in checkpoint.findings[0].message


W = array(V2, [2], ONE_TWO)
BAD: dict[str, tuple[bytes, type[CkptconvError]]] = {
    "sparse": (file([array(V2, [2], ONE_TWO, kind=2)], ["w"]), UnsupportedError),
    "type": (file([array(V2, [2], ONE_TWO, code=44)], ["w"]), UnsupportedError),
    "huge": (file([array(V2, [1 << 62, 8], ONE_TWO)], ["w"]), CorruptFileError),
    "negative": (file([array(V2, [-2], ONE_TWO)], ["w"]), CorruptFileError),
    "rank": (file([array(V2, [1] * 65, ONE_TWO)], ["w"]), CorruptFileError),
    "names": (file([W, W], ["w"]), CorruptFileError),
    "twice": (file([W, W], ["w", "w"]), CorruptFileError),
    "trailing": (file([W], ["w"]) + b"\0", CorruptFileError),
    "many": (pack("<3Q", 0x112, 0, 1 << 62) + bytes(64), LimitError),
    "more": (pack("<3Q", 0x112, 0, 1000) + bytes(64), CorruptFileError),
    "no UTF-8": (file([W], ["w"])[:-1] + b"\xff", CorruptFileError),
}


@pytest.mark.parametrize(("data", "error"), BAD.values(), ids=BAD)
def test_what_contradicts_itself_is_refused(data: bytes, error: type[CkptconvError], tmp_path: Path) -> None:
    (tmp_path / "x.params").write_bytes(data)
    with pytest.raises(error) as refused:
        ckptconv.open(tmp_path / "x.params")
    assert refused.value.hint


def test_every_cut_is_refused(tmp_path: Path) -> None:
    whole, path = (RUNTIMES / "mxnet-list.params").read_bytes(), tmp_path / "x.params"
    expect_no_cut_to_open(path, whole, "mxnet")


def test_limits_hold_and_opening_reads_no_element(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.params"
    path.write_bytes(file([array(V2, [1 << 18], bytes(1 << 20)), W], ["a", "b"]))
    with ckptconv.open(path) as checkpoint:
        assert bytes_read(checkpoint) < 64 << 10
    monkeypatch.setattr(forward, "MAX_TENSORS", 1)
    with pytest.raises(LimitError):
        ckptconv.open(path)
