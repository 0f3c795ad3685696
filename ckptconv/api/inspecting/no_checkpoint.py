"""Looking at a folder or an archive in which there is no checkpoint, or several: what those who load it would run.

All of its files are looked at, as those beside a checkpoint are (`ckptconv.api.inspecting.beside`), each by itself:
pickles of any name, archives, configurations. It has the format "folder", or that of the archive, and no tensor.
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
from ckptconv.formats.detect import claimed
from ckptconv.io.folder import Folder

if TYPE_CHECKING:
    from pathlib import Path

    from ckptconv.api.inspecting.uses import Beside
    from ckptconv.api.open import PathText
    from ckptconv.errors import CkptconvError
    from ckptconv.formats.beside.places import Place
    from ckptconv.io.source import Source

FOLDER = "folder"


@dataclass(frozen=True, slots=True)
class NoCheckpoint:
    """What stands for the checkpoint of such a folder, without a tensor; the bytes of its files; what is in them."""

    checkpoint: Checkpoint
    size: int
    beside: Beside


def look(path: PathText, error: CkptconvError) -> NoCheckpoint | None:
    """What is in a folder that is not a checkpoint for the reason that `error` says; None where it is a single file, by
    what it is or by its name, or nothing is in it. Raises as `look_beside`.
    """
    with source_of(path) as source, located(path):
        place, format = _place_of(source)
        files = place.listing().paths if place else []
        if place is None or not files:
            return None
        names = f": {listed(error.details)}" if error.details else ""
        told = Finding("no-checkpoint", "warning", "", f"{error.message}{names}")
        found = Checkpoint({}, root={}, format=format, findings=(told,))
        size = _size_of(place, files) if isinstance(place, OnDisk) else source.size
        return NoCheckpoint(found, size, beside.look(place))


def _place_of(source: Source | Folder) -> tuple[Place | None, str]:
    """Where its files lie, and the format that this has."""
    if type(source) is Folder:
        return OnDisk(source.path), FOLDER
    from ckptconv.formats.beside.in_archive import InArchive
    from ckptconv.io.archive import Archive, MemberFolder

    if isinstance(source, MemberFolder):
        return InArchive(source.archive, source.inner), FOLDER
    assert not isinstance(source, Folder)
    known = claimed(source)
    if known not in registry.ARCHIVES or _is_called_as_a_checkpoint(source.path):
        return None, ""
    return InArchive(Archive.of(source)), known.name


def _is_called_as_a_checkpoint(path: Path) -> bool:
    """A .pth is an archive too: one of which a part is missing is damaged, and has no verdict."""
    others = (one for one in registry.all_formats() if one not in registry.ARCHIVES)
    return path.name.lower().endswith(tuple(suffix for one in others for suffix in one.suffixes))


def _size_of(place: OnDisk, files: list[str]) -> int:
    size = 0
    for file in files:
        with suppress(OSError):  # which is told where it is looked at
            size += os.stat(place.path / file).st_size
    return size
