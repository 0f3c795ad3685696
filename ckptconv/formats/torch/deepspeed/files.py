"""Which files of a folder are a checkpoint of DeepSpeed's, and of which rank each is."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.errors import CkptconvError, CorruptFileError, UnsupportedError, UsageError
from ckptconv.io.folder import Folder
from ckptconv.io.source import Source

if TYPE_CHECKING:
    from collections.abc import Mapping

LATEST = "latest"
SCRIPT = "zero_to_fp32.py"
"""What DeepSpeed copies beside ``latest``."""

MAX_TAG = 4096

MODEL = re.compile(r"(?:zero_pp_rank_(?P<rank>\d{1,6})_)?mp_rank_(?P<part>\d{1,6})_model_states\.pt", re.ASCII)
OPTIMIZER = re.compile(
    r"(?:bf16_|fp16_)?zero_pp_rank_(?P<rank>\d{1,6})_mp_rank_(?P<part>\d{1,6})_optim_states\.pt", re.ASCII
)
_LAYER = re.compile(r"layer_\d+-.*model_states\.pt", re.ASCII)
_EXPERT = re.compile(r"(?:layer_\d+_)?expert_\d+_.*model_states\.pt|expp_rank_\d+_.*optim_states\.pt", re.ASCII)
_ANY = (MODEL, OPTIMIZER, _LAYER, _EXPERT)

UNIVERSAL = "zero"
OFFLOADED = "offloaded_tensors"

COPY_AGAIN = "copy the checkpoint again from where it came, all of its files"
_MERGE = "ds_to_universal.py, which DeepSpeed has, joins the parts; then name the folder that it writes"


@dataclass(frozen=True, slots=True)
class Files:
    """The files of a tag, by rank.

    model:     {0: name} where the parameters are not partitioned.
    stage3:    whether they are, so that each rank has a file of its own.
    """

    folder: Folder
    model: Mapping[int, str]
    optimizer: Mapping[int, str]
    stage3: bool


def is_tag(folder: Folder) -> bool:
    """Whether there are files in it that are called as DeepSpeed calls a checkpoint's."""
    return any(pattern.fullmatch(name) for name in folder.names for pattern in _ANY)


def claims(folder: Folder) -> bool:
    """Whether this is the folder of a tag, or the folder above, with the file ``latest``."""
    if is_tag(folder):
        return True
    if LATEST not in folder.names:
        return False
    try:
        tag = _read_tag(folder)
        return SCRIPT in folder.names or is_tag(Folder(folder.path / tag))
    except CkptconvError:
        return SCRIPT in folder.names


def tag_folder(folder: Folder) -> Folder:
    """The folder itself, or that of the tag which its ``latest`` names. Raises CorruptFileError, UsageError."""
    if is_tag(folder):
        return folder
    if LATEST not in folder.names:
        raise UsageError(
            "there is no file of a DeepSpeed checkpoint in this folder, and no 'latest'", path=folder.path,
            hint="name the folder of a tag, such as global_step500",
        )  # fmt: skip
    tag = _read_tag(folder)
    path = folder.path / tag
    if not os.path.isdir(path):
        raise CorruptFileError(
            f"'latest' says that the checkpoint is in {tag!r}, and there is no such folder", path=folder.path / LATEST,
            hint="copy that folder as well, or name another tag's folder",
        )  # fmt: skip
    found = Folder(path)
    if not is_tag(found):
        raise CorruptFileError("there is no file of a DeepSpeed checkpoint in this folder", path=path, hint=COPY_AGAIN)
    return found


def _read_tag(folder: Folder) -> str:
    """What ``latest`` says: a plain name. Raises CorruptFileError."""
    with Source(folder.path / LATEST) as source:
        data = bytes(source.read_at(0, min(source.size, MAX_TAG)))
    tag = data.decode("utf-8", "replace").strip()
    if not tag or not tag.isprintable() or tag in (".", "..") or any(mark in tag for mark in "/\\"):
        raise CorruptFileError(
            f"'latest' says {tag[:80]!r}, which is no name of a folder beside it", path=folder.path / LATEST,
            hint="name the folder of a tag, such as global_step500",
        )  # fmt: skip
    return tag


def files_of(folder: Folder) -> Files:
    """The files by rank. Raises UnsupportedError for what is refused by name, CorruptFileError where one is missing."""
    _refuse(folder)
    model, optimizer = _by_rank(folder, MODEL), _by_rank(folder, OPTIMIZER)
    if not model:
        raise CorruptFileError(
            "the folder has no model_states file, which says what the tensors are", path=folder.path, hint=COPY_AGAIN
        )
    stage3 = any(name.startswith("zero_pp_rank_") for name in model.values())
    return Files(folder, model, optimizer, stage3)


def _by_rank(folder: Folder, pattern: re.Pattern[str]) -> dict[int, str]:
    """Files of a kind, in the order of their ranks, which have no gap."""
    found: dict[int, str] = {}
    for name in folder.names:
        if match := pattern.fullmatch(name):
            rank = int(match["rank"] or 0)
            if rank in found:
                raise CorruptFileError(
                    f"two checkpoints lie in this folder: {found[rank]!r} and {name!r} are of the same rank",
                    path=folder.path, hint="move the files of one of them elsewhere",
                )  # fmt: skip
            found[rank] = name
    missing = next((rank for rank in range(len(found)) if rank not in found), None)
    if missing is not None:
        last = max(found)
        raise CorruptFileError(
            f"there is {found[last]!r}, and no such file of rank {missing}", path=folder.path, hint=COPY_AGAIN
        )
    return dict(sorted(found.items()))


def _refuse(folder: Folder) -> None:
    names = folder.names
    if layer := next(filter(_LAYER.fullmatch, names), None):
        raise UnsupportedError(
            f"this is a checkpoint of a pipeline, a file for each layer ({layer}), whose names are not in it",
            path=folder.path, hint="load it with DeepSpeed's PipelineModule, and save its state_dict()",
        )  # fmt: skip
    if expert := next(filter(_EXPERT.fullmatch, names), None):
        raise UnsupportedError(
            f"the experts of this checkpoint are in files of their own ({expert}), which are not put together",
            path=folder.path, hint="load it with DeepSpeed, and save the module's state_dict()",
        )  # fmt: skip
    for pattern in (MODEL, OPTIMIZER):
        for name in names:
            match = pattern.fullmatch(name)
            if match and int(match["part"]):
                raise UnsupportedError(
                    f"the tensors of this checkpoint are cut for tensor parallelism ({name}), how is not in it",
                    path=folder.path, hint=_MERGE,
                )  # fmt: skip
    if os.path.isdir(folder.path / OFFLOADED):
        raise UnsupportedError(
            f"the optimizer's part of this checkpoint was on NVMe ({OFFLOADED}/), in files without a format",
            path=folder.path, hint="save it without offloading to NVMe",
        )  # fmt: skip
