"""Flax's modules.

    kernel [..., in, out] → weight [out, in, ...]    scale, embedding → weight    mean, var → running_mean, running_var

The heads of an attention, kernel [in, heads, width] and [heads, width, out], become one dimension. The collections
params and batch_stats are not part of a name, nor is the ``.value`` at the end of NNX variables' names. Slashes, as an
.npz of a flattened tree has them, are dots. Recurrent cells are in `flax_cells`, kernels with several dimensions of
inputs or outputs in `flax_general`, layers in a scan in `flax_scanned`. A transposed convolution is recognized
by the name that such modules get by default:

    ConvTranspose_0   kernel [..., in, out] → weight [in, out, ...], with its window flipped, as torch has it
                      kernel [..., out, in] (``transpose_kernel=True``, known only by the bias) → weight [in, out, ...]

Sources: flax/linen/linear.py, attention.py; flax/nnx/variablelib.py; jax.lax.conv_transpose; transformers'
modeling_flax_pytorch_utils.py (up to 4.x).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptconv.edits.dialects import flax_cells, flax_general, flax_scanned
from ckptconv.edits.dialects.attention import without_heads
from ckptconv.edits.dialects.change import Change, outputs_first
from ckptconv.errors import EditError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.tensor import TensorInfo
    from ckptconv.edits.dialects.change import Shape

    Path = tuple[str, ...]

_WORDS = {"kernel": "weight", "scale": "weight", "embedding": "weight", "mean": "running_mean", "var": "running_var"}
_TRANSPOSED = re.compile(r"ConvTranspose_\d+")
_WINDOW = 1024
"""The widest window that is flipped; real ones are around ten wide."""

_COLLECTIONS = ("params.", "batch_stats.")
_VARIABLE = ".value"
_ATTENTIONS = (
    ("query", "key", "value", "out"),
    ("q_proj", "k_proj", "v_proj", "o_proj"),
    ("q_proj", "k_proj", "v_proj", "out_proj"),
)
"""The names of the layers of an attention."""


def changes(tensors: Mapping[str, TensorInfo], metadata: Mapping[object, object]) -> dict[str, Change]:
    """The change of each tensor."""
    if any("/" in name for name in tensors) and not any("." in name for name in tensors):
        found = changes({name.replace("/", "."): info for name, info in tensors.items()}, metadata)
        return {name: found[name.replace("/", ".")] for name in tensors}
    if tensors and all(name.endswith(_VARIABLE) for name in tensors):
        found = changes({name.removesuffix(_VARIABLE): info for name, info in tensors.items()}, metadata)
        return {name: found[name.removesuffix(_VARIABLE)] for name in tensors}
    _refuse_haiku(tensors)
    collected = all(name.startswith(_COLLECTIONS) for name in tensors)
    paths = {name: tuple(name.split(".")) for name in tensors}
    inner = {name: path[int(collected) :] for name, path in paths.items()}
    scans = flax_scanned.scans_in({inner[name]: info.shape for name, info in tensors.items()})
    shapes = {
        name: scans[inner[name]].layer(info.shape) if inner[name] in scans else info.shape
        for name, info in tensors.items()
    }
    changed = flax_cells.changes(inner, shapes)
    by_path = {paths[name]: shape for name, shape in shapes.items()}
    outputs = flax_general.outputs_of(by_path)
    for name in tensors:
        change = changed.get(name) or _change(name, inner[name], shapes[name], by_path, outputs)
        scan = scans.get(inner[name])
        changed[name] = change if scan is None else scan.lifted(change, shapes[name])
    return {name: changed[name] for name in tensors}


def _refuse_haiku(tensors: Mapping[str, TensorInfo]) -> None:
    """Raise EditError for Haiku's names, of which Flax has only a few."""
    words = {name.rpartition(".")[2] for name in tensors}
    if "w" in words and words.isdisjoint(("kernel", "embedding")):
        raise EditError(
            "--translate flax: these names are Haiku's, which is not translated",
            hint="a rules file (--rules) can rename w and b, and transpose w",
        )


def _change(name: str, inner: Path, shape: Shape, paths: Mapping[Path, Shape], outputs: Mapping[Path, Shape]) -> Change:
    """A tensor's change; outputs: what `flax_general.outputs_of` says."""
    path = tuple(name.split("."))
    *modules, word = inner
    new = ".".join((*modules, _WORDS.get(word, word)))
    if word == "kernel" and modules and _TRANSPOSED.fullmatch(modules[-1]) and _has_outputs_last(path, shape, paths):
        if max(shape[:-2]) > _WINDOW:
            why = f"{'.'.join(modules)} stays as Flax has it: its window is too wide to be turned round"
            return Change(names=(".".join(inner),), note=why)
        rank = len(shape)
        return Change(names=(new,), axes=(rank - 2, rank - 1, *range(rank - 2)), flips=tuple(range(2, rank)))
    flat = next((flat for names in _ATTENTIONS if (flat := without_heads(path, shape, paths, names))), None)
    flat = flat or flax_general.flattened(path, shape, outputs)
    if word == "kernel" and flat is None and flax_general.is_unclear(path, shape):
        why = f"{'.'.join(modules)} stays as Flax has it: nothing says which of its dimensions are inputs"
        return Change(names=(".".join(inner),), note=why)
    if word == "kernel":
        return Change.to(new, flat, outputs_first(len(flat or shape)))
    return Change.to(new, flat)


def _has_outputs_last(path: tuple[str, ...], shape: Shape, paths: Mapping[tuple[str, ...], Shape]) -> bool:
    """Whether a transposed convolution's kernel ends with outputs, as others do, judged by its bias."""
    return len(shape) > 2 and paths.get((*path[:-1], "bias"), shape[-1:]) == shape[-1:]
