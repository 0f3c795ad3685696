"""Recognises folders: a tree, a checkpoint of several items, or a CheckpointManager's steps.

    a tree       manifest.ocdbt, _METADATA, or zarr folders beside a file called checkpoint
    an item      a tree, a JSON document (metadata/metadata, metrics/metrics), or nested items
    checkpoint   a tree, or a folder with _CHECKPOINT_METADATA or with items: state/, params/, default/
    steps        folders whose names end in a number: 1000/, checkpoint_1000/

A folder has another name until it is completely written: ``1000.orbax-checkpoint-tmp``.

Sources: orbax/checkpoint/_src/path (step.py, atomicity.py, format_utils.py), handlers/composite_checkpoint_handler.py,
json_checkpoint_handler.py.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptconv.formats.flax.orbax.ocdbt import MANIFEST
from ckptconv.formats.flax.orbax.zarr import ZARR_JSON, ZARRAY

if TYPE_CHECKING:
    from ckptconv.io.folder import Folder

METADATA = "_METADATA"
CHECKPOINT_METADATA = "_CHECKPOINT_METADATA"
AGGREGATE = "checkpoint"
"""The msgpack file with small values that older versions write."""

DOCUMENTS = ("metadata", "metrics")
"""The file names of JsonCheckpointHandler and CheckpointManager."""

UNFINISHED = ".orbax-checkpoint-tmp"
_STEP = re.compile(r"(?:.*_)?(\d{1,19})", re.ASCII)


def is_tree(folder: Folder) -> bool:
    """Whether the folder is a tree of arrays."""
    names = folder.names
    if MANIFEST in names or METADATA in names:
        return True
    return AGGREGATE in names and any(
        ZARRAY in inside or ZARR_JSON in inside for inside in (folder.inside(name).names for name in folder.folders)
    )


def document(folder: Folder) -> str | None:
    """The name of the JSON file, if the folder is such an item."""
    return next((name for name in DOCUMENTS if name in folder.names), None)


def items(folder: Folder) -> list[str]:
    """The names of folders inside that are items, and not checkpoints of their own."""
    inner = [(name, folder.inside(name)) for name in folder.folders if UNFINISHED not in name]
    return [
        name for name, item in inner if CHECKPOINT_METADATA not in item.names and (document(item) or _has_tree(item))
    ]


def _has_tree(folder: Folder) -> bool:
    return is_tree(folder) or any(is_tree(folder.inside(name)) for name in folder.folders)


def is_checkpoint(folder: Folder) -> bool:
    """Whether the folder is a checkpoint: a tree, or a folder with items, one of which is a tree."""
    if is_tree(folder) or CHECKPOINT_METADATA in folder.names:
        return True
    inner = [folder.inside(name) for name in folder.folders if UNFINISHED not in name]
    return any(map(is_tree, inner)) and not any(CHECKPOINT_METADATA in item.names for item in inner)


def steps(folder: Folder) -> list[str]:
    """The names of folders inside that are steps, oldest first."""
    found = [(int(match[1]), name) for name in folder.folders if (match := _STEP.fullmatch(name))]
    return [name for _, name in sorted(found) if is_checkpoint(folder.inside(name))]


def checkpoints(folder: Folder) -> list[str]:
    """The names of folders inside that are marked as checkpoints."""
    return [
        name for name in folder.folders if UNFINISHED not in name and CHECKPOINT_METADATA in folder.inside(name).names
    ]
