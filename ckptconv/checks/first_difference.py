"""Finds the first layer whose outputs differ between two runs."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING

from ckptconv.checks.verify import distances, row_size
from ckptconv.core.report import Finding

if TYPE_CHECKING:
    from collections.abc import Collection

    from ckptconv.checks.layers import Layers
    from ckptconv.core.arrays import Array

RULE_OF_THUMB = 1e-4
"""The limit relative to a row's largest magnitude if there is no float64 reference: some 800 roundings in F32."""


def first_difference(a: Layers, b: Layers, limits: Layers | None, scale: float) -> Finding | None:
    """The first layer of `a` whose outputs in `b` are further away than its limit times `scale`.

    limits: the limits of each layer; None if bits have to be equal. A layer without limits gets `RULE_OF_THUMB` times
            its row's magnitude.

    Returns None if no common layer differs; a finding without a layer if there are no common layers.
    """
    import numpy as np

    last_equal = ""
    pairs = _match_layers(a, b)
    for key, other in pairs.items():
        x = a[key]
        if limits is None:
            limit = np.zeros(())
        elif key in limits and _limit_fits(limits[key], x):
            limit = limits[key] * scale
        else:
            limit = RULE_OF_THUMB * row_size(x)
        distance = distances(x, b[other])
        limit = np.broadcast_to(limit, distance.shape)
        if (distance > limit).any():
            between = (
                _unmatched_layer_between(a, last_equal, key, pairs.keys()),
                _unmatched_layer_between(b, pairs.get(last_equal, ""), other, pairs.values()),
            )
            return _difference_finding(key, distance, limit, _layer_name(last_equal), between)
        last_equal = key
    if pairs:
        return None
    message = "which layer differs first is not known: no layer of the two has the same name and shape"
    return Finding("no-common-layers", "info", "", message)


def _unmatched_layer_between(layers: Layers, start: str, stop: str, known: Collection[str]) -> str:
    """The first layer between two others that the other side does not have; "" if there is none."""
    keys = list(layers)
    between = keys[keys.index(start) + 1 if start else 0 : keys.index(stop)]
    return next((_layer_name(key) for key in between if key not in known), "")


def _difference_finding(key: str, distance: Array, limit: Array, agreed: str, between: tuple[str, str]) -> Finding:
    name, turn = _layer_name(key), int(key.rpartition("#")[2])
    worst = int((distance - limit).argmax())
    found, allowed = float(distance.flat[worst]), float(limit.flat[worst])
    again = f" (use {turn})" if turn > 1 else ""
    bound = f"where {allowed:.3g} is allowed" if allowed else "where bits have to be equal"
    before = f"; {agreed} before it agrees" if agreed else ""
    if all(between):
        before += f", and where the one has {between[0]} then, the other has {between[1]}"
    message = f"layer {name}{again} is the first whose outputs differ: by {found:.3g} {bound}{before}"
    return Finding("first-difference", "error", name, message, f"{allowed:.6g}", f"{found:.6g}")


def _layer_name(key: str) -> str:
    return key.rpartition("#")[0]


def _match_layers(a: Layers, b: Layers) -> dict[str, str]:
    """Matches outputs of layers with the same name: in turn if all shapes agree; otherwise a pair that is the only one
    with its shape.
    """
    groups: tuple[dict[str, list[str]], dict[str, list[str]]] = ({}, {})
    for group, layers in zip(groups, (a, b), strict=True):
        for key in layers:
            group.setdefault(_layer_name(key), []).append(key)
    found: dict[str, str] = {}
    for name, ours in groups[0].items():
        theirs = groups[1].get(name, [])
        if len(ours) == len(theirs) and all(_comparable(a[x], b[y]) for x, y in zip(ours, theirs, strict=True)):
            found |= dict(zip(ours, theirs, strict=True))
            continue
        for x in ours:
            same = [y for y in theirs if _comparable(a[x], b[y])]
            if len(same) == 1 and sum(_comparable(a[x], a[other]) for other in ours) == 1:
                found[x] = same[0]
    return {key: found[key] for key in a if key in found}


def _comparable(x: Array, y: Array) -> bool:
    return bool(x.shape == y.shape and x.dtype.kind == y.dtype.kind == "f")


def _limit_fits(limit: Array, like: Array) -> bool:
    pairs = zip_longest(reversed(limit.shape), reversed(like.shape), fillvalue=1)
    return bool(limit.ndim <= like.ndim and all(size in (1, other) for size, other in pairs))
