"""What Python's own unpickler does with a file: ``python -m tests.hostile.alive`` reads paths, one a line.

Only payloads of this corpus are given to it: they make a file called MARKER, in the folder that the file is in.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import sys
import zipfile
from pathlib import Path
from typing import Any

from tests.hostile.cases import MARKER


class Anything:
    """Stands for all of torch, which need not be there."""

    def __init__(self, *_: object, **__: object) -> None:
        """Take whatever it is given."""

    def __call__(self, *_: object, **__: object) -> Anything:
        return self

    def __setstate__(self, state: object) -> None:
        """Keep nothing."""


class Unpickler(pickle.Unpickler):
    """As torch's without `weights_only`."""

    def find_class(self, module: str, name: str) -> Any:
        return Anything if module.startswith("torch") else super().find_class(module, name)

    def persistent_load(self, _: object) -> object:
        return Anything()


def pickles(path: Path) -> list[bytes]:
    """The pickles of a file that a loader would load."""
    data = path.read_bytes()
    if not data.startswith(b"PK"):
        return [data]
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return [file.read(name) for name in file.namelist() if name.endswith(".pkl")]


def load_all(path: Path) -> None:
    """Load what the file holds, one pickle after the other, as far as that goes."""
    for data in pickles(path):
        stream = io.BytesIO(data)
        while stream.tell() < len(data):
            Unpickler(stream).load()


def _wait_for_children() -> None:
    try:
        while True:
            os.wait()
    except ChildProcessError:
        return


def main() -> None:
    """Every file that standard input names, each in a child with its output thrown away."""
    for line in sys.stdin:
        path = Path(line.rstrip("\n"))
        child = os.fork()
        if child == 0:
            os.chdir(path.parent)
            null = os.open(os.devnull, os.O_RDWR)
            for number in range(3):
                os.dup2(null, number)
            signal.alarm(20)
            try:
                load_all(path)
            finally:
                _wait_for_children()
                os._exit(0)
        os.waitpid(child, 0)
        ran = any(name.startswith(MARKER) for name in os.listdir(path.parent))
        print(json.dumps({"path": str(path), "ran": ran}), flush=True)


if __name__ == "__main__":
    main()
