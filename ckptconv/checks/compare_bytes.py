"""Which tensors are equal: raw bytes against raw bytes, on every core, in constant memory.

Two buffers of one chunk each are filled and compared by memcmp. numpy is not imported unless a tensor is strided.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event, Lock
from typing import TYPE_CHECKING, Any, TypeVar

from ckptconv.io.checksum import CHUNK
from ckptconv.io.source import SMALL
from ckptconv.io.stream import GATHER_BLOCK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ckptconv.core.dtypes import DType
    from ckptconv.core.tensor import LazyTensor

PIECE = 16 << 20
"""Bytes of a tensor that one worker takes at a time, so that one large tensor keeps all of them busy."""

MOST_WORKERS = 16

Job = TypeVar("Job")


@dataclass(slots=True)
class Scratch:
    """A worker's buffers, `wide` ones where values are computed with.

    number:    the worker's, from 0 on.
    gathering: lets one worker at a time gather a strided tensor, which takes more memory.
    kept:      what a worker has made for two element types, and uses again.
    """

    number: int
    gathering: Lock
    left: bytearray = field(default_factory=lambda: bytearray(CHUNK))
    right: bytearray = field(default_factory=lambda: bytearray(CHUNK))
    wide: tuple[bytearray, bytearray] | None = None
    kept: dict[tuple[DType, DType], Any] = field(default_factory=dict)


@dataclass(slots=True)
class Pool:
    """Runs jobs on every core, and tells of the bytes that are done."""

    total: int
    progress: Callable[[int, int], None] | None = None
    done: int = 0
    lock: Lock = field(default_factory=Lock)
    gathering: Lock = field(default_factory=Lock)

    def advance(self, count: int) -> None:
        """Say that `count` further bytes are through."""
        if self.progress is not None:
            with self.lock:
                self.done = min(self.total, self.done + count)
                self.progress(self.done, self.total)

    def run(
        self, jobs: Sequence[Job], work: Callable[[Job, Scratch], None], nbytes: int, most: int = MOST_WORKERS
    ) -> None:
        """Do `work` for every job, of `nbytes` bytes together, with `most` workers. Raises what a job raises."""
        workers = min(most, os.cpu_count() or 1, len(jobs), max(1, nbytes >> 22))
        queue = iter(jobs)
        if workers <= 1:
            scratch = Scratch(0, self.gathering)
            for job in queue:
                work(job, scratch)
            return
        stop = Event()
        with ThreadPoolExecutor(workers) as pool:
            tasks = [pool.submit(self._work, i, queue, work, stop) for i in range(workers)]
            try:
                for task in tasks:
                    task.result()
            except BaseException:  # Ctrl-C included: let the workers end after their piece
                stop.set()
                raise

    def _work(self, number: int, queue: Iterator[Job], work: Callable[[Job, Scratch], None], stop: Event) -> None:
        scratch = Scratch(number, self.gathering)
        try:
            while not stop.is_set():
                with self.lock:
                    job = next(queue, None)
                if job is None:
                    return
                work(job, scratch)
        except BaseException:
            stop.set()
            raise


def find_unequal(pairs: Sequence[tuple[LazyTensor, LazyTensor]], pool: Pool) -> set[int]:
    """The positions of the pairs whose images differ; both of a pair have the same size.

    A pair is read up to its first difference.
    """
    unequal: set[int] = set()
    jobs = [
        (i, start, min(start + PIECE, a.info.nbytes))
        for i, (a, _) in enumerate(pairs)
        for start in range(0, a.info.nbytes, PIECE)
    ]

    def work(job: tuple[int, int, int], scratch: Scratch) -> None:
        i, start, stop = job
        if i in unequal:
            return
        if _is_equal(*pairs[i], start, stop, scratch):
            pool.advance(stop - start)
        else:
            unequal.add(i)

    pool.run(jobs, work, sum(a.info.nbytes for a, _ in pairs))
    return unequal


def _is_equal(a: LazyTensor, b: LazyTensor, start: int, stop: int, scratch: Scratch) -> bool:
    if a.span is None or b.span is None:
        return all(left == right for left, right in _gathered(a, b, start, stop, scratch))
    if stop - start <= SMALL:
        one, other = (span.file.read_at(span.offset + start, stop - start) for span in (a.span, b.span))
        return one.tobytes() == other.tobytes()
    left, right = memoryview(scratch.left), memoryview(scratch.right)
    for at in range(start, stop, CHUNK):
        count = min(CHUNK, stop - at)
        a.span.file.read_into(left[:count], a.span.offset + at)
        b.span.file.read_into(right[:count], b.span.offset + at)
        # whole bytearrays are compared by memcmp; memoryviews, element by element
        if count == CHUNK:
            if scratch.left != scratch.right:
                return False
        elif left[:count].tobytes() != right[:count].tobytes():
            return False
    return True


def _gathered(a: LazyTensor, b: LazyTensor, start: int, stop: int, scratch: Scratch) -> Iterator[tuple[bytes, bytes]]:
    for at in range(start, stop, GATHER_BLOCK // 2):
        end = min(at + GATHER_BLOCK // 2, stop)
        with scratch.gathering:
            left, right = a.read(at, end), b.read(at, end)
        yield bytes(left), bytes(right)
