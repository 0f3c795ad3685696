"""Records what one side computes: its outputs, a float64 reference with limits for rounding, its layers."""

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
        label=str(side.path), runtime=runner.runtime, device=side.device,
        machine=machine(side.device, runner.runtime), unit=runner.unit, batches=[], seed=seed,
    )  # fmt: skip
    for feeds in batches:
        recording.batches.append(Batch(dict(feeds), runner.run(feeds)))
        tell()
    recording.weights = side.weights()
    return recording


def add_reference(recording: Recording, side: Side, *, layers: bool = False) -> None:
    """Add the float64 reference and the limits of the outputs, and with `layers` the limits of the recorded layers.

    They are computed by the module of `side`; without one, nothing is added.
    """
    module = side.reference()
    if module is None:
        return
    for batch in recording.batches:
        bound = _rounding_bound(module, batch.inputs, recording.unit)
        batch.reference, batch.limits, recording.reason = bound.outputs, bound.limits, bound.reason
    if layers:
        _add_layer_limits(recording, module)


def add_layers(recording: Recording, side: Side, number: int) -> None:
    """Add the output of each layer for one batch."""
    recording.traced, recording.layers = number, side.trace(recording.batches[number].inputs)


def add_layer_limits(recording: Recording, side: Side) -> None:
    """Add the limits of the recorded layers, computed by the module of `side`."""
    if (module := side.reference()) is not None:
        _add_layer_limits(recording, module)


def _add_layer_limits(recording: Recording, module: torch.nn.Module) -> None:
    feeds = recording.batches[recording.traced].inputs
    recording.layer_limits = _rounding_bound(module, feeds, recording.unit, layers=True).layers


def _rounding_bound(module: torch.nn.Module, feeds: Arrays, unit: str, *, layers: bool = False) -> Bound:
    """`checks.rounding.bound`. Raises RunError if the module does not run in float64."""
    from ckptconv.checks.rounding import UNIT, bound

    try:
        return bound(module, feeds, UNIT[unit], layers=layers)
    except CkptconvError:
        raise
    except Exception as error:
        hint = "without that reference there is no bound: allow for a difference with --rtol and --atol"
        raise RunError("the network in float64", error, hint=hint) from error


def run_counter(total: int, progress: Progress | None) -> Callable[[], None]:
    """A function to call after each of `total` runs, which reports to `progress`."""
    done = 0

    def tell() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    return tell
