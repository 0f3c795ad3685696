"""Running two sides on the same inputs, and comparing what they gave."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.api.running.comparing import Verification, blame_layer, coarser, compare, must_be_equal
from ckptconv.api.running.recording import counter, limit_layers, record, refer, trace
from ckptconv.errors import CkptconvError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.api.running.side import Side
    from ckptconv.checks.recording import Recording
    from ckptconv.core.arrays import Arrays
    from ckptconv.core.progress import Progress
    from ckptconv.core.report import Finding

DEFAULT_SAMPLES = 32


def verify_sides(
    a: Side, b: Side, batches: Sequence[Arrays], *, rtol: float | None = None, atol: float | None = None,
    seed: int | None = None, progress: Progress | None = None,
) -> Verification:  # fmt: skip
    """As `verify`, for two that are open."""
    tell = counter(2 * len(batches), progress)
    source = b if a.is_graph and not b.is_graph else a
    # what is in memory first; else what the reference is made of last
    order = sorted((a, b), key=lambda side: (not side.is_loaded, side is source))
    made = {side: record(side, batches, seed=seed, tell=tell) for side in order}
    ours, theirs = made[a], made[b]
    exact = must_be_equal(ours, theirs) and rtol is None and atol is None
    ours.unit = theirs.unit = coarser(ours, theirs)
    if not exact and rtol is None and atol is None:
        refer(ours, source)
    result = compare(ours, theirs, rtol=rtol, atol=atol)
    noticed = [*dict.fromkeys([*a.findings, *b.findings])]
    if not result.equivalent:
        number = max(result.outputs, key=lambda output: output.share).batch
        noticed += result.findings + _by_layer(ours, theirs, a, b, source, number)
    else:
        noticed += result.findings
    return replace(result, findings=noticed)


def _by_layer(ours: Recording, theirs: Recording, a: Side, b: Side, source: Side, number: int) -> list[Finding]:
    """Which layer differs first, as far as it can be told."""
    recordings = {a: ours, b: theirs}
    try:
        for side in sorted(recordings, key=lambda side: side is source):  # what the limits are made of last
            trace(recordings[side], side, number)
        if a.is_graph or ours.machine != theirs.machine:
            limit_layers(ours, source)
    except CkptconvError:  # the outputs were had; a graph whose inner values are not is not worth an error
        return []
    return blame_layer(ours, theirs)
