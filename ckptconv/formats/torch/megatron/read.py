"""Which folder of Megatron's is meant, and of which kind it is."""

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

_MOST = 1 << 12
_TAG = re.compile(r"\d{1,12}|release")


def claims(folder: Folder) -> bool:
    """Whether it is a checkpoint of Megatron's, or the folder above several."""
    if LATEST in folder.names or ranks_in(folder):
        return True
    return _is_distributed(folder) or _is_of_zarr(folder)


def read(folder: Folder) -> Checkpoint:
    """Open the checkpoint that is this folder, or the newest in it: listings and pickles; no byte of a tensor.

    Raises CorruptFileError, LimitError, UnsupportedError, UnsafeError, FileAccessError, which name the file.
    """
    if LATEST not in folder.names:
        return _opened(folder, folder)
    text = folder.open(LATEST).read_all(_MOST).decode("utf-8", "replace").strip()
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
    return _opened(folder, folder.inside(name))


def _opened(outer: Folder, folder: Folder) -> Checkpoint:
    """`outer` is what is closed with the checkpoint."""
    from ckptconv.formats.torch.megatron import dist, ranks  # every folder is asked whether it is one of Megatron's

    with located(folder.path):
        if _is_of_zarr(folder):
            raise UnsupportedError(
                "its tensors are stored by zarr, as older releases of Megatron-Core did",
                hint="load it with that, and save it with the backend torch_dist",
            )
        return dist.read(outer, folder) if _is_distributed(folder) else ranks.read(outer, folder)


def _is_distributed(folder: Folder) -> bool:
    return MAIN in folder.names and _backend(folder) == "torch_dist"


def _is_of_zarr(folder: Folder) -> bool:
    return MAIN not in folder.names and _backend(folder) == "zarr"


def _backend(folder: Folder) -> object:
    """How its tensors are stored, by its own word; None where it does not say."""
    if BACKEND not in folder.names:
        return None
    try:
        said = strict_json.loads(folder.open(BACKEND).read_all(_MOST))
    except (CkptconvError, ValueError):
        return None
    return said.get("sharded_backend") if isinstance(said, dict) else None
