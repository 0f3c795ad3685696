"""The recording of what one side gives: its outputs, a reference in float64 with the limits, its layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.checks.recording import Batch, Recording
from ckptconv.checks.runners import machine
from ckptconv.errors import CkptconvError, RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from ckptconv.api.running.side import Side
    from ckptconv.checks.rounding import Bound
    from ckptconv.core.arrays import Arrays
    from ckptconv.core.progress import Progress


def record(side: Side, batches: Sequence[Arrays], *, seed: int | None, tell: Callable[[], None]) -> Recording:
    """Run all batches, calling `tell` after each. Raises RunError."""
    runner = side.runner
    recording = Recording(
        str(side.path), runner.runtime, side.device, machine(side.device, runner.runtime), runner.unit, [], seed
    )
    for feeds in batches:
        recording.batches.append(Batch(dict(feeds), runner.run(feeds)))
        tell()
    recording.weights = side.weights()
    return recording


def refer(recording: Recording, side: Side, *, layers: bool = False) -> None:
    """Add the float64 reference and the limits, which are made from the module of `side`; with `layers` those of the
    layers that are recorded.
    """
    module = side.reference()
    if module is None:
        return
    for batch in recording.batches:
        found = _bound(module, batch.inputs, recording.unit)
        batch.reference, batch.limits, recording.reason = found.outputs, found.limits, found.reason
    if layers:
        _limit_layers(recording, module)


def trace(recording: Recording, side: Side, number: int) -> None:
    """Add what each layer gives for one batch."""
    recording.traced, recording.layers = number, side.trace(recording.batches[number].inputs)


def limit_layers(recording: Recording, side: Side) -> None:
    """Add the limits of the layers that are recorded, which are made from the module of `side`."""
    if (module := side.reference()) is not None:
        _limit_layers(recording, module)


def _limit_layers(recording: Recording, module: torch.nn.Module) -> None:
    feeds = recording.batches[recording.traced].inputs
    recording.layer_limits = _bound(module, feeds, recording.unit, layers=True).layers


def _bound(module: torch.nn.Module, feeds: Arrays, unit: str, *, layers: bool = False) -> Bound:
    """Raises RunError where the module does not take float64."""
    from ckptconv.checks.rounding import UNIT, bound

    try:
        return bound(module, feeds, UNIT[unit], layers=layers)
    except CkptconvError:
        raise
    except Exception as error:
        hint = "without that reference there is no bound: allow for a difference with --rtol and --atol"
        raise RunError("the network in float64", error, hint=hint) from error


def counter(total: int, progress: Progress | None) -> Callable[[], None]:
    """What is called after each of so many runs, and tells `progress`."""
    done = 0

    def tell() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    return tell
