"""The first layer whose outputs differ between two runs."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING

from ckptconv.checks.verify import distances, row_size
from ckptconv.core.report import Finding

if TYPE_CHECKING:
    from collections.abc import Collection

    from ckptconv.checks.layers import Layers
    from ckptconv.core.arrays import Array

THUMB = 1e-4
"""Of a row's largest magnitude, where no float64 reference can be run: some 800 F32 roundings."""


def first_difference(a: Layers, b: Layers, limits: Layers | None, scale: float) -> Finding | None:
    """The first layer of `a` whose outputs in `b` are further away than its limit times `scale`.

    limits: of each layer; None where bits have to be equal. A layer that has none gets `THUMB` of its row's magnitude.

    None where no layer differs that both have; a finding without a layer where they have none in common.
    """
    import numpy as np

    agreed = ""
    pairs = _pairs(a, b)
    for key, other in pairs.items():
        x = a[key]
        if limits is None:
            limit = np.zeros(())
        elif key in limits and _fits(limits[key], x):
            limit = limits[key] * scale
        else:
            limit = THUMB * row_size(x)
        distance = distances(x, b[other])
        limit = np.broadcast_to(limit, distance.shape)
        if (distance > limit).any():
            between = _between(a, agreed, key, pairs.keys()), _between(b, pairs.get(agreed, ""), other, pairs.values())
            return _named(key, distance, limit, _name(agreed), between)
        agreed = key
    if pairs:
        return None
    message = "which layer differs first is not known: no layer of the two has the same name and shape"
    return Finding("no-common-layers", "info", "", message)


def _between(layers: Layers, start: str, stop: str, known: Collection[str]) -> str:
    """The first layer between two that the other side does not have; "" where there is none."""
    keys = list(layers)
    between = keys[keys.index(start) + 1 if start else 0 : keys.index(stop)]
    return next((_name(key) for key in between if key not in known), "")


def _named(key: str, distance: Array, limit: Array, agreed: str, between: tuple[str, str]) -> Finding:
    name, turn = _name(key), int(key.rpartition("#")[2])
    worst = int((distance - limit).argmax())
    found, allowed = float(distance.flat[worst]), float(limit.flat[worst])
    again = f" (use {turn})" if turn > 1 else ""
    bound = f"where {allowed:.3g} is allowed" if allowed else "where bits have to be equal"
    before = f"; {agreed} before it agrees" if agreed else ""
    if all(between):
        before += f", and where the one has {between[0]} then, the other has {between[1]}"
    message = f"layer {name}{again} is the first whose outputs differ: by {found:.3g} {bound}{before}"
    return Finding("first-difference", "error", name, message, f"{allowed:.6g}", f"{found:.6g}")


def _name(key: str) -> str:
    return key.rpartition("#")[0]


def _pairs(a: Layers, b: Layers) -> dict[str, str]:
    """Outputs that correspond: a layer's in turn, where as many are of equal shapes; else the only two of one shape."""
    groups: tuple[dict[str, list[str]], dict[str, list[str]]] = ({}, {})
    for group, layers in zip(groups, (a, b), strict=True):
        for key in layers:
            group.setdefault(_name(key), []).append(key)
    found: dict[str, str] = {}
    for name, ours in groups[0].items():
        theirs = groups[1].get(name, [])
        if len(ours) == len(theirs) and all(_alike(a[x], b[y]) for x, y in zip(ours, theirs, strict=True)):
            found |= dict(zip(ours, theirs, strict=True))
            continue
        for x in ours:
            same = [y for y in theirs if _alike(a[x], b[y])]
            if len(same) == 1 and sum(_alike(a[x], a[other]) for other in ours) == 1:
                found[x] = same[0]
    return {key: found[key] for key in a if key in found}


def _alike(x: Array, y: Array) -> bool:
    return bool(x.shape == y.shape and x.dtype.kind == y.dtype.kind == "f")


def _fits(limit: Array, like: Array) -> bool:
    pairs = zip_longest(reversed(limit.shape), reversed(like.shape), fillvalue=1)
    return bool(limit.ndim <= like.ndim and all(one in (1, other) for one, other in pairs))
