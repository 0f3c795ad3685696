"""What other tools make of the corpus: ``python -m tests.hostile.peers PYTHON`` prints the README's table.

PYTHON is the interpreter of an environment of their own, with ``pip install fickling picklescan modelscan``.

A file counts as hostile if a call in it really runs when Python loads it (`Case.live`), and as honest if it is in the
valid half or is an ordinary checkpoint. Flagged is what a tool refuses or warns of; a tool that fails on a file has
flagged it, too. Files that are only damaged, and those whose payload is for another system, are left out.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.hostile.make import corpus, place

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.hostile.cases import Case

TOOLS = ("ckptconv inspect --fail-on-code", "torch weights_only", "fickling", "picklescan", "modelscan")

SCAN = """
import io, json, sys, zipfile, contextlib
from pathlib import Path

def fickling():
    from fickling.analysis import Severity, check_safety
    from fickling.fickle import StackedPickle

    def scan(path):
        data = path.read_bytes()
        pickles = [data]
        if data.startswith(b"PK"):
            with zipfile.ZipFile(io.BytesIO(data)) as file:
                pickles = [file.read(name) for name in file.namelist() if name.endswith(".pkl")]
        found = [check_safety(one) for data in pickles for one in StackedPickle.load(data)]
        return any(one.severity > Severity.LIKELY_SAFE for one in found)

    return scan

def picklescan():
    from picklescan.scanner import scan_file_path

    def scan(path):
        found = scan_file_path(str(path))
        return bool(found.issues_count or found.scan_err)

    return scan

def modelscan():
    from modelscan.modelscan import ModelScan

    def scan(path):
        found = ModelScan().scan(str(path))
        return bool(found["summary"]["total_issues"] or found["errors"])

    return scan

tool = {"fickling": fickling, "picklescan": picklescan, "modelscan": modelscan}[sys.argv[1]]()
failed = 0
for line in sys.stdin:
    path = Path(line.rstrip("\\n"))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            flagged = tool(path)
        except Exception as error:
            flagged, failed = True, failed + 1
    print(json.dumps(flagged), flush=True)
print(f"failed on {failed}", file=sys.stderr)
"""


def ours(path: Path) -> bool:
    """Whether `inspect --fail-on-code` ends with anything but 0."""
    import ckptconv

    try:
        return ckptconv.inspect(path).verdict == "would run code"
    except ckptconv.CkptconvError:
        return True


def safe_torch(path: Path) -> bool:
    """Whether `torch.load(weights_only=True)`, which runs nothing, refuses it."""
    import torch

    try:
        torch.load(path, weights_only=True)
    except Exception:
        return True
    return False


def peer(python: str, tool: str) -> Callable[[list[Path]], list[bool]]:
    """A scanner of the other environment, all files in one process; none of them loads what it scans."""

    def scan(paths: list[Path]) -> list[bool]:
        lines = "".join(f"{path}\n" for path in paths)
        done = subprocess.run(
            [python, "-W", "ignore", "-c", SCAN, tool],
            input=lines,
            capture_output=True,
            text=True,
            cwd=paths[0].parent,
            env={},
        )
        found = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(found) == len(paths), done.stderr[-2000:]
        print(f"{tool} {done.stderr.splitlines()[-1]} files", file=sys.stderr)
        return found

    return scan


def table(python: str) -> list[str]:
    """The rows."""
    hostile = [case for case in corpus() if case.live]
    honest = [case for case in corpus() if case.category in ("valid", "ordinary")]
    plain = sum(case.category == "ordinary" for case in honest)
    lines = [
        f"| tool | flagged, of {len(hostile)} that run code | missed | false alarms, of {len(honest)} honest |",
        "| --- | --- | --- | --- |",
    ]
    with tempfile.TemporaryDirectory() as name:
        bad = [place(case, Path(name, "bad")) for case in hostile]
        good = [place(case, Path(name, "good")) for case in honest]
        for tool in TOOLS:
            flagged = _flags(python, tool, bad + good)
            missed = [case for case, flag in zip(hostile, flagged, strict=False) if not flag]
            alarms = [case for case, flag in zip(honest, flagged[len(bad) :], strict=True) if flag]
            ordinary = sum(case.category == "ordinary" for case in alarms)
            lines.append(
                f"| {tool} | {len(bad) - len(missed)} | {len(missed)} | "
                f"{len(alarms)} ({ordinary} of the {plain} ordinary ones) |"
            )
            _tell(tool, missed, alarms)
    return lines


def _flags(python: str, tool: str, paths: list[Path]) -> list[bool]:
    if tool.startswith("ckptconv"):
        return [ours(path) for path in paths]
    if tool.startswith("torch"):
        return [safe_torch(path) for path in paths]
    return peer(python, tool)(paths)


def _tell(tool: str, missed: list[Case], alarms: list[Case]) -> None:
    for word, cases in (("missed", missed), ("false alarm", alarms)):
        print(*(f"{tool}: {word}: {case.name}" for case in cases), sep="\n", file=sys.stderr)


if __name__ == "__main__":
    print(*table(sys.argv[1]), sep="\n")
