"""Helper processes that compute for this one.

Threads in one interpreter wait for each other after every numpy call: two threads do 1.3 times the work of one, two
processes 1.9 times. A helper (`io.process`) opens the files itself, gets ranges of tensors and what to do with them,
and answers. What a helper cannot do is done in this process, which also raises all errors.
"""

from __future__ import annotations

import os
from threading import Lock
from typing import TYPE_CHECKING, Any

from ckptconv.checks.pool import MOST_WORKERS, Scratch
from ckptconv.checks.works import WORKS
from ckptconv.core.dtypes import PLAIN
from ckptconv.core.spelling import from_json, to_json
from ckptconv.core.tensor import ByteSpan, LazyTensor, TensorInfo, in_file
from ckptconv.errors import CkptconvError
from ckptconv.io.process import Helper, answer_all, can_help
from ckptconv.io.source import Source

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptconv.checks.works import Result, Work
    from ckptconv.core.spelling import Json

SHARE = 1 << 27
"""How many bytes make a further process worthwhile, whose start takes about 0.2 s."""

MOST = 8
"""The most worker processes. Each takes some 25 MiB, and this many compute faster than a disk reads."""

MOST_FILES = 32
"""The most files that a helper holds open."""


class Helpers:
    """The helper processes for tensors of `nbytes` bytes in all. A context manager, which ends them.

    most: the number of workers to run. The first of them computes in this process.
    """

    def __init__(self, nbytes: int) -> None:
        """Does not start a process yet."""
        self.most = min(MOST, nbytes // SHARE)
        self._helps = self.most > 1 and can_help()
        if not self._helps:
            self.most = MOST_WORKERS
        self._helpers: dict[int, Helper] = {}
        self._lock = Lock()

    def __enter__(self) -> Helpers:
        return self

    def __exit__(self, *_: object) -> None:
        for helper in self._helpers.values():
            helper.close()

    def do(
        self, work: Work[Result], tensors: Sequence[LazyTensor], start: int, stop: int, scratch: Scratch,
        **options: float,
    ) -> Result:  # fmt: skip
        """Do `work`, in the worker's helper process if it has one."""
        if self._helps and scratch.number:
            task = _task(work, tensors, start, stop, options)
            answer = None if task is None else self._helper(scratch.number).ask(task)
            if answer is not None and answer[0] is not None:
                return work.from_json(answer[0])
        return work.run(tensors, start, stop, scratch, options)

    def _helper(self, number: int) -> Helper:
        with self._lock:
            if number not in self._helpers:
                self._helpers[number] = Helper(__name__)
            return self._helpers[number]


def _task(work: Work[Any], tensors: Sequence[LazyTensor], start: int, stop: int, options: Mapping[str, float]) -> Json:
    """The task as JSON; None if a tensor is not a run of bytes in a file that can be opened again."""
    sides = []
    for tensor in tensors:
        span, dtype = tensor.span, tensor.info.dtype
        if span is None or not isinstance(span.file, Source):
            return None
        place = span.file.place(span.offset)
        if place is None:
            return None
        file, offset = place
        sides.append([os.path.abspath(file.path), file.identity, offset + start * dtype.bits // 8, dtype.name])
    spelled = {name: to_json(value) for name, value in options.items()}
    return {"do": work.name, "tensors": sides, "elements": stop - start, "options": spelled}


def serve() -> None:
    """Run as a helper process: answer every line of standard input, until it ends."""
    sources: dict[str, Source] = {}
    scratch = Scratch(0, Lock())

    def answer(task: Json, _: bytes) -> tuple[Json, bytes]:
        try:
            return _perform(task, sources, scratch), b""
        except CkptconvError:
            return None, b""  # the main process does it again, and raises the error

    answer_all(answer)


def _perform(task: Json, sources: dict[str, Source], scratch: Scratch) -> Json:
    count, work = task["elements"], WORKS[task["do"]]
    tensors = []
    for path, identity, offset, name in task["tensors"]:
        source = _open_same_file(path, tuple(identity), sources)
        if source is None:
            return None
        info = TensorInfo.of(PLAIN[name], (count,))
        tensors.append(in_file(info, ByteSpan(source, offset, info.nbytes)))
    options = {name: from_json(value) for name, value in task["options"].items()}
    return work.to_json(work.run(tensors, 0, count, scratch, options))


def _open_same_file(path: str, identity: tuple[int, ...], sources: dict[str, Source]) -> Source | None:
    """Open the file that the main process has open; None if the path is another file by now."""
    if path not in sources or sources[path].identity != identity:
        if path in sources or len(sources) >= MOST_FILES:
            sources.pop(path if path in sources else next(iter(sources))).close()
        sources[path] = Source(path)
    return sources[path] if sources[path].identity == identity else None
