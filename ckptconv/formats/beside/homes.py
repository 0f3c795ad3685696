"""The place that a checkpoint is, or lies in: a folder of the disk or of an archive, which is not unpacked for it."""

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
    """Where the files lie that belong to what was named; None where that is one file."""
    if path.is_dir():
        return OnDisk(path)
    if not checkpoint.notes.members and type(checkpoint.file) in (Source, Folder, NoneType):
        return None  # said without a module that reads archives
    from ckptconv.formats.beside.in_archive import archive_of

    return archive_of(path, checkpoint)


def home_of(path: Path, checkpoint: Checkpoint) -> Place:
    """The folder that a checkpoint is, or lies in."""
    if os.path.lexists(path) and not checkpoint.notes.members:
        return OnDisk(folder_of(path))
    from ckptconv.formats.beside.in_archive import home_in_archive

    return home_in_archive(checkpoint)
