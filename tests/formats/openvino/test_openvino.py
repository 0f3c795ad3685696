"""Models of OpenVINO: what it reads of their constants is what is read here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from struct import pack
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.numpy import load_file

import ckptconv
from ckptconv.core.dtypes import DType
from ckptconv.errors import CkptconvError, CorruptFileError, FileAccessError, LimitError, UnsupportedError
from ckptconv.formats.openvino import document, read
from ckptconv.testing.damage import limited_memory
from tests.support.reads import bytes_read, expect_no_cut_to_open

RUNTIMES = Path(__file__).parents[3] / "fixtures" / "others" / "runtimes"
MODELS = sorted(path.stem for path in RUNTIMES.glob("openvino-*.xml"))
NET = RUNTIMES / "openvino-net.xml"
AS_BYTES = ("nf4", "u6", "u3", "u1")


def read_by_openvino(name: str) -> dict[str, tuple[str, tuple[int, ...], np.ndarray]]:
    """Element type, shape and values of each constant; of what OpenVINO packs in its own way the bytes."""
    with np.load(RUNTIMES / "openvino.npz") as arrays:
        keys = [key for key in arrays.files if key.startswith(f"{name}.xml|") and not key.endswith("|header")]
        headers = {key: json.loads(str(arrays[f"{key}|header"])) for key in keys}
        return {key.split("|")[1]: (headers[key][0], tuple(headers[key][1]), arrays[key]) for key in keys}


@pytest.mark.parametrize("name", MODELS)
def test_every_constant_is_what_openvino_reads(name: str) -> None:
    expected = read_by_openvino(name)
    with ckptconv.open(RUNTIMES / f"{name}.xml") as checkpoint:
        assert checkpoint.format == "openvino"
        assert set(checkpoint) == {key.removesuffix("_compressed") for key in expected}
        for key, (kind, shape, value) in expected.items():
            found = checkpoint[key.removesuffix("_compressed")]
            assert found.span is not None
            if kind in AS_BYTES:
                assert (found.info.dtype, bytes(found.read())) == (DType.U8, value.tobytes())
                assert checkpoint.metadata["packed"][key] == {"element_type": kind, "shape": list(shape)}  # type: ignore[index]
            else:
                assert found.info.shape == shape
                assert np.array_equal(found.numpy().astype(np.float64), value), key


def test_weights_have_torchs_names_and_values() -> None:
    with ckptconv.open(NET) as checkpoint, np.load(RUNTIMES / "openvino-torch.npz") as state:
        for name in ("emb.weight", "fc.weight", "conv.weight"):
            assert checkpoint[f"self.{name}"].info.dtype is DType.F16
            assert np.array_equal(checkpoint[f"self.{name}"].numpy(), state[name].astype(np.float16))
    selected = ckptconv.Edits(select=["self.*"], names=[ckptconv.NameRule("strip-prefix", "self.")])
    assert ckptconv.convert(NET, NET.with_suffix(".pth"), edits=selected, dry_run=True).tensors == 3


def test_the_safetensors_package_sees_the_same_numbers(tmp_path: Path) -> None:
    ckptconv.convert(NET, tmp_path / "x.safetensors")
    seen = load_file(tmp_path / "x.safetensors")
    with ckptconv.open(NET) as checkpoint:
        kept = checkpoint.tied_to
    assert seen.keys().isdisjoint(kept)
    for key, (_, _, value) in read_by_openvino("openvino-net").items():
        name = key.removesuffix("_compressed")
        assert np.array_equal(seen[kept.get(name, name)].astype(np.float64), value)
    assert ckptconv.diff(NET, tmp_path / "x.safetensors").equal


def test_the_graph_and_what_the_converter_says_are_shown() -> None:
    inspection = ckptconv.inspect(NET)
    graph: Any = inspection.checkpoint.notes.graph
    assert inspection.verdict == "plain"
    assert graph["version"] == "11"
    assert graph["inputs"] == [{"name": "x", "dtype": "I64", "shape": [None, None]}]
    assert [one["shape"] for one in graph["outputs"]] == [[None, None, 10], [None, 4, None], [None, None, 5]]
    assert graph["operators"]["LSTMSequence"] == 1
    about: Any = inspection.checkpoint.metadata["rt_info"]
    assert about["conversion_parameters"]["framework"] == "pytorch"
    with ckptconv.open(RUNTIMES / "openvino-types.xml") as checkpoint:
        types: Any = checkpoint.metadata["rt_info"]
        assert types["ours"] == {"note": "hello"}


def test_a_folder_is_the_model_in_it(tmp_path: Path) -> None:
    for name in ("openvino_model", "openvino_tokenizer"):
        shutil.copy(NET, tmp_path / f"{name}.xml")
        shutil.copy(NET.with_suffix(".bin"), tmp_path / f"{name}.bin")
    (tmp_path / "config.json").write_text("{}")
    assert ckptconv.diff(tmp_path, NET).equal
    assert ckptconv.inspect(tmp_path).verdict == "plain"
    for suffix in ("xml", "bin"):
        (tmp_path / f"openvino_model.{suffix}").rename(tmp_path / f"openvino_language_model.{suffix}")
    assert ckptconv.diff(tmp_path, NET).equal
    shutil.copy(NET, tmp_path / "other.xml")
    shutil.copy(NET.with_suffix(".bin"), tmp_path / "other.bin")
    with pytest.raises(CkptconvError, match=r"'openvino_language_model\.xml'") as refused:
        ckptconv.open(tmp_path)
    assert refused.value.hint
    with pytest.raises(UnsupportedError):
        ckptconv.open(tmp_path, format="openvino")


def test_weights_that_are_named_by_themselves_or_are_gone(tmp_path: Path) -> None:
    with pytest.raises(CkptconvError, match="weights of an OpenVINO graph") as refused:
        ckptconv.open(NET.with_suffix(".bin"))
    assert str(NET) in str(refused.value.hint)
    shutil.copy(NET, tmp_path / "x.xml")
    with pytest.raises(FileAccessError, match=r"in 'x\.bin'"):
        ckptconv.open(tmp_path / "x.xml")
    (tmp_path / "x.bin").write_bytes(NET.with_suffix(".bin").read_bytes()[:-1])
    with pytest.raises(CorruptFileError, match=r"ends at byte 986 of 'x\.bin', which has 985"):
        ckptconv.open(tmp_path / "x.xml")


def written(
    folder: Path, layers: str, weights: bytes = bytes(64), *, head: str = '<net name="n" version="11">'
) -> Path:
    path = folder / "x.xml"
    path.write_text(f'<?xml version="1.0"?>\n{head}<layers>{layers}</layers></net>')
    path.with_suffix(".bin").write_bytes(weights)
    return path


def const(name: str, kind: str = "f32", shape: str = "2", offset: object = 0, size: object = 8) -> str:
    data = f'<data element_type="{kind}" shape="{shape}" offset="{offset}" size="{size}"/>'
    return f'<layer id="0" name="{name}" type="Const" version="opset1">{data}</layer>'


def test_names_that_come_twice_and_bodies_of_loops(tmp_path: Path) -> None:
    loop = f'<layer id="2" name="loop" type="Loop"><body><layers>{const("w")}</layers></body></layer>'
    with ckptconv.open(written(tmp_path, const("w") + const("w") + loop + const("v"))) as checkpoint:
        assert list(checkpoint) == ["w", "w#2", "loop.body.w", "v"]


def test_constants_of_the_same_bytes_type_and_shape_are_ties(tmp_path: Path) -> None:
    empty = const("none", shape="0", size=1) + const("nothing", shape="0", size=1)
    others = const("i", "i32") + const("row", shape="1,2") + const("far", offset=8) + const("half", shape="1", size=4)
    with ckptconv.open(written(tmp_path, const("w") + const("v") + others + empty)) as checkpoint:
        assert checkpoint.ties == [["w", "v"]]
    ckptconv.convert(tmp_path / "x.xml", tmp_path / "x.pth")
    state = torch.load(tmp_path / "x.pth")
    assert state["w"].data_ptr() == state["v"].data_ptr() != state["row"].data_ptr()


@pytest.mark.parametrize("suffix", [".xml", ".onnx"])
def test_what_shares_its_bytes_is_bounded_by_them(suffix: str, tmp_path: Path) -> None:
    def made(count: int) -> Path:
        if suffix == ".xml":
            layers = "".join(
                const(f"w{number}", shape="1," * number + "262144", size=1 << 20) for number in range(count)
            )
            return written(tmp_path, layers, bytes(1 << 20))
        (tmp_path / "x.bin").write_bytes(bytes(1 << 20))
        pair = {"location": "x.bin", "offset": "0", "length": str(1 << 20)}
        weights = [
            onnx.TensorProto(
                name=f"w{number}", dims=[1] * number + [1 << 18], data_type=1, data_location=onnx.TensorProto.EXTERNAL,
                external_data=[onnx.StringStringEntryProto(key=key, value=value) for key, value in pair.items()],
            )
            for number in range(count)
        ]  # fmt: skip
        path = tmp_path / "x.onnx"
        path.write_bytes(onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], weights)).SerializeToString())
        return path

    with ckptconv.open(made(20)) as checkpoint:
        assert not checkpoint.ties
    with pytest.raises(LimitError, match="its tensors share bytes"):
        ckptconv.open(made(40))


def test_a_name_ends_in_compressed_where_nothing_undoes_it(tmp_path: Path) -> None:
    undo = (
        '<layer id="1" name="w" type="Convert"><rt_info><attribute name="decompression" version="0"/></rt_info></layer>'
    )
    with ckptconv.open(written(tmp_path, const("w_compressed") + undo + const("v_compressed"))) as checkpoint:
        assert list(checkpoint) == ["w", "v_compressed"]


def test_texts_are_metadata(tmp_path: Path) -> None:
    data = pack("<i5i", 4, 0, 1, 1, 4, 6) + b"abcd\xc3\xa9"
    path = written(
        tmp_path, const("words", "string", "2,2", 0, len(data)) + const("none", "string", "0", 30, 8), data + bytes(40)
    )
    with ckptconv.open(path) as checkpoint:
        assert checkpoint.metadata["strings"] == {"words": [[b"a", b""], [b"bcd", "é".encode()]], "none": []}


def test_texts_that_share_bytes_are_bounded_by_those(tmp_path: Path) -> None:
    count = 100_000
    data = pack("<i", count) + np.arange(0, 2 * count + 1, 2, dtype="<i4").tobytes() + b"ab" * count
    layers = "".join(const(f"w{number}", "string", str(count), 0, len(data)) for number in range(20))
    with limited_memory(256 << 20), pytest.raises(LimitError, match="its texts have more than"):
        ckptconv.open(written(tmp_path, layers, data))


def test_what_the_converter_says_takes_no_key_of_ours(tmp_path: Path) -> None:
    path = written(tmp_path, const("w"))
    names = "".join(f'<rt_info name="{name}" value="x"/>' for name in ("state_dict", "strings", "other"))
    path.write_text(path.read_text().replace("</layers>", f"</layers>{names}"))
    with ckptconv.open(path) as checkpoint:
        assert checkpoint.metadata == {"state_dict_": "x", "strings_": "x", "other": "x"}
    ckptconv.convert(path, tmp_path / "x.pth")
    assert torch.load(tmp_path / "x.pth")["state_dict"]["w"].shape == (2,)


def test_an_input_has_no_more_dimensions_than_a_tensor(tmp_path: Path) -> None:
    shape = ",".join("1" * 100_000)
    layer = f'<layer name="x" type="Parameter"><data element_type="f32" shape="{shape}"/></layer>'
    graph: Any = ckptconv.inspect(written(tmp_path, layer + const("w"))).checkpoint.notes.graph
    assert graph["inputs"] == [{"name": "x", "dtype": "F32", "shape": [1] * 64}]


BAD = {
    "offset": (const("w", offset=60), CorruptFileError),
    "far": (const("w", offset=1 << 62), CorruptFileError),
    "size": (const("w", size=7), CorruptFileError),
    "huge": (const("w", shape="4611686018427387904,4", size=8), CorruptFileError),
    "negative": (const("w", shape="-2"), CorruptFileError),
    "digits": (const("w", shape="9" * 30), CorruptFileError),
    "no number": (const("w", offset="0x10"), CorruptFileError),
    "rank": (const("w", shape=",".join("1" * 65), size=4), LimitError),
    "type": (const("w", "f7"), UnsupportedError),
    "no data": ('<layer id="0" name="w" type="Const"/>', CorruptFileError),
    "texts": (const("w", "string", "2", 0, 8), CorruptFileError),
    "text offsets": (const("w", "string", "1", 0, 13), CorruptFileError),
    "deep": ("<a>" * 80 + "</a>" * 80, LimitError),
    "open": ("<layer>", CorruptFileError),
}


@pytest.mark.parametrize(("layers", "error"), BAD.values(), ids=BAD)
def test_what_contradicts_itself_is_refused(layers: str, error: type[CkptconvError], tmp_path: Path) -> None:
    weights = pack("<i2i", 1, 0, 2) + b"x" + bytes(51)
    with pytest.raises(error) as refused:
        ckptconv.open(written(tmp_path, layers, weights))
    assert refused.value.hint


@pytest.mark.parametrize("version", ["7", "12", ""])
def test_other_versions_are_refused_by_name(version: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="only 10 and 11"):
        ckptconv.open(written(tmp_path, "", head=f'<net version="{version}">'))


@pytest.mark.parametrize(
    "doctype",
    [
        '<!DOCTYPE net [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>',
        '<!DOCTYPE net SYSTEM "file:///etc/passwd">',
        '<!DOCTYPE net [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
    ],
)
def test_entities_are_refused(doctype: str, tmp_path: Path) -> None:
    (tmp_path / "x.xml").write_text(f'<?xml version="1.0"?>{doctype}<net version="11">&b;</net>')
    with pytest.raises(UnsupportedError, match="document type"):
        ckptconv.open(tmp_path / "x.xml", format="openvino")


def test_markup_and_documents_have_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, f'<layer name="{"x" * 900_000}"/>')
    ckptconv.open(path).close()
    monkeypatch.setattr(document, "MAX_OPENVINO_MARKUP", 500_000)
    with pytest.raises(LimitError):
        ckptconv.open(path)
    monkeypatch.setattr(document, "MAX_OPENVINO_XML", 500_000)
    with pytest.raises(LimitError):
        ckptconv.open(path)
    monkeypatch.setattr(read, "MAX_OPENVINO_TEXT", 4)
    with pytest.raises(LimitError):
        ckptconv.open(written(tmp_path, const("w", "string", "1", 0, 8)))


def test_no_cut_makes_it_anything_else(tmp_path: Path) -> None:
    whole = written(tmp_path, const("w") + const("v", "i4", "3", 8, 2)).read_bytes()
    expect_no_cut_to_open(tmp_path / "x.xml", whole)


def test_opening_it_reads_no_weight(tmp_path: Path) -> None:
    path = written(tmp_path, const("w", shape="262144", size=1 << 20), bytes(1 << 20))
    with ckptconv.open(path) as checkpoint:
        assert bytes_read(checkpoint) < 4096
        assert checkpoint["w"].info.nbytes == 1 << 20


def test_a_long_name_around_many_others_costs_no_memory(tmp_path: Path) -> None:
    body = "".join(f'<layer name="{number}" type="Const2"/>' for number in range(20_000))
    loop = f'<layer name="{"n" * 500_000}" type="Loop"><body><layers>{body}</layers></body></layer>'
    with limited_memory(256 << 20), pytest.raises(LimitError, match="names repeat"):
        ckptconv.open(written(tmp_path, loop))


def test_a_crowd_of_entries_is_refused(tmp_path: Path) -> None:
    entries = "".join(f'<info name="{number}"/>' for number in range(100_001))
    path = tmp_path / "x.xml"
    path.write_text(f'<net version="11"><rt_info>{entries}</rt_info></net>')
    with pytest.raises(LimitError):
        ckptconv.open(path)
