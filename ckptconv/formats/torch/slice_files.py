"""What the files of a model in slices are called, and a word to whoever names one of them: see `slices`."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from ckptconv.core.report import Finding

if TYPE_CHECKING:
    from pathlib import Path

    from ckptconv.io.folder import Folder

_FILE = re.compile(r"consolidated\.(\d\d)\.pth")


def file_of(number: int) -> str:
    """The name of a slice."""
    return f"consolidated.{number:02}.pth"


def slices_in(folder: Folder) -> list[str]:
    """The slices in a folder, in their order."""
    return [name for name in folder.names if _FILE.fullmatch(name)]


def others_beside(path: Path) -> tuple[Finding, ...]:
    """A warning where a file is called like the first slice and the second lies beside it, or the other way round."""
    called = _FILE.fullmatch(path.name)
    if called is None:
        return ()
    other = file_of(0 if int(called[1]) else 1)
    if not os.path.isfile(path.with_name(other)):
        return ()
    message = f"{other} lies beside it: this file may be one slice of a model, and its folder the whole"
    return (Finding("slice", "warning", path.name, message),)
