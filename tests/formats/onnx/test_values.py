"""Every element type in every place where ONNX keeps numbers, against the onnx package."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import ckptconv
from ckptconv.errors import COPY_AGAIN, CkptconvError, UnsupportedError
from ckptconv.formats.onnx import typed_data
from ckptconv.formats.onnx.tensors import DTYPE_BY_CODE
from ckptconv.testing.damage import reading

from .models import graph, image, model, pack, reference, seen, tensor, typed, write

if TYPE_CHECKING:
    from pathlib import Path

SHAPES = [(), (0,), (1,), (3,), (2, 5), (3, 0, 2), (7, 11, 13)]
CODES = sorted(DTYPE_BY_CODE)


def field(number: int, payload: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def by_hand(tensor_bytes: bytes) -> bytes:
    return b"\x08\x0a" + field(7, field(5, tensor_bytes))


def test_every_element_type_of_onnx_is_known() -> None:
    known = {value for name, value in TensorProto.DataType.items() if name not in ("UNDEFINED", "STRING")}
    assert set(CODES) == known


@pytest.mark.parametrize("code", CODES, ids=lambda code: DTYPE_BY_CODE[code].name)
@pytest.mark.parametrize("place", ["raw", "typed"])
def test_a_tensor_is_what_the_onnx_package_reads(tmp_path: Path, code: int, place: str) -> None:
    raw = [tensor(f"t{i}", code, shape, seed=i) for i, shape in enumerate(SHAPES)]
    protos = raw if place == "raw" else [typed(one) for one in raw]
    path = write(tmp_path / "m.onnx", model(initializers=protos))
    with ckptconv.open(path) as found:
        assert list(found) == [one.name for one in raw]
        for proto, whole in zip(protos, raw, strict=True):
            lazy = found[proto.name]
            data = bytes(lazy.read())
            assert (lazy.info.dtype.name, lazy.info.shape, data) == seen(proto)
            assert place == "typed" or data == whole.raw_data  # a signalling NaN does not outlive Python's float
            size = len(data)
            for start, stop in (
                (0, size // 2),
                (size // 3, size),
                (size // 3, size // 3 * 2),
                (max(size - 1, 0), size),
            ):
                assert bytes(lazy.read(start, stop)) == data[start:stop]


def test_raw_floats_and_packed_floats_are_one_run_of_the_file(tmp_path: Path) -> None:
    one = tensor("raw", 1, (4, 4))
    two = typed(tensor("typed", 11, (4, 4)))
    with ckptconv.open(write(tmp_path / "m.onnx", model(initializers=[one, two]))) as found:
        assert all(lazy.span is not None for lazy in found.values())


@pytest.mark.parametrize("code", [1, 11, 7, 13, 10, 3, 14], ids=lambda code: DTYPE_BY_CODE[code].name)
def test_numbers_may_come_packed_or_one_by_one_or_in_pieces(tmp_path: Path, code: int) -> None:
    raw = tensor("t", code, (3000,))
    dtype = DTYPE_BY_CODE[code]
    number, form = {1: (4, "<f"), 14: (4, "<f"), 11: (10, "<d"), 7: (7, "v"), 13: (11, "v")}.get(code, (5, "v"))
    if form == "v":
        kind = {10: "<u2", 3: "i1", 7: "<i8", 13: "<u8"}[code]
        rows = [varint(int(n)) for n in np.frombuffer(raw.raw_data, kind)]
    else:
        width = struct.calcsize(form)
        rows = [raw.raw_data[i : i + width] for i in range(0, len(raw.raw_data), width)]
    tag = varint(number << 3 | {"v": 0, "<f": 5, "<d": 1}[form])
    third = len(rows) // 3
    pieces = [
        b"".join(tag + one for one in rows[:third]),
        field(number, b"".join(rows[third : 2 * third])),
        field(number, b""),
        b"".join(tag + one for one in rows[2 * third :]),
    ]
    header = field(8, b"t") + b"\x08" + varint(3000) + b"\x10" + varint(code)
    path = write(tmp_path / "m.onnx", by_hand(pieces[0] + header + b"".join(pieces[1:])))
    theirs = image(onnx.load(path).graph.initializer[0])
    assert theirs == raw.raw_data or code in (1, 14)  # as above
    with ckptconv.open(path) as found:
        assert found["t"].info.dtype is dtype
        assert bytes(found["t"].read()) == raw.raw_data
        assert bytes(found["t"].read(1001, 2003)) == raw.raw_data[1001:2003]


def test_varints_are_found_across_blocks(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(-(1 << 62), 1 << 62, 60_000) >> np.arange(60_000) % 62
    proto = TensorProto(name="t", data_type=7, dims=[60_000], int64_data=values)
    with ckptconv.open(write(tmp_path / "m.onnx", model(initializers=[proto]))) as found:
        data = values.astype("<i8").tobytes()
        assert bytes(found["t"].read()) == data
        for start in range(0, len(data) - 5000, 37_003):
            assert bytes(found["t"].read(start, start + 5000)) == data[start : start + 5000]


@pytest.mark.parametrize("block", [1, 2, 7, 64, 1000])
def test_blocks_of_any_size_give_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(typed_data, "BLOCK", block)
    monkeypatch.setattr(typed_data, "_CODES", 8)
    for code in (7, 10, 3, 27):
        raw = tensor("t", code, (301,))
        alone = TensorProto(name="t", data_type=code, dims=[301])
        field_name = "int64_data" if code == 7 else "int32_data"
        values = list(getattr(typed(raw), field_name))
        one_by_one = b"".join(bytes([(7 if code == 7 else 5) << 3]) + varint(value) for value in values)
        for path in (
            write(tmp_path / "packed.onnx", model(initializers=[typed(raw)])),
            write(tmp_path / "single.onnx", by_hand(alone.SerializeToString() + one_by_one)),
        ):
            with ckptconv.open(path) as found:
                data = raw.raw_data
                assert bytes(found["t"].read()) == data
                for start in range(0, len(data), 13):
                    assert bytes(found["t"].read(start, min(start + 29, len(data)))) == data[start : start + 29]


def test_packed_dims_are_read_as_others_read_them(tmp_path: Path) -> None:
    path = write(
        tmp_path / "m.onnx", by_hand(field(1, b"\x02\x03") + b"\x10\x01" + field(8, b"t") + field(9, bytes(24)))
    )
    assert tuple(onnx.load(path).graph.initializer[0].dims) == (2, 3)
    with ckptconv.open(path) as found:
        assert found["t"].info.shape == (2, 3)


def test_a_length_that_is_found_out_late_is_still_refused(tmp_path: Path) -> None:
    proto = TensorProto(name="t", data_type=7, dims=[50_000], int64_data=[1 << 40] * 49_999)
    with ckptconv.open(write(tmp_path / "m.onnx", model(initializers=[proto]))) as found:
        lazy = found["t"]
        with pytest.raises(CkptconvError, match="holds 49,999 numbers"):
            lazy.read(0, 8)


def test_a_number_that_does_not_fit_its_type_is_refused(tmp_path: Path) -> None:
    for code, value in ((2, 256), (3, -200), (10, 1 << 16), (21, 300), (27, 64), (12, 1 << 32)):
        proto = TensorProto(name="t", data_type=code, dims=[1])
        (proto.uint64_data if code == 12 else proto.int32_data).append(value)
        with ckptconv.open(write(tmp_path / "m.onnx", model(initializers=[proto]))) as found:
            with pytest.raises(CkptconvError, match="does not fit") as caught:
                found["t"].read()
            assert caught.value.hint == COPY_AGAIN


# Which tensors are the model's


def constant(output: str, **value: Any) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [output], **value)


def test_constants_are_weights_where_they_are_floating_and_have_a_dimension(tmp_path: Path) -> None:
    nodes = [
        constant("weight", value=tensor("", 1, (2, 3))),
        constant("named", value=tensor("inner name", 10, (2,))),
        constant("floats", value_floats=[1.0, 2.5, -0.0]),
        constant("scalar", value=tensor("", 1, ())),
        constant("float", value_float=1.0),
        constant("shape", value=tensor("", 7, (4,))),
        constant("ints", value_ints=[1, 2]),
        constant("int", value_int=1),
        constant("text", value_string=b"x"),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"], value=tensor("", 1, (1,))),
        helper.make_node("Constant", [], ["theirs"], domain="com.other", value=tensor("", 1, (2,))),
    ]
    path = write(tmp_path / "m.onnx", model(nodes, [tensor("i", 7, (2,))]))
    with ckptconv.open(path) as found:
        assert list(found) == ["i", "weight", "named", "floats"]
        assert reading(found).tensors == reference(path).tensors
        assert found["floats"].numpy().tolist() == [1.0, 2.5, -0.0]


def branching(then: onnx.GraphProto, other: onnx.GraphProto) -> onnx.NodeProto:
    return helper.make_node("If", ["c"], ["y"], name="/If", then_branch=then, else_branch=other)


def test_weights_in_the_branches_of_an_if_are_found(tmp_path: Path) -> None:
    inner = graph([constant("deep", value=tensor("", 1, (2,)))], [tensor("both", 1, (5,))])
    then = graph([branching(inner, graph())], [tensor("both", 1, (2,)), tensor("axes", 7, (2,))])
    other = graph([constant("c1", value=tensor("", 11, (3,)))], [tensor("both", 1, (4,)), tensor("alone", 1, (1,))])
    with ckptconv.open(write(tmp_path / "m.onnx", model([branching(then, other)], [tensor("w", 1, (1,))]))) as found:
        assert {name: lazy.info.shape for name, lazy in found.items()} == {
            "w": (1,),
            "/If.then_branch.both": (2,),
            "/If.then_branch./If.then_branch.both": (5,),
            "deep": (2,),
            "/If.else_branch.both": (4,),
            "alone": (1,),
            "c1": (3,),
        }
        described: Any = found.notes.graph
        assert described["subgraphs"] == 4
        assert described["operators"] == {"Constant": 2, "If": 2}


def test_nodes_of_one_name_keep_their_branches_apart(tmp_path: Path) -> None:
    """ONNX asks for values of different names, not for nodes of different names."""
    twice = [branching(graph([], [tensor("w", 1, (size,))]), graph()) for size in (2, 3)]
    with ckptconv.open(write(tmp_path / "m.onnx", model(twice, [tensor("w", 1, (1,))]))) as found:
        assert {name: lazy.info.shape for name, lazy in found.items()} == {
            "w": (1,),
            "/If_0.then_branch.w": (2,),
            "/If_1.then_branch.w": (3,),
        }


def test_weights_in_functions_are_found(tmp_path: Path) -> None:
    bodies = [
        helper.make_function("d", name, [], ["y"], [constant("y", value=tensor("", 1, (size,)))], [])
        for size, name in enumerate(("f", "g"), 1)
    ]
    made = model([helper.make_node("f", [], ["a"], domain="d")], functions=bodies)
    with ckptconv.open(write(tmp_path / "m.onnx", made)) as found:
        assert {name: lazy.info.shape for name, lazy in found.items()} == {"d.f.y": (1,), "d.g.y": (2,)}
        described: Any = found.notes.graph
        assert described["functions"] == ["d.f", "d.g"]


def test_strings_stay_with_the_graph_and_are_named(tmp_path: Path) -> None:
    texts: Any = [b"a", b"b"]
    words = helper.make_tensor("vocabulary", TensorProto.STRING, [2], texts)
    with ckptconv.open(write(tmp_path / "m.onnx", model(initializers=[words, tensor("w", 1, (2,))]))) as found:
        assert list(found) == ["w"]
        (finding,) = [one for one in found.findings if one.code == "strings"]
        assert finding.severity == "warning"
        assert "'vocabulary'" in finding.message


def test_sparse_initializers_are_refused_by_name(tmp_path: Path) -> None:
    sparse = helper.make_sparse_tensor(tensor("s", 1, (1,)), helper.make_tensor("i", 7, [1], [3]), [9])
    made = model(initializers=[tensor("w", 1, (2,))])
    made.graph.sparse_initializer.append(sparse)
    for one in (made, model([constant("s", sparse_value=sparse)])):
        with pytest.raises(UnsupportedError, match="sparse") as caught:
            ckptconv.open(write(tmp_path / "m.onnx", one))
        assert caught.value.hint


def test_bits_are_packed_as_the_test_expects() -> None:
    assert pack(np.array([1, 2, 3], np.uint8), 4) == b"\x21\x03"
