"""Copies tensors into a target: in constant memory, on every core, with checksums on the way.

Each worker takes the next tensor and moves it through a buffer of its own. Tensors are not divided among workers, so
that a checksum is a running value and need not be combined.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING, Protocol

from ckptconv.core.memory import keep_freed_memory
from ckptconv.errors import DamagedTensorError
from ckptconv.io.checksum import CHUNK, ContentHash, SpanCheck, crc32, is_damaged

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ckptconv.core.progress import Progress
    from ckptconv.core.tensor import ByteSpan, LazyTensor

GATHER_BLOCK = 8 << 20
"""How many bytes of a strided tensor are gathered at a time. Larger blocks make for longer runs in the file."""


class Written(Protocol):
    """What jobs are written to: a target, or a part of one."""

    def write_at(self, offset: int, data: memoryview | bytes) -> None:
        """Write all of `data` at `offset`. May be called from any thread."""


@dataclass(frozen=True, slots=True)
class Job:
    """Write `tensor` at `offset` of the target. Errors call it `name`."""

    name: str
    tensor: LazyTensor
    offset: int


@dataclass(frozen=True, slots=True)
class Sums:
    """Checksums of what was written for one job: the CRC-32, and the content hash in hexadecimal."""

    crc32: int
    content: str


class Streamer:
    """Copies jobs into a target and checks each tensor against the checksum that its file recorded."""

    def __init__(self, target: Written, *, crc: bool, content: bool, progress: Progress | None) -> None:
        self._target = target
        self._crc = crc
        self._content = content
        self._progress = progress
        self._done = 0
        self._total = 0
        self._lock = Lock()
        self._gathering = Lock()
        self._stop = Event()
        self._checked: set[ByteSpan] = set()

    def run(self, jobs: Sequence[Job]) -> list[Sums]:
        """Copy every job; the sums come in the jobs' order. Raises DamagedTensorError, naming the tensor."""
        self._total = sum(job.tensor.info.nbytes for job in jobs)
        if any(job.tensor.span is None and job.tensor.info.nbytes > CHUNK for job in jobs):
            keep_freed_memory()
        workers = min(4, os.cpu_count() or 1, max(1, self._total >> 22))
        if workers == 1:
            return [self._copy(job, memoryview(bytearray(CHUNK))) for job in jobs]
        from concurrent.futures import ThreadPoolExecutor  # imported late: small files need no threads

        sums: list[Sums | None] = [None] * len(jobs)
        queue = iter(enumerate(jobs))
        with ThreadPoolExecutor(workers) as pool:
            tasks = [pool.submit(self._work, queue, sums) for _ in range(workers)]
            try:
                for task in tasks:
                    task.result()
            except BaseException:  # including Ctrl-C: let the workers end at their next chunk
                self._stop.set()
                raise
        return [each for each in sums if each is not None]

    def _work(self, queue: Iterator[tuple[int, Job]], sums: list[Sums | None]) -> None:
        buffer = memoryview(bytearray(CHUNK))
        try:
            while not self._stop.is_set():
                with self._lock:
                    index, job = next(queue, (-1, None))
                if job is None:
                    return
                sums[index] = self._copy(job, buffer)
        except BaseException:
            self._stop.set()
            raise

    def _copy(self, job: Job, buffer: memoryview) -> Sums:
        span = job.tensor.span
        check = SpanCheck(span) if span is not None and job.tensor.depends == (span,) else None
        if check is None:
            self._check_dependencies(job)
        crc = 0
        content = ContentHash() if self._content else None
        position = job.offset
        for chunk in chunks(job.tensor, buffer, self._gathering):
            if self._stop.is_set():
                break
            if self._crc:
                crc = crc32(chunk, crc)
            if check is not None:
                check.update(chunk, crc if self._crc else None)
            if content is not None:
                content.update(chunk)
            self._target.write_at(position, chunk)
            position += len(chunk)
            self._advance(len(chunk))
            del chunk  # frees a gathered block before the next one is made
        else:
            if check is not None and span is not None and not check.holds:
                raise DamagedTensorError(job.name, path=_path_of(span))
        return Sums(crc, content.hexdigest() if content else "")

    def _check_dependencies(self, job: Job) -> None:
        """Check storages that several tensors share, or that are gathered; each once, before anything is read of it."""
        for span in job.tensor.depends:
            with self._lock:
                if span in self._checked:
                    continue
                self._checked.add(span)
            if is_damaged(span):
                raise DamagedTensorError(job.name, path=_path_of(span))

    def _advance(self, count: int) -> None:
        if self._progress is not None:
            with self._lock:
                self._done += count
                self._progress(self._done, self._total)


def chunks(tensor: LazyTensor, buffer: memoryview, gathering: Lock | None = None) -> Iterable[memoryview]:
    """The tensor's image in order, in pieces of bounded size. A piece is valid until the next one is requested.

    A single run in a file goes through `buffer`. Other tensors that are light to read (`LazyTensor.light`) are read in
    small pieces; the rest is gathered in large blocks, by one thread at a time.
    """
    span = tensor.span
    size = tensor.info.nbytes
    if span is not None:
        for start in range(0, size, len(buffer)):
            piece = buffer[: min(len(buffer), size - start)]
            span.file.read_into(piece, span.offset + start)
            yield piece
        return
    if tensor.light:
        for start in range(0, size, len(buffer)):
            yield tensor.read(start, min(start + len(buffer), size))
        return
    for start in range(0, size, GATHER_BLOCK):
        if gathering is None:
            yield tensor.read(start, min(start + GATHER_BLOCK, size))
            continue
        with gathering:
            yield tensor.read(start, min(start + GATHER_BLOCK, size))


def _path_of(span: ByteSpan) -> Path | None:
    path = getattr(span.file, "path", None)
    return path if isinstance(path, Path) else None
