"""Models released in slices, as Meta releases Llama: a file for each process, with a part of every matrix.

    consolidated.00.pth   consolidated.01.pth …   each a torch.save archive of a state_dict, all with the same names
    params.json           how many heads there are; checklist.chk, tokenizer.model: not needed

    matrix                       cut by    fairscale class
    wq wk wv  w1 w3  output      rows      ColumnParallelLinear
    wo  w2                       columns   RowParallelLinear
    tok_embeddings               columns   ParallelEmbedding, in Llama 1 and 2
                                 rows      VocabParallelEmbedding, since Llama 3; the length of norm.weight tells which
    norms, rope.freqs            not cut   each file has all of them, and they have to be equal

The slices of a matrix have the same size. Those of wq have ``dim`` rows together, which tells how many files there are.
A folder with a single such file is read as that file.

Refused: a slice that is missing or one too many, names that one file lacks, shapes and element types that do not fit
together, values that should be equal and are not (found while they are read). Refused by name: tensors that are not in
the table, as in the releases of Llama 3.2 Vision and Llama 4; 8-bit weights with scales in separate files.

Sources: meta-llama/llama and meta-llama/llama3, llama/model.py; meta-llama/llama-models, models/checkpoint.py
(`reshard_mp`); fairscale/nn/model_parallel/layers.py; transformers' convert_llama_weights_to_hf.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NoReturn

from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.metadata import StateDict
from ckptconv.core.notes import Notes
from ckptconv.core.report import Finding
from ckptconv.core.tensor import LazyTensor, TensorInfo, depends_of
from ckptconv.errors import COPY_ALL_AGAIN, CorruptFileError, UnsupportedError, located
from ckptconv.formats.sets import folder_file
from ckptconv.formats.sets.same_values import SameInAll
from ckptconv.formats.torch.containers import zip_archive as single
from ckptconv.formats.torch.containers.slice_files import file_of, slices_in
from ckptconv.io.mosaic import Mosaic, Tile

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from ckptconv.io.folder import Folder
    from ckptconv.io.source import Source

NAME = "torch-slices"

ROWS, COLUMNS = 0, 1

_EMBEDDING = "tok_embeddings.weight"
_WQ = ".attention.wq.weight"

_AXES: dict[str, int | None] = {
    **dict.fromkeys((f"attention.{part}.weight" for part in ("wq", "wk", "wv")), ROWS),
    **dict.fromkeys(("feed_forward.w1.weight", "feed_forward.w3.weight"), ROWS),
    **dict.fromkeys(("attention.wo.weight", "feed_forward.w2.weight"), COLUMNS),
    **dict.fromkeys((_EMBEDDING, "output.weight"), ROWS),
    **dict.fromkeys(("attention_norm.weight", "ffn_norm.weight", "attention.inner_attention.rope.freqs"), None),
    **dict.fromkeys(("norm.weight", "rope.freqs"), None),
}  # fmt: skip
"""The axis along which a tensor is cut, by its name, or by its name within a layer; None if it is not cut."""

_IN_LAYER = re.compile(r"layers\.\d+\.(.+)")
_SCALES = re.compile(r"fp8_scales_\d+\.pt")


def claims(folder: Folder) -> bool:
    """Whether the folder has a file named like a slice, and no file that is a whole checkpoint."""
    return bool(slices_in(folder)) and not folder_file.holds_one(folder)


def read(folder: Folder) -> Checkpoint:
    """Open every slice. Reads its directory and its pickle, but no tensor byte.

    Raises CorruptFileError if slices are missing or contradict each other, UnsupportedError for tensors that are not
    known, and what the reader of a single file raises.
    """
    names = slices_in(folder)
    if not names:
        raise UnsupportedError("there is no consolidated.00.pth in this folder", hint="name a file in it")
    _check_numbers(folder, names)
    if len(names) == 1:
        alone = single.read(folder.open(names[0]))
        alone.findings += _missing_slices(alone)
        return alone
    if scales := [name for name in folder.names if _SCALES.fullmatch(name)]:
        raise UnsupportedError(
            f"its weights are of 8 bits, and their scales in files of their own: {scales[0]}",
            hint="the release in BF16 is put together",
        )
    parts = {name: _read_slice(folder.open(name)) for name in names}
    slices = _Slices(folder, parts)
    slices.check()
    return slices.join()


def _missing_slices(part: Checkpoint) -> tuple[Finding, ...]:
    """A warning if the model is several times as wide as its wq has rows: other slices may be missing."""
    norm, wq = part.get("norm.weight"), next((part[name] for name in part if name.endswith(_WQ)), None)
    width, rows = (tensor.info.shape[0] if tensor is not None and tensor.info.shape else 0 for tensor in (norm, wq))
    if not rows or rows == width or width % rows:
        return ()
    message = (
        f"its wq have {rows:,} rows, and the model is {width:,} wide: it may be one slice of {width // rows}, of which "
        f"{file_of(1)} and on are missing"
    )
    return (Finding("slice", "warning", file_of(0), message),)


def _check_numbers(folder: Folder, names: Sequence[str]) -> None:
    for number, name in enumerate(names):
        if name != file_of(number):
            raise CorruptFileError(
                f"{file_of(number)} is missing beside {names[-1]}", path=folder.path, hint=COPY_ALL_AGAIN
            )


def _read_slice(source: Source) -> Checkpoint:
    """Read a slice. Raises CorruptFileError if it is not an archive, UnsupportedError if it is not a bare state_dict,
    and what its reader raises.
    """
    what_it_is = f"ckptconv inspect {source.path} says what it is"
    with located(source.path):
        if source.size < 4 or bytes(source.read_at(0, 2)) != b"PK":
            raise CorruptFileError("this slice is not a torch.save archive", hint=what_it_is)
        part = single.open_archive(source)
        if part.extras or part.composites or not isinstance(part.root, StateDict) or part.root.plain or not len(part):
            raise UnsupportedError("this slice is not a dict of tensors alone", hint=what_it_is)
    return part


@dataclass(frozen=True)
class _Slices:
    """All slices, by file name."""

    folder: Folder
    parts: Mapping[str, Checkpoint]

    @property
    def first(self) -> Checkpoint:
        return next(iter(self.parts.values()))

    @cached_property
    def dim(self) -> int:
        """The width of the model."""
        norm = self.first.get("norm.weight")
        if norm is None or len(norm.info.shape) != 1 or not any(name.endswith(_WQ) for name in self.first):
            raise UnsupportedError(
                "its slices have no norm.weight and attention.wq.weight, which tell how many there are",
                hint=f"Llama's are put together; {_name_one(self.folder)}",
            )
        return norm.info.shape[0]

    def fail(self, file: str, problem: str) -> NoReturn:
        raise CorruptFileError(problem, path=self.folder.path / file, hint=COPY_ALL_AGAIN)

    def check(self) -> None:
        """Check that these are all slices of one model. Raises CorruptFileError, UnsupportedError."""
        first = next(iter(self.parts))
        for file, part in self.parts.items():
            if gone := [name for name in self.first if name not in part]:
                self.fail(file, f"it lacks {gone[0]!r}, which {first} has: they are not slices of one model")
            if more := [name for name in part if name not in self.first]:
                self.fail(file, f"it has {more[0]!r}, which {first} lacks: they are not slices of one model")
            for name, tensor in part.items():
                own, other = tensor.info, self.first[name].info
                if own != other:
                    mine, others = (f"{info.dtype} {list(info.shape)}" for info in (own, other))
                    self.fail(file, f"{name!r} is {mine}, and in {first} {others}: slices are of one size")
        self._check_count()

    def _check_count(self) -> None:
        """Check the number of slices by wq, which has as many rows as the model is wide: ``n_heads * (dim //
        n_heads)``.
        """
        dim, count = self.dim, len(self.parts)
        name, tensor = next(item for item in self.first.items() if item[0].endswith(_WQ))
        rows = tensor.info.shape[0] if tensor.info.shape else 0
        if rows * count == dim:
            return
        needed = dim // rows if rows and dim % rows == 0 else 0
        if needed > count:
            missing = file_of(count) + (f" to {file_of(needed - 1)}" if needed - count > 1 else "")
            problem = f"there are {count} slices of {needed}: {missing} missing"
            raise CorruptFileError(problem, path=self.folder.path, hint=COPY_ALL_AGAIN)
        raise CorruptFileError(
            f"there are {count} slices with {rows:,} rows each of {name!r}, which has {dim:,} in all",
            path=self.folder.path, hint="leave the slices of one model in the folder, and no others",
        )  # fmt: skip

    def join(self) -> Checkpoint:
        """The checkpoint that the slices make up."""
        notes = self.first.notes
        used = (use for part in self.parts.values() for use in part.notes.globals)
        return Checkpoint(
            {name: self._tensor(name) for name in self.first},
            root=self.first.root,
            format=NAME,
            notes=Notes(NAME, notes.tensors, attributes=notes.attributes, globals=tuple(dict.fromkeys(used))),
            findings=tuple(finding for part in self.parts.values() for finding in part.findings),
            file=self.folder,
        )

    def _tensor(self, name: str) -> LazyTensor:
        tensors = [part[name] for part in self.parts.values()]
        info = tensors[0].info
        axis = self._axis(name, info)
        aliases = [tensor.alias for tensor in tensors]
        alias: Hashable = None if None in aliases else (NAME, axis, *aliases)
        depends = depends_of(tensors)
        if axis is None:
            return LazyTensor(info, SameInAll(name, tuple(zip(self.parts, tensors, strict=True))), None, alias, depends)
        size = info.shape[axis]
        whole = (*info.shape[:axis], size * len(tensors), *info.shape[axis + 1 :])
        tiles = [Tile((i * size, 0) if axis == ROWS else (0, i * size), info.shape, t) for i, t in enumerate(tensors)]
        reader = Mosaic(whole, info.dtype.bits // 8, tiles)
        return LazyTensor(TensorInfo.of(info.dtype, whole), reader, None, alias, depends)

    def _axis(self, name: str, info: TensorInfo) -> int | None:
        """The axis along which a tensor is cut; None if every file has all of it. Raises UnsupportedError."""
        dim = self.dim
        inside = _IN_LAYER.fullmatch(name)
        module = inside[1] if inside else name
        if module not in _AXES:
            raise UnsupportedError(
                f"nothing is known of how {name!r} is cut into slices",
                hint=f"those of Llama 1, 2 and 3 are put together; {_name_one(self.folder)}",
            )
        axis, width = _AXES[module], dim
        if name == _EMBEDDING and info.shape[1:] != (dim,):
            axis, width = COLUMNS, dim // len(self.parts)
        if axis is None:
            return None
        across = 1 if name == _EMBEDDING else 1 - axis
        if len(info.shape) != 2 or info.shape[across] != width or info.dtype.bits % 8:
            raise UnsupportedError(
                f"{name!r} is {info.dtype} {list(info.shape)} in each slice, which no Llama of width {dim:,} has",
                hint=_name_one(self.folder),
            )
        return axis


def _name_one(folder: Folder) -> str:
    return f"{folder.path / file_of(0)} names one slice alone"
