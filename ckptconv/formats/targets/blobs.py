"""Metadata too large for a header of strings: bytes and arrays that are moved into tensors of their own.

In the tree `Stored` stands in for such a value; the tensor is U8 and holds its bytes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.core.metadata import MetaNode, NumpyArray, Stored, rebuilt
from ckptconv.core.names import numbered
from ckptconv.core.report import Finding
from ckptconv.core.spelling import numpy_nbytes
from ckptconv.core.tensor import LazyTensor, TensorInfo, in_memory
from ckptconv.errors import LimitError
from ckptconv.io.limits import MAX_STORED_BYTES

if TYPE_CHECKING:
    from collections.abc import Container

LARGE = 64 << 10
"""Bytes above which a value leaves the header, where it would take a third more as base64."""

NAME = "ckptconv.bytes."


def move_out(root: MetaNode, taken: Container[str]) -> tuple[MetaNode, dict[str, LazyTensor]]:
    """The tree with large values replaced, and the tensors that hold them."""
    moved: dict[str, LazyTensor] = {}

    def replaced(node: MetaNode) -> MetaNode:
        data = node.data if isinstance(node, NumpyArray) else node
        if not isinstance(data, (bytes, bytearray)) or len(data) <= LARGE:
            return node
        name = numbered(f"{NAME}{len(moved)}", taken)
        moved[name] = in_memory(TensorInfo.of(DType.U8, (len(data),)), bytes(data))
        if isinstance(node, NumpyArray):
            return Stored(name, replace(node, data=b""))
        return Stored(name, type(data)())

    return rebuilt(root, replaced), moved


def restore(root: MetaNode, tensors: dict[str, LazyTensor], findings: list[Finding]) -> MetaNode:
    """The tree with those values back in it, and their tensors taken out of `tensors`. Reads their bytes.

    Raises LimitError where a record asks for more of them than any pickle could have held.
    """
    used: set[str] = set()
    total = 0

    def replaced(node: MetaNode) -> MetaNode:
        nonlocal total
        if not isinstance(node, Stored):
            return node
        tensor = tensors.get(node.name)
        expected = numpy_nbytes(node.like.dtype, node.like.shape) if isinstance(node.like, NumpyArray) else None
        if tensor is None or expected not in (None, tensor.info.nbytes):
            message = f"the record keeps bytes in {node.name!r}, which the file does not have"
            findings.append(Finding("lost-tensor", "warning", node.name, message))
            return None
        used.add(node.name)
        total += tensor.info.nbytes
        if total > MAX_STORED_BYTES:
            raise LimitError(f"the record keeps more than {MAX_STORED_BYTES:,} bytes apart")
        data = bytes(tensor.read())
        if isinstance(node.like, NumpyArray):
            return replace(node.like, data=data)
        return type(node.like)(data)

    restored = rebuilt(root, replaced)
    for name in used:
        del tensors[name]
    return restored
