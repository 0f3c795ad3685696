"""Folders of Orbax's that contradict themselves, spelled out in the layout's own bytes."""

from __future__ import annotations

import gzip
import json
import shutil
import tracemalloc
from typing import TYPE_CHECKING, Any

import msgpack
import pytest

import ckptconv
from ckptconv.errors import CkptconvError, CorruptFileError, FileAccessError, LimitError, UnsupportedError
from ckptconv.formats.flax.orbax import arrays, chunks, compressed, node, ocdbt
from tests.support.orbax_files import (
    DATA,
    MANIFEST,
    NODE,
    NOTHING,
    entry,
    files,
    inner,
    keys,
    leaf,
    manifest,
    sealed,
    unpack,
    varints,
    write_node,
    write_store,
    write_tree,
    zarr_json,
    zarray,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import ModuleType

zstd = compressed.zstd()
GOOD = {"w/.zarray": zarray([2]), "w/0": bytes(8)}
CRC = {"name": "crc32c"}
BYTES = {"name": "bytes", "configuration": {"endian": "little"}}


def nodes(folder: Path, *bodies: bytes, root: int = -1, height: int = 0, seal: int = NODE) -> Path:
    """A store of these nodes, one after the other; the last is the root."""
    (folder / "d").mkdir(parents=True)
    sealed_nodes = [sealed(seal, body) for body in bodies]
    starts = [sum(map(len, sealed_nodes[:i])) for i in range(len(bodies))]
    (folder / DATA).write_bytes(b"".join(sealed_nodes))
    (folder / "manifest.ocdbt").write_bytes(manifest((starts[root], len(sealed_nodes[root])), height=height))
    return folder


LEAF = leaf(GOOD)
SIZE = len(sealed(NODE, LEAF))
TWO = leaf({"b": b"", "a": b""})
FIRST, SECOND = leaf({"a": b"", "z": b""}), leaf({"m": b""})
A, B = (len(sealed(NODE, body)) for body in (FIRST, SECOND))
HEAD = b"\0" + files(DATA)
NO_FILE = b"\0" + varints(0, 1) + keys([b"a"]) + b"a" + varints(1) + b"\1" + varints(0, 0)
ITSELF = inner([(b"", 0, 0, len(sealed(NODE, inner([(b"", 0, 0, 40)]))))])
NODES: dict[str, tuple[tuple[bytes, ...], int, str]] = {
    "no entries": ((HEAD + varints(0),), 0, "no entries"),
    "a million entries": ((HEAD + varints(1 << 20),), 0, "cut short"),
    "more entries than a node may have": ((HEAD + varints((1 << 20) + 1),), 0, "at most"),
    "keys that fall": ((TWO,), 0, "do not rise"),
    "a key that shares too much": ((HEAD + varints(2) + varints(9, 1, 1) + b"ab",), 0, "contradicts"),
    "a file that is not in the table": ((NO_FILE,), 0, "of 0"),
    "a value of an unknown kind": ((HEAD + varints(1, 1) + b"a" + varints(0) + b"\2",), 0, "unknown kind"),
    "bytes too many": ((LEAF + b"\0",), 0, "too many"),
    "another height": ((LEAF,), 1, "another height"),
    "a child that is itself": ((ITSELF,), 1, "reached twice"),
    "a child twice": ((LEAF, inner([(b"a", 1, 0, SIZE), (b"b", 1, 0, SIZE)])), 1, "reached twice"),
    "a child before what its parent says": ((LEAF, inner([(b"z", 0, 0, SIZE)])), 1, "before those"),
    "a child past the end": ((LEAF, inner([(b"", 0, 1 << 40, SIZE)])), 1, "cut short"),
    "a child of 2^62 bytes": ((LEAF, inner([(b"", 0, 0, 1 << 62)])), 1, "cut short"),
    "a path of another folder": ((leaf({"w/0": (0, 1)}, "../x"),), 0, "not a name of a file"),
    "an absolute path": ((leaf({"w/0": (0, 1)}, "/etc/passwd"),), 0, "not a name of a file"),
    "a path that is not UTF-8": ((b"\0" + varints(1, 1, 0) + b"\xff" + varints(1, 1) + b"a",), 0, "UTF-8"),
    "a path of 2^16 bytes": ((b"\0" + varints(1, 1 << 16, 0),), 0, "at most"),
    "files without end": ((b"\0" + varints((1 << 64) - 1),), 0, "at most"),
    "keys of two leaves that fall": (
        (FIRST, SECOND, inner([(b"a", 0, 0, A), (b"m", 0, A, B)])), 1, "its keys do not rise",
    ),
    "a child that is nowhere": ((inner([(b"", 0, NOTHING, NOTHING)]),), 1, "nowhere"),
    "a key that is not UTF-8": ((HEAD + varints(1, 1) + b"\xff" + varints(0) + b"\0",), 0, "is not UTF-8"),
    "a value of 2 MiB": ((HEAD + varints(1, 1) + b"a" + varints(2 << 20) + b"\0",), 0, "2,097,152 bytes"),
    "a value past the end": ((leaf({"w/0": (0, 1 << 40)}),), 0, "should have 1,099,511,627,776 bytes at least"),
    "a number without an end": ((b"\0\xff",), 0, "cut short"),
    "a number of 70 bits": ((b"\0" + b"\xff" * 9 + b"\x7f\x01",), 0, "at most|more than 64 bits"),
}  # fmt: skip


@pytest.mark.parametrize(("bodies", "height", "message"), NODES.values(), ids=NODES.keys())
def test_a_node_that_contradicts_itself_is_refused(
    bodies: tuple[bytes, ...], height: int, message: str, tmp_path: Path
) -> None:
    folder = nodes(tmp_path / "x", *bodies, height=height)
    with pytest.raises((CorruptFileError, FileAccessError), match=message) as refused:
        ckptconv.open(folder)
    assert refused.value.hint


def test_nodes_above_leaves_are_read(tmp_path: Path) -> None:
    low, high = leaf({"/.zarray": zarray([2]), "/0": bytes(8)}), leaf({"z/.zarray": zarray([1]), "z/0": bytes(4)})
    sizes = [len(sealed(NODE, body)) for body in (low, high)]
    above = inner([(b"a/.zarray", 1, 0, sizes[0]), (b"z/.zarray", 0, sizes[0], sizes[1])])
    with ckptconv.open(nodes(tmp_path / "x", low, high, above, height=1)) as checkpoint:
        assert {name: tensor.info.shape for name, tensor in checkpoint.items()} == {"a": (2,), "z": (1,)}


MANIFESTS: dict[str, tuple[bytes, type[CkptconvError], str]] = {
    "empty": (b"", CorruptFileError, "is empty"),
    "of 17 bytes": (manifest(None)[:17], CorruptFileError, "cut short"),
    "of another kind": (sealed(NODE, bytes(30)), CorruptFileError, "does not start"),
    "with a wrong length": (manifest(None)[:-1], CorruptFileError, "says that it has"),
    "with a byte changed": (manifest(None)[:-6] + b"\1" + manifest(None)[-5:], CorruptFileError, "checksum"),
    "of version 1": (sealed(MANIFEST, bytes(40), version=1), UnsupportedError, "version 1"),
    "in an unknown compression": (sealed(MANIFEST, bytes(40), compression=2), UnsupportedError, "compression 2"),
    "that zstd does not know": (sealed(MANIFEST, bytes(40), compression=1), CorruptFileError, "inflate"),
    "with versions in nodes of none": (manifest((0, 40), arity=0), CorruptFileError, "too many versions"),
    "with versions that fall": (manifest((0, 40), generations=(2, 1)), CorruptFileError, "do not rise"),
    "cut short": (sealed(MANIFEST, bytes(20)), CorruptFileError, "cut short"),
    "of unknown kind": (manifest(None, kind=2), UnsupportedError, "unknown kind 2"),
    "that speaks of others": (manifest(None, kind=1), CorruptFileError, "there is none"),
    "without a root": (manifest(None), UnsupportedError, "no arrays"),
    "whose file is missing": (manifest((0, 40), "d/9"), FileAccessError, "does not open"),
}


@pytest.mark.parametrize(("data", "error", "message"), MANIFESTS.values(), ids=MANIFESTS.keys())
def test_a_manifest_that_contradicts_itself_is_refused(
    data: bytes, error: type[CkptconvError], message: str, tmp_path: Path
) -> None:
    folder = write_store(tmp_path / "x", GOOD)
    (folder / "manifest.ocdbt").write_bytes(data)
    with pytest.raises(error, match=message) as refused:
        ckptconv.open(folder)
    assert refused.value.hint


def shards(codecs: Any = (BYTES,), inner: Any = (2,), index: Any = (BYTES, CRC), **more: Any) -> list[Any]:
    configuration = {"chunk_shape": list(inner), "codecs": list(codecs), "index_codecs": list(index), **more}
    return [{"name": "sharding_indexed", "configuration": configuration}]


ARRAYS: dict[str, tuple[bytes, type[CkptconvError], str]] = {
    "no JSON": (b"{", CorruptFileError, "not JSON"),
    "not an object": (b"[]", CorruptFileError, "not an object"),
    "a name twice": (zarray([2])[:-1] + b', "order": "C"}', CorruptFileError, "twice"),
    "of version 7": (zarray([2], zarr_format=7), CorruptFileError, "zarr_format"),
    "a shape of text": (zarray(["a", "b"]), CorruptFileError, "shape"),
    "a negative size": (zarray([-1]), CorruptFileError, "shape"),
    "65 dimensions": (zarray([1] * 65), LimitError, "65 dimensions"),
    "2^62 elements": (zarray([1 << 62]), LimitError, "more bytes"),
    "chunks of another rank": (zarray([2], chunks=[1, 2]), CorruptFileError, "chunks"),
    "chunks of nothing": (zarray([2], chunks=[0]), CorruptFileError, "chunks"),
    "2^40 chunks": (zarray([1 << 40], chunks=[1]), LimitError, "never written"),
    "blosc": (zarray([2], compressor={"id": "blosc"}), UnsupportedError, "'blosc'"),
    "a compressor that is a list": (zarray([2], compressor={"id": []}), UnsupportedError, "compressor"),
    "filters": (zarray([2], filters=[{"id": "delta"}]), UnsupportedError, "filters"),
    "fields": (zarray([2], dtype=[["a", "<f4"]]), UnsupportedError, "structured"),
    "an order that is none": (zarray([2], order="A"), CorruptFileError, "order"),
    "a separator that is none": (zarray([2], dimension_separator="!"), CorruptFileError, "separator"),
}
ARRAYS_3: dict[str, tuple[bytes, type[CkptconvError], str]] = {
    "a group": (zarr_json([2], node_type="group"), CorruptFileError, "node_type"),
    "another grid": (zarr_json([2], chunk_grid={"name": "rectangular"}), UnsupportedError, "not regular"),
    "a type of its own": (zarr_json([2], data_type={"name": "x"}), UnsupportedError, "a type of its own"),
    "a separator that is none": (
        zarr_json([2], chunk_key_encoding={"name": "v2", "configuration": {"separator": "!"}}), CorruptFileError,
        "separator",
    ),
    "a grid of text": (zarr_json([2], chunk_grid="regular"), CorruptFileError, "chunk_grid"),
    "another encoding of keys": (zarr_json([2], chunk_key_encoding={"name": "x"}), UnsupportedError, "'x'"),
    "no shape": (json.dumps({"zarr_format": 3, "node_type": "array"}).encode(), CorruptFileError, "shape"),
    "no codecs": (zarr_json([2], []), CorruptFileError, "codecs"),
    "no bytes": (zarr_json([2], [{"name": "transpose", "configuration": {"order": [0]}}]), CorruptFileError, "codec"),
    "bytes twice": (zarr_json([2], [BYTES, BYTES]), UnsupportedError, "'bytes'"),
    "blosc": (zarr_json([2], [BYTES, {"name": "blosc"}]), UnsupportedError, "'blosc'"),
    "an order that is none": (
        zarr_json([2], [{"name": "transpose", "configuration": {"order": [1]}}, BYTES]), CorruptFileError, "order",
    ),
    "shards in shards": (zarr_json([2], shards(shards())), UnsupportedError, "in a shard"),
    "codecs around shards": (zarr_json([2], [*shards(), CRC]), UnsupportedError, "around shards"),
    "shards of parts of chunks": (zarr_json([3], shards()), CorruptFileError, "whole number"),
    "chunks of nothing in shards": (zarr_json([2], shards(inner=[0])), CorruptFileError, "whole number"),
    "an index in zstd": (zarr_json([2], shards(index=[BYTES, {"name": "zstd"}])), UnsupportedError, "plain"),
}  # fmt: skip


@pytest.mark.parametrize(("document", "error", "message"), ARRAYS.values(), ids=ARRAYS.keys())
def test_an_array_that_contradicts_itself_is_refused(
    document: bytes, error: type[CkptconvError], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message) as refused:
        ckptconv.open(write_store(tmp_path / "x", {"w/.zarray": document, "w/0": bytes(8)}))
    assert refused.value.hint


@pytest.mark.parametrize(("document", "error", "message"), ARRAYS_3.values(), ids=ARRAYS_3.keys())
def test_an_array_of_zarr_3_that_contradicts_itself_is_refused(
    document: bytes, error: type[CkptconvError], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message) as refused:
        ckptconv.open(write_store(tmp_path / "x", {"w/zarr.json": document, "w/c/0": bytes(8)}))
    assert refused.value.hint


ZSTD = zarray([4096], dtype="|u1", compressor={"id": "zstd"})
GZIP = zarray([4096], dtype="|u1", compressor={"id": "gzip"})
FRAME = zstd.compress(bytes(range(256)) * 16)
CHUNKS: dict[str, tuple[bytes, bytes, type[CkptconvError], str]] = {
    "raw and too short": (zarray([2], order="C"), bytes(7), CorruptFileError, "7 bytes"),
    "raw and too long": (zarray([2], order="C"), bytes(9), CorruptFileError, "9 bytes"),
    "empty": (ZSTD, b"", CorruptFileError, "does not start"),
    "no frame": (ZSTD, bytes(40), CorruptFileError, "does not start"),
    "a frame cut short": (ZSTD, FRAME[:-9], CorruptFileError, "inflates"),
    "a frame and more": (ZSTD, FRAME + b"\0", CorruptFileError, "longer"),
    "two frames": (ZSTD, FRAME + FRAME, CorruptFileError, "longer"),
    "of another size": (ZSTD, zstd.compress(bytes(4095)), CorruptFileError, "4,095"),
    "a window of 2^41": (ZSTD, b"\x28\xb5\x2f\xfd\x00\xff" + FRAME[6:], LimitError, "window"),
    "deflate that is none": (GZIP, b"\x1f\x8b" + bytes(20), CorruptFileError, "does not inflate"),
    "deflate cut short": (GZIP, gzip.compress(bytes(4096))[:-8], CorruptFileError, "does not inflate to its end"),
    "deflate of more": (GZIP, gzip.compress(bytes(5000)), CorruptFileError, "more than the 4,096 bytes"),
    "a bomb": (zarray([1 << 40], dtype="|u1", compressor={"id": "zstd"}), FRAME, CorruptFileError, "can not inflate"),
}


@pytest.mark.parametrize(("document", "data", "error", "message"), CHUNKS.values(), ids=CHUNKS.keys())
def test_a_chunk_that_contradicts_itself_is_refused(
    document: bytes, data: bytes, error: type[CkptconvError], message: str, tmp_path: Path
) -> None:
    folder = write_store(tmp_path / "x", {"w/.zarray": document, "w/0": (0, len(data))}, data)
    with pytest.raises(error, match=message) as refused, ckptconv.open(folder) as checkpoint:
        checkpoint["w"].read()
    assert "'w'" in str(refused.value)
    assert refused.value.hint


SUMMED = zarr_json([2], [BYTES, CRC])
SHARDED = zarr_json([4], shards())
SHARDS: dict[str, tuple[bytes, bytes, str]] = {
    "a chunk whose checksum is wrong": (SUMMED, bytes(8) + b"1234", "checksum"),
    "a chunk shorter than its checksum": (SUMMED, b"123", "should have 12"),
    "a shard shorter than its index": (SHARDED, bytes(8), "shorter than its index"),
    "an index whose checksum is wrong": (SHARDED, bytes(16 + 32 + 4), "fails its checksum"),
    "chunks past the end of a shard": (
        zarr_json([4], shards(index=[BYTES])), b"".join(n.to_bytes(8, "little") for n in (0, 8, 1 << 40, 8)), "past",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("document", "data", "message"), SHARDS.values(), ids=SHARDS.keys())
def test_a_shard_that_contradicts_itself_is_refused(document: bytes, data: bytes, message: str, tmp_path: Path) -> None:
    folder = write_store(tmp_path / "x", {"w/zarr.json": document, "w/c/0": data})
    with pytest.raises(CorruptFileError, match=message), ckptconv.open(folder) as checkpoint:
        checkpoint["w"].read()


def listed(key: Any, kind: int) -> dict[str, Any]:
    """An entry of this key, of this type."""
    one = {"key_metadata": [{"key": key, "key_type": kind}], "value_metadata": {"value_type": "None"}}
    return {"tree_metadata": {"x": one}}


LISTS: dict[str, tuple[Any, str]] = {
    "no tree": ({"a": 1}, "lists no tree"),
    "a list": ([1], "lists no tree"),
    "nothing": ([], "lists no tree"),
    "an empty object": ({}, "lists no tree"),
    "an entry of text": ({"tree_metadata": {"x": "y"}}, "does not say"),
    "a key of a number": (listed(1, 2), "keys or type"),
    "a key of type 3": (listed("a", 3), "keys or type"),
    "65 keys": ({"tree_metadata": entry(*"a" * 65)}, "65 levels"),
    "an entry within a value": ({"tree_metadata": entry("w") | entry("w", "x", kind="None", skip=True)}, "within"),
    "an entry twice": ({"tree_metadata": entry("w") | {"again": entry("w")["('w',)"]}}, "two entries"),
    "a value that is missing": ({"tree_metadata": entry("v")}, "'v' is not there"),
    "a text that is missing": ({"tree_metadata": entry("s", kind="string")}, "not in _strings.json"),
    "a number with a shape": ({"tree_metadata": entry("w", kind="scalar")}, "of shape"),
}  # fmt: skip


@pytest.mark.parametrize(("document", "message"), LISTS.values(), ids=LISTS.keys())
def test_a_list_that_contradicts_itself_is_refused(document: Any, message: str, tmp_path: Path) -> None:
    folder = write_store(tmp_path / "x", GOOD)
    (folder / "_METADATA").write_text(json.dumps(document))
    with pytest.raises(CorruptFileError, match=message) as refused:
        ckptconv.open(folder)
    assert refused.value.hint


@pytest.mark.parametrize("place", ["9" * 5_000, "²", "-1", "1"])
def test_a_place_that_a_list_does_not_have_is_no_value(place: str, tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "x", entry("list", place, skip=True), GOOD)
    (folder / "checkpoint").write_bytes(msgpack.packb({"list": [7]}))
    with pytest.raises(CorruptFileError, match="is not there"):
        ckptconv.open(folder)
    write_tree(folder, entry("list", "0", skip=True), GOOD)
    with ckptconv.open(folder) as checkpoint:
        assert checkpoint.metadata["list"] == {"0": 7}


@pytest.mark.parametrize("fill", ["x", [1, 2], {}, 10**400, "0x12", "0xzzzzzzzz"], ids=lambda fill: repr(fill)[:9])
def test_an_invalid_fill_value_is_refused(fill: Any, tmp_path: Path) -> None:
    folder = write_store(tmp_path / "x", {"w/.zarray": zarray([2], fill_value=fill)})
    with ckptconv.open(folder) as checkpoint, pytest.raises(CorruptFileError, match="fill value of 'w'"):
        checkpoint["w"].read()


def test_documents_are_bounded_in_depth(tmp_path: Path) -> None:
    deep: Any = 1
    for _ in range(80):
        deep = [deep]
    folder = write_tree(tmp_path / "x", entry("w"), GOOD, custom_metadata=deep)
    with pytest.raises(LimitError, match="nested deeper"):
        ckptconv.open(folder)
    (folder / "_METADATA").write_text("[" * 100_000)
    with pytest.raises(CorruptFileError):
        ckptconv.open(folder)


def test_a_tree_that_was_never_joined_or_finished_is_refused(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "x", entry("w"), GOOD)
    (folder / "ocdbt.process_0").mkdir()
    unfinished = shutil.copytree(folder, tmp_path / "1.orbax-checkpoint-tmp")
    (folder / "manifest.ocdbt").unlink()
    for path in (folder, unfinished):
        with pytest.raises(CorruptFileError, match=r"unfinished|not finished"):
            ckptconv.open(path)


def test_a_tree_of_t5x_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "target.w").mkdir()
    (tmp_path / "target.w" / ".zarray").write_bytes(zarray([2]))
    (tmp_path / "target.w" / "0").write_bytes(bytes(8))
    (tmp_path / "checkpoint").write_bytes(b"\x81\xa7version\x03")
    with pytest.raises(UnsupportedError, match="is in no tree") as refused:
        ckptconv.open(tmp_path)
    assert "T5X" in str(refused.value.hint)


BOUNDS: dict[str, tuple[ModuleType, str, int, Mapping[str, Any]]] = {
    "bytes of nodes": (node, "MAX_OCDBT_NODES", 100, GOOD),
    "bytes of a manifest": (ocdbt, "MAX_OCDBT_NODES", 100, GOOD),
    "keys": (ocdbt, "MAX_OCDBT_KEYS", 1, GOOD),
    "arrays": (arrays, "MAX_TENSORS", 0, GOOD),
    "chunks": (arrays, "MAX_ZARR_CHUNKS", 1, {"w/.zarray": zarray([2], chunks=[1]), "w/0": bytes(4), "w/1": bytes(4)}),
}


@pytest.mark.parametrize(("module", "name", "value", "entries"), BOUNDS.values(), ids=BOUNDS.keys())
def test_a_limit_too_high_for_a_test_holds_when_it_is_lowered(
    module: ModuleType, name: str, value: int, entries: Mapping[str, Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = write_store(tmp_path / "x", entries)
    ckptconv.open(folder).close()
    monkeypatch.setattr(module, name, value)
    with pytest.raises(LimitError) as refused:
        ckptconv.open(folder)
    assert refused.value.hint


def test_a_chunk_of_another_order_is_bounded_when_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_store(tmp_path / "x", {"w/.zarray": zarray([2, 2], order="F"), "w/0.0": bytes(16)})
    monkeypatch.setattr(chunks, "MAX_ZARR_WHOLE", 8)
    with ckptconv.open(folder) as checkpoint, pytest.raises(LimitError, match="another order"):
        checkpoint["w"].read()


def test_nodes_may_not_inflate_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = zstd.compress(LEAF + bytes(1 << 20))
    data = sealed(NODE, body, compression=1)
    folder = write_store(tmp_path / "x", GOOD)
    (folder / DATA).write_bytes(data)
    (folder / "manifest.ocdbt").write_bytes(manifest((0, len(data))))
    with pytest.raises(CorruptFileError, match="too many"):
        ckptconv.open(folder)
    monkeypatch.setattr(node, "FREE_OCDBT_BYTES", 1000)
    monkeypatch.setattr(node, "MAX_OCDBT_RATIO", 2)
    with pytest.raises(LimitError, match="inflates to more"):
        ckptconv.open(folder)


def test_a_small_node_stops_inflating_at_what_the_documents_of_arrays_need(tmp_path: Path) -> None:
    """A node of some 40 KB that would make a gigabyte, as one of zeros would."""
    whole, zeros = zstd.ZstdCompressor(), bytes(1 << 20)
    body = b"".join(whole.compress(zeros) for _ in range(1024)) + whole.flush()
    data = sealed(NODE, body, compression=1)
    folder = write_store(tmp_path / "x", GOOD)
    (folder / DATA).write_bytes(data)
    (folder / "manifest.ocdbt").write_bytes(manifest((0, len(data))))
    tracemalloc.start()
    with pytest.raises(LimitError, match="inflates to more than") as refused:
        ckptconv.open(folder)
    assert tracemalloc.get_traced_memory()[1] < 160 << 20
    tracemalloc.stop()
    assert refused.value.hint == "load it with Orbax if it is known to hold little but zeros; else do not trust it"
    assert node.Budget().room(1 << 20) == 364 << 20


def readings(folder: Path) -> tuple[Any, ...]:
    """Everything that a checkpoint says."""
    with ckptconv.open(folder) as found:
        tensors = {name: (str(t.info.dtype), t.info.shape, bytes(t.read())) for name, t in found.all_tensors.items()}
        return tensors, repr(found.metadata)


@pytest.mark.parametrize("folder", ["array", "raw-zarr3", "keys"])
def test_every_truncation_and_flipped_bit_of_a_store_is_refused(folder: str, tmp_path: Path) -> None:
    whole = unpack("0.12.8", tmp_path) / folder
    shutil.rmtree(whole / "ocdbt.process_0")
    before = readings(whole) if folder != "raw-zarr3" else None
    for path in [whole / "manifest.ocdbt", *(whole / "d").iterdir()]:
        data = path.read_bytes()
        for end in range(0, len(data), 7):
            path.write_bytes(data[:end])
            with pytest.raises(CkptconvError):
                readings(whole)
        for at in range(0, len(data), 5):
            path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
            with pytest.raises(CkptconvError):
                readings(whole)
        path.write_bytes(data)
    assert before is None or readings(whole) == before


def test_every_truncation_of_other_files_is_refused_or_says_the_same(tmp_path: Path) -> None:
    whole = unpack("0.5.3", tmp_path) / "loose"
    before = readings(whole)
    refused = 0
    for path in (path for path in whole.rglob("*") if path.is_file() and path.name != "_sharding"):
        data = path.read_bytes()
        for end in {0, 1, len(data) // 2, len(data) - 1}:
            path.write_bytes(data[:end])
            try:
                assert readings(whole) == before, path
            except CkptconvError:
                refused += 1
        path.write_bytes(data)
    assert refused > 60


def test_a_frame_of_zstd_says_its_size_in_every_width() -> None:
    for size in (0, 1, 255, 256, 65_791, 65_792, 1 << 20):
        frame = zstd.compress(bytes(size))
        assert compressed.window_of(frame, size) <= max(size, 1 << 21)
        with pytest.raises(CorruptFileError, match="says that it inflates"):
            compressed.window_of(frame, size + 1)


LONG = 60_000
MANY = 2000


def shared(first: bytes, count: int) -> tuple[bytes, bytes]:
    """Columns of `count` keys or paths, of which all but the first share `first` and go on with their numbers."""
    more = [first, *(b"%04d" % number for number in range(count - 1))]
    return varints(*[len(first)] * (count - 1)) + varints(*map(len, more)), b"".join(more)


def test_keys_and_paths_that_share_all_they_can_take_no_memory_for_each(tmp_path: Path) -> None:
    columns, text = shared(b"a" * LONG, MANY)
    a_key_each = b"\0" + files(DATA) + varints(MANY) + columns + text + varints(*[0] * MANY) + bytes(MANY)
    a_path_each = varints(MANY) + columns + varints(*[0] * MANY) + text
    for name, body in (("keys", a_key_each), ("paths", b"\0" + a_path_each)):
        tracemalloc.start()
        with pytest.raises(LimitError, match="longer than its size warrants"):
            ckptconv.open(write_node(tmp_path / name, body))
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
        tracemalloc.stop()


def test_prefixes_of_nodes_do_not_add_up_to_keys_of_any_length(tmp_path: Path) -> None:
    below = leaf({"b" * 40_000: b""})
    above = inner([(b"a" * 40_000, 40_000, 0, len(sealed(NODE, below)))])
    with pytest.raises(CorruptFileError, match="contradicts itself"):
        ckptconv.open(nodes(tmp_path / "x", below, above, height=1))


def test_a_name_of_many_parts_is_not_taken_apart_into_all_its_beginnings(tmp_path: Path) -> None:
    name = ".".join("a" * 30_000)
    folder = write_store(tmp_path / "x", {f"{name}/.zarray": zarray([2]), f"{name}/0": bytes(8)})
    tracemalloc.start()
    with ckptconv.open(folder) as checkpoint:
        assert list(checkpoint) == [name]
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()


def test_a_node_that_is_not_compressed_counts_as_what_nodes_inflate_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "MAX_OCDBT_NODES", 1000)
    budget = node.Budget(inflated=990)
    with pytest.raises(LimitError):
        node.open_node(sealed(NODE, bytes(50)), NODE, "a node", budget)


def test_two_arrays_that_share_a_chunk_are_each_read_as_they_say(tmp_path: Path) -> None:
    whole = zstd.ZstdCompressor()
    data = whole.compress(bytes(range(24))) + whole.flush()  # which does not say how much it is
    entries: dict[str, Any] = {}
    for name, shape in (("a", [2, 3]), ("b", [4, 3])):
        entries[f"{name}/.zarray"] = zarray(shape, order="F", compressor={"id": "zstd"})
        entries[f"{name}/0.0"] = 0, len(data)
    folder = write_store(tmp_path / "x", entries, data)
    with ckptconv.open(folder) as checkpoint:
        assert len(checkpoint["a"].read(0, 24)) == 24
        with pytest.raises(CorruptFileError, match=r"'b'.* should have 48"):
            checkpoint["b"].read(0, 48)


def test_a_shard_with_one_of_its_large_chunks_is_read(tmp_path: Path) -> None:
    chunk = bytes(1 << 21) + b"\0\0\x80\x3f" + bytes((1 << 21) - 4)
    data = zstd.compress(chunk)
    index = (0).to_bytes(8, "little") + len(data).to_bytes(8, "little") + b"\xff" * 48
    document = zarr_json([4, 1 << 20], shards((BYTES, "zstd"), (1, 1 << 20), (BYTES,)))
    folder = write_store(tmp_path / "x", {"w/zarr.json": document, "w/c/0/0": (0, len(data) + 64)}, data + index)
    with ckptconv.open(folder) as checkpoint:
        assert bytes(checkpoint["w"].read(0, 1 << 24)) == chunk + bytes(3 << 22)


@pytest.mark.parametrize(
    "entries",
    [{}, ["w"], [{}], [{"key": [], "value": 1}], [{"key": {}, "value": 1}], [{"key": "w", "value": 1}]],
)
def test_a_tree_of_another_shape_is_left_aside(entries: Any, tmp_path: Path) -> None:
    shape = {"a": {"category": "namedtuple", "entries": entries}}
    stored = {"a.w/.zarray": zarray([2]), "a.w/0": bytes(8)}
    folder = write_tree(tmp_path / "x", entry("a", "w"), stored, value_metadata_tree=json.dumps(shape))
    with ckptconv.open(folder) as checkpoint:
        assert list(checkpoint) == ["a.w"]
