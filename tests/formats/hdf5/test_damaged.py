"""Damaged and hostile HDF5 files: refused, or read as h5py reads them."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest

import ckptconv
from ckptconv.errors import CkptconvError, CorruptFileError, LimitError, UnknownFormatError, UnsupportedError
from tests.formats.test_golden_bytes import HDF5, ONE_TWO

if TYPE_CHECKING:
    from pathlib import Path

Seen = dict[str, tuple[tuple[int, ...], bytes]]


def by_h5py(path: Path) -> Seen | None:
    """What h5py reads; None where it refuses."""
    found: Seen = {}

    def add(name: str | bytes, one: object) -> None:
        if isinstance(one, h5py.Dataset):
            array = np.asarray(one[()])
            raw = array.astype(array.dtype.newbyteorder("<")).tobytes()
            found[name if isinstance(name, str) else name.decode("utf-8", "surrogateescape")] = array.shape, raw

    try:
        with h5py.File(path) as file:
            file.visititems(add)
    except (OSError, KeyError, RuntimeError, TypeError, ValueError):
        return None
    return found


def by_us(path: Path) -> Seen | None:
    """Likewise; also None where something is told of."""
    try:
        with ckptconv.open(path) as checkpoint:
            found = {name: (one.info.shape, bytes(one.read())) for name, one in checkpoint.all_tensors.items()}
            return None if checkpoint.findings or checkpoint.metadata else found
    except CkptconvError as error:
        assert error.hint
        return None


def test_a_flipped_bit_is_refused_or_read_as_h5py_does(tmp_path: Path) -> None:
    path, whole = tmp_path / "x.h5", {"w": ((2,), ONE_TWO)}
    refused = 0
    for at in range(len(HDF5) - len(ONE_TWO)):
        for bit in {at % 8, (at + 3) % 8}:
            path.write_bytes(HDF5[:at] + bytes([HDF5[at] ^ 1 << bit]) + HDF5[at + 1 :])
            ours = by_us(path)
            refused += ours is None
            if ours is not None and ours != whole:  # where nothing changed, h5py may well be stricter
                assert ours == by_h5py(path), (at, bit)
    assert refused > 300


@pytest.mark.parametrize("version", ["earliest", "latest"])
def test_every_truncation_is_refused(version: str, tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w", libver=version) as file:
        file["g/w"] = np.arange(4.0)
        file.create_dataset("z", data=np.arange(20), chunks=(8,), compression="gzip")
    data = path.read_bytes()
    for size in range(0, len(data), 1 if len(data) < 3000 else 7):
        path.write_bytes(data[:size])
        with pytest.raises((CorruptFileError, UnknownFormatError)):
            ckptconv.open(path)


@pytest.mark.parametrize("filters", [{"compression": "gzip"}, {"fletcher32": True}], ids=["gzip", "fletcher32"])
def test_a_chunk_that_was_changed_is_refused_by_the_name_of_its_dataset(
    filters: dict[str, object], tmp_path: Path
) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        chunk = file.create_dataset("a/z", data=np.arange(1000), chunks=(1000,), **filters).id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset + chunk.size // 2] ^= 4
    path.write_bytes(data)
    with ckptconv.open(path) as checkpoint, pytest.raises(CorruptFileError, match="'a/z' is damaged"):
        checkpoint["a/z"].read()
    with pytest.raises(CorruptFileError):
        ckptconv.convert(path, tmp_path / "x.pth")
    assert not (tmp_path / "x.pth").exists()


def test_a_chunk_that_inflates_to_more_than_it_may_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("z", (1000,), "u1", chunks=(1000,), compression="gzip")
        dataset.id.write_direct_chunk((0,), zlib.compress(bytes(1 << 26)))
    with ckptconv.open(path) as checkpoint, pytest.raises(CorruptFileError):
        checkpoint["z"].read()


def changed(at: int, value: bytes) -> bytes:
    return HDF5[:at] + value + HDF5[at + len(value) :]


def huge(shape: tuple[int, ...]) -> bytes:
    """A file whose dataset was never written."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_dataset("w", shape, "f4", chunks=True)
    return buffer.getvalue()


def nested(depth: int, name: str = "g") -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["/".join([name] * depth)] = np.ones(2)
    return buffer.getvalue()


OWN_CHILD = HDF5[:141] + b"\1" + HDF5[142:168] + struct.pack("<Q", 136) + HDF5[176:]
PAST = struct.pack("<Q", 1 << 40)
REFUSED: dict[str, tuple[bytes, type[CkptconvError], str]] = {
    "a group that is its own B-tree's child": (changed(168, struct.pack("<Q", 136)), CorruptFileError, "symbol table"),
    "a B-tree that is its own child": (OWN_CHILD, CorruptFileError, "twice"),
    "a name past its heap": (changed(736, PAST), CorruptFileError, "no end"),
    "a shape that its bytes are too few for": (changed(1088, struct.pack("<Q", 1 << 20)), CorruptFileError, "ask for"),
    "a shape of too many elements": (changed(1088, b"\xfe" + b"\xff" * 7), CorruptFileError, "more elements"),
    "bytes past the end": (changed(1154, PAST), CorruptFileError, "asked for"),
    "addresses of three bytes": (changed(13, b"\3"), CorruptFileError, "addresses"),
    "a driver of several files": (changed(48, struct.pack("<Q", 96)), UnsupportedError, "several files"),
    "a dataset of more than the file can hold": (huge((1 << 20, 1 << 10)), LimitError, "claims"),
    "groups nested too deep": (nested(70), LimitError, "deeper"),
    "a path that is too long": (nested(30, "g" * 200), LimitError, "path"),
    "no arrays": (changed(734, b"\0\0"), UnsupportedError, "no arrays"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "error", "words"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_lies_is_refused(data: bytes, error: type[CkptconvError], words: str, tmp_path: Path) -> None:
    (tmp_path / "x.h5").write_bytes(data)
    with pytest.raises(error, match=words) as refused:
        ckptconv.open(tmp_path / "x.h5")
    assert refused.value.hint


@pytest.mark.parametrize(
    "layout",
    [
        struct.pack("<3B5xQI4x", 1, 1, 1, 1176, 2),
        struct.pack("<3B5xQI4x", 2, 1, 1, 1176, 2),
        struct.pack("<3B5xII", 1, 1, 0, 2, 8) + ONE_TWO,
        struct.pack("<2BH", 3, 0, 8) + ONE_TWO + bytes(12),
    ],
    ids=["version 1", "version 2", "version 1, in the header", "in the header"],
)
def test_layouts_of_old_libraries_are_read_as_h5py_does(layout: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.h5").write_bytes(changed(HDF5.index(struct.pack("<2BQQ", 3, 1, 1176, 8)), layout))
    assert by_us(tmp_path / "x.h5") == by_h5py(tmp_path / "x.h5") == {"w": ((2,), ONE_TWO)}


def test_a_file_that_is_being_written_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file["w"] = np.ones(3)
        file.swmr_mode = True
        file.flush()
        data = path.read_bytes()
    path.write_bytes(data)
    with pytest.raises(UnsupportedError, match="open for writing"):
        ckptconv.open(path)


def test_metadata_that_is_changed_fails_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file["w"] = np.ones(3)
    data = path.read_bytes()
    for at in (20, data.index(b"OHDR") + 12):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(CorruptFileError, match="checksum"):
            ckptconv.open(path)
