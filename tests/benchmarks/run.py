"""Measures ckptconv beside its peers and prints the table: ``python tests/benchmarks/run.py``.

Whole processes, ours and the peer in turn, each into a fresh file, from a source that is in the page cache. Exits with
1 when a bar is missed. With the default size it takes some minutes, 21 GiB of disk and 9 GiB of tmpfs.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from measure import FailedRunError, Measured, measure, remove, run, warm
from works import CKPTCONV, HEAVY, OTHER, USUAL_HDF5, Work, all_works

if TYPE_CHECKING:
    from collections.abc import Sequence

UNITS = {"": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "kb": 10**3, "mb": 10**6, "gb": 10**9}
HEADER = "| work | bar | measured | ratio | peak MiB | met |\n| --- | --- | --- | ---: | ---: | --- |"


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table. `met` is None where there was no bar."""

    work: str
    bar: str
    measured: str
    ratio: str = "–"
    peak: str = "–"
    met: bool | None = None

    def __str__(self) -> str:
        met = {True: "yes", False: "**no**", None: "–"}[self.met]
        return f"| {self.work} | {self.bar} | {self.measured} | {self.ratio} | {self.peak} | {met} |"


@dataclass(slots=True)
class Shelf:
    """The inputs: made when first asked for, dropped when the next kind is asked for."""

    disk: Path
    tmpfs: Path | None
    size: int
    kind: str = ""

    def source(self, work: Work) -> Path:
        """The file that `work` reads, in the page cache."""
        if work.input != self.kind:
            self.clear()
            self.kind = work.input
        path = self.disk / f"{work.input}.pth"
        if not path.exists():
            script = Path(__file__).with_name("inputs.py")
            run([sys.executable, str(script), work.input, str(path), str(self.size)])
            run(["sync", str(path)])
        if work.source == "/":
            path = self._made("shards", [*CKPTCONV, "convert", str(path), "shards", "--shard-size", "1GB"])
        elif work.source == ".h5":
            path = self._made("groups.h5", [sys.executable, str(USUAL_HDF5), "write", str(path), "groups.h5"])
        elif work.source != ".pth":
            path = self._made(path.stem + work.source, [*CKPTCONV, "convert", str(path), path.stem + work.source])
        path = self.placed(path, work)
        warm(path)
        return path

    def second(self, work: Work, name: str, source: Path) -> Path:
        """What `source` is compared with, in the page cache."""
        path = self.disk / f"{name}{work.source}"
        if path.exists():
            return path
        if name == "twin":
            shutil.copy(source, path)
        elif name == "renamed":
            run([*CKPTCONV, "convert", str(source), str(path), "--strip-prefix", "model."])
        else:
            script, other = Path(__file__).with_name("inputs.py"), self.disk / "changed.pth"
            run([sys.executable, str(script), work.input, str(other), str(self.size), "1"])
            run([*CKPTCONV, "convert", str(other), str(path)])
            other.unlink()
        warm(path)
        return path

    def _made(self, name: str, command: list[str]) -> Path:
        """A file or folder of that name; the command, in which the name stands, makes it where it is not there."""
        path = self.disk / name
        if not path.exists():
            run([str(path) if word == name else word for word in command])
        return path

    def placed(self, path: Path, work: Work) -> Path:
        """The file itself, or its only copy on the tmpfs."""
        for old in self.tmpfs.iterdir() if self.tmpfs else ():
            old.unlink()
        return Path(shutil.copy(path, self.folder(work))) if work.tmpfs else path

    def folder(self, work: Work) -> Path:
        """Where `work` takes place."""
        if not work.tmpfs:
            return self.disk
        assert self.tmpfs is not None
        return self.tmpfs

    def clear(self) -> None:
        """Remove every input."""
        for folder in filter(None, [self.disk, self.tmpfs]):
            for path in folder.iterdir():
                remove(path)


def measure_work(work: Work, shelf: Shelf, pairs: int) -> Row:
    """Measure one work and judge it."""
    source = shelf.source(work) if work.input else Path()
    if work.second:
        ours = work.ours(source, shelf.second(work, work.second, source))
        peers = work.peers(source, shelf.second(work, "twin", source)) if work.peer else None
        return judge(work, measure(ours, peers, None, pairs, work.good))
    target = shelf.folder(work) / f"target{(work.target or OTHER.get(work.source, '')).rstrip('/')}"
    found = measure(work.ours(source, target), work.peers(source, target), target if work.writes else None, pairs)
    return judge(work, found)


def judge(work: Work, found: Measured) -> Row:
    """The row for what was found."""
    ratio = found.ratio if work.peer else None
    checks = [
        value is not None and value <= bar
        for value, bar in (
            (ratio, work.bars.ratio),
            (found.seconds, work.bars.seconds),
            (found.peak_mib, work.bars.peak),
        )
        if bar is not None
    ]
    return Row(
        work=work.title,
        bar=str(work.bars),
        measured=f"{found.seconds:.2f} s" + (f"; {work.peer} {found.peer_seconds:.2f} s" if work.peer else ""),
        ratio=f"{ratio:.2f}" if ratio is not None else "–",
        peak=f"{found.peak_mib:.0f}" + (f"; script {found.peer_peak_mib:.0f}" if "script" in work.peer else ""),
        met=all(checks) if checks else None,
    )


def help_imports() -> Row:
    """Which of the heavy packages `--help` imports."""
    command = [sys.executable, "-X", "importtime", *CKPTCONV[1:], "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = HEAVY & set(re.findall(r"\| +(\w+)$", done.stderr, re.MULTILINE))
    listed = ", ".join(sorted(HEAVY))
    return Row(f"`--help` imports of {listed}", "none", ", ".join(sorted(found)) or "none", met=not found)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    names = "\n  ".join(work.name for work in all_works("the large file"))
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=f"works:\n  {names}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="4GiB", help="of the large checkpoint (%(default)s)")
    parser.add_argument("--pairs", type=int, default=5, help="runs of ours and of the peer (%(default)s)")
    parser.add_argument("--only", action="append", metavar="NAME", help="a work's name or a pattern, as in 'disk-*'")
    parser.add_argument("--workdir", type=Path, default=Path(tempfile.gettempdir()), help="on disk (%(default)s)")
    parser.add_argument("--tmpfs", type=Path, default=Path("/dev/shm"), help="a folder in memory (%(default)s)")
    options = parser.parse_args(arguments)
    try:
        options.bytes = size_in_bytes(options.size)
        options.works = chosen(all_works(re.sub(r"(?<=\d)(?=[A-Za-z])", " ", options.size)), options.only or ["*"])
        check_folders(options)
    except ValueError as error:
        parser.error(str(error))
    return options


def size_in_bytes(text: str) -> int:
    """`4GiB` as a number."""
    match = re.fullmatch(r"(\d+) ?(\w*)", text)
    if match is None or match[2].lower() not in UNITS:
        raise ValueError(f"--size {text!r}: expected a number and one of {', '.join(filter(None, UNITS))}")
    return int(match[1]) * UNITS[match[2].lower()]


def chosen(works: Sequence[Work], patterns: Sequence[str]) -> list[Work]:
    """The works that one of `patterns` matches."""
    for pattern in patterns:
        if not any(fnmatch(work.name, pattern) for work in works):
            raise ValueError(f"--only {pattern!r} matches no work; see --help")
    return [work for work in works if any(fnmatch(work.name, pattern) for pattern in patterns)]


def check_folders(options: argparse.Namespace) -> None:
    """Refuse a `--workdir` that is the tmpfs, and folders without room for the files."""
    large = any("llama" in work.input for work in options.works)
    room = {options.workdir: 2**31 + 5.1 * options.bytes * large}  # besides the source: other forms, the target
    if any(work.tmpfs for work in options.works):
        room[options.tmpfs] = 2.1 * options.bytes
        if options.workdir.stat().st_dev == options.tmpfs.stat().st_dev:
            raise ValueError(f"--workdir {options.workdir} and --tmpfs {options.tmpfs} lie on the same file system")
    for folder, needed in room.items():
        if shutil.disk_usage(folder).free < needed:
            raise ValueError(f"{folder} has less than {needed / 2**30:.1f} GiB left")


def measure_all(options: argparse.Namespace, rows: list[Row]) -> None:
    """Measure what was asked for, adding to `rows`; every file is gone at the end."""
    with ExitStack() as stack:
        disk = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.workdir)))
        tmpfs = None
        if any(work.tmpfs for work in options.works):
            tmpfs = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.tmpfs)))
        shelf = Shelf(disk, tmpfs, options.bytes)
        for work in options.works:
            print(f"{work.name} …", file=sys.stderr, flush=True)
            rows.append(measure_work(work, shelf, options.pairs))
            if work.name == "help":
                rows.append(help_imports())


def main() -> int:
    """Print the table; 1 when a bar is missed, 2 when a process failed."""
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exit removes the files, a signal does not
    rows: list[Row] = []
    failure: FailedRunError | None = None
    try:
        measure_all(options, rows)
    except FailedRunError as error:
        failure = error
    machine = f"{platform.system()} {platform.release()}, {os.cpu_count()} CPUs"
    print(f"Python {platform.python_version()}, {machine}; medians of {options.pairs} pairs.\n")
    print(HEADER, *rows, sep="\n")
    if failure is not None:
        print(f"failed: {failure}", file=sys.stderr)
        return 2
    return int(any(row.met is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
