"""Typed access to a TOML document.

Every mistake is refused with its line and key; unknown keys with the most similar.
"""

from __future__ import annotations

import json
import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, NoReturn, TypeVar

from ckptconv.arch.evaluate import Formula, formula
from ckptconv.arch.lines import KeyLines
from ckptconv.arch.template import Template
from ckptconv.core import strict_toml
from ckptconv.errors import CkptconvError, CorruptFileError, LimitError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

MAX_TEXT = 1 << 18
"""The most characters of a spec; the largest in the library has 8,000."""

MAX_ROWS = 5_000
"""The most entries of one table. More tensors than that are written with loops."""

WRITTEN = "mend it there; 'ckptconv arch show mlp' shows a spec"
"""The hint for mistakes in a spec, for its author."""

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")

Toml = object  # what tomllib gives: checked node by node

T = TypeVar("T")


class Rows:
    """A TOML document, and the lines of its keys."""

    def __init__(self, text: str) -> None:
        self.document = _load_toml(text)
        self.lines = KeyLines(text)

    def fail(self, path: Sequence[str], problem: str, hint: str | None = None) -> NoReturn:
        raise CorruptFileError(f"{self.place(path)}: {problem}", hint=hint or WRITTEN)

    def place(self, path: Sequence[str]) -> str:
        """Where a key is: ``line 12, [tensors] "a.weight"``."""
        line = self.lines.line(*path)
        *tables, key = path
        named = f"[{'.'.join(tables)}] {json.dumps(key)}" if tables else json.dumps(key)
        return f"line {line}, {named}" if line else named

    def table(self, value: Toml, path: Sequence[str], allowed: Sequence[str] | None = None) -> dict[str, Toml]:
        if not isinstance(value, dict):
            self.fail(path, f"expected a table, found {_kind_of(value)}")
        if len(value) > MAX_ROWS:
            raise LimitError(f"{self.place(path)}: more than {MAX_ROWS} entries")
        for key in value:
            if allowed is not None and key not in allowed:
                self.fail((*path, key), "unknown key", self.nearest(key, allowed))
        return value

    def nearest(self, word: str, known: Iterable[str]) -> str:
        """The hint for a word that is not among those known."""
        near = get_close_matches(word, list(known), 1)
        return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"

    def text(self, value: Toml, path: Sequence[str]) -> str:
        if not isinstance(value, str):
            self.fail(path, f"expected a string, found {_kind_of(value)}")
        return value

    def flag(self, value: Toml, path: Sequence[str]) -> bool:
        if not isinstance(value, bool):
            self.fail(path, f"expected true or false, found {_kind_of(value)}")
        return value

    def texts(self, value: Toml, path: Sequence[str]) -> tuple[str, ...]:
        """A string, or a list of strings."""
        values = value if isinstance(value, list) else [value]
        return tuple(self.text(item, path) for item in values)

    def formula(self, value: Toml, path: Sequence[str]) -> Formula:
        """An expression; integers and booleans need no quotes."""
        if isinstance(value, bool | int):
            value = str(value).lower()
        return self.at(path, formula, self.text(value, path))

    def template(self, text: str, path: Sequence[str]) -> Template:
        if len(text) > 500:
            raise LimitError(f"{self.place(path)}: a name of more than 500 characters")
        parts: list[str | Formula] = []
        for position, piece in enumerate(_PLACEHOLDER.split(text)):
            if position % 2:
                parts.append(self.formula(piece, path))
            elif "{" in piece or "}" in piece:
                self.fail(path, "a brace without its partner")
            elif piece:
                parts.append(piece)
        return Template(text, tuple(parts))

    def at(self, path: Sequence[str], make: Callable[[str], T], text: str) -> T:
        """``make(text)``, with the key's place in its errors."""
        try:
            return make(text)
        except CkptconvError as error:
            hint = WRITTEN if error.hint == CorruptFileError.usual_hint else error.hint
            raise type(error)(f"{self.place(path)}: {error.message}", hint=hint) from None


def _load_toml(text: str) -> Mapping[str, Toml]:
    """The document. Raises CorruptFileError, or LimitError past a bound."""
    if len(text) > MAX_TEXT:
        raise LimitError(f"a spec of more than {MAX_TEXT} characters")
    try:
        return strict_toml.loads(text)
    except ValueError as error:
        raise CorruptFileError(f"not TOML: {error}", hint=WRITTEN) from error


def _kind_of(value: Toml) -> str:
    """The type of a TOML value, for messages."""
    names = {str: "a string", bool: "a boolean", int: "an integer", float: "a float", list: "a list", dict: "a table"}
    return names.get(type(value), "nothing" if value is None else f"a {type(value).__name__}")
