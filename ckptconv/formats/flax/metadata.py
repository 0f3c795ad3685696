"""A checkpoint's metadata tree as a Flax tree, if msgpack can express all of it: the inverse of `tree.split_tree`."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from ckptconv.core.arrays import NUMPY_DESCR
from ckptconv.core.dtypes import DType
from ckptconv.core.metadata import NumpyArray, NumpyScalar, StateDict, TensorRef, nodes_of
from ckptconv.core.spelling import is_utf8, numpy_nbytes
from ckptconv.core.tensor import LazyTensor
from ckptconv.formats.flax.arrays import CHUNKED, ELSEWHERE, TEXT
from ckptconv.formats.flax.nesting import RESERVED
from ckptconv.formats.flax.packing import MAX_ALONE, file_bytes, numpy_name

if TYPE_CHECKING:
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.metadata import MetaNode
    from ckptconv.formats.flax.msgpack import Value

_SCALARS = frozenset(descr for dtype, descr in NUMPY_DESCR.items() if dtype is not DType.BF16)


class InexactError(Exception):
    """msgpack, or Flax's reader, could not give the metadata back exactly."""


def tree_from_metadata(checkpoint: Checkpoint, *, dots: bool) -> Value:
    """The tree, with a `LazyTensor` for each array. Raises InexactError.

    dots: whether the keys of arrays may contain dots.
    """
    value = _TreeBuilder(checkpoint, dots=dots).value(checkpoint.root, in_list=False)
    if isinstance(value, dict) and RESERVED[0] in value:
        raise InexactError
    return value


class _TreeBuilder:
    def __init__(self, checkpoint: Checkpoint, *, dots: bool) -> None:
        self._dots = dots
        self._tensors = checkpoint.all_tensors
        self._members = _members(checkpoint)

    def value(self, node: MetaNode, *, in_list: bool) -> Value:
        match node:
            case TensorRef(name) if name in self._tensors:
                return self._tensor(self._tensors[name], in_list=in_list)
            case StateDict(container="dict", versions=None):
                return self._state_dict(node)
            case dict() if type(node) is dict:
                return {_key(key): self.value(child, in_list=False) for key, child in node.items()}
            case list():
                return [self.value(child, in_list=True) for child in node]
            case _ if _is_exact(node):
                return node
            case _:
                raise InexactError

    def _tensor(self, tensor: LazyTensor, *, in_list: bool) -> LazyTensor:
        if in_list and file_bytes(tensor.info) > MAX_ALONE:
            raise InexactError
        return tensor

    def _state_dict(self, node: StateDict) -> Value:
        entries: list[tuple[Any, Value]] = [
            (_key(name[len(node.prefix) :]), self._tensors[name]) for name in self._members.get(node.prefix, ())
        ]
        for position, key, child in node.plain:
            entries.insert(position, (_key(key), self.value(child, in_list=False)))
        if len(dict(entries)) != len(entries):
            raise InexactError
        if not self._dots and any("." in key for key, child in entries if isinstance(child, LazyTensor)):
            raise InexactError
        return dict(entries)


def _members(checkpoint: Checkpoint) -> dict[str, list[str]]:
    """The names of the model's tensors by the prefix of their dict: the longest that fits."""
    prefixes = {node.prefix for node in nodes_of(checkpoint.root, StateDict)}
    lengths = sorted({len(prefix) for prefix in prefixes}, reverse=True)
    single = {node.name for node in nodes_of(checkpoint.root, TensorRef)}
    members: dict[str, list[str]] = {}
    for name in checkpoint:
        if name not in single:
            prefix = next((name[:length] for length in lengths if name[:length] in prefixes), None)
            if prefix is None:
                raise InexactError
            members.setdefault(prefix, []).append(name)
    return members


def _key(key: object) -> str | bytes:
    if type(key) is bytes or (type(key) is str and is_utf8(key) and key != CHUNKED):
        return key
    raise InexactError


def _is_exact(node: MetaNode) -> bool:
    """Whether a reader gives exactly this value back."""
    match node:
        case None | bool() | float() | complex() | bytes():
            return type(node) in (type(None), bool, float, complex, bytes)
        case int():
            return -(2**63) <= node < 2**64
        case str():
            return is_utf8(node) and not node.startswith(ELSEWHERE)
        case NumpyScalar(descr, data) if descr in _SCALARS:
            return len(data) == numpy_nbytes(descr)
        case NumpyScalar(descr, data):
            return _is_text(descr, (), data)
        case NumpyArray(descr, shape, data, fortran=False):
            return bool(shape) and _is_text(descr, shape, data)
        case _:
            return False


def _is_text(descr: str, shape: tuple[int, ...], data: bytes) -> bool:
    if descr[:2] not in ("<U", "|S") or not TEXT.fullmatch(numpy_name(descr)):
        return False
    return len(data) == prod(shape) * numpy_nbytes(descr)
