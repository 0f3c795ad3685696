"""Files as what they were made of: a GGUF under transformers' names, with the floats that its blocks stand for;
quantized weights as plain ones.

So `diff` and `verify` set it beside a model of transformers', and `validate` judges it as one. By shapes and values
alone tensors of blocks are not told apart: what is quantized, and whose heads are in another order, has no value in
common with what it was.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from os import fspath
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.core.report import Finding
from ckptconv.core.text import listed
from ckptconv.edits.name_rule import GGUF, NameRule
from ckptconv.edits.quantized.marks import kinds_in
from ckptconv.errors import CkptconvError, EditError, MissingExtraError, UnsupportedError, UsageError, located
from ckptconv.formats import registry

if TYPE_CHECKING:
    from pathlib import Path

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.tensor import LazyTensor

LITTLE = 2
"""Of so many names of the other one has to be a name of transformers' too, or they are of other models."""

_COMPUTED = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
"""What is in a GGUF, and transformers computes of a configuration."""


def as_floats(checkpoint: Checkpoint, *, headers: bool = False) -> Checkpoint:
    """The checkpoint with F32 in place of blocks of ggml's, of which torch has no tensors: what ``--dtype F32`` makes.

    headers: its tensors are not read, so that it takes nothing to unpack them; else raises MissingExtraError without
    the `gguf` package, UnsupportedError for a type that it does not unpack.
    """
    if all(tensor.info.dtype.block == 1 for tensor in checkpoint.values()):
        return checkpoint
    tensors = {name: _as_float(tensor, headers=headers) for name, tensor in checkpoint.items()}
    return checkpoint.with_tensors(tensors, checkpoint.findings)


def _as_float(tensor: LazyTensor, *, headers: bool) -> LazyTensor:
    if tensor.info.dtype.block == 1:
        return tensor
    if headers:
        from ckptconv.edits.ggml.unpack import floats_of

        return replace(floats_of(tensor), alias=tensor.alias)
    from ckptconv.edits.cast import cast_to

    return cast_to(tensor, DType.F32)


def as_plain(checkpoint: Checkpoint, path: Path) -> tuple[Checkpoint, list[Finding]]:
    """Quantized weights as the plain ones that ``--dequantize`` makes of them, and what is told of that; where there
    are none, or not all of them are understood, the checkpoint as it is, and nothing. Reads nothing.
    """
    kinds = kinds_in(checkpoint)
    if not kinds:
        return checkpoint, []
    from ckptconv.api.editing.apply import edited
    from ckptconv.api.editing.dialects import is_in_mlxs_layout
    from ckptconv.api.editing.edits import Edits

    if is_in_mlxs_layout(checkpoint):  # plain ones have other names and layouts yet
        return checkpoint, []
    try:
        made, _ = edited(checkpoint, Edits(dequantize=True))
    except (EditError, UnsupportedError, UsageError):
        return checkpoint, []
    message = f"{fspath(path)} is quantized ({listed(sorted(kinds))}): read as the plain weights of --dequantize"
    return made, [Finding("dequantized", "info", "", message)]


def in_transformers_names(checkpoint: Checkpoint, path: Path) -> tuple[Checkpoint, list[Finding]]:
    """A GGUF with llama.cpp's names under transformers', and what is told of that; any other as it is, and nothing.

    What transformers computes is left out. Reads nothing. Raises EditError, UnsupportedError where the architecture's
    names are not known here.
    """
    if not _has_llama_cpps_names(checkpoint):
        return checkpoint, []
    from ckptconv.api.editing.apply import edited
    from ckptconv.api.editing.edits import Edits

    computed = [name for name in _COMPUTED if name in checkpoint]
    with located(path):
        made, _ = edited(checkpoint, Edits(drop=computed, names=[NameRule("translate", GGUF)]))
    message = f"{fspath(path)} is read under transformers' names, which --translate {GGUF} makes of its own"
    told = [Finding("translated", "info", "", message)]
    if computed:
        message = f"{listed(computed)}: transformers computes it of its configuration, and it is left out"
        told.append(Finding("left-out", "info", computed[0], message))
    return made, [*told, *(finding for finding in made.findings if finding not in checkpoint.findings)]


def set_beside(
    a: Checkpoint, b: Checkpoint, paths: tuple[Path, Path], *, values: bool
) -> tuple[Checkpoint, Checkpoint, list[Finding]]:
    """Both as they are compared, and what is told of that: where one alone is a GGUF with llama.cpp's names, and the
    other has those that transformers has for its tensors, the first under these; with `values`, blocks as floats. Where
    one alone is quantized, its weights as plain ones.
    """
    one, told = _beside(a, b, paths[0], values=values)
    other, more = _beside(b, a, paths[1], values=values)
    return one, other, [*told, *more]


def _beside(one: Checkpoint, other: Checkpoint, path: Path, *, values: bool) -> tuple[Checkpoint, list[Finding]]:
    """The one with the other's names and plain weights, where it is of their model."""
    if not kinds_in(other) and (read := as_plain(one, path))[1] and not _has_all_of(other, one, read[0]):
        return read
    if _has_llama_cpps_names(other):
        return one, []
    try:
        made, told = in_transformers_names(one, path)
    except (EditError, UnsupportedError, UsageError):
        return one, []
    if not told or LITTLE * len(made.keys() & other.keys()) < len(other):
        return one, []
    floats = made
    if values:
        with suppress(MissingExtraError, UnsupportedError):  # blocks stay blocks, and are not compared
            floats = as_floats(made)
    if floats is not made:
        told.append(Finding("unpacked", "info", "", "its blocks are compared as the floats that they stand for"))
    return floats, told


def _has_all_of(other: Checkpoint, quantized: Checkpoint, plain: Checkpoint) -> bool:
    """Whether it has every tensor that plain weights do without: it is quantized as well, and nothing in it says so, as
    in a file that a graph was converted to.
    """
    gone = quantized.keys() - plain.keys()
    return bool(gone) and all(name in other and other[name].info == quantized[name].info for name in gone)


def _has_llama_cpps_names(checkpoint: Checkpoint) -> bool:
    try:
        if registry.by_name(checkpoint.format).dialect != GGUF:
            return False
    except CkptconvError:  # of a format that is in no table
        return False
    from ckptconv.api.editing.dialects import dialect_of

    return dialect_of(checkpoint) == GGUF
