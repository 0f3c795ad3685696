"""Reads a file as the model that it was made from: a GGUF under transformers' names, with its blocks as floats; and
quantized weights as plain ones.

`diff` and `verify` compare it with a transformers model that way, and `validate` checks it as one. Contents could not
match them: a quantized tensor, or one whose attention heads are in another order, has no value in common with the
original.
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

COMMON_DIVISOR = 2
"""One in this many of the other checkpoint's names must be among the translated names, or it is another model."""

_ROPE_TENSORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
"""Tensors in a GGUF that transformers computes from a configuration."""


def as_floats(checkpoint: Checkpoint, *, headers: bool = False) -> Checkpoint:
    """The checkpoint with ggml's blocks as F32, as ``--dtype F32`` makes them; torch has no such blocks.

    headers: the tensors will not be read, so that nothing is needed to unpack them. Otherwise raises MissingExtraError
             without the `gguf` package, and UnsupportedError for a type that it does not unpack.
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


def as_dequantized(checkpoint: Checkpoint, path: Path) -> tuple[Checkpoint, list[Finding]]:
    """The checkpoint with quantized weights as the plain ones of ``--dequantize``, and findings that say so.

    Without quantized weights, or if not all of them are understood: the same checkpoint, and no findings. Reads no
    tensor.
    """
    kinds = kinds_in(checkpoint)
    if not kinds:
        return checkpoint, []
    from ckptconv.api.editing.apply import apply_edits
    from ckptconv.api.editing.dialects import has_mlx_lm_layout
    from ckptconv.api.editing.edits import Edits

    if has_mlx_lm_layout(checkpoint):  # plain weights would still have mlx-lm's names and layouts
        return checkpoint, []
    try:
        plain, _ = apply_edits(checkpoint, Edits(dequantize=True))
    except (EditError, UnsupportedError, UsageError):
        return checkpoint, []
    message = f"{fspath(path)} is quantized ({listed(sorted(kinds))}): read as the plain weights of --dequantize"
    return plain, [Finding("dequantized", "info", "", message)]


def in_transformers_names(checkpoint: Checkpoint, path: Path) -> tuple[Checkpoint, list[Finding]]:
    """A GGUF with llama.cpp's names under transformers' names, and findings that say so; any other checkpoint
    unchanged, and no findings.

    Leaves out what transformers computes. Reads no tensor. Raises EditError or UnsupportedError if the names of the
    architecture are not known here.
    """
    if not _has_llama_cpp_names(checkpoint):
        return checkpoint, []
    from ckptconv.api.editing.apply import apply_edits
    from ckptconv.api.editing.edits import Edits

    computed = [name for name in _ROPE_TENSORS if name in checkpoint]
    with located(path):
        translated, _ = apply_edits(checkpoint, Edits(drop=computed, names=[NameRule("translate", GGUF)]))
    message = f"{fspath(path)} is read under transformers' names, which --translate {GGUF} makes of its own"
    findings = [Finding("translated", "info", "", message)]
    if computed:
        message = f"{listed(computed)}: transformers computes it of its configuration, and it is left out"
        findings.append(Finding("left-out", "info", computed[0], message))
    findings += [finding for finding in translated.findings if finding not in checkpoint.findings]
    return translated, findings


def align_pair(
    a: Checkpoint, b: Checkpoint, paths: tuple[Path, Path], *, values: bool
) -> tuple[Checkpoint, Checkpoint, list[Finding]]:
    """Both checkpoints in the form in which they can be compared, and findings that say what was done.

    If only one is a GGUF with llama.cpp's names, and the other has transformers' names for its tensors, the GGUF gets
    these names, and with `values` floats in place of blocks. If only one is quantized, it gets plain weights.
    """
    left, findings = _align(a, b, paths[0], values=values)
    right, more = _align(b, a, paths[1], values=values)
    return left, right, [*findings, *more]


def _align(one: Checkpoint, other: Checkpoint, path: Path, *, values: bool) -> tuple[Checkpoint, list[Finding]]:
    """One checkpoint with the other's names and plain weights, if both are of the same model."""
    if not kinds_in(other):
        plain, findings = as_dequantized(one, path)
        if findings and not _keeps_quantized_parts(other, one, plain):
            return plain, findings
    if _has_llama_cpp_names(other):
        return one, []
    try:
        translated, findings = in_transformers_names(one, path)
    except (EditError, UnsupportedError, UsageError):
        return one, []
    if not findings or COMMON_DIVISOR * len(translated.keys() & other.keys()) < len(other):
        return one, []
    floats = translated
    if values:
        with suppress(MissingExtraError, UnsupportedError):  # then blocks stay blocks, and are not compared
            floats = as_floats(translated)
    if floats is not translated:
        findings.append(Finding("unpacked", "info", "", "its blocks are compared as the floats that they stand for"))
    return floats, findings


def _keeps_quantized_parts(other: Checkpoint, quantized: Checkpoint, plain: Checkpoint) -> bool:
    """Whether the other checkpoint has every tensor that dequantizing removes. Then it is quantized as well, though
    nothing in it says so, as in a file that a graph was converted to.
    """
    gone = quantized.keys() - plain.keys()
    return bool(gone) and all(name in other and other[name].info == quantized[name].info for name in gone)


def _has_llama_cpp_names(checkpoint: Checkpoint) -> bool:
    try:
        if registry.by_name(checkpoint.format).dialect != GGUF:
            return False
    except CkptconvError:  # the format is not registered
        return False
    from ckptconv.api.editing.dialects import dialect_of

    return dialect_of(checkpoint) == GGUF
