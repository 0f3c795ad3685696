"""How far rounding alone may take a network's outputs: a bound with a reason.

The network is run in float64, once as it is and then several times with noise where the arithmetic of the narrower type
would have rounded: behind every layer with weights, normally distributed, of the size

    u / sqrt(3) * sqrt(n) * (|W| |x| + |b|)

where u is the unit roundoff of that type and n the number of products that are summed. This is the standard deviation
that n independent roundings of partial sums, each uniform within u, have at most (Higham and Mary, "A new approach to
probabilistic rounding error analysis", 2019; worst-case bounds grow with n instead, and are useless past a few layers).
What else a layer or a function computes is in `noise`. The noise spreads through the network as rounding does, so the
spread of the outputs is what two correct runs may differ by.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from math import log2, sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from ckptconv.core.arrays import Array, Arrays

UNIT = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Unit roundoff: half the distance from 1 to the next number."""

RUNS = 12
"""Noisy runs. The largest spread of thousands of outputs is known to some 20 % then, which `SIGMAS` allows for."""

SIGMAS = 6.0
"""Standard deviations that are allowed: of the difference of two runs, each of which rounds."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A float64 run and how far from it a correct one may be.

    outputs: of the float64 run, by name. limits: the largest absolute difference between two correct runs, by name,
             one for each row of the last axis.
    layers:  limits of each layer's outputs, by the keys of `layers.Layers`; {} where not asked for.
    reason:  where the limits come from.
    """

    outputs: Arrays
    limits: Arrays
    layers: Arrays
    reason: str


def bound(module: torch.nn.Module, feeds: Mapping[str, Array], unit: float, *, layers: bool = False) -> Bound:
    """Run `module`, which is changed to float64 for this, without noise and with it.

    Limits are for each row of the last axis: the spread of a whole row, since an element near 0 says nothing of what
    was cancelled in it. Costs `RUNS` + 1 runs in float64; with `layers` the memory of all of their outputs too.
    """
    import torch

    from ckptconv.checks.layers import traced
    from ckptconv.checks.noise import noisy
    from ckptconv.checks.torch_runner import arguments, exact, flat

    wide = module.double()
    device = next((held.device for held in chain(wide.parameters(), wide.buffers())), torch.device("cpu"))
    positional, named = arguments(wide, feeds, device, torch.float64)

    def run() -> dict[tuple[str, str], torch.Tensor]:
        given: list[object] = []
        inner = traced(wide, lambda: given.append(wide(*positional, **named))) if layers else {}
        made = flat(given[0] if layers else wide(*positional, **named))
        found = {("layer", name): one for name, one in inner.items()}
        return {("output", name): one for name, one in made.items()} | found

    with exact(), torch.inference_mode():
        plain = run()
        squares = {key: torch.zeros_like(value, dtype=torch.float64) for key, value in plain.items()}
        with noisy(wide, unit) as places:
            for _ in range(RUNS):
                for key, value in run().items():
                    squares[key] += (value.double() - plain[key].double()).abs() ** 2
    limits = {key: _limit(total, plain[key], unit) for key, total in squares.items()}
    reason = (
        f"{SIGMAS:g} standard deviations of rounding noise (u = 2^{round(log2(unit))}) through {places} layers, "
        f"from {RUNS} runs in float64"
    )
    outputs = {name: value.cpu().numpy() for (kind, name), value in plain.items() if kind == "output"}
    inside = {name: limit for (kind, name), limit in limits.items() if kind == "layer"}
    return Bound(outputs, {name: limits["output", name] for name in outputs}, inside, reason)


def _limit(squares: torch.Tensor, plain: torch.Tensor, unit: float) -> Array:
    """What two runs may be apart, from the sum of the squares of what the noise did in `RUNS`.

    NaN and infinities have no size: two runs have the same, and the others of their row are as near as ever.
    """
    import torch

    finite = plain.isfinite()
    spread, size = (torch.where(finite, one, 0.0) for one in ((squares / RUNS).sqrt(), plain.double().abs()))
    spread = spread.nan_to_num(nan=torch.inf)  # noise made it infinite: so may rounding
    if spread.dim() and spread.numel():
        spread, size = spread.amax(dim=-1, keepdim=True), size.amax(dim=-1, keepdim=True)
    # what the last operation and the storing of its result round, of both runs
    made: Array = (SIGMAS * sqrt(2) * spread + 4 * unit * size).cpu().numpy()
    return made
