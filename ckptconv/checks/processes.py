"""Processes that compute for this one.

Threads of one interpreter wait for each other after every call of numpy: two of them do 1.3 times the work of one,
two processes 1.9 times. A helper opens the files for itself, is told stretches of tensors and what to do with them, and
answers: lines of JSON on its standard input and output. Whatever it can not do is done here; so errors come from here.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import IO, TYPE_CHECKING, Any

from ckptconv.checks.pool import MOST_WORKERS, Scratch
from ckptconv.checks.works import WORKS
from ckptconv.core.dtypes import PLAIN
from ckptconv.core.memory import keep_freed_memory
from ckptconv.core.spelling import dumps, from_json, to_json
from ckptconv.core.tensor import ByteSpan, LazyTensor, SpanReader, TensorInfo
from ckptconv.errors import CkptconvError
from ckptconv.io.source import Source

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from ckptconv.checks.works import Result, Work
    from ckptconv.core.spelling import Json

SHARE = 1 << 27
"""Bytes from which on a worker is worth a process, whose start takes about 0.2 s."""

MOST = 8
"""Workers that are processes: each takes some 25 MiB, and so many compute faster than a disk reads."""

MOST_FILES = 32
"""Files that a helper holds open."""

_START = "import sys, json; sys.path[:] = json.loads(sys.stdin.buffer.readline()); from {0} import serve; serve()"


class Helpers:
    """The processes that help with tensors of `nbytes` bytes in all; a context manager, at whose end they are gone.

    most: workers to run, the first of which computes in this process.
    """

    def __init__(self, nbytes: int) -> None:
        """Starts nothing yet."""
        self.most = min(MOST, nbytes // SHARE)
        self._helps = self.most > 1 and _is_python(sys.executable)
        if not self._helps:
            self.most = MOST_WORKERS
        self._helpers: dict[int, _Helper] = {}
        self._lock = Lock()

    def __enter__(self) -> Helpers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for helper in self._helpers.values():
            helper.close()

    def do(
        self, work: Work[Result], tensors: Sequence[LazyTensor], start: int, stop: int, scratch: Scratch,
        **options: float,
    ) -> Result:  # fmt: skip
        """What `work` finds, in this worker's process where it has one."""
        if self._helps and scratch.number:
            task = _task(work, tensors, start, stop, options)
            answer = None if task is None else self._helper(scratch.number).ask(task)
            if answer is not None:
                return work.from_json(answer)
        return work.run(tensors, start, stop, scratch, options)

    def _helper(self, number: int) -> _Helper:
        with self._lock:
            if number not in self._helpers:
                self._helpers[number] = _Helper()
            return self._helpers[number]


class _Helper:
    """One process, asked by one thread; once it has failed, it answers nothing any more."""

    def __init__(self) -> None:
        import subprocess

        self._process: subprocess.Popen[bytes] | None = None
        command = [sys.executable, "-I", *(["-B"] if sys.dont_write_bytecode else []), "-c", _START.format(__name__)]
        alone = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        with suppress(OSError):
            self._process = subprocess.Popen(  # noqa: S603 (this very file)
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env={**os.environ, **alone}, start_new_session=True,  # Ctrl-C is for this process, which ends that one
            )  # fmt: skip
            self._send([one for one in sys.path if isinstance(one, str)])

    def ask(self, task: Json) -> Json:
        """What it found, None where it could not."""
        if self._process is None or self._process.stdout is None:
            return None
        answer = b""
        with suppress(OSError):
            self._send(task)
            answer = self._process.stdout.readline()
        if not answer.endswith(b"\n"):
            self.close()
            return None
        return json.loads(answer)

    def _send(self, document: Json) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(dumps(document).encode() + b"\n")
            self._process.stdin.flush()

    def close(self) -> None:
        """End the process, whatever it does."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what was not sent is not wanted
                    pipe.close()
        process.wait()


def _is_python(program: str | None) -> bool:
    """Whether that is an interpreter, not a program that contains one."""
    return bool(program) and Path(str(program)).stem.lower().startswith(("python", "pypy"))


def _task(work: Work[Any], tensors: Sequence[LazyTensor], start: int, stop: int, options: Mapping[str, float]) -> Json:
    """As JSON; None where a tensor is no run of bytes in a file that can be opened again."""
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
    said = {name: to_json(value) for name, value in options.items()}
    return {"do": work.name, "tensors": sides, "elements": stop - start, "options": said}


def serve() -> None:
    """Answer every line of standard input, until it ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whoever prints must not answer
    _serve(sys.stdin.buffer, answers)


def _serve(tasks: IO[bytes], answers: IO[bytes]) -> None:
    sources: dict[str, Source] = {}
    scratch = Scratch(0, Lock())
    keep_freed_memory()
    for line in tasks:
        try:
            answer = _done(json.loads(line), sources, scratch)
        except CkptconvError:
            answer = None  # asked for again over there, where it is said
        answers.write(dumps(answer).encode() + b"\n")
        answers.flush()


def _done(task: Json, sources: dict[str, Source], scratch: Scratch) -> Json:
    count, work = task["elements"], WORKS[task["do"]]
    tensors = []
    for path, identity, offset, name in task["tensors"]:
        source = _opened(path, tuple(identity), sources)
        if source is None:
            return None
        info = TensorInfo.of(PLAIN[name], (count,))
        span = ByteSpan(source, offset, info.nbytes)
        tensors.append(LazyTensor(info, SpanReader(span), span))
    options = {name: from_json(value) for name, value in task["options"].items()}
    return work.to_json(work.run(tensors, 0, count, scratch, options))


def _opened(path: str, identity: tuple[int, ...], sources: dict[str, Source]) -> Source | None:
    """The file as the other process knows it; None where another one lies there."""
    if path not in sources or sources[path].identity != identity:
        if path in sources or len(sources) >= MOST_FILES:
            sources.pop(path if path in sources else next(iter(sources))).close()
        sources[path] = Source(path)
    return sources[path] if sources[path].identity == identity else None
