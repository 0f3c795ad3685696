"""Reads two checkpoints in the form in which they can be compared, for `diff`: other frameworks' names and layouts
translated, quantized or parametrized weights plain, batch norms folded where the other has them folded.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from os import fspath
from typing import TYPE_CHECKING, NamedTuple

from ckptconv.api.editing.dialects import dialect_of_names, is_from_mlx_lm
from ckptconv.api.editing.originals import as_dequantized, as_floats, as_translated
from ckptconv.core.report import Finding
from ckptconv.core.tensor import shapes_of
from ckptconv.core.text import listed
from ckptconv.edits.parametrized.find import all_parametrized
from ckptconv.edits.quantized.marks import kinds_in
from ckptconv.errors import MissingExtraError, UnsupportedError

if TYPE_CHECKING:
    from pathlib import Path

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.edit import Edit
    from ckptconv.core.tensor import LazyTensor

COMMON_DIVISOR = 2
"""If two checkpoints share one in this many of their names, both follow the same naming scheme."""


class Aligned(NamedTuple):
    """Two checkpoints in the form in which they can be compared.

    findings: what was done to them.
    edits:    those that make the first one what it is here, if it was as it is in its file before them.
    """

    a: Checkpoint
    b: Checkpoint
    findings: list[Finding]
    edits: list[Edit]


def align_pair(a: Checkpoint, b: Checkpoint, paths: tuple[Path, Path], *, values: bool) -> Aligned:
    """Bring both checkpoints into that form.

    If only one is quantized, it gets plain weights. If names and layouts follow different frameworks, and a translation
    gives both the same names, they are translated; of a whole pipeline that is translated, only the component is left
    that the other checkpoint is. With `values`, a GGUF's blocks become floats where that is done, and batch norms that
    only one has folded are folded in the other; this reads some of the weights.
    """
    left, right, findings = _with_the_same_names(a, b, paths, values=values)
    if not values:
        return Aligned(left, right, findings, [])
    folded_left, edits, from_left = _folded_beside(left, right, paths[0])
    folded_right, _, from_right = _folded_beside(right, folded_left, paths[1])
    return Aligned(folded_left, folded_right, [*findings, *from_left, *from_right], edits if left is a else [])


def _with_the_same_names(
    a: Checkpoint, b: Checkpoint, paths: tuple[Path, Path], *, values: bool
) -> tuple[Checkpoint, Checkpoint, list[Finding]]:
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


def _folded_beside(one: Checkpoint, other: Checkpoint, path: Path) -> tuple[Checkpoint, list[Edit], list[Finding]]:
    """One checkpoint with the batch norms folded that are folded in the other, under the other's names, and how."""
    if not any(name.endswith("running_var") and name not in other for name in one):
        return one, [], []
    from ckptconv.edits.batch_norms.find import find_folds

    edits = find_folds(one, other)
    if not edits:
        return one, [], []
    from ckptconv.api.editing.rebuild import rebuild
    from ckptconv.api.editing.state import State

    state = State.of(one, (), ())
    for edit in edits:
        state.apply(edit, "folding batch norms")
    count = sum(len(edit.steps) for edit in edits if edit.kind == "fold-batch-norm")
    are = "batch norm is folded into the layer" if count == 1 else "batch norms are folded into the layers"
    message = f"{fspath(path)}: {count:,} {are} before, as in the other file"
    finding = Finding("batch-norms-folded", "info", "", message, None, str(count))
    return rebuild(state, bare=False, in_one=False), edits, [finding]


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
