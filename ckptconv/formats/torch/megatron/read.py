"""Finding Megatron's checkpoint in a folder, and choosing the reader for its kind."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptconv.core import strict_json
from ckptconv.errors import CkptconvError, CorruptFileError, UnsupportedError, located
from ckptconv.formats.torch.containers.slice_files import ranks_in
from ckptconv.formats.torch.dcp import MAIN

if TYPE_CHECKING:
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.io.folder import Folder

LATEST, BACKEND = "latest_checkpointed_iteration.txt", "metadata.json"

_MAX_SIZE = 1 << 12
_TAG = re.compile(r"\d{1,12}|release")


def claims(folder: Folder) -> bool:
    """Whether the folder is a Megatron checkpoint, or the folder above several."""
    if LATEST in folder.names or ranks_in(folder):
        return True
    return _is_distributed(folder) or _is_zarr(folder)


def read(folder: Folder) -> Checkpoint:
    """Open the checkpoint in this folder, or the newest one below it. Reads listings and pickles, but no byte of a
    tensor.

    Raises CorruptFileError, LimitError, UnsupportedError, UnsafeError, FileAccessError, with the file's path.
    """
    if LATEST not in folder.names:
        return _open_checkpoint(folder, folder)
    text = folder.open(LATEST).read_all(_MAX_SIZE).decode("utf-8", "replace").strip()
    if not _TAG.fullmatch(text):
        raise CorruptFileError(
            f"{LATEST!r} says {text[:40]!r}, which is not an iteration", path=folder.path,
            hint="name the folder of an iteration",
        )  # fmt: skip
    name = text if text == "release" else f"iter_{int(text):07}"
    if name not in folder.folders:
        raise CorruptFileError(
            f"{LATEST!r} says {text!r}, and there is no folder {name!r}", path=folder.path,
            hint="name the folder of an iteration, or copy that one too",
        )  # fmt: skip
    return _open_checkpoint(folder, folder.inside(name))


def _open_checkpoint(outer: Folder, folder: Folder) -> Checkpoint:
    """Read the checkpoint in `folder`; `outer` is closed with it."""
    from ckptconv.formats.torch.megatron import dist, ranks  # `claims` is called for every folder, and needs neither

    with located(folder.path):
        if _is_zarr(folder):
            raise UnsupportedError(
                "its tensors are stored by zarr, as older releases of Megatron-Core did",
                hint="load it with that, and save it with the backend torch_dist",
            )
        return dist.read(outer, folder) if _is_distributed(folder) else ranks.read(outer, folder)


def _is_distributed(folder: Folder) -> bool:
    return MAIN in folder.names and _backend(folder) == "torch_dist"


def _is_zarr(folder: Folder) -> bool:
    return MAIN not in folder.names and _backend(folder) == "zarr"


def _backend(folder: Folder) -> object:
    """The storage backend that the folder states; None if it states none."""
    if BACKEND not in folder.names:
        return None
    try:
        document = strict_json.loads(folder.open(BACKEND).read_all(_MAX_SIZE))
    except (CkptconvError, ValueError):
        return None
    return document.get("sharded_backend") if isinstance(document, dict) else None
