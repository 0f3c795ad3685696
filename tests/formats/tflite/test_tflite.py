"""Models of TensorFlow Lite: what its interpreter reads of their constants is what is read here."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import load_file

import ckptconv
from ckptconv.cli.main import program
from ckptconv.core.dtypes import DType
from ckptconv.errors import LossError
from tests.support.flatbuffer_files import flatbuffer, model, quantized, tensor
from tests.support.nodes import load
from tests.support.reads import bytes_read

if TYPE_CHECKING:
    from ckptconv.core.checkpoint import Checkpoint

OTHERS = Path(__file__).parents[3] / "fixtures" / "others"
MODELS = sorted(path.stem for path in OTHERS.glob("tflite-*.tflite"))
TYPES = OTHERS / "tflite-types.tflite"
INT8, FLOAT32 = 9, 0


def read_by_interpreter(name: str) -> dict[tuple[str, ...], np.ndarray]:
    """By graph, number and name, and of a quantized one once more with what it is: scale, zero_point, axis."""
    with np.load(OTHERS / "tflite.npz") as arrays:
        return {tuple(key.split("|")[1:]): arrays[key] for key in arrays.files if key.startswith(f"{name}|")}


def ours(checkpoint: Checkpoint, key: tuple[str, ...]) -> str:
    """Our name for what the interpreter calls by graph, number and name."""
    graph, number, name = key
    if name == "twice":
        return {"23": "twice", "24": "twice#2"}[number]
    return ("branch." if graph == "1" else "") + (name or f"tensor{number}")


@pytest.mark.parametrize("name", MODELS)
def test_every_constant_is_what_the_interpreter_reads(name: str) -> None:
    expected = read_by_interpreter(name)
    values = {key: value for key, value in expected.items() if len(key) == 3 and key[0] != "dense"}
    assert values
    with ckptconv.open(OTHERS / f"{name}.tflite") as checkpoint:
        assert checkpoint.format == "tflite"
        for key, value in values.items():
            found = checkpoint[ours(checkpoint, key)]
            assert found.info.shape == value.shape
            array = found.numpy()
            if found.info.dtype is DType.BF16:
                array = array.view(np.uint16)
            assert array.astype(value.dtype).tobytes() == value.tobytes(), key
            assert found.span is not None


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("tflite-float", "tflite-float16")])
def test_scales_and_zero_points_are_the_interpreters(name: str) -> None:
    expected = read_by_interpreter(name)
    with ckptconv.open(OTHERS / f"{name}.tflite") as checkpoint:
        for key in [key[:3] for key in expected if key[-1] == "scale" and key[2] != "blocks"]:
            whole = ours(checkpoint, key)
            scale, points = checkpoint[f"{whole}.scale"], checkpoint[f"{whole}.zero_point"]
            assert np.array_equal(scale.numpy().reshape(-1).astype("f4"), expected[*key, "scale"])
            assert np.array_equal(points.numpy().reshape(-1), expected[*key, "zero_point"])
            if whole in checkpoint.composites:
                axis = checkpoint.composites[whole].axis  # type: ignore[union-attr]
            else:
                axis = checkpoint.metadata["quantization"][whole].get("axis")  # type: ignore[index]
            assert axis == (int(expected[*key, "axis"]) if scale.info.shape else None)


def test_layouts_are_those_of_the_operators() -> None:
    with ckptconv.open(OTHERS / "tflite-float.tflite") as checkpoint:
        shapes = [tensor.info.shape for tensor in checkpoint.values() if len(tensor.info.shape) > 1]
    dense, convolution, depthwise, transposed = [(3, 24), (24, 48)], (4, 3, 3, 2), (1, 2, 2, 4), (3, 2, 2, 4)
    assert sorted(shapes) == sorted([*dense, convolution, depthwise, transposed])


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # torch.load itself, of quantized tensors
def test_tensors_become_torchs_quantized_ones(tmp_path: Path) -> None:
    source, target = OTHERS / "tflite-int8.tflite", tmp_path / "x.pth"
    ckptconv.convert(source, target, bare=True)
    loaded = load(target, weights_only=False)
    expected = read_by_interpreter("tflite-int8")
    wholes = [key for key in expected if (*key, "scale") in expected]
    assert {loaded[key[2]].dtype for key in wholes} == {torch.qint8, torch.qint32}
    for key in wholes:
        scale, points, axis = (expected[*key, what] for what in ("scale", "zero_point", "axis"))
        shape = [1] * expected[key].ndim
        shape[int(axis)] = -1
        real = (expected[key].astype("f8") - points.reshape(shape)) * scale.astype("f8").reshape(shape)
        torch.testing.assert_close(loaded[key[2]].dequantize().double(), torch.from_numpy(real))
        assert loaded[key[2]].q_per_channel_axis() == axis


def test_sparse_tensors_are_the_dense_ones_that_were_converted() -> None:
    expected = read_by_interpreter("tflite-sparse")
    with ckptconv.open(OTHERS / "tflite-sparse.tflite") as checkpoint:
        found = {tensor.info.shape: tensor for tensor in checkpoint.values()}
        for name in ("blocks", "single"):
            dense = expected["dense", name]
            image = found[dense.shape]
            assert image.span is None
            assert np.array_equal(image.numpy(), dense)
            whole = bytes(image.read())
            for start, stop in [(0, 1), (3, 9), (101, 250), (len(whole) - 5, len(whole))]:
                assert bytes(image.read(start, stop)) == whole[start:stop]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("target", ["x.pth", "x.safetensors", "x.npz"])
def test_it_is_the_same_in_any_other_format(name: str, target: str, tmp_path: Path) -> None:
    ckptconv.convert(OTHERS / f"{name}.tflite", tmp_path / target, allow_loss=["dtype", "composite"])
    edits = ckptconv.diff(OTHERS / f"{name}.tflite", tmp_path / target).to_dict()["edits"]
    lacking = target == "x.pth" and name in ("tflite-int4", "tflite-types")  # torch has none of four bits
    assert bool(edits) == lacking or ckptconv.diff(OTHERS / f"{name}.tflite", tmp_path / target).equal


def test_the_safetensors_package_sees_the_same_numbers(tmp_path: Path) -> None:
    ckptconv.convert(OTHERS / "tflite-offset.tflite", tmp_path / "x.safetensors")
    seen = load_file(tmp_path / "x.safetensors")
    for key, value in read_by_interpreter("tflite-offset").items():
        assert (seen[key[2]].dtype, seen[key[2]].tobytes()) == (value.dtype, value.tobytes())


def test_names_and_buffers_that_come_twice() -> None:
    with ckptconv.open(TYPES) as checkpoint:
        assert list(checkpoint)[20:23] == ["twice", "twice#2", "tensor25"]
        parts = ["per_channel", "per_channel.scale", "per_channel.zero_point"]
        assert checkpoint.ties == [["twice", "twice#2"], *([part, f"branch.{part}"] for part in parts)]


def test_tensors_that_are_computed_are_none_of_the_models() -> None:
    with ckptconv.open(TYPES) as checkpoint:
        assert not checkpoint.keys() & {"computed", "state"}
        assert checkpoint["empty"].info.shape == (0, 4)


def test_texts_descriptions_and_quantizations_are_metadata() -> None:
    with ckptconv.open(TYPES) as checkpoint:
        assert checkpoint.metadata == {
            "description": "put together by hand",
            "metadata": {"min_runtime_version": "1.5.0", "notes": b"\1\2"},
            "strings": {
                "texts/scalar": b"one\0two",
                "texts/row": [b"a", b"", b"x" * 30],
                "texts/table": [[b"a", b"b"], [b"c", b"d"]],
            },
            "quantization": {
                "four_bits": {"scheme": "per_channel_affine", "axis": 0},
                "blocks": {"scheme": "blockwise", "scales": "scales", "block_size": 3, "axis": 1},
            },
        }
        assert [one.dtype for one in checkpoint.composites.values()] == [DType.QU8, DType.QI8, DType.QI8]


def test_a_zip_archive_at_the_end_is_reported() -> None:
    (told,) = [one for one in ckptconv.inspect(TYPES).checkpoint.findings if one.code == "associated-files"]
    assert "'labels.txt'" in told.message
    path = OTHERS / "tflite-int8.tflite"
    assert [one.code for one in ckptconv.inspect(path).checkpoint.findings] == ["graph"]


def test_the_graph_is_shown() -> None:
    graph: Any = ckptconv.inspect(OTHERS / "tflite-int8.tflite").checkpoint.notes.graph
    assert (graph["name"], graph["version"], graph["nodes"]) == ("main", 3, sum(graph["operators"].values()))
    assert graph["operators"]["CONV_2D"] == 1
    assert graph["operators"]["FULLY_CONNECTED"] == 2
    assert graph["operators"]["TRANSPOSE_CONV"] == 1  # its number is past those of the first field's placeholder
    (entry,) = graph["inputs"]
    assert (entry["dtype"], entry["shape"]) == ("F32", [1, 6, 6, 2])
    (signature,) = graph["signatures"]
    assert (signature["name"], list(signature["inputs"].values())) == ("serving_default", [entry["name"]])
    assert [value["shape"] for value in ckptconv.inspect(TYPES).checkpoint.notes.graph["inputs"]] == [[None, 3]]  # type: ignore[index]


def test_custom_operators_and_unknown_ones_have_names(tmp_path: Path) -> None:
    codes = [{0: ("b", 32), 1: b"Flex"}, {0: ("b", 127), 3: ("i", 150)}, {3: ("i", 9999)}, {0: ("b", 3)}]
    graph = {0: [tensor(b"w", (1,), INT8, 1)], 3: [{}, *({0: ("I", i)} for i in range(1, 4))], 4: b"g"}
    path = tmp_path / "x.tflite"
    path.write_bytes(flatbuffer(model([], b"\1", codes=codes, graphs=[graph])))
    noted: Any = ckptconv.inspect(path).checkpoint.notes.graph
    assert noted["operators"] == {"CONV_2D": 1, "GELU": 1, "custom::Flex": 1, "operator 9999": 1}


@pytest.mark.parametrize(("kind", "dtype"), [(21, torch.float8_e4m3fn), (22, torch.float8_e5m2)])
def test_floats_of_eight_bits(kind: int, dtype: torch.dtype, tmp_path: Path) -> None:
    """LiteRT has them since 2.3, TensorFlow does not."""
    path = tmp_path / "x.tflite"
    path.write_bytes(
        flatbuffer(model([tensor(b"w", (3,), kind, 1, quantization=quantized([0.5], [0]))], b"\x3c\xbc\x01"))
    )
    with ckptconv.open(path) as checkpoint:
        expected = torch.tensor([0x3C, 0xBC, 1], dtype=torch.uint8).view(dtype)
        assert torch.equal(checkpoint["w"].to_torch().float(), expected.float())
        assert checkpoint["w.scale"].numpy() == 0.5
        assert checkpoint.metadata["quantization"] == {"w": {"scheme": "per_tensor_affine"}}


def test_the_first_of_small_elements_is_in_the_lowest_bits(tmp_path: Path) -> None:
    """As both interpreters unpack four bits, and LiteRT's two."""
    path = tmp_path / "x.tflite"
    tensors = [tensor(b"four", (3,), 17, 1), tensor(b"two", (5,), 19, 1), tensor(b"unsigned", (3,), 20, 1)]
    path.write_bytes(flatbuffer(model(tensors, bytes([0b10_00_01_11, 0b0000_0010]))))
    with ckptconv.open(path) as checkpoint:
        found = {name: tensor.numpy().astype(int).tolist() for name, tensor in checkpoint.items()}
    assert found == {"four": [7, -8, 2], "two": [-1, 1, 0, -2, -2], "unsigned": [7, 8, 2]}


def test_an_empty_zip_archive_is_skipped(tmp_path: Path) -> None:
    """MediaPipe's models have one behind their metadata."""
    path = tmp_path / "x.tflite"
    path.write_bytes((OTHERS / "tflite-int4.tflite").read_bytes())
    zipfile.ZipFile(path, "a").close()
    assert path.read_bytes()[-22:-18] == b"PK\5\6"
    assert [one.code for one in ckptconv.inspect(path).checkpoint.findings] == ["graph"]


def test_resources_and_variants_with_data_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "x.tflite"
    path.write_bytes(flatbuffer(model([tensor(b"w", (1,), INT8, 1), tensor(b"r", (1,), 13, 1)], b"\1")))
    with ckptconv.open(path) as checkpoint:
        assert list(checkpoint) == ["w"]
    with pytest.raises(LossError, match="1 loss"):
        ckptconv.convert(path, tmp_path / "x.safetensors")
    ckptconv.convert(path, tmp_path / "x.safetensors", allow_loss=["opaque"])


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # torch.load itself, of quantized tensors
def test_same_bytes_of_other_scales_are_other_tensors(tmp_path: Path) -> None:
    scales = [quantized([0.5], [0]), quantized([0.5], [0]), quantized([0.25], [0])]
    path = tmp_path / "x.tflite"
    tensors = [
        tensor(name, (4,), INT8, 1, quantization=one) for name, one in zip((b"a", b"b", b"c"), scales, strict=True)
    ]
    path.write_bytes(flatbuffer(model(tensors, b"\1\2\3\4")))
    with ckptconv.open(path) as checkpoint:
        assert checkpoint.ties == [["a", "b"], ["a.scale", "b.scale"], ["a.zero_point", "b.zero_point"]]
    ckptconv.convert(path, tmp_path / "x.pth")
    loaded = load(tmp_path / "x.pth", weights_only=False)
    assert {name: one.q_scale() for name, one in loaded.items()} == {"a": 0.5, "b": 0.5, "c": 0.25}


def test_opening_it_reads_no_tensor(tmp_path: Path) -> None:
    wide = bytes(1 << 20)
    data = flatbuffer(model([tensor(b"a", (1 << 18,), FLOAT32, 1), tensor(b"b", (1 << 18,), FLOAT32, 2)], wide, wide))
    past = flatbuffer(model([tensor(b"a", (1 << 18,), FLOAT32, 1)], {1: ("Q", 1 << 20), 2: ("Q", 1 << 20)}))
    for whole in (data, past.ljust(1 << 21, b"\7")):
        (tmp_path / "x.tflite").write_bytes(whole)
        with ckptconv.open(tmp_path / "x.tflite") as checkpoint:
            assert bytes_read(checkpoint) < 16 << 10
            assert checkpoint["a"].info.nbytes == 1 << 20
            assert bytes(checkpoint["a"].read(0, 4)) == whole[-4:]


def test_it_is_recognised_by_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(TYPES.read_bytes())
    with ckptconv.open(tmp_path / "x.pth") as checkpoint:
        assert checkpoint.format == "tflite"


def test_inspect_prints_the_graph() -> None:
    result = CliRunner().invoke(program, ["inspect", str(OTHERS / "tflite-int8.tflite")])
    shown = " ".join(result.output.split())
    assert "signatures serving_default" in shown
    assert "operators FULLY_CONNECTED ×2" in shown
    assert "min_runtime_version" in shown


def test_of_many_files_in_an_archive_some_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tflite"
    path.write_bytes(TYPES.read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        for number in range(1000):
            archive.writestr(f"labels-{number:04}.txt", b"")
    (told,) = [one for one in ckptconv.inspect(path).checkpoint.findings if one.code == "associated-files"]
    assert " and 99" in told.message
    assert len(told.message) < 300


@pytest.mark.parametrize("code", [b"FlexWriteFile", b"FlexAddAddAdd"])
def test_what_tensorflows_operators_write_is_reported_whatever_their_code_is_called(
    code: bytes, tmp_path: Path
) -> None:
    data = (OTHERS / "tensorflow-writes.tflite").read_bytes().replace(b"FlexWriteFile", code)
    (tmp_path / "x.tflite").write_bytes(data)
    found = ckptconv.inspect(tmp_path / "x.tflite")
    assert found.verdict == "would run code"
    assert [use.node.name for use in found.opaque] == ["tensorflow.raw_ops.WriteFile"]
