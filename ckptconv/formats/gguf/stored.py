"""Tensors that GGUF has no type, no shape or no name for: stored as what it has, and in the record what they are.

Unsigned integers, booleans and 8-bit floats keep their shape, as signed integers of their width; complex numbers are
pairs of floats; anything else is its bytes, as I8. Of more than four dimensions the outermost become one.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.core.encodings import claimed, encoded
from ckptconv.core.report import Finding
from ckptconv.core.tensor import TensorInfo
from ckptconv.formats.gguf.layout import CODE_BY_NAME, MAX_RANK

if TYPE_CHECKING:
    from collections.abc import Container

    from ckptconv.core.checkpoint import Checkpoint

MAX_NAME = 63
"""Bytes: ``GGML_MAX_NAME`` is 64, and the last one is 0."""

_SIGNED = {8: DType.I8, 16: DType.I16, 32: DType.I32, 64: DType.I64}


def stored_as(info: TensorInfo) -> TensorInfo:
    """The header under which a tensor is stored; `info` itself where the format has such tensors."""
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
    """At most four dimensions; ggml divides by all but the innermost, which none may therefore be 0."""
    if 0 in shape:
        return (0,)
    return shape if len(shape) <= MAX_RANK else (prod(shape[: 1 - MAX_RANK]), *shape[1 - MAX_RANK :])


def can_decode(stored: TensorInfo, dtype: DType, shape: tuple[int, ...]) -> bool:
    """Whether `stored` is what a tensor of this type and shape would have been stored as."""
    return stored_as(claimed(stored, dtype, shape)) == stored


def accepted(name: str, taken: Container[str]) -> str:
    """The name as ggml takes it: UTF-8 of up to 63 bytes without NUL; a cut one ends in ``#`` and a number."""
    if _is_accepted(name):
        return name
    spelled = name.encode("utf-8", "backslashreplace").replace(b"\0", b"\\0")
    start, number = spelled[: MAX_NAME - 8].decode("utf-8", "ignore"), 1
    while f"{start}#{number}" in taken:
        number += 1
    return f"{start}#{number}"


def _is_accepted(name: str) -> bool:
    try:
        return len(name.encode("utf-8")) <= MAX_NAME and "\0" not in name
    except UnicodeEncodeError:
        return False


def notices(checkpoint: Checkpoint) -> list[Finding]:
    """What other readers of the file will not see as it is."""
    found = []
    tensors = checkpoint.all_tensors
    types: dict[tuple[str, str], list[str]] = {}
    for name, tensor in tensors.items():
        stored = stored_as(tensor.info)
        if stored.dtype != tensor.info.dtype:
            types.setdefault((tensor.info.dtype.name, stored.dtype.name), []).append(name)
    for (dtype, stored_dtype), names in types.items():
        message = f"GGUF has no {dtype}: {_many(names)} stored as {stored_dtype}, with a note that other readers ignore"
        found.append(Finding("stored-as", "info", names[0], message, dtype, stored_dtype))
    if long := [name for name in tensors if not _is_accepted(name)]:
        message = f"ggml takes names of up to {MAX_NAME} bytes: {_many(long)} stored under another name"
        found.append(Finding("name", "info", long[0], message))
    if deep := [name for name, tensor in tensors.items() if len(tensor.info.shape) > MAX_RANK]:
        message = f"ggml has {MAX_RANK} dimensions: {_many(deep)} stored with fewer"
        found.append(Finding("shape", "info", deep[0], message))
    return found


def _many(names: list[str]) -> str:
    return f"{names[0]!r} is" if len(names) == 1 else f"{names[0]!r} and {len(names) - 1:,} more are"
