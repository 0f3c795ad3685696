"""Bounds on time that hold on a slow or busy machine, and still tell what is quadratic.

What is timed is this process's CPU, so what runs beside it takes nothing of it; the garbage that other tests left is
not collected on its time. A busy neighbour on the same core still makes each second do less, by two times and more, so
a bound is in seconds of a machine that does `a_piece_of_work` in `USUAL` seconds: whoever goes past it is asked how
fast the machine is right now, and is let off by no more than that.
"""

from __future__ import annotations

import gc
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

USUAL = 0.03  # seconds of CPU that `a_piece_of_work` takes where little else runs


def a_piece_of_work() -> int:
    """What opening a checkpoint is made of: texts cut and joined, small objects, a dictionary."""
    found: dict[str, tuple[str, list[int]]] = {}
    for i in range(20_000):
        name = f"model.layers.{i}.weight"
        found[name] = (name.rpartition(".")[0], [i, len(name)])
    return sum(sizes[1] for _, sizes in found.values())


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process that `work` takes once."""
    leave_garbage()
    start = time.process_time()
    work()
    return time.process_time() - start


def leave_garbage() -> None:
    """Collect what others left, and walk through what they hold in no collection from now on."""
    gc.collect()
    gc.freeze()


def slowness() -> float:
    """How many times as long as usual this machine takes now for a piece of work; at least 1."""
    return max(1.0, sorted(cpu_seconds(a_piece_of_work) for _ in range(5))[2] / USUAL)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Fail where the block takes more CPU than `seconds` of a machine of usual speed."""
    leave_garbage()
    start = time.process_time()
    yield
    expect(time.process_time() - start, seconds)


def within(seconds: float, work: Callable[[], object], what: str = "it") -> None:
    """Fail where `work` takes more than that three times in a row."""
    spent = cpu_seconds(work)
    if spent > seconds:
        expect(min(spent, cpu_seconds(work), cpu_seconds(work)), seconds, what)


def expect(spent: float, seconds: float, what: str = "it") -> None:
    """Fail where `spent` is more CPU than `seconds` of a machine of usual speed."""
    if spent > seconds:
        slower = slowness()
        assert spent <= seconds * slower, (
            f"{what} took {spent:.2f} s of {seconds} on a machine {slower:.2f} x as slow as usual"
        )
