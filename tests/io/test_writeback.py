"""Which ranges of a file are handed to the disk while it is written."""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING

import pytest

from ckptconv.io.target import Target
from ckptconv.io.writeback import BEHIND, Writeback

if TYPE_CHECKING:
    from pathlib import Path

KIB = 1 << 10
MIB = 1 << 20


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The ranges that were handed over, as the kernel would have got them."""
    ranges: list[tuple[int, int]] = []

    def fadvise(fd: int, start: int, size: int, advice: int) -> None:
        assert (fd, advice) == (7, os.POSIX_FADV_DONTNEED)
        ranges.append((start, start + size))

    monkeypatch.setattr(os, "posix_fadvise", fadvise)
    return ranges


def write(writeback: Writeback, start: int, stop: int, piece: int) -> None:
    for at in range(start, stop, piece):
        writeback.wrote(7, at, min(at + piece, stop))


def test_a_run_goes_as_soon_as_it_is_long_enough_and_each_byte_once(handed: list[tuple[int, int]]) -> None:
    write(Writeback(), 100, 100 + 3 * BEHIND + MIB, 256 * KIB)
    assert handed == [(100 + i * BEHIND, 100 + (i + 1) * BEHIND) for i in range(3)]


def test_small_files_are_left_to_the_end(handed: list[tuple[int, int]]) -> None:
    write(Writeback(), 0, BEHIND - 1, 256 * KIB)
    assert not handed


def test_runs_of_several_threads_are_kept_apart(handed: list[tuple[int, int]]) -> None:
    writeback, far = Writeback(), 64 * MIB
    for at in range(0, 2 * BEHIND, 256 * KIB):
        for base in (0, far, 2 * far, 3 * far):
            writeback.wrote(7, base + at, base + at + 256 * KIB)
    assert sorted(handed) == [(b + i, b + i + BEHIND) for b in (0, far, 2 * far, 3 * far) for i in (0, BEHIND)]


def test_small_tensors_that_threads_take_in_turn_are_one_run(handed: list[tuple[int, int]]) -> None:
    writeback = Writeback()
    places = range(0, 2 * BEHIND, 64 * KIB)
    for left, right in zip(places[::2], places[1::2], strict=True):  # as each takes the next, whoever is done first
        writeback.wrote(7, right, right + 64 * KIB)
        writeback.wrote(7, left, left + 64 * KIB)
    assert len(handed) <= 3
    assert sum(stop - start for start, stop in handed) >= BEHIND


def test_what_was_left_far_behind_is_forgotten(handed: list[tuple[int, int]]) -> None:
    writeback = Writeback()
    for at in range(0, 400 * MIB, 4 * MIB):  # as with a header, a gap, and so on
        writeback.wrote(7, at, at + KIB)
    assert not handed
    assert len(writeback._runs) == 8


def test_it_is_a_hint_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: int) -> None:
        raise OSError(errno.ESPIPE, "made by a test")

    for how in ("refused", "absent"):
        if how == "refused":
            monkeypatch.setattr(os, "posix_fadvise", refused)
        else:
            monkeypatch.delattr(os, "posix_fadvise")
        with Target(tmp_path / how) as target:
            target.write_at(0, bytes(BEHIND))
            target.commit()
        assert (tmp_path / how).stat().st_size == BEHIND


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="there is no posix_fadvise here")
def test_what_is_handed_over_from_threads_arrives(tmp_path: Path) -> None:
    data = os.urandom(BEHIND)
    with Target(tmp_path / "out") as target:
        target.reserve(4 * BEHIND)

        def work(base: int) -> None:
            for at in range(0, BEHIND, 64 * KIB):
                target.write_at(base + at, data[at : at + 64 * KIB])

        threads = [threading.Thread(target=work, args=(i * BEHIND,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        target.commit()
    assert (tmp_path / "out").read_bytes() == 4 * data
