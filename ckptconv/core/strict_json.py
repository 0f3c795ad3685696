"""JSON of strangers: what Python's own reader lets pass in silence is refused."""

from __future__ import annotations

import json
from typing import Any


def loads(text: str | bytes) -> Any:
    """The document that a text is; bytes are UTF-8.

    Raises ValueError, which says what is wrong: no JSON, an object with a key twice (of which `json` keeps the last),
    nesting that is too deep for Python.
    """
    try:
        return json.loads(text if isinstance(text, str) else text.decode("utf-8"), object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def as_text(value: Any) -> str:
    """A string. Raises ValueError on anything else."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no string")
    return value


def as_size(value: Any) -> int:
    """A whole number that is not negative. Raises ValueError on anything else."""
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no size")
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
