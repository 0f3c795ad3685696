"""What the user should know about a .pth that is written, although nothing is lost."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from ckptconv.core.metadata import Key, MetaNode, NumpyArray, NumpyScalar, Opaque, children, spell_path
from ckptconv.core.report import Finding
from ckptconv.formats.targets.plain import as_plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.core.checkpoint import Checkpoint

_REFUSED = {frozenset: "frozenset", defaultdict: "defaultdict", NumpyArray: "numpy array", NumpyScalar: "numpy scalar"}
"""Types that torch's `weights_only` unpickler refuses (torch 2.13, _weights_only_unpickler.py)."""


def notices(checkpoint: Checkpoint) -> list[Finding]:
    """A finding if torch.load needs ``weights_only=False`` for some values; it names the first."""
    refused = [(path, _REFUSED[type(node)]) for path, node in _written(checkpoint.root, ()) if type(node) in _REFUSED]
    if not refused:
        return []
    path, kind = refused[0]
    where, more = spell_path(path), f", and so for {len(refused) - 1:,} more" if len(refused) > 1 else ""
    message = f"{where or 'the root'} is a {kind}: torch.load needs weights_only=False for it{more}"
    return [Finding("needs-unpickling", "info", where, message)]


def _written(node: MetaNode, path: tuple[Key, ...]) -> Iterator[tuple[tuple[Key, ...], MetaNode]]:
    """The nodes that are written, parents first, each with its path."""
    if isinstance(node, Opaque):
        node = as_plain(node)
    yield path, node
    for key, child in children(node):
        yield from _written(child, (*path, key))
