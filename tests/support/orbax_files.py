"""Orbax's folders and TensorStore's OCDBT, assembled by hand."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptconv.io.crc32c import crc32c
from tests.support.protobuf_files import varint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FIXTURES = Path(__file__).parents[2] / "fixtures" / "others" / "orbax"
VERSIONS = ("0.12.8", "0.5.3")

MANIFEST, NODE = 0x0CDB3A2A, 0x0CDB20DE
NOTHING = (1 << 64) - 1
DATA = "d/0"
BETWEEN = b"\n--\n"
"""The separator between the list of a tree and a node in one file."""

Value = bytes | tuple[int, int]
"""A value that is in its node, or the offset and length of one in the data file."""


def unpack(version: str, folder: Path) -> Path:
    """Extract the checkpoints that this version of Orbax wrote."""
    with zipfile.ZipFile(FIXTURES / f"orbax-{version}.zip") as archive:
        archive.extractall(folder)
    return folder


def varints(*values: int) -> bytes:
    return b"".join(map(varint, values))


def sealed(magic: int, body: bytes, version: int = 0, compression: int = 0) -> bytes:
    """A manifest or a node, with its checksum."""
    size = 4 + 8 + len(varints(version, compression)) + len(body) + 4
    data = magic.to_bytes(4, "big") + size.to_bytes(8, "little") + varints(version, compression) + body
    return data + crc32c(data).to_bytes(4, "little")


def files(*paths: str) -> bytes:
    """A table of file names without shared prefixes."""
    data = [path.encode() for path in paths]
    return (
        varint(len(data)) + varints(*(0 for _ in data[1:])) + varints(*map(len, data)) + varints(*(0 for _ in data))
        + b"".join(data)
    )  # fmt: skip


def manifest(
    root: tuple[int, int] | None, path: str = DATA, *, height: int = 0, kind: int = 0, arity: int = 4,
    generations: Sequence[int] = (1,),
) -> bytes:  # fmt: skip
    """A manifest whose root is the node at this offset, of this length. It has one version by default."""
    offset, length = root or (NOTHING, NOTHING)
    config = bytes(16) + bytes([kind]) + varints(1024, 1 << 20) + bytes([arity]) + varint(0)
    count = len(generations)
    roots = [value for column in (0, offset, length) for value in [column] * count]
    versions = varints(count, *generations) + bytes([height] * count) + varints(*roots) + bytes((3 + 8) * count)
    return sealed(MANIFEST, config if kind else config + files(path) + versions + varint(0))


def keys(names: Sequence[bytes]) -> bytes:
    """The columns for keys without shared prefixes."""
    return varints(*(0 for _ in names[1:])) + varints(*map(len, names))


def leaf(entries: Mapping[str, Value], path: str = DATA) -> bytes:
    """The body of a leaf."""
    names = [name.encode() for name in entries]
    away = [value for value in entries.values() if isinstance(value, tuple)]
    lengths = [value[1] if isinstance(value, tuple) else len(value) for value in entries.values()]
    kinds = bytes(isinstance(value, tuple) for value in entries.values())
    inline = b"".join(value for value in entries.values() if isinstance(value, bytes))
    return (
        b"\0" + files(path) + varint(len(names)) + keys(names) + b"".join(names) + varints(*lengths) + kinds
        + varints(*(0 for _ in away)) + varints(*(offset for offset, _ in away)) + inline
    )  # fmt: skip


def inner(
    children: Sequence[tuple[bytes, int, int, int]], height: int = 1, path: str = DATA
) -> bytes:  # key, bytes of it that all below share, offset, length
    """The body of a node above leaves."""
    names = [child[0] for child in children]
    return (
        bytes([height]) + files(path) + varint(len(names)) + keys(names) + varints(*(child[1] for child in children))
        + b"".join(names) + varints(*(0 for _ in names)) + varints(*(child[2] for child in children))
        + varints(*(child[3] for child in children)) + bytes(3 * len(names))
    )  # fmt: skip


def entry(*path: str, kind: str = "jax.Array", skip: bool = False, places: Sequence[int] = ()) -> dict[str, Any]:
    """An entry of ``_METADATA``; keys at `places` are positions in a list."""
    listed = [{"key": key, "key_type": 1 if i in places else 2} for i, key in enumerate(path)]
    return {str(path): {"key_metadata": listed, "value_metadata": {"value_type": kind, "skip_deserialize": skip}}}


def zarray(shape: Sequence[int | str], **changed: Any) -> bytes:
    """A ``.zarray`` of one chunk of F32 that is not compressed."""
    document = {
        "zarr_format": 2, "shape": list(shape), "chunks": list(shape), "dtype": "<f4", "compressor": None,
        "order": "C", "fill_value": None, "filters": None, "dimension_separator": ".",
    }  # fmt: skip
    return json.dumps(document | changed).encode()


def zarr_json(shape: Sequence[int], codecs: Sequence[Any] = ("bytes",), **changed: Any) -> bytes:
    """A ``zarr.json`` of one chunk of F32 that is not compressed."""
    document = {
        "zarr_format": 3, "node_type": "array", "shape": list(shape), "data_type": "float32", "fill_value": 0.0,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(shape)}},
        "chunk_key_encoding": {"name": "default"}, "codecs": list(codecs),
    }  # fmt: skip
    return json.dumps(document | changed).encode()


def write_store(folder: Path, entries: Mapping[str, Value], data: bytes = b"") -> Path:
    """Write a store of one leaf, which follows `data`."""
    return write_node(folder, leaf(dict(sorted(entries.items()))), data)


def write_node(folder: Path, body: bytes, data: bytes = b"") -> Path:
    """Write a store of one node with this body."""
    (folder / "d").mkdir(parents=True, exist_ok=True)
    node = sealed(NODE, body)
    (folder / DATA).write_bytes(data + node)
    (folder / "manifest.ocdbt").write_bytes(manifest((len(data), len(node))))
    return folder


def write_tree(
    folder: Path, listed: Mapping[str, Any], entries: Mapping[str, Value], data: bytes = b"", **more: Any
) -> Path:
    """Write a store, and the list of a tree."""
    write_store(folder, entries, data)
    (folder / "_METADATA").write_text(json.dumps({"tree_metadata": listed, **more}))
    return folder
