"""Writes a sample in another process: ``python -m ckptconv.testing.worker TARGET``, with a pickled sample on stdin."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING

from ckptconv.formats.base import WriteOptions
from ckptconv.io.target import Target

if TYPE_CHECKING:
    from pathlib import Path

    from ckptconv.formats.base import Format
    from ckptconv.testing.samples import Sample


def write(format: Format, sample: Sample, path: Path, *, replace: bool = False) -> None:
    """Write the sample, as a conversion does."""
    with sample.open() as checkpoint, Target(path, replace=replace) as target:
        format.write(checkpoint, target, WriteOptions())
        target.commit()


def write_elsewhere(format: Format, sample: Sample, path: Path, *, hash_seed: int) -> None:
    """The same in a new process, in which sets iterate in another order."""
    environment = {
        **os.environ,
        "PYTHONHASHSEED": str(hash_seed),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    command = [sys.executable, "-m", "ckptconv.testing.worker", str(path)]
    done = subprocess.run(  # noqa: S603 (this very file)
        command, input=pickle.dumps((format, sample)), env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")


def _main() -> None:
    from pathlib import Path

    format, sample = pickle.load(sys.stdin.buffer)  # noqa: S301 (from our own parent)
    write(format, sample, Path(sys.argv[1]))


if __name__ == "__main__":
    _main()
