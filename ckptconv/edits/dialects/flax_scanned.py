"""Layers of Flax that run in a scan (``nn.scan``, ``nnx.scan``), whose tensors have one dimension more: the layers.

    layers.mlp.kernel  [layers, in, out], or [in, layers, out] with ``variable_axes={"params": 1}``, as in MaxText

All tensors of such a module have as many layers, at the same place. What shows that they are layers, since a kernel of
three dimensions may also be a convolution's or a DenseGeneral's:

    a bias of two dimensions, the layers and the kernel's outputs      a scale of two dimensions, in a norm
    a kernel of three dimensions in ``Dense_0``

The tensors become those of each layer, ``layers.0.mlp.kernel`` and so on: the number follows the part of the path that
is called like layers or a scan, or else all parts that they have in common. Where the place of the layers is not
certain, translating is refused. Sources: flax/core/lift.py (`scan`); MaxText's layers/decoders.py.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptconv.errors import EditError, LimitError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.edits.dialects.change import Change, Shape

    Path = tuple[str, ...]

_AXES = (0, 1)
"""Where the dimension of layers may be."""

_LEAST_RANKS = {"kernel": 3, "embedding": 3, **dict.fromkeys(("bias", "scale", "mean", "var"), 2)}
"""How many dimensions tensors in a scan have at least."""

_MOST_SCANS = 64

_DENSE = re.compile(r"Dense_\d+")
_LAYERS = re.compile(r"(\w*_)?(layers?|blocks?|stack|h)|(\w*_)?[Ss]can\w*(_\d+)?")
HINT = (
    "unstack them with --rules first, or save the layers one by one: flax.traverse_util.flatten_dict shows their paths"
)


@dataclass(frozen=True, slots=True)
class Scan:
    """Layers in a scan: the path after which their number comes, the dimension that counts them, how many there are."""

    prefix: Path
    axis: int
    length: int

    def layer(self, shape: Shape) -> Shape:
        """The shape that a tensor has in one layer."""
        return shape[: self.axis] + shape[self.axis + 1 :]

    def lifted(self, change: Change, shape: Shape) -> Change:
        """A change of one layer's tensor, of that shape, as a change of the tensor of all layers.

        Raises EditError for one that does more than to move dimensions.
        """
        if change != replace(change, names=change.names[:1], flips=(), zeros=(), joined={}, into=None, permute=None):
            raise EditError(f"--translate flax: {change.names[0]!r} is in a scan, and more than renamed", hint=HINT)
        parts = change.names[0].split(".")
        at = len(self.prefix)
        names = tuple(".".join((*parts[:at], str(number), *parts[at:])) for number in range(self.length))
        if self.length == 1:
            return replace(change, names=names, shape=change.shape or shape)
        axes = None if change.axes is None else (0, *(axis + 1 for axis in change.axes))
        whole = None if change.shape is None else (self.length, *change.shape)
        return replace(change, names=names, lead=self.axis, shape=whole, axes=axes)


def scans_in(shapes: Mapping[Path, Shape]) -> dict[Path, Scan]:
    """The scan that each tensor is in, by its path; tensors that are in none are missing.

    Raises EditError where some are, and it is not certain which, or along which dimension.
    """
    modules: dict[Path, dict[str, Shape]] = defaultdict(dict)
    for path, shape in shapes.items():
        modules[path[:-1]][path[-1]] = shape
    signs = {module: axes for module, words in modules.items() if (axes := _signs(module, words)) is not None}
    if not signs:
        return {}
    lengths = _common_lengths(shapes)
    found: dict[Path, Scan] = {}
    for module, axes in signs.items():
        if _around(module, found) is None:
            top = _top(module, axes, lengths, is_norm="kernel" not in modules[module])
            if top is not None:
                scan = _scan_at(top, module, signs, lengths, shapes)
                found[scan.prefix] = scan
        if len(found) > _MOST_SCANS:
            raise LimitError(f"more than {_MOST_SCANS} modules in scans are more than any model has")
    around = {path: _around(path, found) for path in shapes}
    return {path: scan for path, scan in around.items() if scan is not None}


def _around(path: Path, found: Mapping[Path, Scan]) -> Scan | None:
    return next((scan for length in range(len(path) + 1) if (scan := found.get(path[:length])) is not None), None)


def _signs(module: Path, words: Mapping[str, Shape]) -> set[int] | None:
    """The dimensions along which a module may have layers; None if nothing shows that it has."""
    kernel, bias, scale = (words.get(word, ()) for word in ("kernel", "bias", "scale"))
    if len(kernel) > 2 and len(bias) > 1:
        if bias == kernel[len(kernel) - len(bias) :]:  # a DenseGeneral's
            return None
        return {axis for axis in _AXES if len(bias) > axis and _is_bias_of(kernel, bias, axis)}
    if not kernel and len(scale) == 2 and words.keys() <= {"scale", "bias", "mean", "var"}:
        return set(_AXES)
    return set(_AXES) if len(kernel) > 2 and _DENSE.fullmatch(module[-1]) else None


def _is_bias_of(kernel: Shape, bias: Shape, axis: int) -> bool:
    """Whether they are those of layers along that dimension."""
    inner_kernel, inner_bias = (shape[:axis] + shape[axis + 1 :] for shape in (kernel, bias))
    return kernel[axis] == bias[axis] and inner_bias == inner_kernel[len(inner_kernel) - len(inner_bias) :]


def _common_lengths(shapes: Mapping[Path, Shape]) -> dict[Path, dict[int, int]]:
    """The size of each dimension that all tensors below a path share, by path and dimension."""
    found: dict[Path, dict[int, int]] = {}
    for path, shape in shapes.items():
        is_stacked = len(shape) >= _LEAST_RANKS.get(path[-1], 1)
        sizes = {axis: shape[axis] for axis in _AXES if len(shape) > axis and is_stacked}
        for length in range(len(path)):
            known = found.setdefault(path[:length], sizes)
            found[path[:length]] = {axis: size for axis, size in known.items() if sizes.get(axis) == size}
    return found


def _top(module: Path, axes: set[int], lengths: Mapping[Path, Mapping[int, int]], *, is_norm: bool) -> Path | None:
    """The outermost path around a module below which all tensors have a dimension of layers.

    None if only a norm of several dimensions shows it, and nothing else around it is as long.
    """
    top = next(
        (module[:length] for length in range(len(module) + 1) if axes & lengths[module[:length]].keys()), None
    )  # fmt: skip
    if is_norm and top in (None, module):
        return None
    if top is None:
        raise _unclear_error(module)
    return top


def _scan_at(
    top: Path, module: Path, signs: Mapping[Path, set[int]], lengths: Mapping[Path, Mapping[int, int]],
    shapes: Mapping[Path, Shape],
) -> Scan:  # fmt: skip
    inside = [found for path, found in signs.items() if path[: len(top)] == top]
    axes = set(lengths[top]).intersection(*inside)
    if len(axes) != 1:
        raise _unclear_error(module)
    (axis,) = axes
    return Scan(_prefix([path[:-1] for path in shapes if path[: len(top)] == top]), axis, lengths[top][axis])


def _unclear_error(module: Path) -> EditError:
    return EditError(
        f"--translate flax: {'.'.join(module)!r} has a dimension of layers, or of something else, and nothing tells "
        "which",
        hint=HINT,
    )


def _prefix(modules: list[Path]) -> Path:
    """The path after which layers are numbered, of those of all modules in the scan.

    Raises EditError if they have nothing in common: then the model is there several times, and not its layers.
    """
    first, last = min(modules), max(modules)
    same = next((i for i, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), None)
    shared = first[: min(len(first), len(last)) if same is None else same]
    if not shared:
        raise EditError(
            "--translate flax: all tensors have one dimension more than a model's, as if there were several of it",
            hint="take one of them first: flax.jax_utils.unreplicate undoes replicate",
        )
    called = [place for place, part in enumerate(shared) if _LAYERS.fullmatch(part)]
    return shared[: called[-1] + 1] if called else shared
