"""How tensors are stored that GGUF has no type, shape or name for; the record says what they really are.

Unsigned integers, booleans and 8-bit floats are stored as signed integers of the same width, complex numbers as pairs
of floats, anything else as bytes in I8. If there are more than four dimensions, the outermost are merged; a BF16 scalar
gets one dimension.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.core.encodings import encoded
from ckptconv.core.report import Finding
from ckptconv.core.tensor import TensorInfo
from ckptconv.formats.gguf.layout import CODE_BY_NAME, MAX_RANK
from ckptconv.formats.targets.plan import is_text, names_are, other_types, replacement_name

if TYPE_CHECKING:
    from collections.abc import Container

    from ckptconv.core.checkpoint import Checkpoint

MAX_NAME = 63
"""In bytes. ``GGML_MAX_NAME`` is 64, with the NUL at the end."""

_SIGNED = {8: DType.I8, 16: DType.I16, 32: DType.I32, 64: DType.I64}


def stored_as(info: TensorInfo) -> TensorInfo:
    """The dtype and shape that a tensor is stored with; equal to `info` if the format has such tensors."""
    if info.dtype is DType.BF16 and not info.shape:  # the gguf package cannot read a BF16 scalar
        return TensorInfo(info.dtype, (1,), info.nbytes)
    if info.dtype.name in CODE_BY_NAME and (info.dtype.block == 1 or _has_whole_rows(info)):
        return TensorInfo(info.dtype, _shape(info.shape), info.nbytes)
    if info.dtype.kind in ("uint", "bool", "float") and info.dtype.bits in _SIGNED:
        return TensorInfo(_SIGNED[info.dtype.bits], _shape(info.shape), info.nbytes)
    pairs = encoded(info)
    if pairs.dtype.name in CODE_BY_NAME:
        return TensorInfo(pairs.dtype, _shape(pairs.shape), info.nbytes)
    return TensorInfo(DType.I8, (info.nbytes,), info.nbytes)


def _has_whole_rows(info: TensorInfo) -> bool:
    shape = _shape(info.shape)
    return bool(shape) and shape[-1] % info.dtype.block == 0 and info.nbytes == info.dtype.nbytes(info.numel)


def _shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape with at most four dimensions. (0,) if any is 0, since ggml divides by all but the innermost."""
    if 0 in shape:
        return (0,)
    return shape if len(shape) <= MAX_RANK else (prod(shape[: 1 - MAX_RANK]), *shape[1 - MAX_RANK :])


def accepted(name: str, taken: Container[str]) -> str:
    """The name as ggml accepts it: up to 63 bytes of UTF-8 without NUL. A cut name ends in ``#`` and a number."""
    return name if is_text(name, MAX_NAME) else replacement_name(name, taken, most=MAX_NAME)


def notices(checkpoint: Checkpoint) -> list[Finding]:
    """What other readers of the file will see differently: types, names, shapes."""
    found = other_types(checkpoint, stored_as, "GGUF")
    tensors = checkpoint.all_tensors
    if long := [name for name in tensors if not is_text(name, MAX_NAME)]:
        message = f"ggml takes names of up to {MAX_NAME} bytes: {names_are(long)} stored under another name"
        found.append(Finding("name", "info", long[0], message))
    if deep := [name for name, tensor in tensors.items() if len(tensor.info.shape) > MAX_RANK]:
        message = f"ggml has {MAX_RANK} dimensions: {names_are(deep)} stored with fewer"
        found.append(Finding("shape", "info", deep[0], message))
    return found
