"""`open`: a checkpoint from a file, a folder, or a path inside an archive."""

from __future__ import annotations

import os
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from ckptconv.core.text import quoted
from ckptconv.edits.quantized.marks import KERAS
from ckptconv.edits.quantized.torchao.marks import mentions_torchao
from ckptconv.errors import CkptconvError, FileAccessError, located
from ckptconv.formats import registry
from ckptconv.formats.detect import detect, find_format, refuse_disguised_pickle
from ckptconv.formats.sets.copies import GRAPHS, chosen_finding, stand_for_folder
from ckptconv.io.folder import Folder
from ckptconv.io.source import Source

if TYPE_CHECKING:
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.progress import Progress

_OPENVINO = "openvino"
"""The format of folders with a graph of OpenVINO."""

PathText = str | PathLike[str]


def open(path: PathText, *, format: str | None = None, progress: Progress | None = None) -> Checkpoint:
    """Open a checkpoint. This reads headers, and no tensor bytes. Close it, or use it as a context manager.

    A path may continue inside an archive, as if the archive were a folder: ``archive.zip/policy.pth``. `format`
    overrides what the bytes say. If something has to be inflated first, `progress` gets the bytes done and the bytes in
    all.

    Raises CkptconvError, which names the file, on anything that cannot be read.
    """
    source = source_of(path, progress)
    with located(path):
        try:
            checkpoint = _read(source, format)
            if checkpoint.format in KERAS:
                from ckptconv.edits.quantized.keras import with_weights as with_keras_weights

                return with_keras_weights(checkpoint)
            if not mentions_torchao(checkpoint):
                return checkpoint
            from ckptconv.edits.quantized.torchao.bookkeeping import with_weights

            return with_weights(checkpoint)
        except BaseException:
            source.close()
            raise


def source_of(path: PathText, progress: Progress | None = None) -> Source | Folder:
    """Open the file or folder that a path names, which may lie in an archive. Raises as `open` does."""
    archive = _enclosing_archive(path)
    source = Folder(path) if os.path.isdir(path) else _open_source(archive or path)
    if isinstance(source, Source):
        source.progress = progress
    if archive is None:
        return source
    with located(path):
        try:
            return _open_member(source, Path(path).relative_to(archive))
        except BaseException:
            source.close()
            raise


def _enclosing_archive(path: PathText) -> Path | None:
    """The archive that a path continues inside; None if the path exists, or no parent of it is a file."""
    if os.path.lexists(path):
        return None
    return next((parent for parent in Path(path).parents if os.path.isfile(parent)), None)


def _open_member(source: Source | Folder, rest: Path) -> Source | Folder:
    """Open a file or a folder in an archive. Raises FileAccessError if there is none, or the file is not an archive."""
    from ckptconv.io.archive import Archive

    assert isinstance(source, Source)
    archive, path = Archive.of(source), rest.as_posix()
    if path in archive.members:
        return archive.open(path)
    if archive.level(path) is not None:
        return archive.folder(path)
    members = quoted(archive.members)
    raise FileAccessError(
        f"there is no {path!r} in this archive; in it: {members}", path=source.path, hint="check the path"
    )


def _open_source(path: PathText) -> Source:
    try:
        return Source(path)
    except FileAccessError as error:
        if os.path.isfile(f"{os.fspath(path)}.index"):
            error.hint = f"a TensorFlow checkpoint is named by its index: {os.fspath(path)}.index"
        raise


def _read_copy(source: Source | Folder) -> Checkpoint | None:
    """A folder's weights as another framework than torch has them; None if it is in a format itself, or has none.

    A folder with a graph of OpenVINO is in a format, but the weights that the graph was made from come first.
    """
    copies = stand_for_folder(source.names) if isinstance(source, Folder) else []
    if not isinstance(source, Folder) or not copies:
        return None
    kind = find_format(source)
    if kind is not None and (kind.name != _OPENVINO or copies[0] in GRAPHS):
        return None
    file = source.open(copies[0])
    checkpoint = detect(file).read(file)
    return checkpoint.replaced(file=source, findings=(chosen_finding(copies, source.names), *checkpoint.findings))


def _read(source: Source | Folder, format: str | None) -> Checkpoint:
    if not format:
        return _read_copy(source) or detect(source).read(source)
    requested = registry.by_name(format)
    refuse_disguised_pickle(requested, source)
    try:
        return requested.read(source)
    except CkptconvError as error:
        with suppress(CkptconvError):
            actual = None if requested.claims_file(source) else find_format(source)
            if actual is not None:
                error.hint = f"it was read as {format!r}, which was asked for; its bytes are those of {actual.name!r}"
        raise
