"""What casting and quantizing costs: known once the values have passed, in a dry run once they are read for it."""

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
"""Unit roundoff: the largest relative error that rounding makes of numbers in the type's normal range."""


def read_casts(checkpoint: Checkpoint, progress: Progress | None = None) -> None:
    """Read every tensor that is cast, so that `cast_losses` knows what that costs; in constant memory."""
    waiting = [tensor for _, tensor, _ in _casts(checkpoint)]
    total, done = sum(tensor.info.nbytes for tensor in waiting), 0
    for tensor in waiting:
        for chunk in chunks(tensor, memoryview(bytearray(CHUNK))):
            done += len(chunk)
            if progress is not None:
                progress(done, total)


def cast_losses(checkpoint: Checkpoint) -> tuple[list[Finding], list[Finding]]:
    """What casting lost, of all that has been read: what needs consent (values past the range), and what is said."""
    over: list[Finding] = []
    cast: dict[DType, list[Loss]] = {}
    quantized: dict[str, list[Loss]] = {}
    for name, tensor, loss in _casts(checkpoint):
        if (kind := quantized_as(tensor)) is not None:
            quantized.setdefault(kind, []).append(loss)
        elif is_cast(tensor):
            cast.setdefault(tensor.info.dtype, []).append(loss)
        if loss.overflowed:
            over.append(_overflow(name, tensor, loss.overflowed))
    told = [_cast_finding(cast)] if cast else []
    return over, told + [_quantized_finding(kind, losses) for kind, losses in quantized.items()]


def _overflow(name: str, tensor: LazyTensor, count: int) -> Finding:
    many, dtype = "1 value is" if count == 1 else f"{count:,} values are", tensor.info.dtype
    if dtype.kind != "block" and quantized_as(tensor):
        message = f"{name}: {many} no numbers any more, since they, or others in their blocks, were none, or infinite"
        return Finding("overflow", "error", name, message, None, str(count))
    return Finding("overflow", "error", name, f"{name}: {many} past the range of {dtype}", dtype.name, str(count))


def _cast_finding(cast: Mapping[DType, Sequence[Loss]]) -> Finding:
    losses = [loss for some in cast.values() for loss in some]
    total = _sum(losses)
    small = next(
        (dtype for dtype, some in cast.items() if total.max_rel == _sum(some).max_rel > _ROUNDOFF.get(dtype, inf)), None
    )
    exact = "all else exactly" if total.flushed else "exactly"
    how = f"the largest relative error is {total.max_rel:.3g}" if total.max_rel else exact
    where = f", of values below {small.name}'s normal range" if small else ""
    message = f"{_are(losses)} cast: {how}{where}{_flushed(total)}"
    return Finding("cast", "info", "", message, None, f"{total.max_rel:.9g}")


def _quantized_finding(kind: str, losses: Sequence[Loss]) -> Finding:
    total = _sum(losses)
    how = f"the RMS error is {100 * total.rms:.3g} % of the values' RMS" if total.error else "exactly"
    message = f"{_are(losses)} quantized to {kind}: {how}{_flushed(total)}"
    return Finding("quantized", "info", "", message, None, f"{total.rms:.9g}")


def _sum(losses: Sequence[Loss]) -> Loss:
    total = Loss()
    for one in losses:
        total.add(one)
    return total


def _are(losses: Sequence[Loss]) -> str:
    return plural(len(losses), "tensor is", "tensors are")


def _flushed(total: Loss) -> str:
    return f"; {plural(total.flushed, 'value')} became 0" if total.flushed else ""


def unheld_blocks(checkpoint: Checkpoint, wanted: Format) -> Iterator[Finding]:
    """The loss of tensors that were asked to be blocks in a format that would keep them as bytes, and record it."""
    names: dict[str, list[str]] = {}
    for name, tensor in checkpoint.items():
        dtype, holds = tensor.info.dtype, wanted.holds
        if quantized_as(tensor) == dtype.name and dtype in holds.dtypes and not holds.blocks:
            names.setdefault(dtype.name, []).append(name)
    for kind, which in names.items():
        shown = quoted(which)
        message = f"{wanted.name} has no {kind}; its bytes would be kept as U8, which ckptconv alone unpacks: {shown}"
        yield Finding("dtype", "error", which[0], message, hint="a .gguf holds blocks")


def _casts(checkpoint: Checkpoint) -> Iterable[tuple[str, LazyTensor, Loss]]:
    """Tensors that are cast, tied ones once, and what has been lost of each so far."""
    for name, tensor in checkpoint.all_tensors.items():
        loss = None if name in checkpoint.tied_to else loss_of(tensor)
        if loss is not None:
            yield name, tensor, loss
