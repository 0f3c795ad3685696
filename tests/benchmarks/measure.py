"""Whole processes, measured: wall time and peak memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from threading import Event, Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MIB = 1 << 20
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes there, KiB elsewhere


@dataclass(frozen=True, slots=True)
class Run:
    """One process with those it started.

    seconds: from its start to its end. cpu: what all of them computed. peak: the most memory they held, in bytes.
    anonymous: the most of it that was not a page of a file, so that it could not be let go of; on Linux alone.
    """

    seconds: float
    peak: int
    cpu: float = 0.0
    anonymous: int = 0


@dataclass(frozen=True, slots=True)
class Measured:
    """Runs of ours and of the peer; the n-th of each ran right after another."""

    ours: Sequence[Run]
    peers: Sequence[Run]

    @property
    def seconds(self) -> float:
        """Our median wall time."""
        return median(run.seconds for run in self.ours)

    @property
    def peer_seconds(self) -> float:
        """The peer's median wall time."""
        return median(run.seconds for run in self.peers)

    @property
    def ratio(self) -> float:
        """The median, over the pairs, of our time through the peer's: what slows a pair slows both of it."""
        return median(ours.seconds / peer.seconds for ours, peer in zip(self.ours, self.peers, strict=True))

    @property
    def peak_mib(self) -> float:
        """The most memory that any of our runs held."""
        return max(run.peak for run in self.ours) / MIB

    @property
    def peer_peak_mib(self) -> float:
        """The most memory that any of the peer's runs held."""
        return max(run.peak for run in self.peers) / MIB


class FailedRunError(Exception):
    """A measured process ended with an error."""


class Tree:
    """Looks from time to time at what a process and those it started hold together; Linux alone says.

    A page that several of them share counts once (proc(5), Pss). The peak of one process is what getrusage says.
    """

    def __init__(self, pid: int) -> None:
        self.pid, self.peak, self.anonymous = pid, 0, 0
        self._end = Event()
        self._thread = Thread(target=self._look, daemon=True)

    def __enter__(self) -> Tree:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._end.wait(0.05):
            with suppress(OSError):  # one of them has just ended
                below = _below(self.pid)
                held = [_held(pid) for pid in (self.pid, *below)]
                self.anonymous = max(self.anonymous, sum(one["Anonymous"] for one in held))
                if below:
                    self.peak = max(self.peak, sum(one["Pss"] for one in held))


def _below(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *_below(child)]
    return found


def _held(pid: int) -> dict[str, int]:
    """Bytes by what proc(5) calls them; none of a process that has ended."""
    lines = [line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]]
    return {"Anonymous": 0, "Pss": 0} | {words[0].rstrip(":"): 1024 * int(words[1]) for words in lines}


def run(command: Sequence[str], good: Sequence[int] = (0,)) -> Run:
    """Run `command` to its end, which is good with one of these exit codes; its output goes nowhere."""
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors)
        with Tree(process.pid) as tree:
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)  # or Popen would wait for it again
        if process.returncode not in good:
            errors.seek(0)
            text = errors.read().decode(errors="replace")
            raise FailedRunError(f"{' '.join(command)}: exit code {process.returncode}\n{text}")
    cpu = usage.ru_utime + usage.ru_stime
    return Run(seconds, max(usage.ru_maxrss * MAXRSS_UNIT, tree.peak), cpu, tree.anonymous)


def measure(
    ours: Sequence[str], peer: Sequence[str] | None, target: Path | None, times: int, good: Sequence[int] = (0,)
) -> Measured:
    """Run ours and the peer in turn, each into a file or folder that does not exist yet. `good`: exit codes of ours.

    One more run of each comes first and is not counted: it brings the programs into the page cache, and a virtual
    machine its memory, which takes several times as long when a page is written for the first time. Every other pair
    has the peer first, since a run meets what the one before it left the disk to do.
    """
    runs: list[Run] = []
    peers: list[Run] = []
    pair = [(ours, runs, good), *([(peer, peers, (0,))] if peer is not None else [])]
    for command, _, accepted in pair:
        fresh_run(command, target, accepted)
    for _ in range(times):
        for command, found, accepted in pair:
            found.append(fresh_run(command, target, accepted))
        pair.reverse()
    remove(target)
    return Measured(runs, peers)


def fresh_run(command: Sequence[str], target: Path | None, good: Sequence[int] = (0,)) -> Run:
    """Measure `command` after its target is gone; freeing a big file costs the kernel time that is not its own."""
    remove(target)
    return run(command, good)


def remove(target: Path | None) -> None:
    """Unlink the target, if there is one."""
    if target is not None and target.is_dir():
        shutil.rmtree(target)
    elif target is not None:
        target.unlink(missing_ok=True)


def warm(path: Path) -> None:
    """Read a file, or a folder's files, so that the first of two programs is not the one that waits for the disk."""
    if path.is_dir():
        for one in path.iterdir():
            warm(one)
        return
    buffer = bytearray(MIB)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
