"""Reads rules files: lists of edits, as TOML that people write or as the JSON of ``ckptconv diff A B --json``.

    [[edits]]
    kind    = "rename"                    the kinds and their details: core.edit
    sources = ["model.{*}"]               {*} and {0-3} stand for any text and for numbers: edits.expand
    targets = ["{*}"]                     left out, the names stay

    [[edits]]
    kind    = "concat"
    sources = ["{*}.q.weight", "{*}.k.weight", "{*}.v.weight"]
    targets = ["{*}.qkv.weight"]
    axis    = 0                           the kind's details: axis, sizes, axes, shape, dtype, from, function,
                                          value, scheme, parts, block, bits, zeros

``diff`` adds ``steps``: every single change by its names, ``[[sources], [targets]]``. They then count instead of the
patterns.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, NoReturn, cast

from ckptconv.core import strict_json, strict_toml
from ckptconv.core.edit import Edit, Step
from ckptconv.edits.kinds.table import KINDS
from ckptconv.errors import CorruptFileError, located
from ckptconv.io.source import Source

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike

    from ckptconv.core.spelling import Json

MAX_BYTES = 256 << 20
"""Limit for rules files: a diff of two checkpoints of a million tensors, with the names of every change, takes 200 MB.
"""

TOP = ("edits", "schema", "equal", "headers", "bare", "expected", "found", "findings")
"""Keys that a document may have: ``diff`` prints more than the edits."""


def read_rules(path: str | PathLike[str]) -> list[Edit]:
    """The edits of a file. Raises FileAccessError, CorruptFileError naming the edit and the key, LimitError."""
    with located(path):
        with Source(path) as source:
            text = source.read_all(MAX_BYTES)
        return parse_rules(text)


def parse_rules(text: bytes) -> list[Edit]:
    """The edits of a document: JSON if it starts with a brace, else TOML."""
    try:
        content = text.decode("utf-8-sig")
        is_json = content.lstrip().startswith("{")
        document = strict_json.loads(content) if is_json else strict_toml.loads(content)
    except ValueError as error:
        raise CorruptFileError(f"neither TOML nor JSON: {error}", hint=_HINT) from error
    if unknown := [key for key in document if key not in TOP]:
        raise CorruptFileError(f"it has a key {unknown[0]!r}, and takes 'edits' alone", hint=_HINT)
    if document.get("schema", 1) != 1:
        raise CorruptFileError(f"its schema is {document['schema']!r}, and this ckptconv knows 1", hint=_HINT)
    rows = document.get("edits")
    if not isinstance(rows, list):
        raise CorruptFileError("it has no list of edits", hint=_HINT)
    return [_Row(row, number).edit() for number, row in enumerate(rows, 1)]


_HINT = "[[edits]] with kind, sources and targets; or what 'ckptconv diff A B --json' prints"


class _Row:
    """One edit of a document, as read; `number` counts from 1."""

    def __init__(self, row: object, number: int) -> None:
        self.number = number
        if not isinstance(row, dict):
            self.fail("it is not a table")
        self.row: Mapping[str, Json] = row

    def fail(self, problem: str, hint: str | None = None) -> NoReturn:
        raise CorruptFileError(f"edit {self.number}: {problem}", hint=hint or _HINT)

    def edit(self) -> Edit:
        kind = self.row.get("kind")
        if not isinstance(kind, str) or kind not in KINDS:
            near = get_close_matches(str(kind), KINDS, 1)
            self.fail(f"no kind {kind!r}", f"did you mean {near[0]!r}?" if near else f"one of {', '.join(KINDS)}")
        needs = KINDS[kind]
        known = ("kind", "sources", "targets", "steps", *needs.details)
        for key in self.row:
            if key not in known:
                near = get_close_matches(key, known, 1)
                self.fail(
                    f"{kind} has no {key!r}", f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
                )
        sources = self.names("sources")
        targets = self.names("targets") if "targets" in self.row else sources if needs.same_names else ()
        details = {key: self.row[key] for key in needs.details if key in self.row}
        steps = self.steps() if "steps" in self.row else ()
        if not steps and not sources:
            self.fail(f"{kind} needs sources")
        if not steps and needs.targets != "none" and not targets:
            self.fail(f"{kind} needs targets")
        return Edit(kind, sources, targets, details, steps)

    def names(self, key: str) -> tuple[str, ...]:
        value = self.row.get(key, [])
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            self.fail(f"{key!r} is not a list of names")
        return tuple(cast("list[str]", names))

    def steps(self) -> tuple[Step, ...]:
        value = self.row["steps"]
        if not isinstance(value, list):
            self.fail("'steps' is not a list")
        result = []
        for step in value:
            match step:
                case [list() as sources, list() as targets] if all(isinstance(n, str) for n in (*sources, *targets)):
                    result.append(Step(tuple(sources), tuple(targets)))
                case _:
                    self.fail("a step is [[sources], [targets]]")
        return tuple(result)
