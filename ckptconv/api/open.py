"""Opening a checkpoint."""

from __future__ import annotations

import os
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from ckptconv.core.text import quoted
from ckptconv.errors import CkptconvError, FileAccessError, located
from ckptconv.formats import registry
from ckptconv.formats.detect import claimed, detect, refuse_pickles
from ckptconv.io.folder import Folder
from ckptconv.io.source import Source

if TYPE_CHECKING:
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.progress import Progress

PathText = str | PathLike[str]


def open(path: PathText, *, format: str | None = None, progress: Progress | None = None) -> Checkpoint:
    """Open a checkpoint. This reads headers, and no tensor bytes. Close it, or use it as a context manager.

    A path may continue inside an archive, as if the archive were a folder: ``archive.zip/policy.pth``. `format`
                                                                            overrides
    what the bytes say. If something has to be inflated first, `progress` gets the bytes done and the bytes in all.

    Raises CkptconvError, which names the file, on anything that cannot be read.
    """
    source = source_of(path, progress)
    with located(path):
        try:
            return _read(source, format)
        except BaseException:
            source.close()
            raise


def source_of(path: PathText, progress: Progress | None = None) -> Source | Folder:
    """What a path names: a file, a folder, or either in an archive. Raises as `open` does if there is nothing."""
    archive = _archive_in(path)
    source = Folder(path) if os.path.isdir(path) else _source(archive or path)
    if isinstance(source, Source):
        source.progress = progress
    if archive is None:
        return source
    with located(path):
        try:
            return _inside(source, Path(path).relative_to(archive))
        except BaseException:
            source.close()
            raise


def _archive_in(path: PathText) -> Path | None:
    """The file that a path continues inside; None if there is none."""
    if os.path.lexists(path):
        return None
    return next((parent for parent in Path(path).parents if os.path.isfile(parent)), None)


def _inside(source: Source | Folder, rest: Path) -> Source | Folder:
    """A file or a folder in an archive. Raises FileAccessError if it is not there, or if the file is not an archive."""
    from ckptconv.io.archive import Archive

    assert isinstance(source, Source)
    archive, path = Archive.of(source), rest.as_posix()
    if path in archive.members:
        return archive.open(path)
    if archive.level(path) is not None:
        return archive.folder(path)
    some = quoted(archive.members)
    raise FileAccessError(
        f"there is no {path!r} in this archive; in it: {some}", path=source.path, hint="check the path"
    )


def _source(path: PathText) -> Source:
    try:
        return Source(path)
    except FileAccessError as error:
        if os.path.isfile(f"{os.fspath(path)}.index"):
            error.hint = f"a TensorFlow checkpoint is named by its index: {os.fspath(path)}.index"
        raise


def _read(source: Source | Folder, format: str | None) -> Checkpoint:
    if not format:
        return detect(source).read(source)
    chosen = registry.by_name(format)
    refuse_pickles(chosen, source)
    try:
        return chosen.read(source)
    except CkptconvError as error:
        with suppress(CkptconvError):
            other = None if chosen.claims_file(source) else claimed(source)
            if other is not None:
                error.hint = f"it was read as {format!r}, which was asked for; its bytes are those of {other.name!r}"
        raise
