"""Runs two sides on the same inputs, and compares their outputs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.api.running.comparing import Verification, bits_must_be_equal, coarser, compare, first_differing_layer
from ckptconv.api.running.recording import add_layer_limits, add_layers, add_reference, record, run_counter
from ckptconv.core.report import Finding
from ckptconv.edits.batch_norms.find import find_folds
from ckptconv.errors import CkptconvError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptconv.api.running.side import Side
    from ckptconv.checks.recording import Recording
    from ckptconv.core.arrays import Arrays
    from ckptconv.core.progress import Progress

DEFAULT_SAMPLES = 32


def verify_sides(
    a: Side, b: Side, batches: Sequence[Arrays], *, rtol: float | None = None, atol: float | None = None,
    seed: int | None = None, progress: Progress | None = None,
) -> Verification:  # fmt: skip
    """`verify`, for two sides that are open."""
    tell = run_counter(2 * len(batches), progress)
    # the float64 reference is made from the network's module, not from a graph
    source = b if a.is_graph and not b.is_graph else a
    # avoid reloading: a loaded network runs first, and the one that the reference is made from last
    order = sorted((a, b), key=lambda side: (not side.is_loaded, side is source))
    recordings = {side: record(side, batches, seed=seed, tell=tell) for side in order}
    ours, theirs = recordings[a], recordings[b]
    has_tolerances = rtol is not None or atol is not None
    needs_limits = not has_tolerances and not bits_must_be_equal(ours, theirs)
    ours.unit = theirs.unit = coarser(ours, theirs)
    if needs_limits:
        add_reference(ours, source)
    folds = [*find_folds(a.checkpoint, b.checkpoint), *find_folds(b.checkpoint, a.checkpoint)]
    folded = {name for edit in folds for step in edit.steps for name in (*step.sources, *step.targets)}
    result = compare(ours, theirs, rtol=rtol, atol=atol, folded=folded)
    findings = [*dict.fromkeys([*a.findings, *b.findings]), *result.findings]
    if folded:
        message = "one side has the batch norms of the other folded into the layers before: those are not compared"
        findings.append(Finding("batch-norms-folded", "info", "", message))
    if not result.equivalent:
        worst_batch = max(result.outputs, key=lambda output: output.share).batch
        findings += _find_differing_layer(recordings, a, b, source, worst_batch)
    return replace(result, findings=findings)


def _find_differing_layer(
    recordings: Mapping[Side, Recording], a: Side, b: Side, source: Side, batch: int
) -> list[Finding]:
    """The first layer that differs, as far as it can be told."""
    ours, theirs = recordings[a], recordings[b]
    try:
        for side in sorted((a, b), key=lambda side: side is source):  # the limits need the source's module next
            add_layers(recordings[side], side, batch)
        if a.is_graph or ours.machine != theirs.machine:
            add_layer_limits(ours, source)
    except CkptconvError:  # the outputs are compared; inner values that cannot be had are not worth an error
        return []
    return first_differing_layer(ours, theirs)
