"""What ``flax.serialization`` writes and reads, with the msgpack package that it uses: Flax itself would require JAX.

Writing and reading were compared with Flax 0.12.8, on every kind of value below and on damaged files.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import msgpack
import numpy as np

Tree = Any

MARK = "__msgpack_chunked_array__"


def packed_array(array: np.ndarray[Any, Any]) -> bytes:
    return bytes(msgpack.packb([list(array.shape), array.dtype.name, array.tobytes()]))


def _extension(value: object) -> msgpack.ExtType:
    if isinstance(value, np.ndarray):
        return msgpack.ExtType(1, packed_array(value))
    if isinstance(value, np.generic):
        return msgpack.ExtType(3, packed_array(np.asarray(value)))
    assert isinstance(value, complex)
    return msgpack.ExtType(2, msgpack.packb([value.real, value.imag]))


def _numbered(values: Any) -> dict[str, Any]:
    return {str(i): value for i, value in enumerate(values)}


def _in_chunks(tree: Tree, most: int) -> Tree:
    if isinstance(tree, dict):
        return {key: _in_chunks(value, most) for key, value in tree.items()}
    if not isinstance(tree, np.ndarray) or tree.nbytes <= most:
        return tree
    step, flat = max(1, most // tree.itemsize), tree.reshape(-1)
    chunks = [flat[i : i + step] for i in range(0, flat.size, step)]
    return {MARK: True, "shape": _numbered(tree.shape), "chunks": _numbered(chunks)}


def to_bytes(tree: Tree, chunk: int = 1 << 30) -> bytes:
    """Write a tree of dicts, lists, arrays and plain values. Arrays larger than `chunk` bytes are chunked."""
    return bytes(msgpack.packb(_in_chunks(tree, chunk), default=_extension, strict_types=True))


def _array(data: bytes) -> np.ndarray[Any, Any]:
    shape, name, elements = msgpack.unpackb(data, raw=True)
    dtype = getattr(ml_dtypes, name.decode("latin-1"), None) or np.dtype(name)
    return np.frombuffer(elements, dtype).reshape(shape)


def _value(code: int, data: bytes) -> object:
    if code == 1:
        return _array(data)
    if code == 2:
        pair = msgpack.unpackb(data)
        return complex(pair[0], pair[1])
    return _array(data)[()] if code == 3 else msgpack.ExtType(code, data)


def _whole(tree: Tree) -> Tree:
    if not isinstance(tree, dict):
        return tree
    if MARK not in tree:
        return {key: _whole(value) for key, value in tree.items()}
    shape = tuple(tree["shape"][str(i)] for i in range(len(tree["shape"])))
    return np.concatenate([tree["chunks"][str(i)] for i in range(len(tree["chunks"]))]).reshape(shape)


def restore(data: bytes) -> Tree:
    """Read a tree, as ``msgpack_restore`` does. Raises whatever that raises."""
    return _whole(msgpack.unpackb(data, ext_hook=_value, raw=False))
