"""Reading in ranges: exactly what is asked for, counted, or an error that says why not."""

from __future__ import annotations

import copy
import os
import pickle
import resource
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import ckptconv
from ckptconv.errors import CorruptFileError, FileAccessError, LimitError
from ckptconv.io.source import Source
from tests.support.craft import saved
from tests.support.nodes import image

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "x").write_bytes(bytes(range(256)))
    return tmp_path / "x"


def test_a_range_is_exactly_what_is_asked_for_and_is_counted(path: Path) -> None:
    with Source(path) as source:
        assert (source.size, source.bytes_read) == (256, 0)
        assert bytes(source.read_at(250, 6)) == bytes(range(250, 256))
        buffer = bytearray(4)
        source.read_into(memoryview(buffer), 0)
        assert bytes(buffer) == bytes(range(4))
        assert source.bytes_read == 10


@pytest.mark.parametrize(("offset", "length"), [(0, 257), (256, 1), (-1, 1), (0, -1), (2**70, 1), (1, 2**70)])
def test_a_range_outside_of_the_file_is_refused_before_memory_is_taken(offset: int, length: int, path: Path) -> None:
    with Source(path) as source, pytest.raises(CorruptFileError):
        source.read_at(offset, length)


def test_a_small_file_is_read_whole_and_one_that_is_larger_not_at_all(path: Path) -> None:
    with Source(path) as source:
        assert source.read_all(256) == bytes(range(256))
        source.bytes_read = 0
        with pytest.raises(LimitError, match="it has 256 bytes; the limit is 255") as refused:
            source.read_all(255)
        assert (source.bytes_read, refused.value.path) == (0, path)


def test_short_reads_are_continued(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pread, preadv = os.pread, os.preadv
    monkeypatch.setattr(os, "pread", lambda fd, length, offset: pread(fd, 3, offset))
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: preadv(fd, [buffers[0][:3]], offset))
    with Source(path) as source:
        assert bytes(source.read_at(0, 256)) == bytes(range(256))


def test_a_disk_that_fails_is_an_error_of_ours(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int, what: object, offset: int) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    monkeypatch.setattr(os, "preadv", fail)
    with Source(path) as source, pytest.raises(FileAccessError, match="input/output error") as error:
        source.read_at(0, 1)
    assert error.value.path == path


def test_many_threads_may_read_at_once(tmp_path: Path) -> None:
    values = torch.arange(1 << 16, dtype=torch.int32).reshape(256, 256)
    with ckptconv.open(saved(tmp_path / "t.pth", {"w": values, "t": values.t()})) as checkpoint:
        images = {"w": image(values), "t": image(values.t())}
        ranges = [(name, start) for name in ("w", "t") for start in range(0, 1 << 18, 1 << 13)]

        def right(one: tuple[str, int]) -> bool:
            name, start = one
            return bytes(checkpoint[name].read(start, start + 999)) == images[name][start : start + 999]

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(right, ranges))


def test_a_transposed_tensor_is_gathered_in_bounded_memory(tmp_path: Path) -> None:
    values = np.arange(1 << 22, dtype=np.float32).reshape(1 << 11, 1 << 11)
    path = saved(tmp_path / "t.pth", {"w": torch.from_numpy(values).t()})
    ckptconv.convert(path, tmp_path / "warm.safetensors")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with ckptconv.open(path) as checkpoint:
        tensor = checkpoint["w"]
        for start in range(0, tensor.info.nbytes, 1 << 20):
            part = np.frombuffer(tensor.read(start, start + (1 << 20)), dtype=np.float32)
            assert np.array_equal(part, values.T.ravel()[start // 4 : start // 4 + len(part)])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="lists the handles of a process, as Linux does")
def test_thousands_of_compressed_storages_take_one_temporary_file(tmp_path: Path) -> None:
    import zipfile

    from tests.support.craft import repacked

    state = {f"t{i}": torch.full((3,), float(i)) for i in range(1500)}
    path = repacked(saved(tmp_path / "s.pth", state), tmp_path / "z.pth", method=zipfile.ZIP_DEFLATED)
    before = len(os.listdir("/proc/self/fd"))
    with ckptconv.open(path) as checkpoint:
        for name, tensor in checkpoint.items():
            assert bytes(tensor.read()) == image(state[name])
        assert len(os.listdir("/proc/self/fd")) <= before + 3
    ckptconv.convert(path, tmp_path / "z.safetensors")


def test_an_address_is_reported_as_not_a_file() -> None:
    with pytest.raises(FileAccessError) as caught:
        Source("https://example.org/model.pth")
    assert "download it first" in str(caught.value.hint)


def test_a_link_that_leads_nowhere_says_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "model.pth").symlink_to("../blobs/gone")
    (tmp_path / "circle.pth").symlink_to("circle.pth")
    for name, words in (("model.pth", "'../blobs/gone'"), ("circle.pth", "in a circle"), ("missing.pth", "the path")):
        with pytest.raises(FileAccessError) as caught:
            Source(tmp_path / name)
        assert words in str(caught.value.hint)


def test_an_open_file_is_not_pickled_or_copied(path: Path) -> None:
    """Two owners of one handle would close it twice, the second time as another file's."""
    with Source(path) as source:
        for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="an open file cannot be pickled or copied"):
                attempt(source)
    assert copy.copy(source).size == 256
