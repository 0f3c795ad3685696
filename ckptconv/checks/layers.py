"""What every layer of a network gives while it runs.

A layer goes by its module's name. Torch tells when a module is done; a graph tells by each node's scope, which the
newer exporter of torch notes on it (``pkg.torch.onnx.name_scopes``: the modules from the outside in, then the
operation) and the older one and ours write into its name (``/layers/layers.0/Gemm``). Of a scope's values those are
its outputs that a node outside of it takes.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch
    from onnx import GraphProto, NodeProto

    from ckptconv.core.arrays import Array

Layers = dict[str, "Array"]
"""Outputs by layer and turn, ``"blocks.0.fc#1"`` where it is used for the first time; in the order they are made in."""

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
