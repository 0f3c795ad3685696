"""File names of Llama's slices and of Megatron's ranks, and a warning if only one of these files is opened.

See `sets.slices` and `megatron.ranks`.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING

from ckptconv.core.report import Finding

if TYPE_CHECKING:
    from pathlib import Path

    from ckptconv.io.folder import Folder

_FILE = re.compile(r"consolidated\.(\d\d)\.pth")

RANK = re.compile(r"mp_rank_(\d{2,5})(?:_(\d{3,5}))?(_\d{3,5})?")
RANK_FILES = ("model_optim_rng.pt", "model_rng.pt")
"""Megatron's folder for a rank, and the files in it."""


def ranks_in(folder: Folder) -> list[str]:
    """The subfolders that are Megatron ranks, by their names and the files in them."""
    return [name for name in folder.folders if RANK.fullmatch(name) and rank_file(folder, name)]


def rank_file(folder: Folder, name: str) -> str:
    """The file in a rank's folder; "" for none."""
    return next((file for file in RANK_FILES if file in folder.inside(name).names), "")


def file_of(number: int) -> str:
    """The name of a slice."""
    return f"consolidated.{number:02}.pth"


def slices_in(folder: Folder) -> list[str]:
    """The names of the slices in a folder, in order."""
    return [name for name in folder.names if _FILE.fullmatch(name)]


def others_beside(path: Path) -> tuple[Finding, ...]:
    """A warning if a file is named like a slice and another slice is beside it, or if it belongs to one of several
    Megatron ranks.
    """
    if path.name in RANK_FILES and RANK.fullmatch(path.parent.name):
        return _other_ranks(path)
    name = _FILE.fullmatch(path.name)
    if name is None:
        return ()
    other = file_of(0 if int(name[1]) else 1)
    if not os.path.isfile(path.with_name(other)):
        return ()
    message = f"{other} lies beside it: this file may be one slice of a model, and its folder the whole"
    return (Finding("slice", "warning", path.name, message),)


def _other_ranks(path: Path) -> tuple[Finding, ...]:
    own, home = path.parent.name, path.parent.parent
    with suppress(OSError), os.scandir(home) as entries:
        other = next((entry.name for entry in entries if RANK.fullmatch(entry.name) and entry.name != own), None)
        if other is not None:
            message = f"{other} lies beside {own}: this file may be one slice of a model, and {home} the whole"
            return (Finding("slice", "warning", own, message),)
    return ()
