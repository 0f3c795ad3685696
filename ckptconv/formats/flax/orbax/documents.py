"""JSON of Orbax's and zarr's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptconv.core import strict_json
from ckptconv.core.metadata import MAX_DEPTH, is_too_deep
from ckptconv.errors import located
from ckptconv.formats.flax.orbax.damage import bad, too_much
from ckptconv.io.limits import MAX_ORBAX_TEXT

if TYPE_CHECKING:
    from ckptconv.io.source import Source

Json = Any


def read_json(source: Source) -> Json:
    """A file of JSON, of any depth. Raises CorruptFileError, LimitError, with its path."""
    with located(source.path):
        if source.size > MAX_ORBAX_TEXT:
            raise too_much(f"it has {source.size:,} bytes; the limit is {MAX_ORBAX_TEXT:,}")
        return parse_json(bytes(source.read_at(0, source.size)), source.path.name)


def parse_json(data: bytes, what: str) -> Json:
    """A document, by the name of which errors speak. Raises CorruptFileError."""
    try:
        return strict_json.loads(data)
    except ValueError as error:
        raise bad(f"{what!r} is no JSON: {error}") from error


def shallow(document: Json, what: str) -> Json:
    """A document that becomes metadata. Raises LimitError where it is nested too deeply."""
    if is_too_deep([[document]]):
        raise too_much(f"{what!r} is nested deeper than {MAX_DEPTH - 2} levels")
    return document
