"""Files of torch before 1.6: stacked pickles, and the tar archives before them, with torch as the judge."""

from __future__ import annotations

import pickle
import struct
import tarfile
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

import ckptconv
from ckptconv.errors import CkptconvError, CorruptFileError, UnsafeError
from ckptconv.formats.torch.containers.legacy import MAGIC_NUMBER, PROTOCOL_VERSION
from ckptconv.io.source import Source
from tests.formats.test_conformance import of_torch
from tests.formats.torch.judges import (
    assert_damage_is_noticed,
    assert_detected_whatever_its_name,
    assert_same_tensors,
)
from tests.support.craft import saved
from tests.support.nodes import load, same_object
from tests.support.stopwatch import cpu_seconds
from tests.support.tar_files import storages_member, tar_file, tar_saved, tensors_member

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ckptconv.testing import Reading

BASE = torch.arange(24.0)
SHARED = torch.arange(6, dtype=torch.int16)
STATES: dict[str, dict[str, torch.Tensor]] = {
    "plain": {"a.weight": BASE.reshape(4, 6).clone(), "a.bias": torch.ones(4)},
    "views": {"whole": BASE, "part": BASE[3:9], "turned": BASE.reshape(4, 6).t(), "stepped": BASE[::5]},
    "ties": {"a": SHARED, "b": SHARED, "c": SHARED[:2]},
    "scalar and empty": {"n": torch.tensor(7), "none": torch.empty(0, 3), "one": torch.ones(1, 1)},
    "expanded": {"e": torch.ones(1, 3).expand(4, 3)},
    "element types": {
        str(dtype): torch.arange(5).to(dtype)
        for dtype in (torch.float64, torch.float16, torch.int64, torch.int32, torch.int8, torch.uint8)
    },
    "no tensor": {},
}
NEWER = {
    "newer element types": {
        "bf": torch.arange(3).bfloat16(), "b": torch.tensor([True, False]), "c": torch.tensor([1 + 2j]),
    },
    "lazy conjugates": {"c": torch.tensor([1 + 2j, 3 - 4j]).conj(), "n": torch.tensor([1 + 2j]).conj().imag},
}  # fmt: skip
UNREADABLE = {"u16": torch.arange(3).to(torch.uint16), "f8": torch.arange(3).to(torch.float8_e4m3fn)}
"""What torch 2.13 writes into a stacked file, and cannot read back: UntypedStorage has no dtype there."""


def legacy_saved(path: Path, value: object, **options: Any) -> Path:
    return saved(path, value, _use_new_zipfile_serialization=False, **options)


WRITERS: dict[str, Callable[[Path, Any], Path]] = {"torch-legacy": legacy_saved, "torch-tar": tar_saved}


def of_trusted(path: Path) -> Reading | None:
    """torch's view; None where damage made a name that cannot be imported or called, which only torch tries."""
    try:
        return of_torch(load(path, weights_only=False))
    except (ImportError, AttributeError):
        return None
    except TypeError as error:
        if "is not callable" in str(error):
            return None
        raise


@pytest.fixture(params=WRITERS)
def format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_a_state_dict_reads_as_torch_reads_it(state: dict[str, torch.Tensor], format: str, tmp_path: Path) -> None:
    path = WRITERS[format](tmp_path / "x.pth", OrderedDict(state))
    expected = load(path, weights_only=False)
    with ckptconv.open(path) as checkpoint:
        assert checkpoint.format == format
        assert_same_tensors(checkpoint, expected)
    if state:
        ckptconv.convert(path, tmp_path / "out.pth")
        assert same_object(load(tmp_path / "out.pth"), expected)


@pytest.mark.parametrize("state", NEWER.values(), ids=NEWER)
def test_the_stacked_format_holds_what_torch_puts_into_it_today(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = legacy_saved(tmp_path / "x.pth", state)
    with ckptconv.open(path) as checkpoint:
        assert_same_tensors(checkpoint, load(path, weights_only=False))


def test_what_torch_writes_and_cannot_read_is_read(tmp_path: Path) -> None:
    path = legacy_saved(tmp_path / "x.pth", UNREADABLE)
    with pytest.raises(AttributeError):
        load(path, weights_only=False)
    with ckptconv.open(path) as checkpoint:
        assert_same_tensors(checkpoint, UNREADABLE)


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
def test_every_pickle_protocol_is_recognised(protocol: int, tmp_path: Path) -> None:
    path = legacy_saved(tmp_path / "x.pth", STATES["views"], pickle_protocol=protocol)
    with ckptconv.open(path) as checkpoint:
        assert checkpoint.format == "torch-legacy"
        assert_same_tensors(checkpoint, STATES["views"])


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_a_tar_archive_of_every_protocol_of_its_time_is_read(protocol: int, tmp_path: Path) -> None:
    path = tar_saved(tmp_path / "x.pth", STATES["views"], protocol=protocol)
    with ckptconv.open(path) as checkpoint:
        assert_same_tensors(checkpoint, STATES["views"])


def test_its_suffix_does_not_matter(format: str, tmp_path: Path) -> None:
    assert_detected_whatever_its_name(WRITERS[format](tmp_path / "x.pth", STATES["plain"]), format)


def test_metadata_and_an_optimizer_come_along(format: str, tmp_path: Path) -> None:
    network = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {key: value.data for key, value in network.state_dict().items()}
    value = {"epoch": 3, "best": (0.5, None), "state_dict": state, "optimizer": optimizer.state_dict()}
    path = WRITERS[format](tmp_path / "x.pth", value)
    ckptconv.convert(path, tmp_path / "out.safetensors")
    ckptconv.convert(tmp_path / "out.safetensors", tmp_path / "back.pth")
    assert same_object(load(tmp_path / "back.pth"), load(path, weights_only=False))


def test_opening_reads_no_tensor_byte(format: str, tmp_path: Path) -> None:
    path = WRITERS[format](tmp_path / "x.pth", {f"{i}": torch.full((1 << 20,), float(i)) for i in range(4)})
    with Source(path) as source:
        from ckptconv.formats.detect import detect

        with detect(source).read(source) as checkpoint:
            assert source.bytes_read < 16 << 10
            assert bytes(checkpoint["3"].read(4, 8)) == struct.pack("<f", 3.0)
            assert source.bytes_read < 20 << 10


def test_damage_is_refused_or_read_as_torch_reads_it(format: str, tmp_path: Path) -> None:
    path = WRITERS[format](tmp_path / "x.pth", {"w": torch.arange(3.0), "t": torch.ones(2, 2).t(), "n": 1})
    assert_damage_is_noticed(path, format, of_trusted, every=1 if format == "torch-legacy" else 3)


def test_what_would_run_is_shown_and_not_run(format: str, tmp_path: Path) -> None:
    class Call:
        def __reduce__(self) -> tuple[Any, ...]:
            return open, (str(tmp_path / "canary"), "w")

    path = WRITERS[format](tmp_path / "x.pth", {"state_dict": STATES["plain"], "call": Call()})
    assert ckptconv.inspect(path).verdict == "would run code"
    with pytest.raises(UnsafeError):
        ckptconv.convert(path, tmp_path / "out.pth")
    ckptconv.convert(path, tmp_path / "out.pth", bare=True)
    assert same_object(load(tmp_path / "out.pth"), STATES["plain"])
    assert not (tmp_path / "canary").exists()


def test_opening_takes_time_in_proportion_to_the_number_of_tensors(format: str, tmp_path: Path) -> None:
    def seconds(count: int) -> float:
        path = WRITERS[format](tmp_path / f"{count}.pth", {f"{i}": torch.zeros(1) for i in range(count)})
        return min(cpu_seconds(lambda: ckptconv.open(path).close()) for _ in range(3))

    seconds(10)
    few, many = seconds(500), seconds(5000)
    assert many < 40 * few, (few, many)  # ten times as many; a look through all for each would be a hundred times


# Stacked pickles, by hand


def stacked(
    path: Path, *, view: Any = None, keys: Any = ("k",), numel: int = 6, count: bytes | None = None,
    little_endian: Any = True, version: int = PROTOCOL_VERSION, offset: int = 0, shape: tuple[int, ...] = (2,),
) -> Path:  # fmt: skip
    """A file with the tensor ``w`` in the storage ``k`` of floats 0, 1, 2 …, as an old torch might have written it."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return ("storage", torch.FloatStorage, "k", "cpu", numel, view) if obj is storage else None

    class Tensor:
        def __reduce__(self) -> tuple[Any, ...]:
            return torch._utils._rebuild_tensor, (storage, offset, shape, (1,) * len(shape))

    storage = object()
    with path.open("wb") as file:
        for value in (MAGIC_NUMBER, version, {"little_endian": little_endian}):
            pickle.dump(value, file, protocol=2)
        Pickler(file, protocol=2).dump({"w": Tensor()})
        pickle.dump(list(keys) if isinstance(keys, tuple) else keys, file, protocol=2)
        for _ in keys:
            file.write(count or struct.pack("<q", numel))
            file.write(struct.pack(f"<{numel}f", *range(numel)))
    return path


def test_a_storage_that_is_a_part_of_another_is_read(tmp_path: Path) -> None:
    path = stacked(tmp_path / "x.pth", view=("v", 3, 2))
    with ckptconv.open(path) as checkpoint:
        assert checkpoint["w"].to_torch().tolist() == [3, 4]
        assert_same_tensors(checkpoint, load(path, weights_only=False))


@pytest.mark.parametrize("view", [("v", 5, 2), ("v", -1, 2), ("v", 0, 1), ("v", 0, 7), ("v", 3, -1), ("v", 2**70, 2)])
def test_a_part_that_reaches_out_of_its_storage_is_refused(view: Any, tmp_path: Path) -> None:
    with pytest.raises(CorruptFileError):
        ckptconv.open(stacked(tmp_path / "x.pth", view=view))


@pytest.mark.parametrize("keys", [(), ("k", "k"), ("other",), ("k", "other"), (7,), {"k": 1}])
def test_a_list_of_storages_that_is_not_the_pickles_is_refused(keys: Any, tmp_path: Path) -> None:
    with pytest.raises(CorruptFileError, match="list of storages"):
        ckptconv.open(stacked(tmp_path / "x.pth", keys=keys))


def test_torch_reads_uninitialised_memory_where_we_refuse(tmp_path: Path) -> None:
    assert load(stacked(tmp_path / "x.pth", keys=()), weights_only=False)["w"].shape == (2,)


@pytest.mark.parametrize("count", [struct.pack("<q", n) for n in (5, 7, -1, 2**62, 0)])
def test_an_element_count_that_is_not_the_pickles_is_refused(count: bytes, tmp_path: Path) -> None:
    with pytest.raises(CorruptFileError, match="'k'"):
        ckptconv.open(stacked(tmp_path / "x.pth", count=count))


def test_a_big_endian_machines_file_has_little_endian_elements_as_torch_takes_it(tmp_path: Path) -> None:
    path = stacked(tmp_path / "x.pth", little_endian=False)
    with ckptconv.open(path) as checkpoint:
        assert checkpoint["w"].to_torch().tolist() == [0, 1]
        assert_same_tensors(checkpoint, load(path, weights_only=False))
    path = stacked(tmp_path / "old.pth", little_endian=False, count=struct.pack(">q", 6))
    with ckptconv.open(path) as checkpoint:
        assert checkpoint["w"].to_torch().tolist() == [0, 1]
    with pytest.raises(CorruptFileError):
        ckptconv.open(stacked(tmp_path / "not.pth", count=struct.pack(">q", 6)))


@pytest.mark.parametrize("options", [{"version": 1002}, {"offset": -1}, {"offset": 5}, {"shape": (7,)}])
def test_numbers_out_of_range_are_refused(options: Any, tmp_path: Path) -> None:
    with pytest.raises(CkptconvError):
        ckptconv.open(stacked(tmp_path / "x.pth", **options))


def test_bytes_after_the_last_storage_are_reported(tmp_path: Path) -> None:
    path = legacy_saved(tmp_path / "x.pth", STATES["plain"])
    with path.open("ab") as file:
        torch.save(STATES["ties"], file, _use_new_zipfile_serialization=False)
    with ckptconv.open(path) as checkpoint:
        assert list(checkpoint) == list(STATES["plain"])
        assert [finding.code for finding in checkpoint.findings] == ["trailing"]


def test_a_claim_of_a_huge_string_costs_nothing(tmp_path: Path) -> None:
    path = legacy_saved(tmp_path / "x.pth", {})
    with path.open("r+b") as file:
        file.seek(14 + 6)
        file.write(b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62))
        file.truncate(1 << 33)
    with Source(path) as source, pytest.raises(CorruptFileError):
        from ckptconv.formats.registry import by_name

        by_name("torch-legacy").read(source)
    assert source.bytes_read < 4096


# Tar archives, by hand


def test_parts_of_storages_in_a_tar_archive_are_read(tmp_path: Path) -> None:
    path = tar_saved(tmp_path / "x.tar", STATES["ties"], views=True)
    with ckptconv.open(path) as checkpoint:
        assert_same_tensors(checkpoint, load(path, weights_only=False))
        assert checkpoint.ties == [["a", "b"]]


def members(**changed: bytes) -> dict[str, bytes]:
    tensor = torch.arange(3.0)
    tensors = {7: tensor}
    whole = {
        "pickle": b"\x80\x02}X\x01\x00\x00\x00wX\x01\x00\x00\x007Qs.",
        "tensors": tensors_member(tensors),
        "storages": storages_member(tensors),
    }
    return {**whole, **changed}


@pytest.mark.parametrize("options", [{}, {"format": tarfile.USTAR_FORMAT, "mtime": 0}, {"format": tarfile.GNU_FORMAT}])
def test_tar_archives_of_every_dialect_are_read(options: Any, tmp_path: Path) -> None:
    path = tar_file(tmp_path / "x.tar", members(), **options)
    with ckptconv.open(path) as checkpoint:
        assert_same_tensors(checkpoint, load(path, weights_only=False))


BAD_TARS: dict[str, dict[str, bytes]] = {
    "a tensor in no storage": {"storages": pickle.dumps(0, 2) + pickle.dumps([], 2)},
    "a persistent id of nothing": {"pickle": b"\x80\x02}X\x01\x00\x00\x00wX\x01\x00\x00\x008Qs."},
    "a count that is a string": {"tensors": pickle.dumps("1", 2)},
    "a negative count": {"tensors": pickle.dumps(-1, 2)},
    "a huge count": {"tensors": pickle.dumps(1 << 40, 2)},
    "no views": {"storages": pickle.dumps(0, 2)},
    "views that are not a list": {"storages": pickle.dumps(0, 2) + pickle.dumps(3, 2)},
    "a view of nothing": {"storages": pickle.dumps(0, 2) + pickle.dumps([(1, 2, 0, 0)], 2)},
    "a class that is not a storage": {
        "storages": pickle.dumps(1, 2) + b"\x80\x02M\x01\x00X\x03\x00\x00\x00cpucos\nsystem\n\x87."
    },
    "a pickle that calls": {"tensors": b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R."},
}  # fmt: skip


@pytest.mark.parametrize("changed", BAD_TARS.values(), ids=BAD_TARS)
def test_a_tar_archive_that_contradicts_itself_is_refused(changed: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(CkptconvError) as error:
        ckptconv.open(tar_file(tmp_path / "x.tar", members(**changed)))
    assert error.value.hint


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_members_that_are_links_or_devices_are_refused(kind: bytes, tmp_path: Path) -> None:
    path = tar_file(tmp_path / "x.tar", dict.fromkeys(members(), b""), type=kind, linkname="/etc/passwd")
    with pytest.raises(CkptconvError):
        ckptconv.open(path)


def test_two_members_of_one_name_and_one_that_climbs_out(tmp_path: Path) -> None:
    path = tar_file(tmp_path / "x.tar", members(**{"../../escape": b"x"}))
    with ckptconv.open(path) as checkpoint:
        assert checkpoint["w"].to_torch().tolist() == [0, 1, 2]
    assert not (tmp_path.parent.parent / "escape").exists()
    with tarfile.open(path, "a") as file:
        info = tarfile.TarInfo("pickle")
        file.addfile(info)
    with pytest.raises(CkptconvError):
        ckptconv.open(path)
