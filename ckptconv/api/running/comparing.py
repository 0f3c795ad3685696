"""Compares the recorded outputs of two networks."""

from __future__ import annotations

from dataclasses import dataclass, field
from os import fspath
from pathlib import Path
from typing import TYPE_CHECKING

from ckptconv.checks.first_difference import RULE_OF_THUMB, first_difference
from ckptconv.checks.tolerance import Tolerance
from ckptconv.checks.verify import Output, blame_weights, compare_outputs, row_size
from ckptconv.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection

    from ckptconv.checks.recording import Recording
    from ckptconv.core.arrays import Arrays
    from ckptconv.core.report import Finding
    from ckptconv.core.spelling import Json


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` found.

    outputs:  how each output differs, in the worst of all runs.
    reason:   where the bound comes from.
    runtimes: what each side ran in.
    runs:     the shape of the first input of each run.
    """

    first: Path
    second: Path
    device: str
    outputs: list[Output]
    reason: str
    runtimes: tuple[str, str]
    runs: list[tuple[int, ...]]
    findings: list[Finding] = field(default_factory=list)

    @property
    def equivalent(self) -> bool:
        """Whether every output is within its bound."""
        return all(output.ok for output in self.outputs)

    def to_dict(self) -> dict[str, Json]:
        """The result as ``verify --json`` prints it."""
        return {
            "first": str(self.first),
            "second": str(self.second),
            "equivalent": self.equivalent,
            "device": self.device,
            "runtimes": list(self.runtimes),
            "bound": self.reason,
            "runs": [list(shape) for shape in self.runs],
            "outputs": [output.to_dict() for output in self.outputs],
            "findings": [finding.to_dict() for finding in self.findings],
        }


def compare(
    a: Recording, b: Recording, *, rtol: float | None = None, atol: float | None = None, folded: Collection[str] = ()
) -> Verification:
    """Compare two recordings with the same inputs. Raises UsageError if inputs or outputs do not correspond.

    folded: names of weights that are not to be compared, since a batch norm was folded into them on one side.

    If both hold the same weights and ran in the same version of torch on one machine, bits have to be equal. Otherwise
    the limits of either recording are used, or `rtol` and `atol` as in `verify`. If both have layers, the first that
    differs is reported.
    """
    Tolerance(rtol or 0.0, atol or 0.0)  # raises UsageError for a value that is not a tolerance
    _check_inputs(a, b)
    exact = bits_must_be_equal(a, b) and rtol is None and atol is None
    outputs: dict[str, Output] = {}
    for number, (ours, theirs) in enumerate(zip(a.batches, b.batches, strict=True)):
        limits = None if exact else _limits(a, b, number, rtol, atol)
        try:
            compare_outputs(outputs, ours.outputs, theirs.outputs, limits, number)
        except ValueError as error:
            raise UsageError(f"the outputs cannot be compared: {error}", hint="are these the same network?") from None
    equivalent = all(output.ok for output in outputs.values())
    ours_alone = {name: weight for name, weight in a.weights.items() if name not in folded}
    findings = blame_weights(ours_alone, b.weights, equivalent=equivalent)
    if not equivalent and a.layers and b.layers:
        findings += first_differing_layer(a, b)
    devices = dict.fromkeys((a.device, b.device))
    return Verification(
        Path(a.label), Path(b.label), " and ".join(devices), list(outputs.values()), _reason(a, b, rtol, atol),
        (a.runtime, b.runtime), shapes_of(a), findings,
    )  # fmt: skip


def first_differing_layer(a: Recording, b: Recording) -> list[Finding]:
    """The first layer whose outputs differ, of those that both have; [] if none does."""
    limits = None
    if not (a.machine == b.machine and a.runtime == b.runtime == "torch"):
        limits = a.layer_limits or b.layer_limits
    scale = _scale(a if a.layer_limits else b, a, b)
    finding = first_difference(a.layers, b.layers, limits, scale)
    return [] if finding is None else [finding]


def shapes_of(recording: Recording) -> list[tuple[int, ...]]:
    """The shape of the first input of each batch."""
    return [next(iter(batch.inputs.values())).shape for batch in recording.batches]


def _check_inputs(a: Recording, b: Recording) -> None:
    import numpy as np

    same = len(a.batches) == len(b.batches)
    for ours, theirs in zip(a.batches, b.batches, strict=False):
        pairs = zip(ours.inputs.values(), theirs.inputs.values(), strict=False)
        same = same and len(ours.inputs) == len(theirs.inputs)
        same = same and all(np.array_equal(x, y, equal_nan=x.dtype.kind == "f") for x, y in pairs)
    if not same:
        raise UsageError(
            f"{fspath(a.label)} and {fspath(b.label)} ran on different inputs",
            hint="ckptconv verify B --outputs FILE.npz runs B on the inputs of FILE.npz",
        )


def bits_must_be_equal(a: Recording, b: Recording) -> bool:
    """Whether both ran the same weights in the same torch on the same device."""
    return a.runtime == b.runtime == "torch" and a.machine == b.machine and a.weights == b.weights


def coarser(a: Recording, b: Recording) -> str:
    """The floating-point type, of the two that were computed in, that rounds more coarsely."""
    from ckptconv.checks.rounding import UNIT

    return max(a.unit, b.unit, key=UNIT.__getitem__)


def _scale(limited: Recording, a: Recording, b: Recording) -> float:
    """The factor for limits that were computed for one run's type; they grow with the unit roundoff of the coarser."""
    from ckptconv.checks.rounding import UNIT

    return UNIT[coarser(a, b)] / UNIT[limited.unit]


def _limits(a: Recording, b: Recording, number: int, rtol: float | None, atol: float | None) -> Arrays:
    """The limit of each output, for one batch."""
    if rtol is None and atol is None:
        for recording in (a, b):
            if limits := recording.batches[number].limits:
                return {name: limit * _scale(recording, a, b) for name, limit in limits.items()}
        rtol = RULE_OF_THUMB
    return {name: (atol or 0.0) + (rtol or 0.0) * row_size(array) for name, array in a.batches[number].outputs.items()}


def _reason(a: Recording, b: Recording, rtol: float | None, atol: float | None) -> str:
    if rtol is not None or atol is not None:
        return f"|a - b| <= {atol or 0.0:g} + {rtol or 0.0:g} × the row's largest magnitude, as asked for"
    if bits_must_be_equal(a, b):
        return "the same weights in the same runtime on the same device: bits have to be equal"
    rule_of_thumb = f"{RULE_OF_THUMB:g} of the row's largest magnitude, a rule of thumb"
    return a.reason or b.reason or f"{rule_of_thumb}: --arch would give a reference in float64"
