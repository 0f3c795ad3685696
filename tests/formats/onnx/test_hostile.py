"""Bad models end in one error with a hint, soon, and in bounded memory."""

from __future__ import annotations

import functools
import os
import random
from typing import TYPE_CHECKING, Any

import onnx
import pytest
from onnx import TensorProto, helper

import ckptconv
from ckptconv.errors import CkptconvError, UnknownFormatError
from ckptconv.formats import onnx as our_onnx
from ckptconv.formats.detect import detect
from ckptconv.io.source import Source
from ckptconv.testing.damage import Reading, Verdicts, disagreement, limited_memory, reading
from ckptconv.testing.suite import FOREIGN
from tests.support.protobuf_files import field, varint
from tests.support.stopwatch import at_most

from .models import graph, model, reference, tensor, typed, write

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = our_onnx.FORMATS[0]


def refused(path: Path) -> CkptconvError:
    """The one error that opening (or reading) ends in, within two seconds."""
    with (
        at_most(2),
        pytest.raises(CkptconvError) as caught,
        limited_memory(256 << 20),
        ckptconv.open(path, format="onnx") as found,
    ):
        reading(found)
    assert caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value


def raw(**values: Any) -> TensorProto:
    return TensorProto(**{"name": "t", "data_type": 1, "dims": [2], "raw_data": bytes(8), **values})


@pytest.mark.parametrize(
    ("proto", "words"),
    [
        (raw(raw_data=bytes(7)), "holds 7 bytes"),
        (raw(raw_data=bytes(9)), "holds 9 bytes"),
        (raw(raw_data=b""), "holds 0 bytes"),
        (raw(dims=[-2]), "shape"),
        (raw(dims=[-1, -2]), "shape"),
        (raw(dims=[1 << 62, 1 << 62]), "shape"),
        (raw(dims=[(1 << 63) - 1]), "shape"),
        (raw(dims=[1] * 65), "dimensions"),
        (raw(data_type=0), "element type 0"),
        (raw(data_type=29), "element type 29"),
        (raw(data_type=1000), "element type 1000"),
        (raw(name=""), "no name"),
        (raw(float_data=[1, 2]), "two places"),
        (raw(string_data=[b"x"]), "two places"),
        (raw(data_location=1), "two places"),
        (TensorProto(name="t", data_type=1, dims=[2]), "holds 0 bytes"),
        (TensorProto(name="t", data_type=1, dims=[2], float_data=[1]), "holds 1 numbers"),
        (TensorProto(name="t", data_type=1, dims=[2], int32_data=[1, 2]), "float_data"),
        (TensorProto(name="t", data_type=7, dims=[2], int64_data=[1, 2, 3]), "holds 3 numbers"),
        (TensorProto(name="t", data_type=7, dims=[1 << 40], int64_data=[1, 2, 3]), "ask for"),
        (TensorProto(name="t", data_type=7, dims=[1], int64_data=[1], float_data=[1]), "two places"),
        (TensorProto(name="t", data_type=1, dims=[1], string_data=[b"abcd"]), "strings"),
        (raw(segment=TensorProto.Segment(begin=0, end=2)), "segments"),
    ],
)
def test_a_tensor_that_contradicts_itself_is_refused(tmp_path: Path, proto: TensorProto, words: str) -> None:
    assert words in refused(write(tmp_path / "m.onnx", model(initializers=[proto]))).message


def test_two_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    refused(write(tmp_path / "m.onnx", model(initializers=[tensor("t", 1, (2,)), tensor("t", 1, (2,))])))
    constant = helper.make_node("Constant", [], ["t"], value=tensor("", 1, (2,)))
    refused(write(tmp_path / "m.onnx", model([constant], [tensor("t", 1, (2,))])))
    refused(write(tmp_path / "m.onnx", model([constant, constant])))


def test_metadata_that_comes_twice_is_refused(tmp_path: Path) -> None:
    made = model()
    for value in "ab":
        made.metadata_props.add(key="k", value=value)
    assert "'k'" in refused(write(tmp_path / "m.onnx", made)).message


def placed(data_location: int) -> bytes:
    return raw().SerializeToString() + b"\x70" + bytes([data_location])


NESTED = functools.reduce(lambda body, _: field(4, field(1, body)), range(20), b"")
MESSAGES = {
    "a tensor's data_location is 2": field(7, field(5, placed(2))),
    "a string pair has two keys or two values": field(7, b"") + field(14, field(1, b"a") + field(1, b"b")),
    "the function 'd.f' comes twice": field(7, b"") + 2 * field(25, field(1, b"f") + field(10, b"d")),
    "types within types, more than": field(7, field(11, field(1, b"x") + field(2, NESTED))),
}


@pytest.mark.parametrize("words", MESSAGES)
def test_a_message_that_says_what_cannot_be_is_refused(tmp_path: Path, words: str) -> None:
    assert words in refused(write(tmp_path / "m.onnx", b"\x08\x0a" + MESSAGES[words])).message


@pytest.mark.parametrize("depth", [31, 100, 3000])
def test_graphs_a_hundred_deep_are_refused(tmp_path: Path, depth: int) -> None:
    data = b""
    for _ in range(depth):
        for number in (6, 5, 1):  # the graph of an attribute of a node of a graph
            data = bytes([number << 3 | 2]) + varint(len(data)) + data
    path = write(tmp_path / "m.onnx", b"\x08\x0a\x3a" + varint(len(data)) + data)
    assert "deep" in refused(path).message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x08\x0a",
        b"\x08\x0a\x3a\x05\x0a",
        b"\x08\x0a\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x08\x0a\x3a\x00\x3a\x00",
        b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x3a\x00",
        b"\x08\x0a\x3b\x3c\x3a\x00",
        b"\x08\x0a\x02\x00\x3a\x00",
        b"\x08\x0a\xba\x00\x00",
        b"\x08\x0a\x3a\x02\x2a\x05",
        b"\x0a\x00\x3a\x00",
        b"\x08\x0a\x12\x02\xff\xfe\x3a\x00",
    ],
)
def test_messages_that_break_the_wire_format_are_refused(tmp_path: Path, data: bytes) -> None:
    refused(write(tmp_path / "m.onnx", data))


def test_a_crowd_of_fields_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ckptconv.io import protobuf

    monkeypatch.setattr(protobuf, "MAX_FIELDS", 100_000)
    nodes = b"\x0a\x03\x22\x01A" * 120_000
    assert "fields" in refused(write(tmp_path / "m.onnx", b"\x08\x0a\x3a" + varint(len(nodes)) + nodes)).message


def test_numbers_in_a_crowd_of_pieces_are_refused(tmp_path: Path) -> None:
    pieces = b"\x22\x04\0\0\0\0" * 20_000
    proto = b"\x08" + varint(20_000) + b"\x10\x01\x42\x01t" + pieces
    body = b"\x2a" + varint(len(proto)) + proto
    assert "pieces" in refused(write(tmp_path / "m.onnx", b"\x08\x0a\x3a" + varint(len(body)) + body)).message


# Claims


def test_no_other_file_is_claimed(tmp_path: Path) -> None:
    rng = random.Random(0)
    others = list(FOREIGN.values())
    others += [rng.randbytes(rng.randrange(1, 300)) for _ in range(500)]
    others += [bytes([8, rng.randrange(14)]) + rng.randbytes(200) for _ in range(500)]
    path = tmp_path / "other"
    for data in others:
        path.write_bytes(data)
        with Source(path) as source:
            assert not FORMAT.claims_file(source), data


def test_no_fixture_of_another_format_is_claimed() -> None:
    from tests.test_fixtures import FIXTURES

    paths = [path for path in FIXTURES.iterdir() if path.is_file() and path.suffix != ".onnx"]
    assert len(paths) > 8
    for path in paths:
        with Source(path) as source:
            assert not FORMAT.claims_file(source), path


def test_an_onnx_file_is_known_by_its_bytes(tmp_path: Path) -> None:
    for made in (model(initializers=[tensor("w", 1, (2,))]), model(), model(producer_name="me", doc_string="x" * 9000)):
        with Source(write(tmp_path / "model.bin", made)) as source:
            assert detect(source).name == "onnx"


def test_a_model_that_is_cut_short_is_called_so(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", model(initializers=[tensor("w", 1, (2000,))]))
    os.truncate(path, 5000)
    with pytest.raises(CkptconvError, match="ends at byte 5,000") as caught:
        ckptconv.open(path)
    assert "cut short" in str(caught.value.hint)


def test_an_empty_file_is_called_empty(tmp_path: Path) -> None:
    with pytest.raises(UnknownFormatError, match="empty"):
        ckptconv.open(write(tmp_path / "m.onnx", b""))


# Damage: refused, or read as the onnx package reads it


def sample() -> onnx.ModelProto:
    weights = [tensor("w", 1, (2, 3)), typed(tensor("b", 7, (3,))), typed(tensor("h", 10, (2,))), tensor("s", 2, ())]
    nodes = [
        helper.make_node("Constant", [], ["c"], value=tensor("", 11, (2,))),
        helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="/fc/Gemm", transB=1),
    ]
    made = model(nodes, weights, producer_name="pytorch", producer_version="2")
    made.graph.input.append(helper.make_tensor_value_info("x", 1, ["batch", 3]))
    made.metadata_props.add(key="author", value="me")
    return made


def judged(path: Path, verdicts: Verdicts, damage: str) -> None:
    try:
        with at_most(2), limited_memory(256 << 20), Source(path) as source, FORMAT.read(source) as found:
            ours = reading(found)
    except CkptconvError:
        verdicts.refused += 1
        return
    except Exception as error:
        verdicts.failures.append(f"{damage}: {type(error).__name__}: {error}")
        return
    verdicts.read += 1
    if what := disagreement(Reading(ours.tensors, ours.metadata), path, reference):
        verdicts.failures.append(f"{damage}: {what}")


def flip(path: Path, at: int, byte: int) -> None:
    with path.open("r+b", buffering=0) as file:
        file.seek(at)
        file.write(bytes([byte]))


def test_a_file_cut_short_is_refused_or_read_as_the_onnx_package_does(tmp_path: Path) -> None:
    path, verdicts = write(tmp_path / "m.onnx", sample()), Verdicts()
    judged(path, verdicts, "nothing")
    for size in reversed(range(path.stat().st_size)):
        os.truncate(path, size)
        judged(path, verdicts, f"cut to {size}")
    assert not verdicts.failures, verdicts.text()
    assert verdicts.refused > verdicts.read


def test_a_flipped_bit_is_refused_or_read_as_the_onnx_package_does(tmp_path: Path) -> None:
    whole = sample().SerializeToString()
    path, verdicts = write(tmp_path / "m.onnx", whole), Verdicts()
    for at in range(len(whole)):
        for bit in range(8):
            flip(path, at, whole[at] ^ 1 << bit)
            judged(path, verdicts, f"bit {bit} of byte {at} ({whole[at : at + 1]!r}) flipped")
        flip(path, at, whole[at])
    assert not verdicts.failures, verdicts.text()
    assert verdicts.refused


def test_a_flipped_bit_in_a_subgraph_never_ends_in_another_exception(tmp_path: Path) -> None:
    inner = graph([helper.make_node("Relu", ["a"], ["b"])], [tensor("w", 1, (2,))])
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=graph())
    whole = model([node]).SerializeToString()
    path, refusals = write(tmp_path / "m.onnx", whole), 0
    for at in range(len(whole)):
        for bit in range(8):
            flip(path, at, whole[at] ^ 1 << bit)
            try:
                with ckptconv.open(path, format="onnx") as found:
                    reading(found)
            except CkptconvError:
                refusals += 1
        flip(path, at, whole[at])
    assert refusals
