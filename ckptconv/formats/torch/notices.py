"""What a person should know about a .pth that is written, although nothing is lost."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from ckptconv.core.metadata import NumpyArray, NumpyScalar, spell_path, walk
from ckptconv.core.report import Finding

if TYPE_CHECKING:
    from ckptconv.core.checkpoint import Checkpoint

_REFUSED = (frozenset, defaultdict, NumpyArray, NumpyScalar)
"""Types that torch's `weights_only` unpickler has no constructor for (torch 2.13, _weights_only_unpickler.py)."""


def notices(checkpoint: Checkpoint) -> list[Finding]:
    """A finding for each value that torch.load takes with ``weights_only=False`` alone."""
    found = []
    for path, node in walk(checkpoint.root):
        if isinstance(node, _REFUSED):
            kind = type(node).__name__
            message = f"{spell_path(path) or 'the root'} is a {kind}: torch.load needs weights_only=False for it"
            found.append(Finding("needs-unpickling", "info", spell_path(path), message))
    return found
