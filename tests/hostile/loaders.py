"""What other loaders than Python's own do with a file: ``python -m tests.hostile.loaders`` reads names and paths, one a
line, and prints whether the payload ran, as `alive` does.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import sympy
import torch

from tests.hostile.cases import MARKER


def in_python(path: str) -> Any:
    """As pandas and joblib do."""
    return pickle._Unpickler(io.BytesIO(Path(path).read_bytes())).load()


def of_numpy(path: str) -> Any:
    """All arrays of an archive."""
    with np.load(path, allow_pickle=True) as file:
        return [file[name] for name in file.files]


LOADERS = {
    "pickle": lambda path: pickle.loads(Path(path).read_bytes()),
    "pickle.py": in_python,
    "joblib": joblib.load,
    "numpy": of_numpy,
    "torch": lambda path: torch.load(path, weights_only=False),
    "torch.jit": torch.jit.load,
}


def ran(loader: str, path: Path) -> bool:
    """Whether the payload of a file runs when it is loaded, in a child with its output thrown away."""
    child = os.fork()
    if child == 0:
        try:
            os.chdir(path.parent)
            null = os.open(os.devnull, os.O_RDWR)
            for number in range(3):
                os.dup2(null, number)
            signal.alarm(20)
            LOADERS[loader](path.name)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    return any(name.startswith(MARKER) for name in os.listdir(path.parent))


def main() -> None:
    """Every file that standard input names."""
    warnings.simplefilter("ignore")
    assert sympy
    for line in sys.stdin:
        loader, _, name = line.rstrip("\n").partition(" ")
        answer: dict[str, Any] = {"path": name, "ran": ran(loader, Path(name))}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
