"""Inspects a folder or an archive that has no checkpoint, or several: what loading its files would run.

Each file is inspected as those beside a checkpoint are (`ckptconv.api.inspecting.beside`): pickles of any name,
archives, configurations. The result has no tensors, and the format "folder", or the archive's.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.api.inspecting import beside
from ckptconv.api.open import source_of
from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.report import Finding
from ckptconv.core.text import listed
from ckptconv.errors import located
from ckptconv.formats import registry
from ckptconv.formats.beside.places import OnDisk
from ckptconv.formats.detect import find_format
from ckptconv.io.folder import Folder

if TYPE_CHECKING:
    from pathlib import Path

    from ckptconv.api.inspecting.uses import OtherFiles
    from ckptconv.api.open import PathText
    from ckptconv.errors import CkptconvError
    from ckptconv.formats.beside.places import Place
    from ckptconv.io.source import Source

FOLDER = "folder"


@dataclass(frozen=True, slots=True)
class NoCheckpoint:
    """An empty checkpoint that stands for such a folder, the bytes of all its files, and what is in them."""

    checkpoint: Checkpoint
    size: int
    beside: OtherFiles


def inspect_without_checkpoint(path: PathText, error: CkptconvError) -> NoCheckpoint | None:
    """Inspect a folder or an archive that cannot be opened as a checkpoint; `error` says why.

    None if it is empty, or if it is a single file by its contents or its name. Raises as `inspect_beside` does.
    """
    with source_of(path) as source, located(path):
        place, format = _place_and_format(source)
        files = place.listing().paths if place else []
        if place is None or not files:
            return None
        names = f": {listed(error.details)}" if error.details else ""
        reason = Finding("no-checkpoint", "warning", "", f"{error.message}{names}")
        empty = Checkpoint({}, root={}, format=format, findings=(reason,))
        size = _total_size(place, files) if isinstance(place, OnDisk) else source.size
        return NoCheckpoint(empty, size, beside.inspect_files(place))


def _place_and_format(source: Source | Folder) -> tuple[Place | None, str]:
    """The place with the files, and the name of its format; None for a single file."""
    if type(source) is Folder:
        return OnDisk(source.path), FOLDER
    from ckptconv.formats.beside.in_archive import InArchive
    from ckptconv.io.archive import Archive, MemberFolder

    if isinstance(source, MemberFolder):
        return InArchive(source.archive, source.inner), FOLDER
    assert not isinstance(source, Folder)
    format = find_format(source)
    if format not in registry.ARCHIVES or _is_named_like_a_checkpoint(source.path):
        return None, ""
    return InArchive(Archive.of(source)), format.name


def _is_named_like_a_checkpoint(path: Path) -> bool:
    """Whether the name has the suffix of a format that is more than an archive.

    A .pth is a zip archive, too. If a part of it is missing, it is damaged, and gets no verdict.
    """
    formats = (format for format in registry.all_formats() if format not in registry.ARCHIVES)
    return path.name.lower().endswith(tuple(suffix for format in formats for suffix in format.suffixes))


def _total_size(place: OnDisk, files: list[str]) -> int:
    size = 0
    for file in files:
        with suppress(OSError):  # inspecting the file reports it
            size += os.stat(place.path / file).st_size
    return size
