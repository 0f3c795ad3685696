"""What a folder is: a tree, items of a checkpoint, or a manager's steps.

    a tree      manifest.ocdbt, _METADATA, or folders of zarr beside a file called checkpoint
    an item     a tree, a document of JSON (metadata/metadata, metrics/metrics), or items again
    items       a folder with _CHECKPOINT_METADATA, or with items in it: state/, params/, default/
    steps       folders whose names end in a number: 1000/, checkpoint_1000/

A folder that is being written has another name until it is whole: ``1000.orbax-checkpoint-tmp``.

Sources: orbax/checkpoint/_src/path (step.py, atomicity.py, format_utils.py), handlers/composite_checkpoint_handler.py,
json_checkpoint_handler.py.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptconv.formats.flax.orbax.ocdbt import MANIFEST
from ckptconv.formats.flax.orbax.zarr import ZARRAY, ZARR_JSON

if TYPE_CHECKING:
    from ckptconv.io.folder import Folder

METADATA = "_METADATA"
CHECKPOINT_METADATA = "_CHECKPOINT_METADATA"
AGGREGATE = "checkpoint"
"""The file of small values that older versions wrote, which is msgpack."""

DOCUMENTS = ("metadata", "metrics")
"""What JsonCheckpointHandler and CheckpointManager call their files."""

UNFINISHED = ".orbax-checkpoint-tmp"
_STEP = re.compile(r"(?:.*_)?(\d{1,19})", re.ASCII)


def is_tree(folder: Folder) -> bool:
    """Whether it holds a tree of arrays."""
    names = folder.names
    if MANIFEST in names or METADATA in names:
        return True
    return AGGREGATE in names and any(
        ZARRAY in inside or ZARR_JSON in inside for inside in (folder.inside(name).names for name in folder.folders)
    )


def document(folder: Folder) -> str | None:
    """The name of the file of JSON that such an item is."""
    return next((name for name in DOCUMENTS if name in folder.names), None)


def items(folder: Folder) -> list[str]:
    """The folders in it that are items, and no checkpoints of their own."""
    inside = [(name, folder.inside(name)) for name in folder.folders if UNFINISHED not in name]
    return [name for name, one in inside if CHECKPOINT_METADATA not in one.names and (document(one) or _has_tree(one))]


def _has_tree(folder: Folder) -> bool:
    return is_tree(folder) or any(is_tree(folder.inside(name)) for name in folder.folders)


def is_checkpoint(folder: Folder) -> bool:
    """Whether it is a tree, or has one among its items."""
    if is_tree(folder) or CHECKPOINT_METADATA in folder.names:
        return True
    inside = [folder.inside(name) for name in folder.folders if UNFINISHED not in name]
    return any(map(is_tree, inside)) and not any(CHECKPOINT_METADATA in one.names for one in inside)


def steps(folder: Folder) -> list[str]:
    """The folders in it that are steps, rising."""
    found = [(int(match[1]), name) for name in folder.folders if (match := _STEP.fullmatch(name))]
    return [name for _, name in sorted(found) if is_checkpoint(folder.inside(name))]


def checkpoints(folder: Folder) -> list[str]:
    """The folders in it that say that they are checkpoints."""
    return [
        name for name in folder.folders if UNFINISHED not in name and CHECKPOINT_METADATA in folder.inside(name).names
    ]
