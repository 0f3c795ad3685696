"""Worker threads that read tensors piece by piece, on every core, in constant memory."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event, Lock
from typing import TYPE_CHECKING, Any, TypeVar

from ckptconv.io.checksum import CHUNK
from ckptconv.io.stream import GATHER_BLOCK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ckptconv.core.progress import Progress
    from ckptconv.core.tensor import LazyTensor

PIECE = 16 << 20
"""How many bytes of a tensor a worker takes at a time, so that a single large tensor keeps all workers busy."""

MOST_WORKERS = 16

WIDE = 1 << 19
"""How many bytes of each tensor are read at a time, to compute with their values."""

Job = TypeVar("Job")

Made = TypeVar("Made")

Piece = tuple[int, int, int]
"""The index of a tensor, and a range [start, stop) of its elements."""


@dataclass(slots=True)
class Scratch:
    """A worker's buffers.

    number:      the worker's number, from 0.
    gathering:   a lock, so that only one worker at a time gathers a strided tensor, which takes more memory.
    left, right: for comparing bytes.
    wide:        for computing with values.
    kept:        what the worker has made for some element types, and uses again.
    """

    number: int
    gathering: Lock
    left: bytearray = field(default_factory=lambda: bytearray(CHUNK))
    right: bytearray = field(default_factory=lambda: bytearray(CHUNK))
    wide: tuple[bytearray, bytearray] | None = None
    kept: dict[object, Any] = field(default_factory=dict)

    def own(self, key: object, make: Callable[[], Made]) -> Made:
        """What this worker has made for `key`, or makes now. Reusing a buffer avoids page faults."""
        if key not in self.kept:
            self.kept[key] = make()
        found: Made = self.kept[key]
        return found


@dataclass(slots=True)
class Pool:
    """Runs jobs on every core, and reports progress in bytes."""

    total: int
    progress: Progress | None = None
    done: int = 0
    lock: Lock = field(default_factory=Lock)
    gathering: Lock = field(default_factory=Lock)

    def advance(self, count: int) -> None:
        """Report that `count` more bytes are done."""
        if self.progress is not None:
            with self.lock:
                self.done = min(self.total, self.done + count)
                self.progress(self.done, self.total)

    def run(
        self, jobs: Sequence[Job], work: Callable[[Job, Scratch], None], nbytes: int, most: int = MOST_WORKERS
    ) -> None:
        """Call `work` for every job, with up to `most` workers. `nbytes`: of all jobs. Raises what a job raises."""
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
            except BaseException:  # including Ctrl-C: let the workers end after their piece
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


def pieces(tensors: Sequence[LazyTensor]) -> list[Piece]:
    """All elements of the tensors in order, in pieces of about `PIECE` bytes; each start is a multiple of eight."""
    found = []
    for i, tensor in enumerate(tensors):
        step, numel = max(8, PIECE * 8 // tensor.info.dtype.bits // 8 * 8), tensor.info.numel
        found += [(i, at, min(at + step, numel)) for at in range(0, numel, step)]
    return found


def read_pieces(
    tensors: Sequence[LazyTensor], start: int, stop: int, scratch: Scratch
) -> Iterator[tuple[int, list[memoryview]]]:
    """Elements [start, stop) of one or two tensors, block by block: the number of elements, and the bytes of each
    tensor.

    `start` is a multiple of eight. A block is overwritten by the next one.
    """
    bits = max(tensor.info.dtype.bits for tensor in tensors)
    if any(tensor.span is None for tensor in tensors):
        step = GATHER_BLOCK // 2 * 8 // bits // 8 * 8
        for at in range(start, stop, step):
            end = min(at + step, stop)
            with scratch.gathering:
                views = [t.read(at * t.info.dtype.bits // 8, t.info.dtype.nbytes(end)) for t in tensors]
            yield end - at, views
        return
    if scratch.wide is None:
        scratch.wide = bytearray(WIDE), bytearray(WIDE)
    step = WIDE * 8 // bits // 8 * 8
    for at in range(start, stop, step):
        end = min(at + step, stop)
        views = []
        for tensor, buffer in zip(tensors, scratch.wide, strict=False):
            first = at * tensor.info.dtype.bits // 8
            view = memoryview(buffer)[: tensor.info.dtype.nbytes(end) - first]
            if tensor.span is not None:
                tensor.span.file.read_into(view, tensor.span.offset + first)
            views.append(view)
        yield end - at, views
