"""Zip archives that lie about themselves. torch reads many of them in silence; here each is refused by name."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import pytest
import torch

import ckptconv
from ckptconv.errors import CkptconvError, CorruptFileError, DamagedTensorError, LimitError, UnsupportedError
from tests.hostile.zips import central
from tests.support.craft import FOUR_FLOATS, SMALL_RECORDS, archive, saved, state_dict, tensor, zip_bytes

PICKLE = state_dict(w=tensor())
SMALL = [(f"a/{name}", data) for name, data in SMALL_RECORDS.items()]
GOOD = [*SMALL, ("a/data.pkl", PICKLE), ("a/data/0", FOUR_FLOATS)]


def with_pickle(pickle: bytes) -> bytes:
    return zip_bytes([*SMALL, ("a/data.pkl", pickle), ("a/data/0", FOUR_FLOATS)])


def refused(data: bytes, path: Path) -> CkptconvError:
    """The error of opening and then converting it, after which nothing is there but the source."""
    path.write_bytes(data)
    with pytest.raises(CkptconvError) as error:
        ckptconv.convert(path, path.with_suffix(".safetensors"))
    assert error.value.hint
    assert Path(error.value.path or "") == path
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    return error.value


def test_a_flipped_byte_of_a_storage_is_reported_with_the_tensor_and_nothing_is_written(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth", {"a": torch.ones(100), "layer.weight": torch.full((1000,), 7.0)})
    data = bytearray(path.read_bytes())
    data[data.index(struct.pack("<f", 7.0)) + 1000] ^= 1
    error = refused(bytes(data), path)
    assert isinstance(error, DamagedTensorError)
    assert error.name == "layer.weight"


@pytest.mark.parametrize("view", ["transposed", "part", "conj", "two parts"])
def test_a_flipped_byte_is_found_whatever_the_view_of_the_storage(view: str, tmp_path: Path) -> None:
    base = torch.arange(64.0).reshape(8, 8)
    views = {
        "transposed": {"v": base.t()}, "part": {"v": base[2:4]}, "conj": {"v": torch.complex(base, base).conj()},
        "two parts": {"v": base[:2], "w": base[6:]},
    }  # fmt: skip
    path = saved(tmp_path / "x.pth", views[view])
    data = bytearray(path.read_bytes())
    data[data.index(struct.pack("<3f", 17, 18, 19) if view != "conj" else struct.pack("<2f", 17, 17))] ^= 1
    assert isinstance(refused(bytes(data), path), DamagedTensorError)


def test_a_flipped_byte_among_large_tensors_is_found_by_every_worker(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth", {f"t{i}": torch.full((1 << 20,), float(i + 1)) for i in range(6)})
    data = bytearray(path.read_bytes())
    data[data.index(struct.pack("<4f", 5, 5, 5, 5)) + 4_000_000] ^= 0x80
    error = refused(bytes(data), path)
    assert isinstance(error, DamagedTensorError)
    assert error.name == "t4"


def test_a_flipped_byte_of_the_pickle_is_found_by_its_checksum(tmp_path: Path) -> None:
    data = bytearray(zip_bytes(GOOD))
    data[data.index(b"FloatStorage")] ^= 1
    assert "data.pkl" in str(refused(bytes(data), tmp_path / "x.pth"))


def test_two_records_of_one_name_are_refused(tmp_path: Path) -> None:
    for name, other in (("a/data.pkl", PICKLE), ("a/data/0", bytes(16))):
        assert repr(name) in str(refused(zip_bytes([*GOOD, (name, other)]), tmp_path / "x.pth"))


def test_two_checkpoints_in_one_archive_are_refused(tmp_path: Path) -> None:
    refused(zip_bytes([*GOOD, *((f"b{name[1:]}", data) for name, data in GOOD)]), tmp_path / "x.pth")


def test_a_local_name_that_differs_from_the_central_one_is_refused(tmp_path: Path) -> None:
    data = zip_bytes(GOOD)
    for name in (b"a/data/0", b"a/data.pkl"):
        assert "name" in str(refused(data.replace(name, name[:-1] + b"#", 1), tmp_path / "x.pth"))


FIELDS = {
    "two entries on one local header": (42, struct.pack("<I", 0)),
    "a local header past the end": (42, struct.pack("<I", 0x7FFFFFFF)),
    "a packed size past the end": (20, struct.pack("<2I", 0x7FFFFFFF, 0x7FFFFFFF)),
    "a size of its own": (24, struct.pack("<I", 17)),
    "another checksum": (16, struct.pack("<I", 1)),
    "encryption": (8, struct.pack("<H", 1)),
    "patch data": (8, struct.pack("<H", 1 << 5)),
    "an unknown method": (10, struct.pack("<H", 93)),
    "another disk": (34, struct.pack("<H", 1)),
    "a folder's mark": (38, struct.pack("<I", 0x10)),
    "a zip64 size that is missing": (24, b"\xff" * 4),
}


@pytest.mark.parametrize(("offset", "value"), FIELDS.values(), ids=FIELDS.keys())
@pytest.mark.parametrize("name", [b"a/data/0", b"a/data.pkl"])
def test_a_directory_that_contradicts_the_entry_is_refused(
    name: bytes, offset: int, value: bytes, tmp_path: Path
) -> None:
    refused(central(zip_bytes(GOOD), name, offset, value), tmp_path / "x.pth")


def test_entries_that_overlap_are_refused(tmp_path: Path) -> None:
    data = zip_bytes(GOOD)
    wider = struct.pack("<2I", len(PICKLE) + 10, len(PICKLE) + 10)
    local = data.index(b"a/data.pkl") - 30 + 18
    data = central(data[:local] + wider + data[local + 8 :], b"a/data.pkl", 20, wider)
    assert "overlaps" in str(refused(data, tmp_path / "x.pth"))


def test_a_name_with_nul_is_no_other_name(tmp_path: Path) -> None:
    pickle = state_dict(w=tensor(key="0\0x"))
    refused(with_pickle(pickle), tmp_path / "x.pth")


@pytest.mark.parametrize("key", ["../data/0", "/0", "0/", "./0", "", "1"])
def test_a_storage_key_is_a_name_and_never_a_path(key: str, tmp_path: Path) -> None:
    error = refused(with_pickle(state_dict(w=tensor(key=key))), tmp_path / "x.pth")
    assert "'w'" in str(error)


def packed(value: int) -> bytes:
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


VIEWS = {
    "a storage that is longer": {"numel": 3},
    "a storage that is shorter": {"numel": 5},
    "an offset past the end": {"offset": b"K\x01"},
    "a negative offset": {"offset": packed(-1)},
    "a size past the end": {"size": b"K\x05\x85"},
    "a negative size": {"size": packed(-4) + b"\x85"},
    "two negative sizes": {"size": packed(-2) + packed(-2) + b"\x86", "stride": b"K\x02K\x01\x86"},
    "an absurd size": {"size": packed(2**62) + b"\x85", "stride": b"K\x00\x85"},
    "sizes whose product overflows": {"size": packed(2**40) + packed(2**40) + b"\x86", "stride": b"K\x00K\x00\x86"},
    "a stride past the end": {"stride": b"K\x02\x85"},
    "a negative stride": {"stride": packed(-1) + b"\x85"},
    "an absurd stride": {"stride": packed(2**62) + b"\x85"},
    "fewer strides than sizes": {"stride": b")"},
    "65 dimensions": {"size": b"(" + b"K\x01" * 65 + b"t", "stride": b"(" + b"K\x01" * 65 + b"t"},
    "a size that is not an int": {"size": b"G" + struct.pack(">d", 4.0) + b"\x85"},
    "a size that is a bool": {"size": b"\x88\x85"},
    "a size that is not a tuple": {"size": b"K\x04"},
    "an offset that is not an int": {"offset": b"N"},
}


@pytest.mark.parametrize("options", VIEWS.values(), ids=VIEWS.keys())
def test_a_view_that_does_not_fit_its_storage_is_refused(options: dict[str, bytes], tmp_path: Path) -> None:
    refused(with_pickle(state_dict(w=tensor(**options))), tmp_path / "x.pth")  # type: ignore[arg-type]


def test_one_storage_described_in_two_ways_is_refused(tmp_path: Path) -> None:
    pickle = state_dict(w=tensor(), v=tensor(storage="IntStorage"))
    refused(with_pickle(pickle), tmp_path / "x.pth")


def test_a_compressed_record_that_claims_too_much_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.pth", PICKLE, {"0": FOUR_FLOATS}, method=zipfile.ZIP_DEFLATED)
    data = path.read_bytes()
    for size, kind in ((2**31, LimitError), (64, CorruptFileError), (15, CorruptFileError)):
        local = data.index(b"archive/data.pkl") - 30 + 22
        changed = data[:local] + struct.pack("<I", size) + data[local + 4 :]
        assert isinstance(refused(central(changed, b"archive/data.pkl", 24, struct.pack("<I", size)), path), kind)


def test_a_stream_that_does_not_inflate_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.pth", PICKLE, {"0": bytes(16)}, method=zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    data[data.index(b"archive/data.pkl") + 16] |= 0x06  # the first block's type: none that exists
    refused(bytes(data), path)


def test_a_comment_or_bytes_after_the_end_do_not_hide_a_second_directory(tmp_path: Path) -> None:
    buffer = io.BytesIO(zip_bytes(GOOD))
    with zipfile.ZipFile(buffer, "a") as file:
        file.comment = zip_bytes([("b/data.pkl", PICKLE)])
    path = tmp_path / "x.pth"
    path.write_bytes(buffer.getvalue())
    try:
        with ckptconv.open(path) as checkpoint:
            assert list(checkpoint) == ["w"]
    except CkptconvError:
        pass
    refused(zip_bytes(GOOD) + b"junk", path)
    refused(b"junk" + zip_bytes(GOOD), path)


def test_an_archive_cut_anywhere_says_so(tmp_path: Path) -> None:
    data = zip_bytes(GOOD)
    for size in range(4, len(data)):
        assert not isinstance(refused(data[:size], tmp_path / "x.pth"), UnsupportedError)
