"""Slices of tensors in several files, as torch.distributed.checkpoint's HuggingFaceStorageWriter saves them.

    shard-0000R-model-0000M-of-0000K.safetensors
        written by process R, counted from 1: its share of part M of the K parts in its fqn_to_index_mapping

Each is a whole safetensors file (`layout`). Its ``__metadata__`` says where its tensors are in the model's tensors:

    DCP_SHARDING_INFO   JSON: name → {"saved_offsets": index of the slice's first element, along each axis}
    DCP_VERSION         "1.0"

A process writes at most one slice of a tensor, which may have no elements; a tensor that all processes have is written
by one of them. There is no index; tensors are in the order of DCP_SHARDING_INFO. A tensor is as large as its slices
reach, which is how torch reads it.

Refused: parts without a file; files of several such sets; slices that overlap, leave a gap or have different types; two
copies of one slice with different values (found while they are read). Refused by name: slices of types narrower than a
byte; files that begin with a value that is not a tensor, which torch writes and cannot read. A process without a file
gets a warning: it may have had nothing to write. The files do not say how many processes there were, so that files
missing at the end go unnoticed.

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
from ckptconv.formats.safetensors.slice_files import begins_of, read_slice_header, without_begins
from ckptconv.formats.sets import folder_file, shards
from ckptconv.formats.sets.same_values import SameInAll
from ckptconv.formats.sets.shard_names import SLICES
from ckptconv.io.limits import MAX_DIM, MAX_TENSORS
from ckptconv.io.mosaic import Mosaic, Tile, box_text, check_tiling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.io.folder import Folder
    from ckptconv.io.mosaic import Box

NAME = "safetensors-slices"


@dataclass(frozen=True, slots=True, order=True)
class _File:
    """The parts of a file's name: which part of how many, and the process ("shard") that wrote it, both from 1."""

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
    """Whether the folder has a file named like a file of slices, and no file that is a whole checkpoint."""
    return any(map(SLICES.fullmatch, folder.names)) and not folder_file.holds_one(folder)


def read(folder: Folder) -> Checkpoint:
    """Open the folder. Reads the header of each file, but no tensor byte.

    Raises CorruptFileError if a part is missing or slices contradict each other, and what the reader of a single file
    raises.
    """
    files = _slice_files(folder)
    findings = _process_findings(files)
    held: dict[str, list[_Slice]] = {}
    strings = {}
    for file in files:
        source = folder.open(file.name)
        with located(source.path):
            header = read_slice_header(source)
            begins = begins_of(header)
        strings[file.name] = without_begins(header)
        tensors = single.tensors_of(source, header)
        for name, begin in begins.items():
            held.setdefault(name, []).append(_Slice(file.name, begin, tensors[name]))
    if len(held) > MAX_TENSORS:
        raise LimitError(f"it has more than {MAX_TENSORS:,} tensors", path=folder.path)
    tensors = {name: _join(folder, name, slices) for name, slices in held.items()}
    merged = shards.merge_metadata(strings, findings)
    checkpoint = single.assemble(tensors, merged, format=NAME, file=folder, findings=findings)
    checkpoint.notes = replace(checkpoint.notes, source=NAME)
    return checkpoint


def _slice_files(folder: Folder) -> list[_File]:
    """The files of slices, sorted by part and process. Raises CorruptFileError if a part has no file, UsageError."""
    matches = [match for match in map(SLICES.fullmatch, folder.names) if match]
    files = sorted(_File(int(name["part"]), int(name["shard"]), int(name["parts"]), name[0]) for name in matches)
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
        missing = (number for number in range(1, count + 1) if number not in parts)
        gone = [f"shard-…-model-{number:05}-of-{count:05}.safetensors" for number in islice(missing, 5)]
        if count - len(parts) > len(gone):
            gone.append("…")
        raise CorruptFileError(
            f"{count - len(parts):,} of its {count:,} parts missing: {', '.join(gone)}",
            path=folder.path, hint=COPY_ALL_AGAIN,
        )  # fmt: skip
    return files


def _process_findings(files: Sequence[_File]) -> list[Finding]:
    """How many processes wrote the files, and a warning if some files may be missing."""
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


def _join(folder: Folder, name: str, slices: Sequence[_Slice]) -> LazyTensor:
    """The tensor that the slices make up. Raises CorruptFileError, LimitError, UnsupportedError."""
    first = slices[0]
    dtype, rank = first.tensor.info.dtype, len(first.begin)
    for piece in slices:
        own = piece.tensor.info
        if own.dtype != dtype or len(own.shape) != rank:
            conflict = f"{own.dtype} of {len(own.shape)} dimensions, and in {first.file} {dtype} of {rank}"
            raise CorruptFileError(f"{name!r} is {conflict}", path=folder.path / piece.file, hint=COPY_ALL_AGAIN)
    if dtype.bits % 8 and (cut := next((piece for piece in slices if any(piece.begin)), None)):
        raise UnsupportedError(
            f"{name!r} is cut into slices of {dtype}, several elements of which share a byte",
            path=folder.path / cut.file, hint="save it whole, or as bytes",
        )  # fmt: skip
    boxes: dict[Box, list[_Slice]] = {}
    for piece in slices:
        boxes.setdefault(piece.box, []).append(piece)
    shape = tuple(max(piece.begin[i] + piece.tensor.info.shape[i] for piece in slices) for i in range(rank))
    _check_boxes(folder, name, shape, boxes)
    tiles = [_tile(name, copies) for (_, size), copies in boxes.items() if 0 not in size]
    info = TensorInfo.of(dtype, shape)
    if len(tiles) == 1:
        return tiles[0].tensor
    if not tiles:
        return LazyTensor(info, lambda start, stop: memoryview(b""))
    depends = depends_of(tile.tensor for tile in tiles)
    return LazyTensor(info, Mosaic(shape, dtype.bits // 8, tiles), None, (id(folder), name), depends)


def _check_boxes(folder: Folder, name: str, shape: tuple[int, ...], boxes: dict[Box, list[_Slice]]) -> None:
    """Check that the slices fill the shape and do not overlap. Raises CorruptFileError, LimitError."""
    if any(n > MAX_DIM for n in shape):
        raise CorruptFileError(f"{name!r} reaches further than a tensor can", path=folder.path, hint=COPY_ALL_AGAIN)
    try:
        check_tiling(shape, list(boxes))
    except CkptconvError as error:
        lines = [f"{box_text(*box)} in {', '.join(copy.file for copy in copies)}" for box, copies in boxes.items()]
        raise type(error)(
            f"the slices of {name!r} do not make it whole: {error.message}", path=folder.path, hint=COPY_ALL_AGAIN,
            details=first_of(lines),
        ) from error  # fmt: skip


def _tile(name: str, copies: Sequence[_Slice]) -> Tile:
    """A tile for a slice, of which several files may have copies. These are compared when they are read."""
    first = copies[0]
    tensor = first.tensor
    if len(copies) > 1:
        reader = SameInAll(name, tuple((copy.file, copy.tensor) for copy in copies))
        depends = depends_of(copy.tensor for copy in copies)
        tensor = replace(tensor, reader=reader, span=None, depends=depends)
    return Tile(first.begin, tensor.info.shape, tensor)
