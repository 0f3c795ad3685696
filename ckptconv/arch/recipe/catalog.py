"""The operations of forward recipes: their attributes, the tensors they use, and the shapes of their results."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ckptconv.errors import CorruptFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Dim = int | str | None
"""A dimension: a number, the name of a free dimension, or unknown."""

Dims = tuple[Dim, ...]
Attribute = int | float | str | bool
Weights = dict[str, tuple[int | None, ...]]
"""Shapes of an operation's tensors by role (``weight``, ``bias``, ``running_mean`` …)."""

REQUIRED = object()
"""Marks an attribute without a default."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What an operation is.

    rank:       the ranks of input that it takes; () for any.
    attributes: defaults by name; `REQUIRED` if there is none, None if it follows from another attribute.
    weights:    roles of the tensors that it must have; "" where the module is a tensor itself.
    optional:   roles of the tensors that it may have.
    state:      roles of tensors that it has but does not compute with.
    takes:      the kind of its input. The result is floats, except that "any" passes the kind of the input on.
    shape:      computes the shape of the result. Raises CorruptFileError if the input does not fit.
    """

    shape: Callable[[Dims, Mapping[str, Attribute], Weights], Dims]
    rank: tuple[int, ...] = ()
    attributes: Mapping[str, object] = field(default_factory=dict)
    weights: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    state: tuple[str, ...] = ()
    takes: Literal["float", "int", "any"] = "float"


def _same(dims: Dims, attributes: Mapping[str, Attribute], weights: Weights) -> Dims:
    return dims


def _check_size(found: Dim, expected: int | None, what: str) -> None:
    if isinstance(found, int) and expected is not None and found != expected:
        raise CorruptFileError(f"takes {expected} {what} and is given {found}")


def _check_shapes(weights: Weights, expected: Mapping[str, tuple[int | None, ...]]) -> None:
    """Raise CorruptFileError if tensors' shapes do not fit those of the others; open dimensions always fit."""
    for role, dims in expected.items():
        found = weights.get(role, dims)
        if len(found) != len(dims) or any(
            size is not None and wanted is not None and size != wanted for size, wanted in zip(found, dims, strict=True)
        ):
            raise CorruptFileError(f"its {role} has the shape {list(found)}, and {list(dims)} is needed")


def _linear(dims: Dims, attributes: Mapping[str, Attribute], weights: Weights) -> Dims:
    outputs, inputs = weights["weight"]
    _check_shapes(weights, {"bias": (outputs,)})
    _check_size(dims[-1], inputs, "features")
    return (*dims[:-1], outputs)


def _window(size: Dim, kernel: int, attributes: Mapping[str, Attribute]) -> Dim:
    """The length of an axis after a window has moved over it (the formula of torch.nn.Conv2d and MaxPool2d)."""
    if not isinstance(size, int):
        return None
    stride, padding = int(attributes["stride"]), int(attributes["padding"])
    room = size + 2 * padding - int(attributes.get("dilation", 1)) * (kernel - 1) - 1
    ceil = bool(attributes.get("ceil_mode"))
    length = (-(-room // stride) if ceil else room // stride) + 1
    if length < 1:
        raise CorruptFileError(f"a window of {kernel} does not fit into {size} with a padding of {padding}")
    if not ceil:
        return length
    return length if (length - 1) * stride < size + padding else length - 1  # the last window must start inside


def _conv(dims: Dims, attributes: Mapping[str, Attribute], weights: Weights) -> Dims:
    outputs, inputs, *kernel = weights["weight"]
    groups = int(attributes["groups"])
    _check_shapes(weights, {"bias": (outputs,)})
    if outputs is not None and outputs % groups:
        raise CorruptFileError(f"{outputs} output channels do not divide into {groups} groups")
    _check_size(dims[1], None if inputs is None else inputs * groups, "channels")
    sizes = [
        None if side is None else _window(dim, side, attributes) for dim, side in zip(dims[2:], kernel, strict=True)
    ]
    return (dims[0], outputs, *sizes)


def _pool(dims: Dims, attributes: Mapping[str, Attribute], weights: Weights) -> Dims:
    kernel = int(attributes["kernel"])
    if 2 * int(attributes["padding"]) > kernel:
        raise CorruptFileError(f"a padding of {attributes['padding']} is more than half of the window of {kernel}")
    return (*dims[:2], *(_window(dim, kernel, attributes) for dim in dims[2:]))


def _adaptive(dims: Dims, attributes: Mapping[str, Attribute], weights: Weights) -> Dims:
    size = int(attributes["size"])
    return (*dims[:2], *(size for _ in dims[2:]))


def _batch_norm(dims: Dims, attributes: Mapping[str, Attribute], weights: Weights) -> Dims:
    (channels,) = weights["running_mean"]
    _check_shapes(weights, {**dict.fromkeys(("running_var", "weight", "bias"), (channels,)), "num_batches_tracked": ()})
    if ("weight" in weights) != ("bias" in weights):
        raise CorruptFileError("it has a weight or a bias, and torch's has both or none")
    _check_size(dims[1], channels, "channels")
    return dims


def _layer_norm(dims: Dims, attributes: Mapping[str, Attribute], weights: Weights) -> Dims:
    sizes = weights["weight"]
    _check_shapes(weights, {"bias": sizes})
    if len(sizes) > len(dims):
        raise CorruptFileError(f"normalizes {len(sizes)} dimensions and is given {len(dims)}")
    for dim, size in zip(dims[-len(sizes) :], sizes, strict=True):
        _check_size(dim, size, "features")
    return dims


def _embedding(dims: Dims, attributes: Mapping[str, Attribute], weights: Weights) -> Dims:
    _, width = weights["weight"]
    return (*dims, width)


def _softmax(dims: Dims, attributes: Mapping[str, Attribute], weights: Weights) -> Dims:
    axis = int(attributes["axis"])
    if not -len(dims) <= axis < len(dims):
        raise CorruptFileError(f"axis {axis} of an input of {len(dims)} dimensions")
    return dims


def _flatten(dims: Dims, attributes: Mapping[str, Attribute], weights: Weights) -> Dims:
    start = int(attributes["start"])
    if not 0 <= start < len(dims):
        raise CorruptFileError(f"flattens from dimension {start} of {len(dims)}")
    total: Dim = 1
    for dim in dims[start:]:
        total = total * dim if isinstance(dim, int) and isinstance(total, int) else None
    return (*dims[:start], total)


def _tokens(dims: Dims, attributes: Mapping[str, Attribute], weights: Weights) -> Dims:
    batch, channels, height, width = dims
    length = height * width if isinstance(height, int) and isinstance(width, int) else None
    return (batch, length, channels)


def _channels_last(dims: Dims, attributes: Mapping[str, Attribute], weights: Weights) -> Dims:
    return (dims[0], *dims[2:], dims[1])


def _channels_first(dims: Dims, attributes: Mapping[str, Attribute], weights: Weights) -> Dims:
    return (dims[0], dims[-1], *dims[1:-1])


def _stretched(dims: Dims, attributes: Mapping[str, Attribute], weights: Weights) -> Dims:
    """A tensor that is added to the input, or multiplied with it, and repeated where it has one element."""
    sizes = weights[""]
    if len(sizes) > len(dims):
        raise CorruptFileError(f"a tensor of {len(sizes)} dimensions, for an input of {len(dims)}")
    for dim, size in zip(dims[len(dims) - len(sizes) :], sizes, strict=True):
        if size != 1:
            _check_size(dim, size, "elements along an axis")
    return dims


def _prepend(dims: Dims, attributes: Mapping[str, Attribute], weights: Weights) -> Dims:
    _check_shapes(weights, {"": (1, None, dims[2] if isinstance(dims[2], int) else None)})
    more, length = weights[""][1], dims[1]
    return (dims[0], length + more if isinstance(length, int) and more is not None else None, dims[2])


def _select(dims: Dims, attributes: Mapping[str, Attribute], weights: Weights) -> Dims:
    index, length = int(attributes["index"]), dims[1]
    if isinstance(length, int) and index >= length:
        raise CorruptFileError(f"there is no number {index} among {length}")
    return (dims[0], *dims[2:])


def _chunk(dims: Dims, attributes: Mapping[str, Attribute], weights: Weights) -> Dims:
    index, count, width = int(attributes["index"]), int(attributes["count"]), dims[-1]
    if not isinstance(width, int) or width % count or index >= count:
        raise CorruptFileError(f"there is no part {index} of {count} equal ones of {width}")
    return (*dims[:-1], width // count)


def _positions(dims: Dims, attributes: Mapping[str, Attribute], weights: Weights) -> Dims:
    places, width = weights["weight"]
    length = dims[1]
    if isinstance(length, int) and places is not None and length > places:
        raise CorruptFileError(f"{length} tokens, and {places} positions")
    return (1, length, width)


def _self_attention(dims: Dims, attributes: Mapping[str, Attribute], weights: Weights) -> Dims:
    _, width = weights["in_proj_weight"]
    shapes = {"in_proj_weight": (3 * width, width), "in_proj_bias": (3 * width,)} if width is not None else {}
    _check_shapes(weights, {**shapes, "out_proj.weight": (width, width), "out_proj.bias": (width,)})
    if ("in_proj_bias" in weights) != ("out_proj.bias" in weights):
        raise CorruptFileError("one of its projections has a bias, and torch's both or none")
    if width is not None and width % int(attributes["heads"]):
        raise CorruptFileError(f"{width} features do not divide into {attributes['heads']} heads")
    _check_size(dims[2], width, "features")
    return dims


_WINDOW = {"stride": 1, "padding": 0}
_CONV = {**_WINDOW, "dilation": 1, "groups": 1}
_POOL = {"kernel": REQUIRED, "stride": None, "padding": 0, "ceil_mode": False}
_NORM = {"eps": 1e-5}

KINDS: dict[str, Kind] = {
    "linear": Kind(_linear, weights=("weight",), optional=("bias",)),
    "conv1d": Kind(_conv, (3,), _CONV, ("weight",), ("bias",)),
    "conv2d": Kind(_conv, (4,), _CONV, ("weight",), ("bias",)),
    "batch_norm": Kind(
        _batch_norm, (2, 3, 4), _NORM, ("running_mean", "running_var"), ("weight", "bias"), ("num_batches_tracked",)
    ),
    "layer_norm": Kind(_layer_norm, (), _NORM, ("weight",), ("bias",)),
    "embedding": Kind(_embedding, weights=("weight",), takes="int"),
    "relu": Kind(_same),
    "gelu": Kind(_same),
    "gelu_tanh": Kind(_same),
    "tanh": Kind(_same),
    "sigmoid": Kind(_same),
    "silu": Kind(_same),
    "relu6": Kind(_same),
    "hardswish": Kind(_same),
    "hardsigmoid": Kind(_same),
    "identity": Kind(_same, takes="any"),
    "dropout": Kind(_same),
    "softmax": Kind(_softmax, attributes={"axis": -1}),
    "log_softmax": Kind(_softmax, attributes={"axis": -1}),
    "max_pool1d": Kind(_pool, (3,), {**_POOL, "dilation": 1}),
    "max_pool2d": Kind(_pool, (4,), {**_POOL, "dilation": 1}),
    "avg_pool1d": Kind(_pool, (3,), {**_POOL, "count_include_pad": True}),
    "avg_pool2d": Kind(_pool, (4,), {**_POOL, "count_include_pad": True}),
    "adaptive_avg_pool1d": Kind(_adaptive, (3,), {"size": REQUIRED}),
    "adaptive_avg_pool2d": Kind(_adaptive, (4,), {"size": REQUIRED}),
    "adaptive_max_pool1d": Kind(_adaptive, (3,), {"size": REQUIRED}),
    "adaptive_max_pool2d": Kind(_adaptive, (4,), {"size": REQUIRED}),
    "flatten": Kind(_flatten, attributes={"start": 1}, takes="any"),
    "tokens": Kind(_tokens, (4,)),
    "channels_last": Kind(_channels_last, (4,)),
    "channels_first": Kind(_channels_first, (4,)),
    "plus": Kind(_stretched, weights=("",)),
    "times": Kind(_stretched, weights=("",)),
    "prepend": Kind(_prepend, (3,), weights=("",)),
    "select": Kind(_select, (2, 3, 4), {"index": REQUIRED}, takes="any"),
    "chunk": Kind(_chunk, attributes={"index": REQUIRED, "count": REQUIRED}),
    "unused": Kind(_same, state=("",), takes="any"),
    "positions": Kind(_positions, (2,), weights=("weight",), takes="int"),
    "self_attention": Kind(
        _self_attention,
        (3,),
        {"heads": REQUIRED},
        ("in_proj_weight", "out_proj.weight"),
        ("in_proj_bias", "out_proj.bias"),
    ),
}
"""All operations that a step may name."""

ADD = "add"
"""The operation at the end of a residual block; no step names it."""

ACTIVATIONS: dict[str, str] = {
    **{name: name for name in ("relu", "gelu", "gelu_tanh", "tanh", "sigmoid", "silu", "softmax", "log_softmax",
                               "relu6", "hardswish", "hardsigmoid")},
    "identity": "identity", "none": "identity", "logits": "identity", "linear": "identity", "swish": "silu",
    "logsoftmax": "log_softmax", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
}  # fmt: skip
"""Values of a param that names an activation (in any case) → the operation."""

POSITIVE = ("stride", "kernel", "dilation", "groups", "size", "heads", "count")
"""Attributes that must be at least 1; others must be at least 0, except `axis`."""

MAX_ATTRIBUTE = 1 << 20
"""The largest value of an attribute: windows, strides, groups."""
