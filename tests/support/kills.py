"""A conversion that is killed as it places or removes a file, as a machine that loses its power would."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = """
import os, signal, sys, ckptconv
sys.modules['gguf'] = None
source, target, left, size = *sys.argv[1:3], int(sys.argv[3]), int(sys.argv[4])
def dying(real):
    def call(*args, **options):
        global left
        left -= 1
        real(*args, **options) if left >= 0 else os.kill(os.getpid(), signal.SIGKILL)
    return call
for name in ('link', 'replace', 'unlink'):
    setattr(os, name, dying(getattr(os, name)))
ckptconv.convert(source, target, shard_size=size, force=True)
"""


def is_killed(source: Path, target: Path, *, moment: int, shard_size: int) -> bool:
    """Convert in a process of its own that dies at its `moment`-th link, replace or unlink; False if it lived on."""
    arguments = [str(source), str(target), str(moment), str(shard_size)]
    done = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], check=False, capture_output=True, text=True)
    assert done.returncode in {0, -9}, done.stderr
    return done.returncode != 0
