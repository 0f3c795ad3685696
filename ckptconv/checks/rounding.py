"""How far rounding alone may take a network's outputs: a bound with a reason.

The network runs in float64, once as it is and then several times with noise where the arithmetic of the narrower type
would round: after every layer with weights, normally distributed, with the standard deviation

    u / sqrt(3) * sqrt(n) * (|W| |x| + |b|)

where u is the unit roundoff of that type and n the number of products that are summed. That is the largest standard
deviation of n independent roundings of partial sums, each uniform within u (Higham and Mary, "A new approach to
probabilistic rounding error analysis", 2019; worst-case bounds grow with n instead, and are useless past a few layers).
`noise` covers other layers and functions. The noise spreads through the network as rounding does, so the spread of the
outputs is how far two correct runs may differ.
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
"""Noisy runs. They give the largest spread of thousands of outputs to some 20 %; `SIGMAS` allows for that."""

SIGMAS = 6.0
"""How many standard deviations the difference of two runs, each of which rounds, may have."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A float64 run, and how far apart two correct runs may be.

    outputs: the outputs of the float64 run, by name.
    limits:  the largest absolute difference between two correct runs, by output name, for each row of the last axis.
    layers:  the limits of each layer's outputs, by the keys of `layers.Layers`; {} if not asked for.
    reason:  where the limits come from.
    """

    outputs: Arrays
    limits: Arrays
    layers: Arrays
    reason: str


def bound(module: torch.nn.Module, feeds: Mapping[str, Array], unit: float, *, layers: bool = False) -> Bound:
    """Run `module` without noise and with it. This converts the module to float64.

    Limits are for each row of the last axis, from the spread of the whole row: an element near 0 does not show what was
    cancelled in it. Costs `RUNS` + 1 runs in float64; with `layers`, also memory for the outputs of all layers.
    """
    import torch

    from ckptconv.checks.layers import traced
    from ckptconv.checks.noise import noisy
    from ckptconv.checks.torch_runner import arguments, exact, flat

    wide = module.double()
    device = next((held.device for held in chain(wide.parameters(), wide.buffers())), torch.device("cpu"))
    positional, named = arguments(wide, feeds, device, torch.float64)

    def run() -> dict[tuple[str, str], torch.Tensor]:
        results: list[object] = []
        if layers:
            inner = traced(wide, lambda: results.append(wide(*positional, **named)))
        else:
            inner = {}
            results.append(wide(*positional, **named))
        outputs = {("output", name): tensor for name, tensor in flat(results[0]).items()}
        return outputs | {("layer", name): tensor for name, tensor in inner.items()}

    with exact(), torch.inference_mode():
        plain = run()
        squares = {key: torch.zeros_like(value, dtype=torch.float64) for key, value in plain.items()}
        with noisy(wide, unit) as places:
            for _ in range(RUNS):
                for key, value in run().items():
                    squares[key] += (value.double() - plain[key].double()).abs() ** 2
    limits = {key: _limit_from_spread(total, plain[key], unit) for key, total in squares.items()}
    reason = (
        f"{SIGMAS:g} standard deviations of rounding noise (u = 2^{round(log2(unit))}) through {places} layers, "
        f"from {RUNS} runs in float64"
    )
    outputs = {name: value.cpu().numpy() for (kind, name), value in plain.items() if kind == "output"}
    inside = {name: limit for (kind, name), limit in limits.items() if kind == "layer"}
    return Bound(outputs, {name: limits["output", name] for name in outputs}, inside, reason)


def _limit_from_spread(squares: torch.Tensor, plain: torch.Tensor, unit: float) -> Array:
    """How far apart two runs may be, from the sum of the squared deviations of the noisy runs.

    NaN and infinities do not count: both runs have them, and they say nothing about the rest of their row.
    """
    import torch

    finite = plain.isfinite()
    spread = torch.where(finite, (squares / RUNS).sqrt(), 0.0)
    size = torch.where(finite, plain.double().abs(), 0.0)
    spread = spread.nan_to_num(nan=torch.inf)  # where noise made it infinite, rounding may do so too
    if spread.dim() and spread.numel():
        spread, size = spread.amax(dim=-1, keepdim=True), size.amax(dim=-1, keepdim=True)
    # the second term: in both runs, the last operation rounds, and so does storing its result
    limit: Array = (SIGMAS * sqrt(2) * spread + 4 * unit * size).cpu().numpy()
    return limit
