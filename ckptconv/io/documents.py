"""JSON documents in small files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ckptconv.core import strict_json
from ckptconv.errors import located
from ckptconv.io.limits import MAX_CONFIG
from ckptconv.io.source import Source

if TYPE_CHECKING:
    from pathlib import Path


def read_object(path: Path, what: str, *, hint: str) -> dict[str, Any] | None:
    """Read the JSON object in a file, which errors call `what`; None if there is no such file.

    Raises CorruptFileError, LimitError, FileAccessError, with its path.
    """
    if not os.path.isfile(path):
        return None
    with located(path), Source(path) as source:
        return strict_json.object_of(source.read_all(MAX_CONFIG), what, hint=hint)
