"""Metadata that is too large for a header of strings: bytes and arrays are moved into tensors.

In the metadata tree, a `Stored` takes the place of such a value; the tensor is U8 and holds its bytes.
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
"""Larger values (in bytes) leave the header, where base64 would make them a third larger."""

NAME = "ckptconv.bytes."


def move_out(root: MetaNode, taken: Container[str]) -> tuple[MetaNode, dict[str, LazyTensor]]:
    """The tree with its large values replaced, and the tensors that hold them. `taken`: names that they cannot have."""
    moved: dict[str, LazyTensor] = {}

    def store_if_large(node: MetaNode) -> MetaNode:
        data = node.data if isinstance(node, NumpyArray) else node
        if not isinstance(data, (bytes, bytearray)) or len(data) <= LARGE:
            return node
        name = numbered(f"{NAME}{len(moved)}", taken)
        moved[name] = in_memory(TensorInfo.of(DType.U8, (len(data),)), bytes(data))
        if isinstance(node, NumpyArray):
            return Stored(name, replace(node, data=b""))
        return Stored(name, type(data)())

    return rebuilt(root, store_if_large), moved


def restore(root: MetaNode, tensors: dict[str, LazyTensor], findings: list[Finding]) -> MetaNode:
    """The tree with those values put back. Reads the bytes of their tensors, and removes these from `tensors`.

    Raises LimitError if a record asks for more bytes than any pickle could have held.
    """
    used: set[str] = set()
    total = 0

    def load_if_stored(node: MetaNode) -> MetaNode:
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

    restored = rebuilt(root, load_if_stored)
    for name in used:
        del tensors[name]
    return restored
