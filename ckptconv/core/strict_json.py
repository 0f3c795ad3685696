"""JSON of strangers: what Python's own reader lets pass in silence is refused.

NaN and the infinities are taken, which are not JSON: configurations of Mamba's have them.
"""

from __future__ import annotations

import json
from typing import Any

from ckptconv.core.metadata import MAX_DEPTH, is_too_deep
from ckptconv.errors import CorruptFileError, LimitError


def loads(text: str | bytes) -> Any:
    """The document that a text is; bytes are UTF-8.

    Raises ValueError, which says what is wrong: no JSON, an object with a key twice (of which `json` keeps the last),
    nesting that is too deep for Python.
    """
    try:
        return json.loads(text if isinstance(text, str) else text.decode("utf-8"), object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def document(text: str | bytes, what: str, *, hint: str) -> Any:
    """As `loads`, of a file or of a part of it that is called `what`. Raises CorruptFileError."""
    try:
        return loads(text)
    except ValueError as error:
        raise CorruptFileError(f"{what} is not JSON: {error}", hint=hint) from error


def object_of(text: str | bytes, what: str, *, hint: str) -> dict[str, Any]:
    """As `document`, where it is an object. Raises CorruptFileError."""
    found = document(text, what, hint=hint)
    if not isinstance(found, dict):
        raise CorruptFileError(f"{what} is not a JSON object", hint=hint)
    return found


def check_depth(document: Any, what: str) -> None:
    """Raise LimitError where a document is nested too deeply to stand in the metadata, under a key."""
    if is_too_deep([[document]]):
        raise LimitError(f"{what} is nested deeper than {MAX_DEPTH - 2} levels")


def as_text(value: Any) -> str:
    """A string. Raises ValueError on anything else."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a string")
    return value


def as_size(value: Any) -> int:
    """A whole number that is not negative. Raises ValueError on anything else."""
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a size")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"{key!r} comes twice")
            seen.add(key)
    return made
