"""The folder that a checkpoint is, or lies in, on disk or in an archive."""

from __future__ import annotations

import os
from types import NoneType
from typing import TYPE_CHECKING

from ckptconv.formats.beside.places import OnDisk
from ckptconv.io.folder import Folder, folder_of
from ckptconv.io.source import Source

if TYPE_CHECKING:
    from pathlib import Path

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.formats.beside.places import Place


def place_of(path: Path, checkpoint: Checkpoint) -> Place | None:
    """The folder or archive that `path` names; None if it is a single file."""
    if path.is_dir():
        return OnDisk(path)
    if not checkpoint.notes.members and type(checkpoint.file) in (Source, Folder, NoneType):
        return None  # answered without importing the modules that read archives
    from ckptconv.formats.beside.in_archive import archive_of

    return archive_of(path, checkpoint)


def home_of(path: Path, checkpoint: Checkpoint) -> Place:
    """The folder that a checkpoint is, or lies in."""
    if os.path.lexists(path) and not checkpoint.notes.members:
        return OnDisk(folder_of(path))
    from ckptconv.formats.beside.in_archive import home_in_archive

    return home_in_archive(checkpoint)
