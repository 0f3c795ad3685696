"""JSON documents of Orbax and zarr."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core import strict_json
from ckptconv.errors import COPY_ALL_AGAIN, located
from ckptconv.io.limits import MAX_ORBAX_TEXT

if TYPE_CHECKING:
    from ckptconv.core.spelling import Json
    from ckptconv.io.source import Source


def read_json(source: Source) -> Json:
    """Parse a JSON file, of any depth. Raises CorruptFileError, LimitError, with its path."""
    with located(source.path):
        return parse_json(source.read_all(MAX_ORBAX_TEXT), source.path.name)


def parse_json(data: bytes, what: str) -> Json:
    """Parse a JSON document; `what` names it in errors. Raises CorruptFileError."""
    return strict_json.document(data, repr(what), hint=COPY_ALL_AGAIN)


def shallow(document: Json, what: str) -> Json:
    """The document, which becomes metadata. Raises LimitError if it is nested too deeply."""
    strict_json.check_depth(document, repr(what))
    return document
