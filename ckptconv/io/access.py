"""Differences between operating systems in writing files, and their errors as ours."""

from __future__ import annotations

import errno
import re
import sys
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from ckptconv.errors import FileAccessError
from ckptconv.io.source import reason

if TYPE_CHECKING:
    from pathlib import Path


HELD_BY_HANDLES = sys.platform == "win32"
"""Whether an open file can be neither removed nor renamed, so that being open serves as its lock. Folders can be
neither opened nor locked there.
"""


_SPECIAL_NAMES = re.compile(
    r"""(?:CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(?:COM|LPT)[0-9\u00b9\u00b2\u00b3])\s*(?:\..*)?"""
    r"""|.*[<>:"|?*\\\x00-\x1f].*|.*[. ]""",
    re.IGNORECASE | re.DOTALL,
)
"""Names that Windows takes for a device, another drive, a stream of another file or a path, or that it shortens.

Source: learn.microsoft.com, Naming Files, Paths, and Namespaces.
"""


def leads_elsewhere(path: str) -> bool:
    """Whether a relative path from a source means something else on this system: on Windows, ``C:x`` or ``NUL``."""
    return HELD_BY_HANDLES and any(_SPECIAL_NAMES.fullmatch(part) for part in PurePosixPath(path).parts)


class translated:
    """A context manager that turns the operating system's errors into FileAccessErrors with a hint."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        match error:
            case OSError():
                raise FileAccessError(f"cannot write: {reason(error)}", path=self.path, hint=_hint(error)) from error
            case ValueError():
                raise FileAccessError(f"cannot write: {error}", path=self.path, hint="check the path") from error


def _hint(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some space, or write to another disk"
    if error.errno == errno.ELOOP:
        return "the link leads in a circle: remove it"
    if error.errno == errno.ENAMETOOLONG:
        return "give it a shorter name"
    if HELD_BY_HANDLES and isinstance(error, PermissionError):
        return "check the folder; a file that is open cannot be replaced: close what has it open, or write another"
    return "check the folder"
