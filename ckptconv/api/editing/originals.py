"""Reads a file as torch's modules have it: the names and layouts of Flax, Keras, mlx-lm and llama.cpp translated,
ggml's blocks as floats, and quantized weights as plain ones.

`validate` checks it that way, `verify` runs it, and `diff` compares it with a file that has these names. Contents alone
could not match them: a quantized tensor, or one whose attention heads are in another order, has no value in common with
the original.
"""

from __future__ import annotations

from dataclasses import replace
from os import fspath
from typing import TYPE_CHECKING

from ckptconv.api.editing.dialects import dialect_of
from ckptconv.core.dtypes import DType
from ckptconv.core.report import Finding
from ckptconv.core.text import listed
from ckptconv.edits.name_rule import GGUF, MLX, NameRule
from ckptconv.edits.quantized.marks import kinds_in
from ckptconv.errors import EditError, LimitError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.tensor import LazyTensor

KERAS = "keras"
"""The dialect of all that Keras and TensorFlow write."""

OTHER_FRAMEWORKS = frozenset(["flax", KERAS, GGUF, MLX])
"""Dialects whose names no architecture has; it may well have those of the others, such as Meta's for Llama."""

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
    from ckptconv.api.editing.edits import Edits

    try:
        plain, _ = apply_edits(checkpoint, Edits(dequantize=True))
    except (EditError, UnsupportedError, UsageError):
        return checkpoint, []
    message = f"{fspath(path)} is quantized ({listed(sorted(kinds))}): read as the plain weights of --dequantize"
    return plain, [Finding("dequantized", "info", "", message)]


def as_translated(checkpoint: Checkpoint, path: Path, dialect: str | None = None) -> tuple[Checkpoint, list[Finding]]:
    """A checkpoint with another framework's names and layouts as ``--translate`` makes it, and findings that say so.

    dialect: the one to translate from. None: the checkpoint's own, if it is another framework's.

    Without such names, or if they cannot be translated: the same checkpoint, and no findings. What transformers
    computes from its configuration is left out. Reads no tensor but those that a file of Keras holds twice.
    """
    if dialect is None:
        dialect = dialect_of(checkpoint)
        if dialect not in OTHER_FRAMEWORKS:
            return checkpoint, []
    from ckptconv.api.editing.apply import apply_edits
    from ckptconv.api.editing.edits import Edits
    from ckptconv.edits.translate import GIVES

    computed = [name for name in _ROPE_TENSORS if name in checkpoint] if dialect == GGUF else []
    try:
        translated, _ = apply_edits(checkpoint, Edits(drop=computed, names=[NameRule("translate", dialect)]))
    except (EditError, LimitError, UnsupportedError, UsageError):
        return checkpoint, []
    message = f"{fspath(path)} is read under {GIVES[dialect]} names, which --translate {dialect} makes of its own"
    findings = [Finding("translated", "info", "", message)]
    if computed:
        message = f"{listed(computed)}: transformers computes it of its configuration, and it is left out"
        findings.append(Finding("left-out", "info", computed[0], message))
    findings += [finding for finding in translated.findings if finding not in checkpoint.findings]
    return translated, findings
