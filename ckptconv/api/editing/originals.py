"""Reads a file as torch's modules have it: the names and layouts of Flax, Keras, mlx-lm and llama.cpp translated,
ggml's blocks as floats, and quantized weights as plain ones.

`validate` checks it that way, `verify` runs it, and `diff` compares it with a file that has these names. Contents alone
could not match them: a quantized tensor, or one whose attention heads are in another order, has no value in common with
the original.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from os import fspath
from typing import TYPE_CHECKING

from ckptconv.api.editing.dialects import dialect_of, dialect_of_names, is_from_mlx_lm
from ckptconv.core.dtypes import DType
from ckptconv.core.report import Finding
from ckptconv.core.tensor import shapes_of
from ckptconv.core.text import listed
from ckptconv.edits.name_rule import GGUF, MLX, NameRule
from ckptconv.edits.parametrized.find import all_parametrized
from ckptconv.edits.quantized.marks import kinds_in
from ckptconv.errors import EditError, LimitError, MissingExtraError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.tensor import LazyTensor

COMMON_DIVISOR = 2
"""If two checkpoints share one in this many of their names, both follow the same naming scheme."""

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


def align_pair(
    a: Checkpoint, b: Checkpoint, paths: tuple[Path, Path], *, values: bool
) -> tuple[Checkpoint, Checkpoint, list[Finding]]:
    """Both checkpoints in the form in which they can be compared, and findings that say what was done.

    If only one is quantized, it gets plain weights. If names and layouts follow different frameworks, and a translation
    gives both the same names, they are translated, with `values` also a GGUF's blocks to floats. Of a whole pipeline
    that is translated, only the component is left that the other checkpoint is.
    """
    left, findings = _plain_beside(a, b, paths[0])
    right, more = _plain_beside(b, a, paths[1])
    findings += more
    sides = [
        as_translated(one, path, dialect) if dialect else (one, [])
        for one, path, dialect in zip((left, right), paths, _dialects_to_align(left, right), strict=True)
    ]
    sides = _component_beside(sides, paths)
    in_common = _names_in_common(*(one for one, _ in sides))
    if in_common < _names_in_common(left, right) or COMMON_DIVISOR * in_common < min(len(one) for one, _ in sides):
        return left, right, findings
    for i, (one, found) in enumerate(sides):
        if found and values:
            sides[i] = _with_floats(one, found)
    (left, from_left), (right, from_right) = sides
    return left, right, [*findings, *from_left, *from_right]


def _component_beside(
    sides: list[tuple[Checkpoint, list[Finding]]], paths: tuple[Path, Path]
) -> list[tuple[Checkpoint, list[Finding]]]:
    """The sides; of a translated one with several components, only the one that the other checkpoint is."""
    (left, from_left), (right, from_right) = sides
    if bool(from_left) == bool(from_right):
        return sides
    whole, other = (left, right) if from_left else (right, left)
    component, tensors = _component_like(other, whole)
    if not component:
        return sides
    path, findings = (paths[0], from_left) if from_left else (paths[1], from_right)
    others = dict.fromkeys(name.partition(".")[0] for name in whole if not name.startswith(f"{component}."))
    message = f"{fspath(path)}: its {component} is compared, and not {listed(list(others))}"
    cut = whole.with_tensors(tensors, whole.findings), [*findings, Finding("component", "info", component, message)]
    return [cut, sides[1]] if from_left else [sides[0], cut]


def _component_like(one: Checkpoint, whole: Checkpoint) -> tuple[str, dict[str, LazyTensor]]:
    """The component of a pipeline that has most of a checkpoint's names, and its tensors; "" if none has half."""
    parts: dict[str, dict[str, LazyTensor]] = {}
    for name, tensor in whole.items():
        component, _, rest = name.partition(".")
        parts.setdefault(component, {})[rest] = tensor
    best = max(parts, key=lambda component: len(parts[component].keys() & one.keys()), default="")
    if len(parts) < COMMON_DIVISOR or COMMON_DIVISOR * len(parts[best].keys() & one.keys()) < len(one):
        return "", {}
    return best, parts[best]


def _plain_beside(one: Checkpoint, other: Checkpoint, path: Path) -> tuple[Checkpoint, list[Finding]]:
    """One checkpoint with plain weights, if only this one is quantized or parametrized."""
    if not kinds_in(other):
        plain, findings = as_dequantized(one, path)
        if findings and not _keeps_quantized_parts(other, one, plain):
            return plain, findings
    return _unparametrized_beside(one, other, path)


def _unparametrized_beside(one: Checkpoint, other: Checkpoint, path: Path) -> tuple[Checkpoint, list[Finding]]:
    """One checkpoint with plain weights instead of parts that torch computes these of, if the other has the weights."""
    weights = all_parametrized(shapes_of(one))
    if not weights or not all(weight.scheme and weight.name in other for weight in weights):
        return one, []
    from ckptconv.api.editing.apply import apply_edits
    from ckptconv.api.editing.edits import Edits

    plain, _ = apply_edits(one, Edits(remove_parametrizations=True))
    found = next(finding for finding in plain.findings if finding.code == "parametrizations-removed")
    message = f"{fspath(path)}: {found.message}, as --remove-parametrizations makes them"
    return plain, [replace(found, message=message)]


def _with_floats(translated: Checkpoint, findings: list[Finding]) -> tuple[Checkpoint, list[Finding]]:
    """A translated checkpoint with ggml's blocks as floats; if they cannot be unpacked, they stay, uncompared."""
    with suppress(MissingExtraError, UnsupportedError):
        floats = as_floats(translated)
        if floats is not translated:
            unpacked = Finding("unpacked", "info", "", "its blocks are compared as the floats that they stand for")
            return floats, [*findings, unpacked]
    return translated, findings


def _dialects_to_align(a: Checkpoint, b: Checkpoint) -> tuple[str, str]:
    """The dialects to translate from before a comparison; "" for what stays as it is, such as two files of one dialect.

    Where all names agree already, layouts do too, unless mlx-lm wrote one of them: it changes more layouts than names.
    """
    if _names_in_common(a, b) == min(len(a), len(b)) and not (is_from_mlx_lm(a) or is_from_mlx_lm(b)):
        return "", ""
    left, right = dialect_of_names(a), dialect_of_names(b)
    return ("", "") if left == right else (left, right)


def _names_in_common(a: Checkpoint, b: Checkpoint) -> int:
    return len(a.keys() & b.keys())


def _keeps_quantized_parts(other: Checkpoint, quantized: Checkpoint, plain: Checkpoint) -> bool:
    """Whether the other checkpoint has every tensor that dequantizing removes. Then it is quantized as well, though
    nothing in it says so, as in a file that a graph was converted to.
    """
    gone = quantized.keys() - plain.keys()
    return bool(gone) and all(name in other and other[name].info == quantized[name].info for name in gone)
