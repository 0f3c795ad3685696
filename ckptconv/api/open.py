"""Opening a checkpoint."""

from __future__ import annotations

import os
from os import PathLike
from typing import TYPE_CHECKING

from ckptconv.errors import CkptconvError, FileAccessError
from ckptconv.formats import registry
from ckptconv.io.folder import Folder
from ckptconv.io.source import Source

if TYPE_CHECKING:
    from ckptconv.core.checkpoint import Checkpoint

PathText = str | PathLike[str]


def open(path: PathText, *, format: str | None = None) -> Checkpoint:
    """Open a checkpoint: its headers are read, no tensor byte is. Close it, or use it as a context manager.

    `format` overrides what the bytes say. Raises CkptconvError, with the file named, on anything that cannot be read.
    """
    source = Folder(path) if os.path.isdir(path) else _source(path)
    try:
        return _read(source, format)
    except CkptconvError as error:
        source.close()
        raise error.at(path) from error.__cause__
    except BaseException:
        source.close()
        raise


def _source(path: PathText) -> Source:
    try:
        return Source(path)
    except FileAccessError as error:
        if os.path.isfile(f"{os.fspath(path)}.index"):
            error.hint = f"a checkpoint of TensorFlow's is named by its index: {os.fspath(path)}.index"
        raise


def _read(source: Source | Folder, format: str | None) -> Checkpoint:
    chosen = registry.by_name(format) if format else registry.detect(source)
    return chosen.read(source)
