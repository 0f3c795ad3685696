"""Pooling in an ONNX graph, with torch's rules for windows at the edge.

torch: https://docs.pytorch.org/docs/stable/generated/torch.nn.MaxPool2d.html and AdaptiveAvgPool2d
ONNX: https://onnx.ai/onnx/operators/onnx__MaxPool.html and onnx__AveragePool.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.errors import UsageError

if TYPE_CHECKING:
    from ckptconv.arch.recipe.nodes import GraphNodes
    from ckptconv.arch.recipe.program import Operation


def pool(graph: GraphNodes, kind: str, operation: Operation, value: str, output: str | None) -> str:
    """A MaxPool or AveragePool."""
    attributes, where = operation.attributes, operation.name
    dims, pooled = graph.shapes[operation.inputs[0]][2:], operation.shape[2:]
    window, stride, padding = int(attributes["kernel"]), int(attributes["stride"]), int(attributes["padding"])
    dilation = int(attributes.get("dilation", 1))
    reach = dilation * (window - 1) + 1
    ends, ceil = [padding] * len(dims), bool(attributes["ceil_mode"])
    if ceil and all(isinstance(dim, int) for dim in dims):
        # torch drops a window that would start in the padding behind the data, which onnx's shape inference does not
        # know. If no axis has a cut window, ceil_mode has no effect and is left out. If only some axes have one, the
        # others lose what no window reaches, since ceil_mode holds for all axes.
        rooms = [dim + 2 * padding - reach for dim in dims if isinstance(dim, int)]
        cut = [room // stride + 1 < count for room, count in zip(rooms, pooled, strict=True) if isinstance(count, int)]
        ceil = any(cut)
        for axis, room in enumerate(rooms):
            if ceil and not cut[axis]:
                spare = room % stride
                ends[axis] -= min(spare, padding)
                if spare > padding:
                    stop = dims[axis]
                    assert isinstance(stop, int)
                    value = _slice(graph, where, value, 0, stop - (spare - padding), axis + 2)
    more: dict[str, object]
    if kind == "MaxPool":
        more = {"dilations": [dilation] * len(dims)}
    else:
        more = {"count_include_pad": int(attributes["count_include_pad"])}
    return graph.add(
        kind, where, [value], output, kernel_shape=[window] * len(dims), strides=[stride] * len(dims),
        pads=[padding] * len(dims) + ends, ceil_mode=int(ceil), **more,
    )  # fmt: skip


def adaptive_pool(graph: GraphNodes, kind: str, operation: Operation, value: str, output: str | None) -> str:
    """Pool to a given size, by ``Average`` or ``Max``.

    No ONNX operator has windows of unequal lengths, so these are pooled one by one: three nodes for each window and
    axis. Raises UsageError if the size is over 1 and the input's is free.
    """
    size, where = int(operation.attributes["size"]), operation.name
    if size == 1:
        return graph.add(f"Global{kind}Pool", where, [value], output)
    dims = graph.shapes[operation.inputs[0]][2:]
    lengths = [dim for dim in dims if isinstance(dim, int)]
    if len(lengths) < len(dims):
        raise UsageError(
            f"pooling to {size} needs an input of known size", hint="state the input's dimensions in the recipe"
        )
    if all(length == size for length in lengths):
        return graph.add("Identity", where, [value], output)
    if all(length % size == 0 for length in lengths):
        steps = [length // size for length in lengths]
        return graph.add(f"{kind}Pool", where, [value], output, kernel_shape=steps, strides=steps)
    reduce = "ReduceMean" if kind == "Average" else "ReduceMax"
    for axis, length in enumerate(lengths, 2):
        parts = []
        for place in range(size):
            part = _slice(graph, where, value, place * length // size, -(-(place + 1) * length // size), axis)
            # axes are an input of ReduceMean and ReduceMax from opset 18 on
            if graph.opset >= 18:
                parts.append(graph.add(reduce, where, [part, graph.integers(axis)], keepdims=1))
            else:
                parts.append(graph.add(reduce, where, [part], axes=[axis], keepdims=1))
        last = axis == len(lengths) + 1
        value = graph.add("Concat", where, parts, output if last else None, axis=axis)
    return value


def _slice(graph: GraphNodes, where: str, value: str, start: int, stop: int, axis: int) -> str:
    return graph.add("Slice", where, [value, graph.integers(start), graph.integers(stop), graph.integers(axis)])
