"""The outputs of every layer of a network while it runs.

A layer is named like its module. In torch, hooks see a module's output. In a graph, each node has a scope: the newer
exporter of torch notes it on the node (``pkg.torch.onnx.name_scopes``: the modules from the outside in, then the
operation); the older one and ours write it into the node's name (``/layers/layers.0/Gemm``). The outputs of a scope are
its values that nodes outside of it use.
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
"""Outputs by layer and turn, in the order of computation: ``"blocks.0.fc#1"`` is the first use of that layer."""

_SCOPES = "pkg.torch.onnx.name_scopes"
_QUOTED = re.compile(r"'([^']*)'")


def traced(module: torch.nn.Module, run: Callable[[], object]) -> dict[str, torch.Tensor]:
    """The outputs of all named modules while `run` runs the network. For a recipe, also those of its functions."""
    import torch

    outputs: dict[str, torch.Tensor] = {}
    turns: Counter[str] = Counter()

    def keep(name: str, output: Any) -> None:
        first = output[0] if isinstance(output, tuple | list) and output else output
        if isinstance(first, torch.Tensor) and first.is_floating_point():
            turns[name] += 1
            outputs[f"{name}#{turns[name]}"] = first.detach().clone()  # a later step may write into it

    def keeper(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: keep(name, output)

    watch = getattr(module, "watch_operations", None)
    if watch is not None:
        with watch(keep):
            run()
        return outputs
    hooks = [layer.register_forward_hook(keeper(name)) for name, layer in module.named_modules() if name]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return outputs


def scope_outputs(graph: GraphProto) -> dict[str, str]:
    """The names of the values that each layer of a graph outputs, by layer and turn, in the order of computation."""
    stored = {tensor.name for tensor in graph.initializer}
    scopes_of_value: dict[str, list[str]] = {}
    scopes_of_users: dict[str, list[list[str]]] = {value.name: [[]] for value in graph.output}
    for node in graph.node:
        scopes = [scope for scope in _scopes(node) if scope not in stored]
        for name in _inputs_of(node):
            scopes_of_users.setdefault(name, []).append(scopes)
        if node.op_type != "Constant":
            scopes_of_value |= dict.fromkeys(filter(None, node.output), scopes)
    outputs: dict[str, str] = {}
    turns: Counter[str] = Counter()
    for name, scopes in scopes_of_value.items():
        for scope in reversed(scopes):  # an inner layer before the one that contains it
            if any(scope not in user_scopes for user_scopes in scopes_of_users.get(name, ())):
                turns[scope] += 1
                outputs[f"{scope}#{turns[scope]}"] = name
    return outputs


def _inputs_of(node: NodeProto) -> Iterator[str]:
    """The names of the values that a node uses, also in its subgraphs."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            for inner in graph.node:
                yield from _inputs_of(inner)
            yield from (value.name for value in graph.output)


def _scopes(node: NodeProto) -> list[str]:
    """The names of the modules that the node belongs to, from the outside in."""
    for pair in node.metadata_props:
        if pair.key == _SCOPES:
            quoted = [name.partition("@")[0] for name in _QUOTED.findall(pair.value)]  # "fc@1" is its second call
            return [name for name in dict.fromkeys(quoted[:-1]) if name]
    steps = [step for step in node.name.split("/")[:-1] if step]
    result: list[str] = []
    last = ""
    for step in steps:
        # the children of a container that was called repeat its name: /layers/layers.0
        own = step.removeprefix(f"{last}.") if last else step
        result.append(f"{result[-1]}.{own}" if result else own)
        last = step
    return result
