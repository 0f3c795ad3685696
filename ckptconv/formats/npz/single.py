"""An array in a file of its own, ``.npy``: what `layout` describes, to the end of the file.

There is no name in it: the tensor is called as one that a ``.pth`` holds alone, and as `torch.save(tensor)` it is the
whole of what is saved, so that numpy.save and torch.save of one array say the same. What else a checkpoint has cannot
be written; which tensor is meant has to be said where it has several.

Refused: arrays of objects (a pickle), of texts, of records with fields; a file that is longer than its array.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.encodings import NUMPY_RANK
from ckptconv.core.metadata import TensorRef
from ckptconv.core.names import ALONE
from ckptconv.core.notes import Notes
from ckptconv.core.report import Finding
from ckptconv.core.tensor import ByteSpan
from ckptconv.core.text import quoted
from ckptconv.errors import COPY_AGAIN, CorruptFileError, LimitError, RejectedOutputError, UnsupportedError, UsageError
from ckptconv.formats.base import WriteResult
from ckptconv.formats.npz.layout import MAGIC, Npy, read_header, spell_header
from ckptconv.formats.npz.placed import placed, read_as_bf16
from ckptconv.formats.npz.stored import as_v2, stored_as
from ckptconv.io.stream import Job, Streamer

if TYPE_CHECKING:
    from ckptconv.core.tensor import LazyTensor, TensorInfo
    from ckptconv.formats.base import WriteOptions
    from ckptconv.io.source import Source
    from ckptconv.io.target import Target

_THE_ARRAY = "the array"
_MOST_NAMES = 4
"""Names of tensors that an error lists."""


def claims(source: Source) -> bool:
    """Whether it starts as an array."""
    return first(source, 0, len(MAGIC)) == MAGIC


def first(source: Source, offset: int, length: int) -> bytes:
    """So many bytes of the file from `offset` on, or all that there are."""
    left = max(0, source.size - offset)
    return bytes(source.read_at(offset, min(length, left))) if left else b""


def read(source: Source) -> Checkpoint:
    """Open the file: the array's header, no element of it.

    Raises CorruptFileError, LimitError, and UnsupportedError for an array that is not of numbers, by name.
    """
    header = read_header(partial(first, source, 0), _THE_ARRAY)
    if not isinstance(header, Npy):
        raise UnsupportedError(
            f"the array holds text ({header.descr}), and there is no tensor beside it",
            hint="an .npz of numpy.savez holds text beside arrays of numbers",
        )
    start, nbytes = len(header.raw), header.info.nbytes
    if source.size - start != nbytes:
        raise CorruptFileError(
            f"the array has {source.size - start:,} bytes, and its type and shape ask for {nbytes:,}", hint=COPY_AGAIN
        )
    tensors = {ALONE: placed(header, ByteSpan(source, start, nbytes), (id(source), start))}
    return Checkpoint(
        tensors, root=TensorRef(ALONE), format="npy", notes=Notes(source="npy"),
        findings=tuple(read_as_bf16(tensors)), file=source,
    )  # fmt: skip


def write(checkpoint: Checkpoint, target: Target, options: WriteOptions) -> WriteResult:
    """Write the one tensor of the checkpoint, in C order.

    Raises UsageError (there are several, or none), LimitError (dimensions), DamagedTensorError, RejectedOutputError.
    """
    name, tensor = _only(checkpoint)
    info = stored_as(tensor.info)
    head = spell_header(info)
    target.reserve(len(head) + info.nbytes)
    target.write_at(0, head)
    Streamer(target, crc=False, content=False, progress=options.progress).run([Job(name, tensor, len(head))])
    _check(target, info)
    return WriteResult(len(head) + info.nbytes)


def notices(checkpoint: Checkpoint) -> list[Finding]:
    """What numpy.load will not give as it is. Raises as `write` does, before anything is written."""
    name, _ = _only(checkpoint)
    found = as_v2(checkpoint)
    if name != ALONE:
        found.append(Finding("name", "info", name, f"a .npy has no place for a name: {name!r} is its array"))
    return found


def _only(checkpoint: Checkpoint) -> tuple[str, LazyTensor]:
    """The tensor that can be written, and its name."""
    if len(checkpoint) != 1:
        of = f"{len(checkpoint):,} tensors: {quoted(checkpoint, _MOST_NAMES)}" if checkpoint else "no tensor"
        hint = (
            f"--select {next(iter(checkpoint))!r}, or an .npz, which holds all" if checkpoint else "name another file"
        )
        raise UsageError(f"a .npy is one array, and the checkpoint has {of}", hint=hint)
    name, tensor = next(iter(checkpoint.items()))
    if (rank := len(tensor.info.shape)) > NUMPY_RANK:
        raise LimitError(f"{name!r} has {rank} dimensions; numpy's files have at most {NUMPY_RANK}", hint="reshape it")
    return name, tensor


def _check(target: Target, info: TensorInfo) -> None:
    """Let numpy read the header before the file gets its name."""
    from numpy.lib import format as npy

    try:
        with target.readable_path.open("rb") as file:
            npy.read_magic(file)
            shape, fortran, _ = npy.read_array_header_1_0(file)
    except (ValueError, OSError) as error:
        raise RejectedOutputError(f"numpy refuses what was written: {error}") from error
    if shape != info.shape or fortran:
        raise RejectedOutputError("numpy reads another array than what was written")
