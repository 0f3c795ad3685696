"""Quantizes in several processes. A model has billions of elements that take some 50 ns each, and threads of one
interpreter wait for each other after every call of numpy.

A piece of what a `Quantizer` reads is sent to one of the processes (`io.process`) and comes back as blocks, while
others have the next pieces. What they cannot do is done in this process. The blocks are the same, and so is the loss
that is noted for each piece.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import BLOCKS, PLAIN
from ckptconv.edits.computed import Computed
from ckptconv.edits.ggml.kquants import KQUANTS
from ckptconv.edits.ggml.quantize import Quantizer, quantized_bytes, quantized_here
from ckptconv.edits.rounding import Loss
from ckptconv.io.process import Helper, answer_all, can_help

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Future

    from ckptconv.core.dtypes import DType
    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.edits.ggml.quantize import Part, Quantized

SHARE = 1 << 24
"""Elements for which another process is worth its start of 0.2 s; for fast types, `EASY` times as many."""

HARD = {*KQUANTS, "MXFP4"}
"""Types that take some 50 ns for an element; all others take 5 to 10."""

EASY = 8

FEW = 4
"""Up to so many cores, fast types are left to threads: sending and fetching takes half as long as quantizing."""

MOST = 8
"""The most processes; each takes some 30 MiB."""


class Quantizing:
    """A context manager in which processes do the quantizing for some tensors; they end with it."""

    def __init__(self, tensors: Iterable[LazyTensor]) -> None:
        """Starts no process yet."""
        self._readers = [reader for tensor in tensors if (reader := _quantizer(tensor)) is not None]
        self._cores = os.cpu_count() or 1
        work = sum(_work(reader, self._cores) for reader in self._readers)
        self._count = min(MOST, self._cores, work // SHARE) if can_help() else 0
        self._idle: SimpleQueue[Helper] = SimpleQueue()
        self._threads: ThreadPoolExecutor | None = None

    def __enter__(self) -> Quantizing:
        if self._count > 1 and (threads := _threads(self._count)) is not None:
            self._threads = threads
            for _ in range(self._count):
                self._idle.put(Helper(__name__))
            for reader in self._readers:
                if _work(reader, self._cores):
                    reader.quantize = self._quantize_parts
        return self

    def __exit__(self, *_: object) -> None:
        if self._threads is None:
            return
        for reader in self._readers:
            reader.quantize = quantized_here
        self._threads.shutdown(cancel_futures=True)
        while not self._idle.empty():
            self._idle.get().close()

    def _quantize_parts(self, parts: Iterable[Part], before: DType, after: DType) -> Iterator[tuple[int, Quantized]]:
        """The blocks of each part, in order; several parts are on their way at a time."""
        assert self._threads is not None
        waiting: deque[tuple[int, Future[Quantized]]] = deque()
        for first, data in parts:
            waiting.append((first, self._threads.submit(self._quantize_part, data, before, after)))
            if len(waiting) > self._count:
                number, future = waiting.popleft()
                yield number, future.result()
        for number, future in waiting:
            yield number, future.result()

    def _quantize_part(self, data: memoryview, before: DType, after: DType) -> Quantized:
        helper = self._idle.get()
        try:
            answer = helper.ask([before.name, after.name], data)
        finally:
            self._idle.put(helper)
        match answer:
            case [[int(overflowed), int(flushed), float(error), float(power)], blocks]:
                return blocks, Loss(overflowed, flushed, error=error, power=power)
        return quantized_bytes(data, before, after)


def _threads(count: int) -> ThreadPoolExecutor | None:
    """So many threads, all of them started; None if the system starts no more."""
    threads, go = ThreadPoolExecutor(count), Event()
    try:
        for _ in range(count):
            threads.submit(go.wait)
    except RuntimeError:
        go.set()
        threads.shutdown(cancel_futures=True)
        return None
    go.set()
    return threads


def _quantizer(tensor: LazyTensor) -> Quantizer | None:
    """The reader that quantizes this tensor, among the computations that it goes through."""
    reader: object = tensor.reader
    while isinstance(reader, Computed):
        if isinstance(reader, Quantizer):
            return reader
        reader = reader.source.reader
    return None


def _work(reader: Quantizer, cores: int) -> int:
    """The number of elements; those of fast types count less."""
    numel = reader.source.info.numel
    if reader.dtype.name in HARD:
        return numel
    return numel // EASY if cores > FEW else 0


def serve() -> None:
    """Run in the other process: quantize what arrives, until the input ends."""
    answer_all(_answer)


def _answer(task: Json, data: bytes) -> tuple[Json, bytes]:
    before, after = task
    blocks, loss = quantized_bytes(memoryview(data), PLAIN[before], BLOCKS[after])
    return [loss.overflowed, loss.flushed, loss.error, loss.power], blocks
