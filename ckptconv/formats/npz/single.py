"""Reader and writer of a ``.npy`` file: a single array, to the end of the file (`layout`).

It has no name, so the tensor gets the name of a tensor that is alone in a ``.pth``: numpy.save and torch.save of one
array make equal checkpoints. Only a checkpoint with a single tensor can be written, without anything else.

Refused: arrays of objects (a pickle), of texts, and of records with fields; a file that is longer than its array.
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
from ckptconv.formats.npz.stored import bf16_stored_as_v2, stored_as
from ckptconv.formats.npz.tensors import read_as_bf16, tensor_at
from ckptconv.formats.tensors.npy import MAGIC, Npy, encode_header, read_header
from ckptconv.io.stream import Job, Streamer

if TYPE_CHECKING:
    from ckptconv.core.tensor import LazyTensor, TensorInfo
    from ckptconv.formats.base import WriteOptions
    from ckptconv.io.source import Source
    from ckptconv.io.target import Target

_THE_ARRAY = "the array"
_MAX_NAMES = 4
"""The most names of tensors that an error lists."""


def claims(source: Source) -> bool:
    """Whether the file starts with an array."""
    return first(source, 0, len(MAGIC)) == MAGIC


def first(source: Source, offset: int, length: int) -> bytes:
    """`length` bytes of the file from `offset` on, or fewer at its end."""
    left = max(0, source.size - offset)
    return bytes(source.read_at(offset, min(length, left))) if left else b""


def read(source: Source) -> Checkpoint:
    """Open the file. Reads the array's header, but no elements.

    Raises CorruptFileError, LimitError, and UnsupportedError for elements that are not numbers.
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
    tensors = {ALONE: tensor_at(header, ByteSpan(source, start, nbytes), (id(source), start))}
    return Checkpoint(
        tensors, root=TensorRef(ALONE), format="npy", notes=Notes(source="npy"),
        findings=tuple(read_as_bf16(tensors)), file=source,
    )  # fmt: skip


def write(checkpoint: Checkpoint, target: Target, options: WriteOptions) -> WriteResult:
    """Write the only tensor of the checkpoint, in C order.

    Raises UsageError for several tensors or none, LimitError for too many dimensions, DamagedTensorError,
    RejectedOutputError.
    """
    name, tensor = _only(checkpoint)
    info = stored_as(tensor.info)
    head = encode_header(info)
    target.reserve(len(head) + info.nbytes)
    target.write_at(0, head)
    Streamer(target, crc=False, content=False, progress=options.progress).run([Job(name, tensor, len(head))])
    _check(target, info)
    return WriteResult(len(head) + info.nbytes)


def notices(checkpoint: Checkpoint) -> list[Finding]:
    """What numpy.load will give differently: a type, the name. Raises what `write` raises before it writes."""
    name, _ = _only(checkpoint)
    found = bf16_stored_as_v2(checkpoint)
    if name != ALONE:
        found.append(Finding("name", "info", name, f"a .npy has no place for a name: {name!r} is its array"))
    return found


def _only(checkpoint: Checkpoint) -> tuple[str, LazyTensor]:
    """The name and the tensor of the only tensor that can be written. Raises UsageError, LimitError."""
    if len(checkpoint) != 1:
        of = f"{len(checkpoint):,} tensors: {quoted(checkpoint, _MAX_NAMES)}" if checkpoint else "no tensor"
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
