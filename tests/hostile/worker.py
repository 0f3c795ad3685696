"""Runs the COMMANDS on files of the corpus, each file in a process of its own with little time and memory.

``python -m tests.hostile.worker`` reads paths of files, one a line, and prints what came of each as a line of JSON. The
working folder is the file's, so that a payload that ran would leave something there.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ckptconv.cli.main import program
from ckptconv.testing.damage import limited_memory
from tests.hostile.cases import COMMANDS
from tests.hostile.others import RAW, model, weight

SECONDS = 2  # a command on a machine of usual speed; it is ended where it takes three times as long
BYTES = 256 << 20
FIXTURES = Path(__file__).parents[2] / "fixtures"


def warm() -> None:
    """Run every command once on honest files, so that what is imported late is imported now, once for all children."""
    import warnings

    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder, "small.onnx")
        small.write_bytes(model(weight(RAW)))
        broken = Path(folder, "broken.pth")
        broken.write_bytes(b"PK")
        for path in (FIXTURES / "digits-training.pth", FIXTURES / "digits.safetensors", small, broken):
            _one_by_one(path)


def _one_by_one(path: Path) -> None:
    kept = os.dup(1), os.dup(2)
    for command in COMMANDS:
        _one(command, str(path))
    os.dup2(kept[0], 1)
    os.dup2(kept[1], 2)


def run(path: Path) -> dict[str, Any]:
    """What the commands do with one file, in a child."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            os.chdir(path.parent)
            end = 3 * SECONDS * len(COMMANDS)
            resource.setrlimit(resource.RLIMIT_CPU, (end, end + 1))
            with os.fdopen(writing, "w") as out:
                json.dump([_one(command, path.name) for command in COMMANDS], out)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as result:
        text = result.read()
    _, status = os.waitpid(child, 0)
    return {"path": str(path), "status": status, "runs": json.loads(text) if text else []}


def _one(command: str, name: str) -> dict[str, Any]:
    before = sorted(os.listdir())
    arguments = [*command.split(), name]
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        if command.startswith("convert"):
            arguments.append(f"{folder}/out.safetensors")
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        start = time.process_time()
        code = _exit_code(arguments)
        spent = time.process_time() - start
        sys.stdout.flush()
        sys.stderr.flush()
        err.seek(0)
        out.seek(0)
        return {
            "code": code,
            "seconds": spent,
            "stderr": err.read(1 << 20).decode("utf-8", "replace"),
            "stdout": out.read(1 << 20).decode("utf-8", "replace"),
            "strays": sorted(set(os.listdir()) ^ set(before)),
            "written": sorted(os.listdir(folder)),
        }


def _exit_code(arguments: list[str]) -> int:
    with limited_memory(BYTES):
        try:
            program.main(arguments)
        except SystemExit as end:
            return int(end.code or 0)


def main() -> None:
    """Every file that standard input names."""
    warm()
    gc.disable()  # as the program does
    for line in sys.stdin:
        print(json.dumps(run(Path(line.rstrip("\n")))), flush=True)


if __name__ == "__main__":
    main()
