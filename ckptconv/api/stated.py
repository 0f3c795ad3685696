"""What a checkpoint's metadata says of its architecture, and where."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.arch.statements import Statement, root_statement, settings_in
from ckptconv.formats.omegaconf import is_settings, plain_settings

if TYPE_CHECKING:
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.metadata import MetaNode, Opaque


def statements_of(checkpoint: Checkpoint) -> tuple[Statement, ...]:
    """What stands at the root of the metadata, and then the settings below it."""
    metadata = dict(checkpoint.metadata)
    return (root_statement(metadata), *settings_in(metadata, _plain))


def _plain(node: Opaque) -> MetaNode:
    return plain_settings(node) if is_settings(node) else node
