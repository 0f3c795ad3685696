"""Quantized and sparse tensors that lie: torch would read outside of memory, or believe them; here each is refused.

What headers contradict is refused on opening; indices are refused before a .pth is written, or torch gets them.
"""

from __future__ import annotations

import json
from struct import pack
from typing import TYPE_CHECKING, Any

import pytest
import torch

import ckptconv
from ckptconv.core.composite import Sparse
from ckptconv.core.dtypes import DType
from ckptconv.core.indices import PIECE, check_indices
from ckptconv.core.tensor import TensorInfo, in_memory
from ckptconv.errors import CkptconvError, CorruptFileError, UnsupportedError
from tests.support.composites import MAKERS, quiet
from tests.support.craft import archive, text

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:DeprecationWarning")

HOOKS = b"ccollections\nOrderedDict\n)R"
STORAGES = {"i": bytes(12), "f": pack("<3d", 1, 2, 3), "z": bytes(24)}


def integer(value: int) -> bytes:
    return b"J" + pack("<i", value) if value < 2**31 else b"\x8a\x09" + pack("<qx", value)


def ints(*values: int) -> bytes:
    return b"(" + b"".join(map(integer, values)) + b"t"


def storage(cls: str, key: str, numel: int) -> bytes:
    return b"(" + text("storage") + f"ctorch\n{cls}\n".encode() + text(key) + text("cpu") + integer(numel) + b"tQ"


def plain(cls: str, key: str, numel: int, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0) -> bytes:
    head = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage(cls, key, numel)
    return head + integer(offset) + ints(*shape) + ints(*strides) + b"\x89" + HOOKS + b"tR"


def per_tensor(scale: bytes = b"G" + pack(">d", 0.5), point: bytes = integer(0)) -> bytes:
    return b"(ctorch\nper_tensor_affine\n" + scale + point + b"t"


def per_channel(axis: bytes = integer(0), scales: bytes = b"", points: bytes = b"") -> bytes:
    scales = scales or plain("DoubleStorage", "f", 3, (3,), (1,))
    points = points or plain("LongStorage", "z", 3, (3,), (1,))
    return b"(ctorch\nper_channel_affine\n" + scales + points + axis + b"t"


def quantized(
    params: bytes,
    *,
    cls: str = "QInt8Storage",
    shape: tuple[int, ...] = (3, 4),
    strides: tuple[int, ...] = (4, 1),
    offset: int = 0,
) -> bytes:
    head = b"ctorch._utils\n_rebuild_qtensor\n(" + storage(cls, "i", 12) + integer(offset)
    return head + ints(*shape) + ints(*strides) + params + b"\x89" + HOOKS + b"tR"


def saved_value(path: Path, value: bytes) -> Path:
    return archive(path, b"\x80\x02}" + text("w") + value + b"s.", STORAGES)


def test_the_crafted_ones_are_good_where_nothing_is_changed(tmp_path: Path) -> None:
    for name, params in (("a", per_tensor()), ("b", per_channel())):
        path = saved_value(tmp_path / f"{name}.pth", quantized(params))
        assert torch.load(path)["w"].shape == (3, 4)
        with ckptconv.open(path) as checkpoint:
            assert list(checkpoint.composites) == ["w"]


QUANTIZED = {
    "a stride past the storage": quantized(per_tensor(), strides=(5, 1)),
    "a negative stride": quantized(per_tensor(), strides=(4, -1)),
    "an offset past the storage": quantized(per_tensor(), offset=1),
    "a negative offset": quantized(per_tensor(), offset=-1),
    "a negative size": quantized(per_tensor(), shape=(-3, 4)),
    "more sizes than strides": quantized(per_tensor(), shape=(3, 4, 1)),
    "a shape past the storage": quantized(per_tensor(), shape=(4, 4)),
    "a packed shape past the storage": quantized(per_tensor(), cls="QUInt4x2Storage", shape=(5, 6), strides=(6, 1)),
    "a packed view": quantized(per_tensor(), cls="QUInt4x2Storage", strides=(1, 3)),
    "a packed negative size": quantized(per_tensor(), cls="QUInt4x2Storage", shape=(-3, -4)),
    "a packed shape past all files": quantized(
        per_tensor(), cls="QUInt2x4Storage", shape=(2**30, 2**30, 2**30), strides=(2**30, 2**30, 1)
    ),
    "a scale that is text": quantized(per_tensor(scale=text("1"))),
    "a zero point past 64 bits": quantized(per_tensor(point=b"\x8a\x09" + bytes(8) + b"\x01")),
    "a zero point that is a float": quantized(per_tensor(point=b"G" + bytes(8))),
    "no parameters": quantized(b")"),
    "a scheme of no name": quantized(b"(ctorch\nper_tensor_symmetric\nG" + bytes(8) + integer(0) + b"t"),
    "an axis that is not there": quantized(per_channel(integer(2))),
    "a negative axis": quantized(per_channel(integer(-1))),
    "an axis of another length": quantized(per_channel(integer(1))),
    "an axis that is text": quantized(per_channel(text("0"))),
    "an axis that is True": quantized(per_channel(b"\x88")),
    "scales that are too short": quantized(per_channel(scales=plain("DoubleStorage", "f", 3, (2,), (1,)))),
    "scales past their storage": quantized(per_channel(scales=plain("DoubleStorage", "f", 3, (3,), (2,)))),
    "scales of two dimensions": quantized(per_channel(scales=plain("DoubleStorage", "f", 3, (3, 1), (1, 1)))),
    "scales that are integers": quantized(per_channel(scales=plain("LongStorage", "z", 3, (3,), (1,)))),
    "a list of too many scales": quantized(per_channel(scales=b"](" + (b"G" + bytes(8)) * 4 + b"e")),
    "scales that are quantized": quantized(per_channel(scales=quantized(per_tensor(), shape=(3,), strides=(1,)))),
    "scales that are none": quantized(per_channel(scales=b"N")),
    "a storage of floats": quantized(per_tensor(), cls="FloatStorage"),
}


@pytest.mark.parametrize("kind", QUANTIZED)
def test_a_quantized_tensor_that_contradicts_itself_is_refused(kind: str, tmp_path: Path) -> None:
    path = saved_value(tmp_path / "x.pth", QUANTIZED[kind])
    with pytest.raises(CkptconvError) as caught:
        ckptconv.open(path)
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def sparse(layout: str, shape: tuple[int, ...], *parts: bytes) -> bytes:
    head = b"ctorch._utils\n_rebuild_sparse_tensor\n(ctorch.serialization\n_get_layout\n" + text(f"torch.{layout}")
    end = b"ctorch\nSize\n" + ints(*shape) + b"\x85R"
    return head + b"\x85R(" + b"".join(parts) + end + (b"\x89" if layout == "sparse_coo" else b"") + b"ttR"


def longs(*shape: int) -> bytes:
    strides = tuple(torch.empty(shape, device="meta").stride())
    return plain("LongStorage", "z", 3, shape, strides)


def doubles(*shape: int) -> bytes:
    return plain("DoubleStorage", "f", 3, shape, tuple(torch.empty(shape, device="meta").stride()))


SHAPES = {
    "indices in one dimension": sparse("sparse_coo", (4,), longs(3), doubles(3)),
    "more indices than values": sparse("sparse_coo", (4,), longs(1, 3), doubles(2)),
    "more rows than dimensions": sparse("sparse_coo", (4,), longs(3, 1), doubles(1)),
    "a size that is negative": sparse("sparse_coo", (-4,), longs(1, 0), doubles(0)),
    "a size that no tensor has": sparse("sparse_coo", (2**31 - 1,) * 3, longs(3, 0), doubles(0)),
    "values of another dense shape": sparse("sparse_coo", (4, 2), longs(1, 3), doubles(3, 1)),
    "indices that are floats": sparse("sparse_coo", (4,), doubles(1, 3), doubles(3)),
    "a row too many": sparse("sparse_csr", (1, 3), longs(3), longs(2), doubles(2)),
    "columns and values of other lengths": sparse("sparse_csr", (2, 3), longs(3), longs(2), doubles(3)),
    "one dimension": sparse("sparse_csr", (2,), longs(3), longs(2), doubles(2)),
    "blocks that do not fit": sparse("sparse_bsr", (3, 3), longs(2), longs(1), doubles(1, 1, 2)),
    "blocks of nothing": sparse("sparse_bsr", (3, 3), longs(2), longs(1), doubles(1, 0, 2)),
    "a part that is missing": sparse("sparse_csr", (2, 3), longs(3), doubles(2)),
    "a part that is sparse": sparse("sparse_coo", (4,), longs(1, 3), sparse("sparse_coo", (4,), longs(1, 3), longs(3))),
    "a layout that is none": sparse("strided", (4,), longs(1, 3), doubles(3)),
}  # fmt: skip


@pytest.mark.parametrize("kind", SHAPES)
def test_a_sparse_tensor_whose_parts_do_not_go_together_is_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(CkptconvError) as caught:
        ckptconv.open(saved_value(tmp_path / "x.pth", SHAPES[kind]))
    assert caught.value.hint


def unchecked(layout: torch.layout, *parts: Any, shape: tuple[int, ...], coalesced: bool = False) -> torch.Tensor:
    if layout == torch.sparse_coo:
        indices, values = parts
        return torch.sparse_coo_tensor(indices, values, shape, check_invariants=False, is_coalesced=coalesced)
    compressed, plain, values = parts
    return torch.sparse_compressed_tensor(compressed, plain, values, shape, layout=layout, check_invariants=False)


def one_row(*values: int) -> torch.Tensor:
    return torch.tensor(values)


def _coo(*columns: int, coalesced: bool = False) -> torch.Tensor:
    values = torch.ones(len(columns))
    return unchecked(torch.sparse_coo, torch.tensor([columns]), values, shape=(4,), coalesced=coalesced)


def _csr(rows: tuple[int, ...], columns: tuple[int, ...], layout: torch.layout = torch.sparse_csr) -> torch.Tensor:
    shape = (len(rows) - 1, 3) if layout == torch.sparse_csr else (3, len(rows) - 1)
    return unchecked(layout, one_row(*rows), one_row(*columns), torch.ones(len(columns)), shape=shape)


INDICES = {
    "past the end": lambda: _coo(0, 4),
    "negative": lambda: _coo(0, -1),
    "huge": lambda: _coo(2**62),
    "coalesced but out of order": lambda: _coo(2, 1, coalesced=True),
    "coalesced but twice": lambda: _coo(2, 2, coalesced=True),
    "a column past the end": lambda: _csr((0, 1, 2), (0, 3)),
    "a negative column": lambda: _csr((0, 1, 2), (0, -1)),
    "rows that do not start at 0": lambda: _csr((1, 1, 2), (0, 1)),
    "rows that end early": lambda: _csr((0, 1, 1), (0, 1)),
    "rows that end late": lambda: _csr((0, 1, 3), (0, 1)),
    "rows that fall": lambda: _csr((0, 2, 1, 2), (0, 1)),
    "a row past the end and back": lambda: _csr((0, 3, 1, 2), (0, 1)),
    "rows of huge numbers": lambda: _csr((0, 2**62, 2), (0, 1)),
    "columns that do not rise": lambda: _csr((0, 2), (1, 1)),
    "of a csc": lambda: _csr((0, 1, 2), (0, 3), torch.sparse_csc),
    "a second batch that is bad": lambda: unchecked(
        torch.sparse_csr, torch.tensor([[0, 1], [0, 2]]), torch.tensor([[0], [0]]), torch.ones(2, 1), shape=(2, 1, 3)
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", INDICES)
def test_bad_indices_never_reach_torch(kind: str, tmp_path: Path) -> None:
    torch.save({"w": quiet(INDICES[kind]), "x": torch.ones(2)}, tmp_path / "a.pth")
    ckptconv.convert(tmp_path / "a.pth", tmp_path / "b.safetensors")  # its parts are plain tensors there
    for name in ("a.pth", "b.safetensors"):
        with pytest.raises(CorruptFileError, match="'w' has bad indices") as caught:
            ckptconv.convert(tmp_path / name, tmp_path / "c.pth")
        assert caught.value.hint
        assert not (tmp_path / "c.pth").exists()
        with ckptconv.open(tmp_path / name) as checkpoint, pytest.raises(CorruptFileError):
            checkpoint.whole("w")


@pytest.mark.parametrize("kind", [kind for kind in MAKERS if "co" in kind or "cs" in kind or "bs" in kind])
def test_our_check_of_indices_agrees_with_torchs_on_good_ones(kind: str, tmp_path: Path) -> None:
    torch.save({"w": quiet(MAKERS[kind])}, tmp_path / "a.pth")
    with ckptconv.open(tmp_path / "a.pth") as checkpoint:
        for name, composite in checkpoint.composites.items():
            if isinstance(composite, Sparse):
                check_indices(name, composite, checkpoint.all_tensors)


def test_an_index_that_stands_for_a_terabyte_is_refused_at_once(tmp_path: Path) -> None:
    many = 2**40
    indices, values = plain("LongStorage", "z", 3, (1, many), (0, 0)), plain("DoubleStorage", "f", 3, (many,), (0,))
    path = saved_value(tmp_path / "x.pth", sparse("sparse_coo", (4,), indices, values))
    with pytest.raises(CkptconvError, match="bad indices"):
        ckptconv.convert(path, tmp_path / "y.pth")


def composed(values: dict[str, tuple[DType, tuple[int, ...], bytes]], **facts: Any) -> tuple[Sparse, dict[str, Any]]:
    tensors = {name: in_memory(TensorInfo.of(dtype, shape), data) for name, (dtype, shape, data) in values.items()}
    return Sparse({name: name for name in values}, **facts), tensors


@pytest.mark.parametrize("at", [0, PIECE - 1, PIECE, 2 * PIECE, 2 * PIECE + 99])
@pytest.mark.parametrize("layout", ["sparse_csr", "sparse_csc"])
def test_one_bad_index_is_found_wherever_a_piece_ends(at: int, layout: str) -> None:
    count = 2 * PIECE + 100
    names = ("crow_indices", "col_indices") if layout == "sparse_csr" else ("ccol_indices", "row_indices")
    inner = torch.arange(count)
    for bad, wrong in ((None, 0), (at, -1), (at, count), (max(at, 1), max(at, 1) - 1)):
        found = inner.clone()
        if bad is not None:
            found[bad] = wrong
        sides = (2, count) if layout == "sparse_csr" else (count, 2)
        made, tensors = composed(
            {
                names[0]: (DType.I64, (3,), pack("<3q", 0, count, count)),
                names[1]: (DType.I64, (count,), found.numpy().tobytes()),
                "values": (DType.U8, (count,), bytes(count)),
            },
            shape=sides, dtype=DType.U8, layout=layout,
        )  # fmt: skip
        if bad is None:
            check_indices("w", made, tensors)
        else:
            with pytest.raises(CorruptFileError):
                check_indices("w", made, tensors)


def test_a_record_that_lies_about_parts_is_ignored_and_reported(tmp_path: Path) -> None:
    torch.save({"w": quiet(MAKERS["per channel 0"]), "e": quiet(MAKERS["coo"])}, tmp_path / "a.pth")
    ckptconv.convert(tmp_path / "a.pth", tmp_path / "b.safetensors")
    data = (tmp_path / "b.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    record = json.loads(header["__metadata__"]["ckptconv"])
    lies: list[tuple[str, str, object]] = [
        ("w", "axis", 1), ("w", "axis", 9), ("w", "scheme", "x"), ("w", "shape", [6, 4]), ("w", "dtype", "QI32"),
        ("w", "parts", {"values": "w", "scale": "gone", "zero_point": "w.zero_point"}), ("e", "shape", [4, 6, 1]),
        ("w", "parts", {"values": "e.values", "scale": "w.scale", "zero_point": "w.zero_point"}),
    ]  # fmt: skip
    for number, (name, key, value) in enumerate(lies):
        changed = {**record["composites"], name: {**record["composites"][name], key: value}}
        metadata = {**header["__metadata__"], "ckptconv": json.dumps({**record, "composites": changed})}
        new = json.dumps({**header, "__metadata__": metadata}).encode()
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(len(new).to_bytes(8, "little") + new + data[8 + size :])
        with ckptconv.open(path) as checkpoint:
            assert name not in checkpoint.composites
            assert [finding.code for finding in checkpoint.findings] == ["composite"]
        ckptconv.convert(path, tmp_path / f"{number}.pth")
        assert ("w.scale" if name == "w" else "e.indices") in torch.load(tmp_path / f"{number}.pth")


def test_plain_integers_on_the_storage_of_quantized_ones_are_not_written(tmp_path: Path) -> None:
    """torch has a class of storages for each; a record can tie them all the same."""
    plain_ones = torch.ones(3, 4, dtype=torch.int8)
    torch.save({"w": quiet(MAKERS["qint8"]), "u": plain_ones, "v": plain_ones}, tmp_path / "a.pth")
    ckptconv.convert(tmp_path / "a.pth", tmp_path / "b.safetensors")
    data = (tmp_path / "b.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    record = json.loads(header["__metadata__"]["ckptconv"])
    assert record["ties"] == [["v", "u", 4]]
    record["ties"] = [["v", "w", 4]]
    header["__metadata__"] |= {"v": "w", "ckptconv": json.dumps(record)}
    new = json.dumps(header).encode()
    (tmp_path / "b.safetensors").write_bytes(len(new).to_bytes(8, "little") + new + data[8 + size :])
    with ckptconv.open(tmp_path / "b.safetensors") as checkpoint:
        assert (list(checkpoint.composites), checkpoint["v"].alias) == (["w"], checkpoint["w"].alias)
    with pytest.raises(UnsupportedError, match="'v' shares its storage with 'w'") as refused:
        ckptconv.convert(tmp_path / "b.safetensors", tmp_path / "c.pth")
    assert refused.value.hint
    assert not (tmp_path / "c.pth").exists()
