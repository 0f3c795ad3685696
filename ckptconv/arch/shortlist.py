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
from ckptconv.arch.match import skeleton_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence, Set

# These begin with a line break, since a search for a fixed text is several times as fast as one for ``^``.
_TEMPLATE = re.compile(r'\n"([^"\n]+)"\s*=')
_MOUNT = re.compile(
    r"""\nuse\s*=\s*"(\w+)"(?:\nprefix\s*=\s*"([^"\n]*)")?(?:\ndots\s*=\s*(false))?"""
)  # the library has these keys in this order
_TENSORS = re.compile(r"\n\[tensors\]\n(.*?)(?=\n\[|\Z)", re.DOTALL)
# A row that has a shape alone is there in every model, if no loop around it is empty.
_ALWAYS = re.compile(r'^"(?:\{prefix\})?([^"{}\n]+)"\s*=\s*"', re.MULTILINE)
_TEXT = re.compile(r'"([^"\n]*)"|(\w+)')

_PLACEHOLDER = re.compile(r"\{[^{}]*\}")


class _FixedParts(NamedTuple):
    """What every name of a template has: whole parts between dots, and pieces of other parts. Numbers are left out."""

    parts: frozenset[str]
    pieces: tuple[str, ...]

    def may_be(self, parts: frozenset[str]) -> bool:
        """Whether a name with these parts has all of it."""
        return self.parts <= parts and all(any(piece in part for part in parts) for piece in self.pieces)


class _Index(NamedTuple):
    """The library's templates, with ``{`` for each placeholder.

    by_part: the templates by their longest whole part; by "" if they have none.
    specs:   the specs that have each template.
    """

    by_part: Mapping[str, Sequence[str]]
    specs: Mapping[str, Sequence[str]]


def shares(names: Iterable[str]) -> Mapping[str, float]:
    """The most of these names that each spec may have, as a share; specs that have none are left out.

    Mostly takes O(length of the names).
    """
    kinds = Counter(_parts(name) for name in names)
    counts: Counter[str] = Counter()
    for kind, count in kinds.items():
        for spec in _specs_that_may_have(kind):
            counts[spec] += count
    return {spec: count / kinds.total() for spec, count in counts.items()}


def with_share(shares: Mapping[str, float], share: float) -> list[str]:
    """The specs that may have at least that share, in the library's order."""
    return [spec for spec in library_names() if shares.get(spec, 0.0) >= share]


def lacks(spec: str, parts: Set[str]) -> bool:
    """Whether every model of a spec has a tensor that a checkpoint whose names have these parts lacks."""
    return any(not needed <= parts for needed in _always(spec))


@cache
def _always(spec: str) -> list[frozenset[str]]:
    """The parts of some names that every model of a spec has."""
    rows = "\n".join(_TENSORS.findall("\n" + library_text(spec)))
    return [_parts(skeleton_of(name)) for name in _ALWAYS.findall(rows)]


def _specs_that_may_have(parts: frozenset[str]) -> set[str]:
    index = _index()
    templates = (template for part in ("", *parts) for template in index.by_part.get(part, ()))
    return {spec for template in templates if _fixed_parts(template).may_be(parts) for spec in index.specs[template]}


@cache
def _index() -> _Index:
    """The index of the whole library: some 8,500 templates. Takes some 10 ms, once."""
    specs: dict[str, list[str]] = {}
    for spec in library_names():
        templates = _PLACEHOLDER.sub("{", "\n".join(templates_of(spec)))
        for template in dict.fromkeys(templates.split("\n") if templates else ()):
            specs.setdefault(template, []).append(spec)
    by_part: dict[str, list[str]] = {}
    for template in specs:
        by_part.setdefault(_longest_part(template), []).append(template)
    return _Index(by_part, specs)


def _longest_part(template: str) -> str:
    """The longest whole part of a template; "" if it has none."""
    longest = ""
    for part in template.split("."):
        if len(part) > len(longest) and "{" not in part and not part.isdecimal():
            longest = part
    return longest


@cache
def _fixed_parts(template: str) -> _FixedParts:
    """What is fixed in a template whose placeholders are ``{``."""
    parts = _parts(template)
    whole = frozenset(part for part in parts if "{" not in part)
    return _FixedParts(whole, tuple(piece for part in parts - whole for piece in part.split("{") if piece))


def mentioning_any(texts: Collection[object]) -> list[str]:
    """The specs that mention at least one of these, all hashable: keys, a model type, a class."""
    words = [text for text in texts if isinstance(text, str)]
    return [
        spec
        for spec in library_names()
        if any(word in library_text(spec) for word in words) and not _texts(spec).isdisjoint(words)
    ]


@cache
def templates_of(spec: str) -> list[str]:
    """The names in a spec, as its text has them; those of mounted specs with their prefixes."""
    text = "\n" + library_text(spec)
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
