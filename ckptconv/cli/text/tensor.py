"""What ``inspect --tensor NAME`` shows: a tensor's header, what the file notes of it, its first and last values."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from ckptconv.cli.output import printable, style
from ckptconv.cli.text import composite
from ckptconv.cli.text.common import fields
from ckptconv.core.checkpoint import no_tensor
from ckptconv.core.dtypes import COMPONENT
from ckptconv.core.text import plural, size
from ckptconv.errors import UnsupportedError

if TYPE_CHECKING:
    from pathlib import Path

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.dtypes import DType
    from ckptconv.core.tensor import LazyTensor

EDGE = 8
"""Values that are shown from either end. Eight elements of any element type are whole bytes."""

_BLOCK_BYTES = 64
"""Bytes that are shown of blocks, whose values are not unpacked here."""

Value = bool | int | float | complex | str
"""An element, or its bytes in hexadecimal where its type is not decoded."""


def find(checkpoint: Checkpoint, name: str, path: Path) -> str:
    """The name of the tensor that `name` is, or is printed as. Raises NoTensorError, with the nearest names."""
    tensors = checkpoint.all_tensors
    if name in tensors:
        return name
    spelled = [known for known in tensors if printable(known) == name]
    if len(spelled) == 1:
        return spelled[0]
    raise no_tensor(name, tensors, otherwise="--list shows the names").at(path)


def ends(tensor: LazyTensor) -> tuple[list[Value], list[Value]]:
    """The first and the last values in C order; the second list is empty where the first has all of them.

    Reads the bytes of some twenty elements, whatever the size of the tensor.
    """
    count = prod(tensor.info.shape)
    if count <= 2 * EDGE or tensor.info.dtype.kind == "block":
        return _values(tensor, 0, count), []
    start = (count - EDGE) // EDGE * EDGE
    return _values(tensor, 0, EDGE), _values(tensor, start, count)[-EDGE:]


def _values(tensor: LazyTensor, start: int, stop: int) -> list[Value]:
    """Elements [start, stop); `start` is a multiple of eight."""
    dtype = tensor.info.dtype
    if start == stop:
        return []
    if dtype.kind == "block":
        return [tensor.read(0, min(_BLOCK_BYTES, tensor.info.nbytes)).hex()]
    data = tensor.read(start * dtype.bits // 8, min(tensor.info.nbytes, dtype.nbytes(stop)))
    return _decoded(data, dtype, stop - start)


def _decoded(data: memoryview, dtype: DType, count: int) -> list[Value]:
    from ckptconv.core.arrays import NUMPY_NAMES, from_bytes

    if dtype not in NUMPY_NAMES and dtype in COMPONENT:
        halves = [float(value) for value in from_bytes(data, COMPONENT[dtype], 2 * count)]
        return [complex(*pair) for pair in zip(halves[::2], halves[1::2], strict=True)]
    convert = {"float": float, "complex": complex, "bool": bool}.get(dtype.kind, int)
    try:
        return [convert(value) for value in from_bytes(data, dtype, count)]
    except UnsupportedError:
        step = max(1, dtype.bits // 8)
        return [bytes(data[i : i + step]).hex() for i in range(0, len(data), step)]


def view(checkpoint: Checkpoint, name: str, more: list[tuple[str, str]]) -> list[str]:
    """The tensor as `inspect` prints it, `more` labels and texts at its end. Reads a few of its values."""
    tensor, notes = checkpoint.all_tensors[name], checkpoint.notes
    info, note = tensor.info, notes.tensors.get(name)
    rows = [
        ("dtype", info.dtype.name),
        ("shape", f"[{', '.join(map(str, info.shape))}]"),
        ("elements", f"{prod(info.shape):,} ({size(info.nbytes)})"),
    ]
    if part := composite.notes(checkpoint).get(name):
        rows.append(("part", part))
    if name in notes.strides:
        rows.append(("strides", f"[{', '.join(map(str, notes.strides[name]))}]"))
    partners = [other for names in checkpoint.ties if name in names for other in names if other != name]
    if partners:
        rows.append(("tied to", ", ".join(printable(other) for other in partners)))
    if name in checkpoint.extras:
        rows.append(("role", "outside of the model's state_dict"))
    if note is not None:
        rows.append(("device", printable(note.device)))
        rows.append(("kind", _kind(parameter=note.parameter, requires_grad=note.requires_grad)))
    rows += [*_preview(tensor), *more]
    return [style(printable(name), "bold"), *fields(rows)]


def _kind(*, parameter: bool, requires_grad: bool) -> str:
    return ("nn.Parameter" if parameter else "tensor") + (", requires_grad" if requires_grad else "")


def _preview(tensor: LazyTensor) -> list[tuple[str, str]]:
    first, last = ends(tensor)
    if not first:
        return [("values", "none")]
    if tensor.info.dtype.kind == "block":
        return [("first bytes" if tensor.info.nbytes > _BLOCK_BYTES else "bytes", _row(first))]
    if not last:
        return [("values", _row(first))]
    return [(f"first {plural(len(first), 'value')}", _row(first)), (f"last {plural(len(last), 'value')}", _row(last))]


def _row(values: list[Value]) -> str:
    return " ".join(f"{value:.6g}" if isinstance(value, (float, complex)) else str(value) for value in values)
