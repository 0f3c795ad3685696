"""Selects and renames tensors by the globs, prefixes and regular expressions that users type."""

from __future__ import annotations

import re
from fnmatch import translate
from typing import TYPE_CHECKING

from ckptconv.core.edit import Edit, Step
from ckptconv.edits.translate import translation
from ckptconv.errors import LIST_NAMES, EditError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ckptconv.core.tensor import LazyTensor
    from ckptconv.edits.name_rule import NameRule


def matching(glob: str, names: Iterable[str]) -> list[str]:
    """The names that a glob matches. ``*`` matches dots too; case matters."""
    expression = re.compile(translate(glob))
    return [name for name in names if expression.match(name)]


def selected(names: Sequence[str], select: Sequence[str], drop: Sequence[str]) -> list[str]:
    """The names that ``--select`` and ``--drop`` leave. Raises EditError if a glob matches none, or none is left."""
    kept = set(names)
    if select:
        kept = {name for glob in select for name in matching_some(glob, names, "--select")}
    for glob in drop:
        kept -= set(matching_some(glob, names, "--drop"))
    if not kept:
        raise EditError("the selection leaves no tensor", hint=LIST_NAMES)
    return [name for name in names if name in kept]


def matching_some(glob: str, names: Sequence[str], option: str, hint: str = LIST_NAMES) -> list[str]:
    """The names that a glob matches. Raises EditError, naming the option, if it matches none."""
    found = matching(glob, names)
    if not found:
        raise EditError(f"{option} {glob!r} matches no tensor", hint=hint)
    return found


def name_edits(rule: NameRule, tensors: Mapping[str, LazyTensor], metadata: Mapping[object, object]) -> list[Edit]:
    """The edits that a naming rule asks for; a translation also changes layouts.

    Raises EditError where the rule changes nothing, UsageError for a rule that is wrong.
    """
    if rule.how == "translate":
        return translation(rule.text, tensors, metadata)
    return [_rename(rule, list(tensors))]


def _rename(rule: NameRule, names: Sequence[str]) -> Edit:
    match rule.how:
        case "strip-prefix":
            pairs = [(name, name.removeprefix(rule.text)) for name in names if name.startswith(rule.text)]
            if empty := [old for old, new in pairs if not new]:
                raise EditError(
                    f"--strip-prefix {rule.text!r} leaves nothing of {empty[0]!r}",
                    hint=f"--rename or --drop {empty[0]!r} before, or a shorter prefix",
                )
        case "add-prefix":
            pairs = [(name, rule.text + name) for name in names]
        case "rename":
            pairs = _substituted(rule.text, names)
        case _:
            raise UsageError(
                f"there is no rule of names {rule.how!r}", hint="strip-prefix, add-prefix, rename, translate, like"
            )
    changed = [(old, new) for old, new in pairs if old != new]
    if not changed:
        raise EditError(f"--{rule.how} {rule.text!r} changes no name", hint=LIST_NAMES)
    steps = tuple(Step((old,), (new,)) for old, new in changed)
    return Edit("rename", (changed[0][0],), (changed[0][1],), {}, steps)


def _substituted(text: str, names: Sequence[str]) -> list[tuple[str, str]]:
    """(old, new) names after ``re.sub`` with ``REGEX=REPL``, split at the last ``=``."""
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
