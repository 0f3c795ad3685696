"""Reads JSON that is not trusted: objects with a key twice, which Python's own reader accepts in silence, are refused.

NaN and the infinities, which are not JSON, are accepted: configurations of Mamba have them.
"""

from __future__ import annotations

import json
from typing import Any

from ckptconv.core.metadata import MAX_DEPTH, is_too_deep
from ckptconv.errors import CorruptFileError, LimitError


def loads(text: str | bytes) -> Any:
    """Parse a document; bytes are UTF-8.

    Raises ValueError with what is wrong: it is not JSON, has an object with a key twice (of which `json` keeps the
    last), or is nested too deeply for Python.
    """
    try:
        return json.loads(text if isinstance(text, str) else text.decode("utf-8"), object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def document(text: str | bytes, what: str, *, hint: str) -> Any:
    """`loads` for a file, or a part of one, that errors call `what`. Raises CorruptFileError."""
    try:
        return loads(text)
    except ValueError as error:
        raise CorruptFileError(f"{what} is not JSON: {error}", hint=hint) from error


def object_of(text: str | bytes, what: str, *, hint: str) -> dict[str, Any]:
    """`document`, which has to be an object. Raises CorruptFileError."""
    found = document(text, what, hint=hint)
    if not isinstance(found, dict):
        raise CorruptFileError(f"{what} is not a JSON object", hint=hint)
    return found


def check_depth(document: Any, what: str) -> None:
    """Raise LimitError where a document is nested too deeply to be a value in the metadata."""
    if is_too_deep([[document]]):
        raise LimitError(f"{what} is nested deeper than {MAX_DEPTH - 2} levels")


def as_text(value: Any) -> str:
    """The value, which has to be a string, else ValueError."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a string")
    return value


def as_size(value: Any) -> int:
    """The value, which has to be an integer that is not negative, else ValueError."""
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a size")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"{key!r} comes twice")
            seen.add(key)
    return result
