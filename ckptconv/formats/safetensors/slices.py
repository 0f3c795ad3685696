"""Slices of tensors in several files, as torch.distributed.checkpoint's HuggingFaceStorageWriter saves them.

    shard-0000R-model-0000M-of-0000K.safetensors
        what process R, from 1 on, wrote of part M of the K that its fqn_to_index_mapping names

Each is a whole safetensors file (`layout`), and says in its ``__metadata__`` where its tensors lie in the model's:

    DCP_SHARDING_INFO   JSON: name → {"saved_offsets": index of the slice's first element, along each axis}
    DCP_VERSION         "1.0"

A process writes at most one slice of a tensor, which may have no elements; what all processes have, one of them writes.
There is no index; the order of the tensors is that of DCP_SHARDING_INFO. The whole of a tensor is as large as its
slices reach, which is how torch reads it.

Refused: parts without a file, files of several such sets, slices that overlap, leave a gap, are of different types, or
are the same and have other values (found while they are read). By name: slices of types below a byte; files that begin
with a value that is not a tensor, which torch writes and cannot read. Told: a process without a file, which may have
had nothing to write. The files do not say how many processes there were, so that the last one's are not missed.

Source: torch/distributed/checkpoint/ (hf_storage.py, _hf_utils.py, _consolidate_hf_safetensors.py, filesystem.py) of
torch 2.13.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from ckptconv.core.report import Finding
from ckptconv.core.tensor import LazyTensor, TensorInfo, depends_of
from ckptconv.core.text import plural, quoted
from ckptconv.errors import (
    COPY_ALL_AGAIN,
    CkptconvError,
    CorruptFileError,
    LimitError,
    UnsupportedError,
    UsageError,
    first_of,
    located,
)
from ckptconv.formats.safetensors import read as single
from ckptconv.formats.safetensors.slice_files import begins_of, opened, without_begins
from ckptconv.formats.sets import folder_file, shards
from ckptconv.formats.sets.same_values import SameInAll
from ckptconv.formats.sets.shard_names import SLICES
from ckptconv.io.limits import MAX_DIM, MAX_TENSORS
from ckptconv.io.mosaic import Mosaic, Tile, box_text, check_tiling

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.io.folder import Folder
    from ckptconv.io.mosaic import Box

NAME = "safetensors-slices"


@dataclass(frozen=True, slots=True, order=True)
class _File:
    """What a file's name says: the part, and the process that wrote it; both count from 1."""

    part: int
    shard: int
    parts: int
    name: str


@dataclass(frozen=True, slots=True)
class _Slice:
    """A file's slice of a tensor, and where it begins."""

    file: str
    begin: tuple[int, ...]
    tensor: LazyTensor

    @property
    def box(self) -> Box:
        return self.begin, self.tensor.info.shape


def claims(folder: Folder) -> bool:
    """Whether there is a file in it that is called as those of slices, and no other that stands for the folder."""
    return any(map(SLICES.fullmatch, folder.names)) and not folder_file.holds_one(folder)


def read(folder: Folder) -> Checkpoint:
    """Open the folder: the header of each file; no tensor byte.

    Raises CorruptFileError where a part is missing or slices contradict each other, and what a file alone raises.
    """
    files = _files(folder)
    findings = _absent(files)
    held: dict[str, list[_Slice]] = {}
    strings = {}
    for file in files:
        source = folder.open(file.name)
        with located(source.path):
            header = opened(source)
            begins = begins_of(header)
        strings[file.name] = without_begins(header)
        tensors = single.tensors_of(source, header)
        for name, begin in begins.items():
            held.setdefault(name, []).append(_Slice(file.name, begin, tensors[name]))
    if len(held) > MAX_TENSORS:
        raise LimitError(f"it has more than {MAX_TENSORS:,} tensors", path=folder.path)
    whole = {name: _whole(folder, name, slices) for name, slices in held.items()}
    found = single.assemble(whole, shards.merged(strings, findings), format=NAME, file=folder, findings=findings)
    found.notes = replace(found.notes, source=NAME)
    return found


def _files(folder: Folder) -> list[_File]:
    """The files of slices, by part and process. Raises CorruptFileError where a part has none, UsageError."""
    found = [match for match in map(SLICES.fullmatch, folder.names) if match]
    files = sorted(_File(int(one["part"]), int(one["shard"]), int(one["parts"]), one[0]) for one in found)
    if not files:
        raise UnsupportedError(
            "there is no shard-00001-model-00001-of-0000N.safetensors in this folder", path=folder.path,
            hint="name a file in it",
        )  # fmt: skip
    count = files[0].parts
    if other := next((file for file in files if file.parts != count), None):
        raise UsageError(
            f"the folder holds files of several checkpoints, such as {quoted([files[0].name, other.name])}",
            path=folder.path, hint="leave those of one in it",
        )  # fmt: skip
    if strange := next((file for file in files if not 1 <= file.part <= count or not file.shard), None):
        path = folder.path / strange.name
        raise CorruptFileError("there can be no file of that number", path=path, hint=COPY_ALL_AGAIN)
    parts = {file.part for file in files}
    if len(parts) < count:
        gone = [f"shard-…-model-{n:05}-of-{count:05}.safetensors" for n in islice(_lacking(parts, count), 5)]
        gone += ["…"] * (count - len(parts) > len(gone))
        raise CorruptFileError(
            f"{count - len(parts):,} of its {count:,} parts missing: {', '.join(gone)}",
            path=folder.path, hint=COPY_ALL_AGAIN,
        )  # fmt: skip
    return files


def _lacking(parts: set[int], count: int) -> Iterator[int]:
    return (number for number in range(1, count + 1) if number not in parts)


def _absent(files: Sequence[_File]) -> list[Finding]:
    """Whose files it is put together from, and a warning where others may be missing."""
    count, last = files[0].parts, max(file.shard for file in files)
    there = {(file.shard, file.part) for file in files}
    several = plural(len({file.shard for file in files}), "process", "processes")
    message = f"put together from the files of {several}; none says how many there were"
    findings = [Finding("slices", "info", "", message)]
    if missing := last * count - len(there):
        every = ((shard, part) for shard in range(1, last + 1) for part in range(1, count + 1))
        first = islice((pair for pair in every if pair not in there), 3)
        names = [f"shard-{shard:05}-model-{part:05}-of-{count:05}.safetensors" for shard, part in first]
        and_more = f" and {missing - 3:,} more" if missing > 3 else ""
        message = f"not here, lost or never written because there was nothing to write: {', '.join(names)}{and_more}"
        findings.append(Finding("missing-slices", "warning", names[0], message))
    return findings


def _whole(folder: Folder, name: str, slices: Sequence[_Slice]) -> LazyTensor:
    """The tensor that the slices make. Raises CorruptFileError, LimitError, UnsupportedError."""
    first = slices[0]
    dtype, rank = first.tensor.info.dtype, len(first.begin)
    for one in slices:
        own = one.tensor.info
        if own.dtype != dtype or len(own.shape) != rank:
            said = f"{own.dtype} of {len(own.shape)} dimensions, and in {first.file} {dtype} of {rank}"
            raise CorruptFileError(f"{name!r} is {said}", path=folder.path / one.file, hint=COPY_ALL_AGAIN)
    if dtype.bits % 8 and (cut := next((one for one in slices if any(one.begin)), None)):
        raise UnsupportedError(
            f"{name!r} is cut into slices of {dtype}, several elements of which share a byte",
            path=folder.path / cut.file, hint="save it whole, or as bytes",
        )  # fmt: skip
    boxes: dict[Box, list[_Slice]] = {}
    for one in slices:
        boxes.setdefault(one.box, []).append(one)
    shape = tuple(max(one.begin[i] + one.tensor.info.shape[i] for one in slices) for i in range(rank))
    _check(folder, name, shape, boxes)
    tiles = [_tile(name, same) for (_, size), same in boxes.items() if 0 not in size]
    info = TensorInfo.of(dtype, shape)
    if len(tiles) == 1:
        return tiles[0].tensor
    if not tiles:
        return LazyTensor(info, lambda start, stop: memoryview(b""))
    depends = depends_of(tile.tensor for tile in tiles)
    return LazyTensor(info, Mosaic(shape, dtype.bits // 8, tiles), None, (id(folder), name), depends)


def _check(folder: Folder, name: str, shape: tuple[int, ...], boxes: dict[Box, list[_Slice]]) -> None:
    """Whether the slices fill the shape and do not overlap. Raises CorruptFileError, LimitError."""
    if any(n > MAX_DIM for n in shape):
        raise CorruptFileError(f"{name!r} reaches further than a tensor can", path=folder.path, hint=COPY_ALL_AGAIN)
    try:
        check_tiling(shape, list(boxes))
    except CkptconvError as error:
        lines = [f"{box_text(*box)} in {', '.join(one.file for one in same)}" for box, same in boxes.items()]
        raise type(error)(
            f"the slices of {name!r} do not make it whole: {error.message}", path=folder.path, hint=COPY_ALL_AGAIN,
            details=first_of(lines),
        ) from error  # fmt: skip


def _tile(name: str, same: Sequence[_Slice]) -> Tile:
    """One slice, or one that several files have."""
    first = same[0]
    tensor = first.tensor
    if len(same) > 1:
        reader = SameInAll(name, tuple((one.file, one.tensor) for one in same))
        depends = depends_of(one.tensor for one in same)
        tensor = replace(tensor, reader=reader, span=None, depends=depends)
    return Tile(first.begin, tensor.info.shape, tensor)
