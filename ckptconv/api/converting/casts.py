"""What casting and quantizing loses. That is known once the values have been written, or read in a dry run."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.core.report import Finding
from ckptconv.core.text import plural, quoted
from ckptconv.edits.computed import is_cast, loss_of, quantized_as
from ckptconv.edits.rounding import Loss
from ckptconv.io.checksum import CHUNK
from ckptconv.io.stream import chunks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.progress import Progress
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.formats.base import Format


_ROUNDOFF = {
    DType.F64: 2.0**-53, DType.F32: 2.0**-24, DType.F16: 2.0**-11, DType.BF16: 2.0**-8, DType.F8_E5M2: 2.0**-3,
    DType.F8_E4M3: 2.0**-4,
}  # fmt: skip
"""Unit roundoff: the largest relative error of rounding a number in the type's normal range."""


def read_casts(checkpoint: Checkpoint, progress: Progress | None = None) -> None:
    """Read every tensor that is cast, so that `cast_losses` knows the errors. Memory is constant."""
    tensors = [tensor for _, tensor, _ in _casts(checkpoint)]
    total, done = sum(tensor.info.nbytes for tensor in tensors), 0
    for tensor in tensors:
        for chunk in chunks(tensor, memoryview(bytearray(CHUNK))):
            done += len(chunk)
            if progress is not None:
                progress(done, total)


def cast_losses(checkpoint: Checkpoint) -> tuple[list[Finding], list[Finding]]:
    """What casting lost in all tensors read so far: losses that need consent (values out of range), and findings."""
    overflows: list[Finding] = []
    cast: dict[DType, list[Loss]] = {}
    quantized: dict[str, list[Loss]] = {}
    for name, tensor, loss in _casts(checkpoint):
        if (kind := quantized_as(tensor)) is not None:
            quantized.setdefault(kind, []).append(loss)
        elif is_cast(tensor):
            cast.setdefault(tensor.info.dtype, []).append(loss)
        if loss.overflowed:
            overflows.append(_overflow(name, tensor, loss.overflowed))
    findings = [_cast_finding(cast)] if cast else []
    return overflows, findings + [_quantized_finding(kind, losses) for kind, losses in quantized.items()]


def _overflow(name: str, tensor: LazyTensor, count: int) -> Finding:
    values, dtype = plural(count, "value is", "values are"), tensor.info.dtype
    if dtype.kind != "block" and quantized_as(tensor):
        message = f"{name}: {values} no numbers any more, since they, or others in their blocks, were none, or infinite"
        return Finding("overflow", "error", name, message, None, str(count))
    return Finding("overflow", "error", name, f"{name}: {values} past the range of {dtype}", dtype.name, str(count))


def _cast_finding(cast: Mapping[DType, Sequence[Loss]]) -> Finding:
    losses = [loss for of_type in cast.values() for loss in of_type]
    total = _sum(losses)
    # an error above the type's roundoff comes from values below its normal range
    subnormal = next(
        (
            dtype
            for dtype, of_type in cast.items()
            if total.max_rel == _sum(of_type).max_rel > _ROUNDOFF.get(dtype, inf)
        ),
        None,
    )
    exactly = "all else exactly" if total.flushed else "exactly"
    how = f"the largest relative error is {total.max_rel:.3g}" if total.max_rel else exactly
    where = f", of values below {subnormal.name}'s normal range" if subnormal else ""
    message = f"{_tensors_are(losses)} cast: {how}{where}{_flushed_note(total)}"
    return Finding("cast", "info", "", message, None, f"{total.max_rel:.9g}")


def _quantized_finding(kind: str, losses: Sequence[Loss]) -> Finding:
    total = _sum(losses)
    how = f"the RMS error is {100 * total.rms:.3g} % of the values' RMS" if total.error else "exactly"
    message = f"{_tensors_are(losses)} quantized to {kind}: {how}{_flushed_note(total)}"
    return Finding("quantized", "info", "", message, None, f"{total.rms:.9g}")


def _sum(losses: Sequence[Loss]) -> Loss:
    total = Loss()
    for loss in losses:
        total.add(loss)
    return total


def _tensors_are(losses: Sequence[Loss]) -> str:
    return plural(len(losses), "tensor is", "tensors are")


def _flushed_note(total: Loss) -> str:
    return f"; {plural(total.flushed, 'value')} became 0" if total.flushed else ""


def unheld_blocks(checkpoint: Checkpoint, wanted: Format) -> Iterator[Finding]:
    """A loss for each block type that was asked for in a format that would keep the blocks as recorded bytes."""
    by_type: dict[str, list[str]] = {}
    for name, tensor in checkpoint.items():
        dtype, holds = tensor.info.dtype, wanted.holds
        if quantized_as(tensor) == dtype.name and dtype in holds.dtypes and not holds.blocks:
            by_type.setdefault(dtype.name, []).append(name)
    for kind, names in by_type.items():
        shown = quoted(names)
        message = f"{wanted.name} has no {kind}; its bytes would be kept as U8, which ckptconv alone unpacks: {shown}"
        yield Finding("dtype", "error", names[0], message, hint="a .gguf holds blocks")


def _casts(checkpoint: Checkpoint) -> Iterable[tuple[str, LazyTensor, Loss]]:
    """The tensors that are cast, tied ones once, each with its name and what it has lost so far."""
    for name, tensor in checkpoint.all_tensors.items():
        loss = None if name in checkpoint.tied_to else loss_of(tensor)
        if loss is not None:
            yield name, tensor, loss
