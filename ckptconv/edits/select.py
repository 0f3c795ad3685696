"""Choosing and renaming tensors by patterns that people type."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import translate
from typing import TYPE_CHECKING, Literal

from ckptconv.core.dtypes import BLOCKS, DTYPES, DType
from ckptconv.core.edit import Edit, Step
from ckptconv.edits.cast import FLOATS
from ckptconv.edits.dialects import translation
from ckptconv.errors import EditError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ckptconv.core.tensor import LazyTensor

_HINT = "ckptconv inspect --list shows the names"


@dataclass(frozen=True, slots=True)
class NameRule:
    """One of ``--strip-prefix``, ``--add-prefix``, ``--rename`` and ``--translate``, with its text."""

    how: Literal["strip-prefix", "add-prefix", "rename", "translate"]
    text: str


def matching(glob: str, names: Iterable[str]) -> list[str]:
    """The names that a glob matches: ``*`` crosses dots, case matters."""
    expression = re.compile(translate(glob))
    return [name for name in names if expression.match(name)]


def selected(names: Sequence[str], select: Sequence[str], drop: Sequence[str]) -> list[str]:
    """The names that are left. Raises EditError for a pattern that matches nothing, and where nothing is left."""
    kept = set(names)
    if select:
        kept = {name for glob in select for name in _some(glob, names, "--select")}
    for glob in drop:
        kept -= set(_some(glob, names, "--drop"))
    if not kept:
        raise EditError("the selection leaves no tensor", hint=_HINT)
    return [name for name in names if name in kept]


def _some(glob: str, names: Sequence[str], option: str) -> list[str]:
    found = matching(glob, names)
    if not found:
        raise EditError(f"{option} {glob!r} matches no tensor", hint=_HINT)
    return found


def name_edits(rule: NameRule, tensors: Mapping[str, LazyTensor], metadata: Mapping[object, object]) -> list[Edit]:
    """What a rule does to names, and a translation to layouts. Raises EditError where that is nothing, UsageError for a
    bad one.
    """
    if rule.how == "translate":
        return translation(rule.text, tensors, metadata)
    return [_rename(rule, list(tensors))]


def _rename(rule: NameRule, names: Sequence[str]) -> Edit:
    match rule.how:
        case "strip-prefix":
            pairs = [(name, name.removeprefix(rule.text)) for name in names if name.startswith(rule.text)]
            if empty := [old for old, new in pairs if not new]:
                raise EditError(f"--strip-prefix {rule.text!r} leaves nothing of {empty[0]!r}")
        case "add-prefix":
            pairs = [(name, rule.text + name) for name in names]
        case "rename":
            pairs = _substituted(rule.text, names)
        case _:
            raise UsageError(
                f"there is no rule of names {rule.how!r}", hint="strip-prefix, add-prefix, rename, translate"
            )
    changed = [(old, new) for old, new in pairs if old != new]
    if not changed:
        raise EditError(f"--{rule.how} {rule.text!r} changes no name", hint=_HINT)
    steps = tuple(Step((old,), (new,)) for old, new in changed)
    return Edit("rename", (changed[0][0],), (changed[0][1],), {}, steps)


def _substituted(text: str, names: Sequence[str]) -> list[tuple[str, str]]:
    """``REGEX=REPL``, split at the last ``=``, as ``re.sub`` does it."""
    pattern, equals, replacement = text.rpartition("=")
    if not equals or not pattern:
        raise UsageError(
            f"--rename {text!r} is not of the form REGEX=REPL", hint=r"--rename '^encoder\.(\d+)=layers.\1'"
        )
    try:
        expression = re.compile(pattern)
        return [(name, expression.sub(replacement, name)) for name in names]
    except (re.error, IndexError) as error:
        raise UsageError(f"--rename {text!r}: {error}", hint="it is Python's re.sub(REGEX, REPL, name)") from error


def cast_edits(
    texts: Sequence[str], tensors: Mapping[str, LazyTensor], types: Mapping[str, DType] | None = None
) -> list[Edit]:
    """``DTYPE``, or ``GLOB=DTYPE`` for some; the last that matches a tensor counts, and what none matches gets the type
    in `types`. A glob asks for all it matches, a type alone for floats, quantised ones too. Raises UsageError for an
    unknown type, EditError where a glob matches nothing.
    """
    wanted: dict[str, DType] = dict(types or {})
    for text in texts:
        glob, equals, name = text.rpartition("=")
        dtype = _dtype(name, text)
        if equals:
            wanted.update(dict.fromkeys(_some(glob, list(tensors), "--dtype"), dtype))
        else:
            floats = [key for key, tensor in tensors.items() if tensor.info.dtype in (*FLOATS, *BLOCKS.values())]
            wanted.update(dict.fromkeys(floats, dtype))
    groups: dict[tuple[DType, DType], list[str]] = {}
    for key, dtype in wanted.items():
        before = tensors[key].info.dtype
        if before is not dtype:
            groups.setdefault((before, dtype), []).append(key)
    return [
        Edit("cast", (names[0],), (names[0],), {"from": before.name, "dtype": after.name},
             tuple(Step((name,), (name,)) for name in names))
        for (before, after), names in groups.items()
    ]  # fmt: skip


_ALIASES = {
    "FLOAT64": "F64", "DOUBLE": "F64", "FLOAT32": "F32", "FLOAT": "F32", "FLOAT16": "F16", "HALF": "F16",
    "FP32": "F32", "FP16": "F16", "BFLOAT16": "BF16", "FLOAT8_E4M3FN": "F8_E4M3", "FLOAT8_E5M2": "F8_E5M2",
}  # fmt: skip
"""torch's words for types, which people type too."""


def _dtype(name: str, text: str) -> DType:
    upper = name.upper().removeprefix("TORCH.")
    dtype = DTYPES.get(_ALIASES.get(upper, upper))
    if dtype is None or dtype.kind not in ("float", "int", "uint", "bool"):
        floats = ", ".join(one.name for one in FLOATS)
        raise UsageError(f"--dtype {text!r}: there is no element type {name!r} to cast to", hint=f"such as {floats}")
    return dtype
