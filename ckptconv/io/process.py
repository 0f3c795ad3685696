"""A helper process that computes for this one, and the protocol between them.

    in     a line of JSON: the task, and the number of bytes that follow; then these bytes
    out    a line of JSON: the answer, and the number of bytes that follow; then these bytes

It runs the same interpreter with the same module path, and imports one module, whose ``serve()`` answers until standard
input ends. Ctrl-C does not reach it: the process that started it ends it.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ckptconv.core.memory import keep_freed_memory
from ckptconv.core.spelling import dumps

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from ckptconv.core.spelling import Json

_START = "import sys, json; sys.path[:] = json.loads(sys.stdin.buffer.readline()); from {0} import serve; serve()"


class Helper:
    """One helper process, for one thread at a time. After a failure it does not answer any more."""

    def __init__(self, module: str) -> None:
        """Start the process. `module` has its ``serve`` function."""
        import subprocess

        self._process: subprocess.Popen[bytes] | None = None
        command = [sys.executable, "-I", *(["-B"] if sys.dont_write_bytecode else []), "-c", _START.format(module)]
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        with suppress(OSError):
            self._process = subprocess.Popen(  # noqa: S603 (this very interpreter)
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env={**os.environ, **one_thread}, start_new_session=True,  # so that Ctrl-C reaches only this process
            )  # fmt: skip
            self._send(dumps([path for path in sys.path if isinstance(path, str)]).encode() + b"\n", b"")

    def ask(self, task: Json, data: bytes | memoryview = b"") -> tuple[Json, bytes] | None:
        """Have a task done. None if the process could not answer."""
        if self._process is None or self._process.stdout is None:
            return None
        with suppress(OSError, ValueError):  # it is gone, or its answer is no JSON (a .pth of site may print)
            self._send(_line(task, len(data)), data)
            answer = _read(self._process.stdout)
            if answer is not None:
                return answer
        self.close()
        return None

    def _send(self, line: bytes, data: bytes | memoryview) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(line)
            self._process.stdin.write(data)
            self._process.stdin.flush()

    def close(self) -> None:
        """Kill the process, whatever it is doing."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):  # unsent data does not matter
                    pipe.close()
        process.wait()


def can_help() -> bool:
    """Whether the running program is a Python interpreter, and not one that embeds it."""
    return bool(sys.executable) and Path(sys.executable).stem.lower().startswith(("python", "pypy"))


def answer_all(answer: Callable[[Json, bytes], tuple[Json, bytes]]) -> None:
    """In the helper process: answer every task on standard input, until it ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a stray print must not become an answer
    keep_freed_memory()
    while (task := _read(sys.stdin.buffer)) is not None:
        result, data = answer(*task)
        answers.write(_line(result, len(data)))
        answers.write(data)
        answers.flush()


def _line(document: Json, count: int) -> bytes:
    return dumps([document, count]).encode() + b"\n"


def _read(stream: IO[bytes]) -> tuple[Json, bytes] | None:
    """The next message; None if the stream ends before it is complete."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        return None
    document, count = json.loads(line)
    data = stream.read(count) if count else b""
    return (document, data) if len(data) == count else None
