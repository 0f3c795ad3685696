"""Kill a conversion, like a loss of power would: while it places or removes a file, or at any other time."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCRIPT = """
import os, signal, sys, tempfile, traceback
{setup}
import ckptconv
sys.modules['gguf'] = None
source, target, size = sys.argv[1], sys.argv[2], int(sys.argv[3]) or None
with tempfile.TemporaryDirectory() as folder:  # whatever is imported late is imported now, once for all children
    ckptconv.convert(source, os.path.join(folder, os.path.basename(target)), shard_size=size)
def dying(real):
    def call(*args, **options):
        global left
        left -= 1
        real(*args, **options) if left >= 0 else os.kill(os.getpid(), signal.SIGKILL)
    return call
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        left = int(line)
        for name in ('link', 'replace', 'unlink'):
            setattr(os, name, dying(getattr(os, name)))
        try:
            ckptconv.convert(source, target, shard_size=size, force=True)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

NEVER = 1 << 30


class Killable:
    """Converts the source into the target when asked to, each time in a child of a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def begin(self, moment: int = NEVER) -> int:
        """Start a conversion that dies at its `moment`-th link, replace or unlink. Returns the process id."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{moment}\n")
        self.process.stdin.flush()
        return self._number()

    def end(self) -> bool:
        """Wait for the conversion. Returns whether it was killed; fails if it ended with an error."""
        code = self._number()
        assert code in {0, -signal.SIGKILL}, "its error is on standard error"
        return code != 0

    def __call__(self, moment: int) -> bool:
        """Run a conversion that dies at this moment. Returns whether it was killed."""
        self.begin(moment)
        return self.end()

    def _number(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())


@contextmanager
def killable(source: Path, target: Path, *, shard_size: int = 0, setup: str = "") -> Iterator[Killable]:
    """Start the process. `setup` is code that it runs before it imports this package."""
    command = [sys.executable, "-c", SCRIPT.format(setup=setup), str(source), str(target), str(shard_size)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Killable(process)
