"""sentence-transformers folders: the weights in the folder itself are those of the first module alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.report import Finding
from ckptconv.core.text import quoted
from ckptconv.formats.sentence_transformers import MODULES
from ckptconv.formats.sets.shard_names import ALONE

if TYPE_CHECKING:
    from ckptconv.io.folder import Folder

MOST_MODULES = 64
"""The most subfolders that are listed; sentence-transformers makes a handful."""


def other_module_findings(folder: Folder) -> list[Finding]:
    """A finding if subfolders have weights of their own. Lists the subfolders, and opens no file in them."""
    if MODULES not in folder.names:
        return []
    found = [name for name in folder.folders[:MOST_MODULES] if any(map(ALONE.fullmatch, folder.inside(name).names))]
    if not found:
        return []
    message = f"{MODULES} lists other modules, whose weights are checkpoints of their own: {quoted(found)}"
    return [Finding("modules", "info", found[0], message, hint=f"name {folder.path / found[0]} for the first")]
