"""Names and layouts that other frameworks' modules have, as torch's modules have them.

    Flax     kernel [..., in, out] → weight [out, in, ...]      scale, embedding → weight      mean, var → running_…
             The heads of its attention, kernel [in, heads, width] and [heads, width, out], become one dimension; the
             collections params and batch_stats are no part of a name.
    Keras    kernel [..., in, out] → weight [out, in, ...]      gamma, beta, embeddings → weight, bias, weight
             moving_mean, moving_variance → running_mean, running_var
             depthwise_kernel [..., in, times] → weight [in * times, 1, ...]; of a layer that has a pointwise_kernel as
             well, depthwise.weight and pointwise.weight
             Slashes become dots; the layer's name that Keras puts before a weight's own, and ":0" behind it, go.
             What transformers adds to make torch's names unique there (layer_._0, x___y) goes as well.

What a module is, its names do not say: kernels of transposed convolutions, of recurrent cells, and of depthwise
convolutions in Keras 3, where they are plain kernels, get a torch name, and torch holds those another way. Sources:
flax/linen/linear.py, attention.py; keras/src/layers; transformers' modeling_flax_pytorch_utils.py and
modeling_tf_pytorch_utils.py (up to 4.x).
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.edit import Edit, Step
from ckptconv.errors import EditError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ckptconv.core.edit import Kind
    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import TensorInfo

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Change:
    """What becomes of one tensor: it is given a shape, its dimensions change places, it gets a name."""

    name: str
    shape: Shape | None = None
    axes: Shape | None = None


def translation(dialect: str, tensors: Mapping[str, TensorInfo]) -> list[Edit]:
    """The edits that make torch's names and layouts of a dialect's. Reads nothing.

    Raises UsageError for an unknown dialect, EditError where no name is one of its words.
    """
    if dialect not in DIALECTS:
        raise UsageError(f"--translate {dialect!r}: there is no such dialect", hint=f"one of {', '.join(DIALECTS)}")
    changes = DIALECTS[dialect]({name: info.shape for name, info in tensors.items()})
    if not any(change.axes or change.name.rpartition(".")[2] != _last(name) for name, change in changes.items()):
        raise EditError(
            f"--translate {dialect} finds none of its words in these names", hint="ckptconv inspect --list shows them"
        )
    return [
        *_grouped("reshape", {name: ({"shape": list(change.shape), "from": list(tensors[name].shape)}, name)
                              for name, change in changes.items() if change.shape is not None}),
        *_grouped("transpose", {name: ({"axes": list(change.axes)}, name)
                                for name, change in changes.items() if change.axes is not None}),
        *_grouped("rename", {name: ({}, change.name) for name, change in changes.items() if change.name != name}),
    ]  # fmt: skip


def _grouped(kind: Kind, changes: Mapping[str, tuple[Mapping[str, Json], str]]) -> Iterable[Edit]:
    """One edit for all changes of the same details."""
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    details: dict[str, Mapping[str, Json]] = {}
    for old, (wanted, new) in changes.items():
        key = repr(wanted)
        details[key] = wanted
        groups[key].append((old, new))
    for key, pairs in groups.items():
        steps = tuple(Step((old,), (new,)) for old, new in pairs)
        yield Edit(kind, (pairs[0][0],), (pairs[0][1],), details[key], steps)


def _last(name: str) -> str:
    return re.split(r"[./]", name)[-1]


def _outputs_first(rank: int) -> Shape | None:
    """The axes of a kernel with its outputs, then its inputs, before what they are convolved over."""
    return None if rank < 2 else (rank - 1, rank - 2, *range(rank - 2))


# -- Flax

_FLAX = {"kernel": "weight", "scale": "weight", "embedding": "weight", "mean": "running_mean", "var": "running_var"}
_COLLECTIONS = ("params.", "batch_stats.")


def _flax(shapes: Mapping[str, Shape]) -> dict[str, _Change]:
    collected = all(name.startswith(_COLLECTIONS) for name in shapes)
    return {name: _of_flax(name, shape, shapes, collected=collected) for name, shape in shapes.items()}


def _of_flax(name: str, shape: Shape, shapes: Mapping[str, Shape], *, collected: bool) -> _Change:
    module, _, word = name.rpartition(".")
    if collected:
        module = module.partition(".")[2]
    new = ".".join(part for part in (module, _FLAX.get(word, word)) if part)
    flat = _heads_joined(name, shapes)
    if word == "kernel":
        return _Change(new, flat, _outputs_first(len(flat or shape)))
    return _Change(new, flat)


def _heads_joined(name: str, shapes: Mapping[str, Shape]) -> Shape | None:
    """The shape without a dimension of heads, for the parts of Flax's attention; None for all others.

    A kernel of three dimensions may as well be a convolution's: it is attention's where query, key, value and out stand
    side by side and their shapes agree.
    """
    if "." not in name:
        return None
    *attention, part, word = name.split(".")
    kernels = [shapes.get(".".join((*attention, each, "kernel")), ()) for each in ("query", "key", "value", "out")]
    if [len(kernel) for kernel in kernels] != [3, 3, 3, 3]:
        return None
    query, key, value, out = kernels
    if query[1:] != key[1:] or value[1:] != out[:2]:
        return None
    shape = shapes[name]
    if part in ("query", "key", "value"):
        if word == "kernel":
            return (shape[0], prod(shape[1:]))
        return (prod(shape),) if word == "bias" else None
    return (prod(shape[:2]), shape[2]) if part == "out" and word == "kernel" else None


# -- Keras

_KERAS = {
    "kernel": "weight", "gamma": "weight", "embeddings": "weight", "beta": "bias", "moving_mean": "running_mean",
    "moving_variance": "running_var", "depthwise_kernel": "weight",
}  # fmt: skip
_SEPARABLE = (("depthwise_kernel", "pointwise_kernel"), ("pointwise_kernel", "depthwise_kernel"))
_NUMBERED = re.compile(r":\d+$")


def _keras(shapes: Mapping[str, Shape]) -> dict[str, _Change]:
    """A weight that two layers share is there under each of them; the second keeps that layer's name before its own."""
    changes: dict[str, _Change] = {}
    taken: set[str] = set()
    for name, shape in shapes.items():
        parts = _parts(name)
        own = _own_name(parts)
        separable = "_kernel" in name and {name.replace(a, b) for a, b in _SEPARABLE} <= shapes.keys()
        changes[name] = _of_keras(parts if ".".join(own) in taken else own, shape, separable=separable)
        taken.add(".".join(own))
    return changes


def _parts(name: str) -> list[str]:
    path = _NUMBERED.sub("", name).replace("_._", "/")
    return [part.rpartition("___")[2] for part in path.split("/") if part]


def _of_keras(parts: list[str], shape: Shape, *, separable: bool) -> _Change:
    *modules, word = parts
    new = ".".join((*modules, word.replace("_kernel", ".weight") if separable else _KERAS.get(word, word)))
    if word == "depthwise_kernel" and len(shape) > 2:
        *window, inputs, times = shape
        flat = (*window, 1, inputs * times)
        return _Change(new, flat, _outputs_first(len(flat)))
    if word == "bias" and len(shape) == 2 and shape[0] == 1:  # as transformers' Conv1D has it
        return _Change(new, shape[1:])
    kernel = word in ("kernel", "pointwise_kernel")
    return _Change(new, None, _outputs_first(len(shape)) if kernel else None)


def _own_name(parts: list[str]) -> list[str]:
    """A weight's name without that of the layer under which a file has it, ``dense/dense/kernel``, and of the model,
    ``dense/sequential/dense/kernel``; transformers' models begin with "tf".
    """
    if len(parts) > 3 and (parts[2] == parts[0] or parts[1].startswith("tf")):
        return parts[2:]
    return parts[1:] if len(parts) > 2 and parts[1] == parts[0] else parts


DIALECTS: Mapping[str, Callable[[Mapping[str, Shape]], dict[str, _Change]]] = {"flax": _flax, "keras": _keras}
