"""Finds the library specs that are worth parsing for some evidence, by looking at their text only.

Parsing a spec and compiling its names takes longer than opening a checkpoint, so specs whose text cannot contain what
the evidence asks for are skipped. A spec on the list may still be wrong; one that is skipped is never right.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from ckptconv.arch.load import library_names, library_text

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

_TEMPLATE = re.compile(r'^"([^"\n]+)"\s*=', re.MULTILINE)
_MOUNT = re.compile(
    r"""^use\s*=\s*"(\w+)"(?:\nprefix\s*=\s*"([^"\n]*)")?(?:\ndots\s*=\s*(false))?""", re.MULTILINE
)  # the library has these keys in this order
_TEXT = re.compile(r'"([^"\n]*)"|(\w+)')

_PLACEHOLDER = re.compile(r"\{[^{}]*\}")


class _FixedParts(NamedTuple):
    """What every name of a template has: whole parts between dots, and pieces of other parts. Numbers are left out."""

    parts: frozenset[str]
    pieces: tuple[str, ...]

    def may_be(self, parts: frozenset[str]) -> bool:
        """Whether a name with these parts has all of it."""
        return self.parts <= parts and all(any(piece in part for part in parts) for piece in self.pieces)


def by_names(names: Iterable[str], share: float) -> list[str]:
    """The specs that may have at least `share` of these names. Mostly takes O(length of the names)."""
    kinds = Counter(_parts(name) for name in names)
    enough = share * kinds.total()
    return [
        spec
        for spec in library_names()
        if sum(count for kind, count in kinds.items() if _may_have(_templates(spec), kind)) >= enough
    ]


def mentioning_any(texts: Collection[object]) -> list[str]:
    """The specs that mention at least one of these, all hashable: keys, a model type, a class."""
    return [spec for spec in library_names() if not _texts(spec).isdisjoint(texts)]


def _may_have(templates: Mapping[str, frozenset[_FixedParts]], parts: frozenset[str]) -> bool:
    return any(fixed.may_be(parts) for part in ("", *parts) for fixed in templates.get(part, ()))


@cache
def _templates(spec: str) -> Mapping[str, frozenset[_FixedParts]]:
    """The fixed parts of each name of a spec, by the longest whole part; by "" if there is none."""
    found: dict[str, set[_FixedParts]] = {}
    for template in templates_of(spec):
        parts = _parts(_PLACEHOLDER.sub("{", template))
        whole = frozenset(part for part in parts if "{" not in part)
        pieces = tuple(piece for part in parts - whole for piece in part.split("{") if piece)
        longest = max(whole, key=lambda part: (len(part), part), default="")
        found.setdefault(longest, set()).add(_FixedParts(whole, pieces))
    return {part: frozenset(fixed) for part, fixed in found.items()}


def templates_of(spec: str) -> list[str]:
    """The names in a spec, as its text has them; those of mounted specs with their prefixes."""
    text = library_text(spec)
    inner = [
        prefix + (template.replace(".", "") if joined else template)
        for name, prefix, joined in _MOUNT.findall(text)
        if name != spec and name in library_names()
        for template in templates_of(name)
    ]
    return [*_TEMPLATE.findall(text), *inner]


def _parts(name: str) -> frozenset[str]:
    """The parts of a name, between dots, that are not numbers."""
    return frozenset(part for part in name.split(".") if not part.isdecimal())


@cache
def _texts(spec: str) -> frozenset[str]:
    return frozenset(text for pair in _TEXT.findall(library_text(spec)) for text in pair)
