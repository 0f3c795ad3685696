"""Time limits that hold on a slow or busy machine, and still catch what is quadratic.

Only this process's CPU time is measured, so other processes do not count, and neither does collecting the garbage of
other tests. A busy neighbour on the same core still slows each second down, by a factor of two and more. A limit is
therefore in seconds of a machine that does `a_piece_of_work` in `USUAL` seconds: if it is exceeded, the machine's
current speed is measured, and the limit is extended in proportion.
"""

from __future__ import annotations

import gc
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

USUAL = 0.03  # CPU seconds that `a_piece_of_work` takes when little else runs


def a_piece_of_work() -> int:
    """Work like that of opening a checkpoint: splitting and joining texts, small objects, a dictionary."""
    found: dict[str, tuple[str, list[int]]] = {}
    for i in range(20_000):
        name = f"model.layers.{i}.weight"
        found[name] = (name.rpartition(".")[0], [i, len(name)])
    return sum(sizes[1] for _, sizes in found.values())


def cpu_seconds(work: Callable[[], object]) -> float:
    """The CPU seconds of this process that one call of `work` takes."""
    leave_garbage()
    start = time.process_time()
    work()
    return time.process_time() - start


def leave_garbage() -> None:
    """Collect the garbage of other tests, and exclude what they still hold from later collections."""
    gc.collect()
    gc.freeze()


def slowness() -> float:
    """How many times slower than usual the machine is right now; at least 1."""
    return max(1.0, sorted(cpu_seconds(a_piece_of_work) for _ in range(5))[2] / USUAL)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Fail if the block takes more CPU time than `seconds` of a machine of usual speed."""
    leave_garbage()
    start = time.process_time()
    yield
    expect(time.process_time() - start, seconds)


def within(seconds: float, work: Callable[[], object], what: str = "it") -> None:
    """Fail if `work` takes more than `seconds` of a machine of usual speed, three times in a row."""
    spent = cpu_seconds(work)
    if spent > seconds:
        expect(min(spent, cpu_seconds(work), cpu_seconds(work)), seconds, what)


def expect(spent: float, seconds: float, what: str = "it") -> None:
    """Fail if `spent` CPU seconds are more than `seconds` of a machine of usual speed."""
    if spent > seconds:
        slower = slowness()
        assert spent <= seconds * slower, (
            f"{what} took {spent:.2f} s of {seconds} on a machine {slower:.2f} x as slow as usual"
        )
