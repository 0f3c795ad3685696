"""Which files of a folder are a DeepSpeed checkpoint, and the rank of each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.errors import COPY_ALL_AGAIN, CkptconvError, CorruptFileError, UnsupportedError, UsageError
from ckptconv.io.source import Source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.io.folder import Folder

LATEST = ("latest", "latest_universal")
SCRIPT = "zero_to_fp32.py"
"""The script that DeepSpeed copies beside the tags."""

USUAL = "global_step"
"""The start of DeepSpeed's default tags."""

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

_NAME = "name the folder of a tag, such as global_step500"
_MERGE = "ds_to_universal.py, which DeepSpeed has, joins the parts; then name the folder that it writes"


@dataclass(frozen=True, slots=True)
class Files:
    """The names of a tag's files, in the order of their ranks.

    model:     only one if the parameters are not divided among the ranks.
    optimizer: one for each rank, or none.
    universal: whether each parameter has a folder of its own (`universal`); then there are no optimizer files.
    """

    model: Sequence[str]
    optimizer: Sequence[str]
    universal: bool


def _is_tag(folder: Folder) -> bool:
    """Whether the folder has files named like those of a DeepSpeed checkpoint."""
    return any(pattern.fullmatch(name) for name in folder.names for pattern in _ANY)


def claims(folder: Folder) -> bool:
    """Whether this is a tag's folder, or the folder above, with a file that names the latest tag."""
    if _is_tag(folder):
        return True
    if not any(name in folder.names for name in LATEST):
        return False
    try:
        tag = _read_tag(folder)
        ours = tag.startswith(USUAL) or (tag in folder.folders and _is_tag(folder.inside(tag)))
    except CkptconvError:
        ours = False
    return ours or SCRIPT in folder.names


def tag_folder(folder: Folder) -> Folder:
    """The folder itself if it is a tag's, or the one that ``latest`` names. Raises CorruptFileError, UsageError."""
    if _is_tag(folder):
        return folder
    tag = _read_tag(folder)
    if tag not in folder.folders:
        raise CorruptFileError(
            f"{_pointer(folder)!r} says that the checkpoint is in {tag!r}, and there is no such folder",
            path=folder.path, hint="copy that folder as well, or name another tag's folder",
        )  # fmt: skip
    found = folder.inside(tag)
    if not _is_tag(found):
        raise CorruptFileError(
            "there is no file of a DeepSpeed checkpoint in this folder", path=found.path, hint=COPY_ALL_AGAIN
        )
    return found


def _pointer(folder: Folder) -> str:
    """The file that names the latest tag. Raises UsageError."""
    for name in LATEST:
        if name in folder.names:
            return name
    raise UsageError("there is no file of a DeepSpeed checkpoint in this folder, and no 'latest'", hint=_NAME)


def _read_tag(folder: Folder) -> str:
    """The latest tag, which must be a plain name. Raises CorruptFileError, UsageError."""
    pointer = _pointer(folder)
    with Source(folder.path / pointer) as source:
        data = bytes(source.read_at(0, min(source.size, MAX_TAG)))
    tag = data.decode("utf-8", "replace").strip()
    if not tag or not tag.isprintable() or tag in (".", "..") or any(mark in tag for mark in "/\\"):
        raise CorruptFileError(
            f"{pointer!r} says {tag[:80]!r}, which is not a name of a folder beside it", path=folder.path, hint=_NAME
        )
    return tag


def files_of(folder: Folder) -> Files:
    """The files by rank. Raises UnsupportedError for what is refused by name, CorruptFileError if one is missing."""
    universal = UNIVERSAL in folder.folders and not any(map(OPTIMIZER.fullmatch, folder.names))
    _refuse(folder, parts=universal)
    model = _by_rank(folder, MODEL)
    if not model:
        message = "the folder has no model_states file, which says what the tensors are"
        raise CorruptFileError(message, path=folder.path, hint=COPY_ALL_AGAIN)
    return Files(model, _by_rank(folder, OPTIMIZER), universal)


def _by_rank(folder: Folder, pattern: re.Pattern[str]) -> list[str]:
    """Files of one kind, sorted by mp_rank and then by rank. Raises CorruptFileError if there is a gap."""
    found: dict[tuple[int, int], str] = {}
    for name in folder.names:
        if match := pattern.fullmatch(name):
            place = int(match["part"]), int(match["rank"] or 0)
            if place in found:
                raise CorruptFileError(
                    f"two checkpoints lie in this folder: {found[place]!r} and {name!r} are of the same rank",
                    path=folder.path, hint="move the files of one of them elsewhere",
                )  # fmt: skip
            found[place] = name
    parts, ranks = ({place[axis] for place in found} for axis in (0, 1))
    for part in range(len(parts)):
        for rank in range(len(ranks)):
            if (part, rank) not in found:
                shown = f"there is {found[max(found)]!r}, and no such file of rank {rank}"
                shown += f" and mp_rank {part}" if len(parts) > 1 else ""
                raise CorruptFileError(shown, path=folder.path, hint=COPY_ALL_AGAIN)
    return [found[place] for place in sorted(found)]


def _refuse(folder: Folder, *, parts: bool) -> None:
    """Refuse what is not read, by name. `parts`: whether several mp_ranks are allowed."""
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
            if match and int(match["part"]) and not parts:
                raise UnsupportedError(
                    f"the tensors of this checkpoint are cut for tensor parallelism ({name}), how is not in it",
                    path=folder.path, hint=_MERGE,
                )  # fmt: skip
    if OFFLOADED in folder.folders:
        raise UnsupportedError(
            f"the optimizer's part of this checkpoint was on NVMe ({OFFLOADED}/), in files without a format",
            path=folder.path, hint="save it without offloading to NVMe",
        )  # fmt: skip
