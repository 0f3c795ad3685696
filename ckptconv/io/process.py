"""A process that computes for this one, and what it and this one say to each other.

    in     a line of JSON: what to do, and how many bytes follow it; then these
    out    a line of JSON: the answer, and how many bytes follow it; then these

It runs the interpreter that runs here, with the same path of modules, and imports one module, whose ``serve()`` answers
until its standard input ends. It sees no Ctrl-C: whoever started it ends it.
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
    """One process, asked by one thread at a time; once it has failed, it answers nothing any more."""

    def __init__(self, module: str) -> None:
        """Start it; `module` is where its ``serve`` is."""
        import subprocess

        self._process: subprocess.Popen[bytes] | None = None
        command = [sys.executable, "-I", *(["-B"] if sys.dont_write_bytecode else []), "-c", _START.format(module)]
        alone = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        with suppress(OSError):
            self._process = subprocess.Popen(  # noqa: S603 (this very interpreter)
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env={**os.environ, **alone}, start_new_session=True,  # Ctrl-C is for this process, which ends that one
            )  # fmt: skip
            self._send(dumps([one for one in sys.path if isinstance(one, str)]).encode() + b"\n", b"")

    def ask(self, task: Json, data: bytes | memoryview = b"") -> tuple[Json, bytes] | None:
        """Its answer, None where it could not. `data` is a run of bytes."""
        if self._process is None or self._process.stdout is None:
            return None
        with suppress(OSError, ValueError):  # it is gone; or it says what is none, as where a .pth of site's prints
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


def can_help() -> bool:
    """Whether the program that runs here is an interpreter, not one that contains one."""
    return bool(sys.executable) and Path(sys.executable).stem.lower().startswith(("python", "pypy"))


def answer_all(answer: Callable[[Json, bytes], tuple[Json, bytes]]) -> None:
    """In the other process: answer every task on standard input, until it ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whoever prints must not answer
    keep_freed_memory()
    while (task := _read(sys.stdin.buffer)) is not None:
        said, data = answer(*task)
        answers.write(_line(said, len(data)))
        answers.write(data)
        answers.flush()


def _line(document: Json, count: int) -> bytes:
    return dumps([document, count]).encode() + b"\n"


def _read(stream: IO[bytes]) -> tuple[Json, bytes] | None:
    """What comes next; None where it ends before it is whole."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        return None
    document, count = json.loads(line)
    data = stream.read(count) if count else b""
    return (document, data) if len(data) == count else None
