"""What every layer gives, and the first whose outputs differ between two runs.

A layer goes by its module's name. Torch tells when a module is done; a graph tells by each node's scope, which the
newer exporter of torch notes on it (``pkg.torch.onnx.name_scopes``: the modules from the outside in, then the
operation) and the older one and ours write into its name (``/layers/layers.0/Gemm``). Of a scope's values those are
its outputs that a node outside of it takes.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from ckptconv.checks.verify import distances, row_size
from ckptconv.core.report import Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    import numpy as np
    import torch
    from onnx import GraphProto, NodeProto

Layers = dict[str, "np.ndarray[Any, Any]"]
"""Outputs by layer and turn, ``"blocks.0.fc#1"`` where it is used for the first time; in the order they are made in."""

THUMB = 1e-4
"""Of a row's largest magnitude, where no float64 reference can be run: some 800 F32 roundings."""

_SCOPES = "pkg.torch.onnx.name_scopes"
_QUOTED = re.compile(r"'([^']*)'")


def traced(module: torch.nn.Module, run: Callable[[], object]) -> dict[str, torch.Tensor]:
    """The outputs of all named modules while `run` runs the network; of a recipe, those of its functions too."""
    import torch

    found: dict[str, torch.Tensor] = {}
    turns: Counter[str] = Counter()

    def keeper(name: str) -> Callable[..., None]:
        def keep(_module: object, _inputs: object, output: Any) -> None:
            first = output[0] if isinstance(output, tuple | list) and output else output
            if isinstance(first, torch.Tensor) and first.is_floating_point():
                turns[name] += 1
                found[f"{name}#{turns[name]}"] = first.detach().clone()  # a step behind it may write into it

        return keep

    watch = getattr(module, "watch_operations", None)
    if watch is not None:
        with watch(lambda name, output: keeper(name)(None, None, output)):
            run()
        return found
    hooks = [one.register_forward_hook(keeper(name)) for name, one in module.named_modules() if name]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return found


def scope_outputs(graph: GraphProto) -> dict[str, str]:
    """The values that each layer of a graph gives, by layer and turn; in the order in which they are made."""
    stored = {tensor.name for tensor in graph.initializer}
    inside: dict[str, list[str]] = {}
    takers: dict[str, list[list[str]]] = {value.name: [[]] for value in graph.output}
    for node in graph.node:
        scopes = [scope for scope in _scopes(node) if scope not in stored]
        for name in _taken(node):
            takers.setdefault(name, []).append(scopes)
        if node.op_type != "Constant":
            inside |= dict.fromkeys(filter(None, node.output), scopes)
    found: dict[str, str] = {}
    turns: Counter[str] = Counter()
    for name, scopes in inside.items():
        for scope in reversed(scopes):  # a layer before the one that it is a part of
            if any(scope not in others for others in takers.get(name, ())):
                turns[scope] += 1
                found[f"{scope}#{turns[scope]}"] = name
    return found


def _taken(node: NodeProto) -> Iterator[str]:
    """What a node takes, the graphs inside of it included."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            for inner in graph.node:
                yield from _taken(inner)
            yield from (value.name for value in graph.output)


def _scopes(node: NodeProto) -> list[str]:
    """Names of the modules that the node stands in."""
    for pair in node.metadata_props:
        if pair.key == _SCOPES:
            quoted = [name.partition("@")[0] for name in _QUOTED.findall(pair.value)]  # "fc@1" is its second call
            return [name for name in dict.fromkeys(quoted[:-1]) if name]
    steps = [step for step in node.name.split("/")[:-1] if step]
    made: list[str] = []
    last = ""
    for step in steps:
        # what is called from inside of a called container repeats the container's name: /layers/layers.0
        own = step.removeprefix(f"{last}.") if last else step
        made.append(f"{made[-1]}.{own}" if made else own)
        last = step
    return made


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


def _named(
    key: str, distance: np.ndarray[Any, Any], limit: np.ndarray[Any, Any], agreed: str, between: tuple[str, str]
) -> Finding:
    name, turn = _name(key), int(key.rpartition("#")[2])
    worst = int((distance - limit).argmax())
    found, allowed = float(distance.flat[worst]), float(limit.flat[worst])
    again = f" (use {turn})" if turn > 1 else ""
    bound = f"where {allowed:.3g} is allowed" if allowed else "where bits have to be equal"
    before = f"; {agreed} before it agrees" if agreed else ""
    if all(between):
        before += f", and where the one has {between[0]} then, the other has {between[1]}"
    message = f"{name}{again} is the first layer whose outputs differ: by {found:.3g} {bound}{before}"
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


def _alike(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> bool:
    return bool(x.shape == y.shape and x.dtype.kind == y.dtype.kind == "f")


def _fits(limit: np.ndarray[Any, Any], like: np.ndarray[Any, Any]) -> bool:
    pairs = zip_longest(reversed(limit.shape), reversed(like.shape), fillvalue=1)
    return bool(limit.ndim <= like.ndim and all(one in (1, other) for one, other in pairs))
