"""Models of Core ML: what coremltools reads of their constants is what is read here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from struct import pack
from time import process_time
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import ckptconv
from ckptconv.core.dtypes import DType
from ckptconv.errors import CkptconvError, CorruptFileError, FileAccessError, LimitError, UnsupportedError
from ckptconv.formats.coreml import network, program, read
from ckptconv.testing.damage import limited_memory
from tests.support.protobuf_files import field, varint
from tests.support.reads import bytes_read, expect_no_cut_to_open

RUNTIMES = Path(__file__).parents[3] / "fixtures" / "others" / "runtimes"
PACKAGES = sorted(path.name for path in RUNTIMES.glob("coreml-*.mlpackage"))
NET, NETWORK = RUNTIMES / "coreml-net.mlpackage", RUNTIMES / "coreml-net.mlmodel"
HOME = Path("Data") / "com.apple.CoreML"
AS_BYTES = {"uint1": 1, "uint3": 3, "uint6": 6}


def read_by_coremltools(package: str) -> dict[str, tuple[str, tuple[int, ...], np.ndarray]]:
    with np.load(RUNTIMES / "coreml.npz") as arrays:
        found = {}
        for key in arrays.files:
            file, name, kind, sizes = key.split("|")
            if file == package:
                found[name] = kind, tuple(map(int, sizes.split("x"))) if sizes else (), arrays[key]
        return found


@pytest.mark.parametrize("package", PACKAGES)
def test_every_constant_is_what_coremltools_reads(package: str) -> None:
    expected = read_by_coremltools(package)
    with ckptconv.open(RUNTIMES / package) as checkpoint:
        assert checkpoint.format == "coreml"
        assert set(checkpoint) == set(expected)
        for name, (kind, shape, values) in expected.items():
            found = checkpoint[name]
            if kind in AS_BYTES:
                bits = np.unpackbits(found.numpy(), bitorder="little")[: values.size * AS_BYTES[kind]]
                ours = np.packbits(bits.reshape(values.size, -1), axis=1, bitorder="little").reshape(-1)
                assert np.array_equal(ours, values.reshape(-1).astype(np.uint8)), name
                assert checkpoint.metadata["packed"][name] == {"element_type": kind, "shape": list(shape)}  # type: ignore[index]
            else:
                assert found.info.shape == shape
                assert np.array_equal(
                    found.numpy().astype(np.float64).reshape(-1), values.astype(np.float64).reshape(-1)
                )


def test_ways_of_packing_that_are_in_the_fixture() -> None:
    kinds = {kind for kind, _, _ in read_by_coremltools("coreml-packed.mlpackage").values()}
    assert kinds >= {"int4", "uint8", "uint1", "uint3", "uint6", "float16"}


def test_weights_are_torchs() -> None:
    with ckptconv.open(NET) as checkpoint, np.load(RUNTIMES / "coreml-torch.npz") as state:
        for name in ("emb.weight", "fc.weight", "fc.bias", "wide.weight", "norm.weight"):
            assert np.array_equal(checkpoint[f"{name.replace('.', '_')}_to_fp16"].numpy(), state[name].astype("f2")), (
                name
            )


def test_a_neural_network_has_its_weights_by_layer() -> None:
    with ckptconv.open(NETWORK) as checkpoint, np.load(RUNTIMES / "coreml-torch.npz") as state:
        assert np.array_equal(checkpoint["linear_0.weight"].numpy(), state["fc.weight"])
        assert np.array_equal(checkpoint["linear_1.bias"].numpy(), state["wide.bias"])
        assert np.array_equal(checkpoint["conv_0.weight"].numpy().squeeze(2), state["conv.weight"])
        embedding = next(name for name in checkpoint if checkpoint[name].info.shape == (8, 10))
        assert np.array_equal(checkpoint[embedding].numpy().T, state["emb.weight"])
        (lstm,) = [name.removesuffix("input_weight") for name in checkpoint if name.endswith("input_weight")]
        gates = np.split(state["lstm.weight_ih_l0"], 4)  # torch's order: input, forget, cell, output
        for gate, value in zip(("input", "forget", "block", "output"), gates, strict=True):
            assert np.array_equal(checkpoint[f"{lstm}{gate}_weight"].numpy(), value)
        recursion = np.split(state["lstm.weight_hh_l0"], 4)[2]
        assert np.array_equal(checkpoint[f"{lstm}block_recursion"].numpy(), recursion)
        assert all(tensor.span is not None for tensor in checkpoint.values())


def test_quantized_weights_come_with_what_they_are_quantized_by() -> None:
    with ckptconv.open(RUNTIMES / "coreml-8bit.mlmodel") as checkpoint, np.load(RUNTIMES / "coreml-torch.npz") as state:
        codes = checkpoint["linear_1.weight"]
        assert (codes.info.dtype, codes.info.shape) == (DType.U8, (64, 6))
        scale, bias = (checkpoint[f"linear_1.weight.{part}"].numpy().reshape(-1, 1) for part in ("scale", "bias"))
        assert np.abs(codes.numpy() * scale + bias - state["wide.weight"]).max() < 0.01
    with ckptconv.open(RUNTIMES / "coreml-4bit.mlmodel") as checkpoint:
        assert checkpoint["linear_1.weight"].info.shape == (192,)
        assert checkpoint["linear_1.weight.table"].info.shape == (16,)
        assert checkpoint.metadata["packed"]["linear_1.weight"] == {"bits": 4, "shape": [64, 6]}  # type: ignore[index]


def test_the_safetensors_package_sees_the_same_numbers(tmp_path: Path) -> None:
    for source in (NET, NETWORK):
        ckptconv.convert(source, tmp_path / "x.safetensors", force=True)
        assert ckptconv.diff(source, tmp_path / "x.safetensors").equal
    seen = load_file(tmp_path / "x.safetensors")
    with np.load(RUNTIMES / "coreml-torch.npz") as state:
        assert np.array_equal(seen["linear_0.weight"], state["fc.weight"])


def test_the_model_within_a_package_may_be_named() -> None:
    assert ckptconv.diff(NET / HOME / "model.mlmodel", NET).equal
    assert ckptconv.inspect(NET).verdict == "plain"
    graph: Any = ckptconv.inspect(NET).checkpoint.notes.graph
    assert [one["name"] for one in graph["inputs"]] == ["x"]
    assert graph["operators"]["linear"] == 2
    graph = ckptconv.inspect(NETWORK).checkpoint.notes.graph
    assert graph["operators"]["innerProduct"] == 2


def value(code: int, sizes: list[int], inner: bytes) -> bytes:
    dims = b"".join(field(3, field(1, field(1, size))) for size in sizes)
    return field(2, field(1, field(1, code) + field(2, len(sizes)) + dims)) + inner


def const(name: str, held: bytes) -> bytes:
    return field(
        3, field(1, b"const") + field(3, field(1, name.encode())) + field(5, field(1, b"val") + field(2, held))
    )


def immediate(kind: int, data: bytes) -> bytes:
    return field(3, field(1, field(kind, field(1, data))))


def blob(offset: int, file: str = "@model_path/weights/weight.bin") -> bytes:
    return field(5, field(1, file.encode()) + field(2, offset))


def functions(*blocks: tuple[str, bytes]) -> bytes:
    made = b"".join(
        field(2, field(1, name.encode()) + field(2, field(2, b"o") + field(3, field(1, b"o") + field(2, block))))
        for name, block in blocks
    )
    return field(1, 8) + field(2, b"") + field(502, made)


WEIGHTS = (
    pack("<2I", 1, 2).ljust(64, b"\0") + pack("<2I3Q", 0xDEADBEEF, 2, 8, 128, 0).ljust(64, b"\0") + pack("<2f", 1, 2)
)


def written(folder: Path, data: bytes, weights: bytes = WEIGHTS) -> Path:
    (folder / "weights").mkdir(exist_ok=True)
    (folder / "weights" / "weight.bin").write_bytes(weights)
    (folder / "x.mlmodel").write_bytes(data)
    return folder / "x.mlmodel"


def test_of_several_functions_each_has_its_name(tmp_path: Path) -> None:
    one = const("w", value(11, [2], blob(64)))
    with ckptconv.open(written(tmp_path, functions(("a", one), ("b", one + one)))) as checkpoint:
        assert list(checkpoint) == ["a.w", "b.w", "b.w#2"]
        assert checkpoint.ties == [["a.w", "b.w", "b.w#2"]]
        assert bytes(checkpoint["a.w"].read()) == pack("<2f", 1, 2)


def test_values_within_the_program(tmp_path: Path) -> None:
    block = (
        const("i", value(23, [3], immediate(2, varint((1 << 64) - 1) + varint(300) + varint(7))))
        + const("b", value(1, [2], immediate(3, b"\1\0")))
        + const("f", value(11, [2], immediate(1, pack("<2f", 1, 2))))
        + const("h", value(10, [2], immediate(7, pack("<2e", 1, 2))))
        + const("s", value(2, [], field(3, field(1, field(4, field(1, b"same"))))))
    )
    with ckptconv.open(written(tmp_path, functions(("main", block)))) as checkpoint:
        assert list(checkpoint) == ["i", "b", "f", "h"]
        assert {name: one.numpy().tolist() for name, one in checkpoint.items()} == {
            "i": [-1, 300, 7], "b": [True, False], "f": [1, 2], "h": [1, 2]
        }  # fmt: skip


def test_models_of_a_pipeline_have_their_names(tmp_path: Path) -> None:
    layer = field(1, field(1, b"fc") + field(140, field(1, 1) + field(2, 2) + field(20, field(1, pack("<2f", 1, 2)))))
    inner = field(1, 4) + field(500, layer)
    trees = field(1, 4) + field(402, b"")
    whole = field(1, 4) + field(202, field(1, inner) + field(1, trees) + field(2, b"net") + field(2, b"trees"))
    with ckptconv.open(written(tmp_path, whole)) as checkpoint:
        assert {name: one.info.shape for name, one in checkpoint.items()} == {"net.fc.weight": (2, 1)}
        assert [one.code for one in checkpoint.findings] == ["graph", "models"]


BAD: dict[str, tuple[bytes, bytes, type[CkptconvError]]] = {
    "no blob there": (functions(("m", const("w", value(11, [2], blob(0))))), WEIGHTS, CorruptFileError),
    "far": (functions(("m", const("w", value(11, [2], blob(1 << 62))))), WEIGHTS, CorruptFileError),
    "size": (functions(("m", const("w", value(11, [3], blob(64))))), WEIGHTS, CorruptFileError),
    "type": (functions(("m", const("w", value(23, [2], blob(64))))), WEIGHTS, CorruptFileError),
    "unknown": (functions(("m", const("w", value(99, [2], blob(64))))), WEIGHTS, UnsupportedError),
    "cut": (functions(("m", const("w", value(11, [2], blob(64))))), WEIGHTS[:-1], CorruptFileError),
    "version": (functions(("m", const("w", value(11, [2], blob(64))))), b"\1\0\0\0\1" + WEIGHTS[5:], CorruptFileError),
    "elsewhere": (functions(("m", const("w", value(11, [2], blob(64, "/etc/passwd"))))), WEIGHTS, UnsupportedError),
    "above": (functions(("m", const("w", value(11, [2], blob(64, "@model_path/../x"))))), WEIGHTS, CorruptFileError),
    "huge": (functions(("m", const("w", value(11, [1 << 60, 8], blob(64))))), WEIGHTS, CorruptFileError),
    "negative": (functions(("m", const("w", value(11, [(1 << 64) - 2], blob(64))))), WEIGHTS, CorruptFileError),
    "rank": (functions(("m", const("w", value(11, [1] * 65, blob(64))))), WEIGHTS, LimitError),
    "few": (functions(("m", const("w", value(11, [3], immediate(1, pack("<2f", 1, 2)))))), WEIGHTS, CorruptFileError),
    "few integers": (functions(("m", const("w", value(23, [3], immediate(2, b"\1\2"))))), WEIGHTS, CorruptFileError),
    "half a varint": (functions(("m", const("w", value(23, [1], immediate(2, b"\x80"))))), WEIGHTS, CorruptFileError),
    "no opset": (field(1, 8) + field(502, field(2, field(1, b"m") + field(2, field(2, b"o")))), b"", CorruptFileError),
    "two models": (field(1, 8) + field(502, b"") + field(500, b""), WEIGHTS, CorruptFileError),
    "trees": (field(1, 4) + field(2, b"") + field(402, b""), WEIGHTS, UnsupportedError),
}  # fmt: skip


@pytest.mark.parametrize(("data", "weights", "error"), BAD.values(), ids=BAD)
def test_what_contradicts_itself_is_refused(
    data: bytes, weights: bytes, error: type[CkptconvError], tmp_path: Path
) -> None:
    with pytest.raises(error) as refused:
        ckptconv.open(written(tmp_path, data, weights))
    assert refused.value.hint


def test_a_package_that_lacks_a_file(tmp_path: Path) -> None:
    shutil.copytree(NET, tmp_path / "x.mlpackage")
    (tmp_path / "x.mlpackage" / HOME / "weights" / "weight.bin").unlink()
    with pytest.raises(FileAccessError, match=r"weight\.bin"):
        ckptconv.open(tmp_path / "x.mlpackage")
    (tmp_path / "x.mlpackage" / "Manifest.json").write_text(json.dumps({"itemInfoEntries": {}}))
    with pytest.raises(CorruptFileError, match="names no model"):
        ckptconv.open(tmp_path / "x.mlpackage")
    (tmp_path / "x.mlpackage" / HOME / "model.mlmodel").write_bytes(b"")
    shutil.copyfile(NET / "Manifest.json", tmp_path / "x.mlpackage" / "Manifest.json")
    with pytest.raises(CorruptFileError, match="there is no model in it"):
        ckptconv.open(tmp_path / "x.mlpackage")
    root = {"itemInfoEntries": {"a": {"path": "../../x"}}, "rootModelIdentifier": "a"}
    (tmp_path / "x.mlpackage" / "Manifest.json").write_text(json.dumps(root))
    with pytest.raises(CorruptFileError, match="not a name of a file"):
        ckptconv.open(tmp_path / "x.mlpackage")


def test_compiled_models_are_reported(tmp_path: Path) -> None:
    (tmp_path / "x.mlmodelc").mkdir()
    (tmp_path / "x.mlmodelc" / "coremldata.bin").write_bytes(b"\0")
    with pytest.raises(CkptconvError, match="compiled Core ML model"):
        ckptconv.open(tmp_path / "x.mlmodelc")


def test_every_cut_is_refused(tmp_path: Path) -> None:
    whole = functions(("m", const("w", value(11, [2], blob(64))) + const("v", value(23, [1], immediate(2, b"\1")))))
    path = written(tmp_path, whole)
    expect_no_cut_to_open(path, whole, "coreml")


def test_limits_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "MAX_INTS", 2)
    with pytest.raises(LimitError):
        ckptconv.open(NET)
    monkeypatch.setattr(program, "MAX_TENSORS", 2)
    with pytest.raises(LimitError):
        ckptconv.open(NET)
    monkeypatch.setattr(network, "MAX_TENSORS", 2)
    with pytest.raises(LimitError):
        ckptconv.open(NETWORK)


def test_opening_it_reads_no_weight(tmp_path: Path) -> None:
    layer = field(1, field(1, b"fc") + field(140, field(20, field(1, bytes(1 << 20)))))
    path = written(tmp_path, field(1, 4) + field(2, b"") + field(500, layer))
    with ckptconv.open(path) as checkpoint:
        assert bytes_read(checkpoint) < 64 << 10
        assert checkpoint["fc.weight"].info.shape == (1 << 18,)


def test_a_long_name_before_many_others_costs_no_memory(tmp_path: Path) -> None:
    """Each of the values is called by the operator's output: 64 KB before each of 10,000."""
    held = field(2, value(11, [2], blob(64)))
    operation = field(1, b"x") + field(3, field(1, b"n" * 60_000))
    operation += b"".join(field(5, field(1, b"%d" % number) + held) for number in range(9_000))
    with limited_memory(256 << 20), pytest.raises(LimitError, match="names repeat"):
        ckptconv.open(written(tmp_path, functions(("m", field(3, operation)))))
    layer = field(1, b"n" * 60_000) + field(500, field(20, field(1, pack("<f", 1))) * 20_000)
    with limited_memory(256 << 20), pytest.raises(LimitError, match="names repeat"):
        ckptconv.open(written(tmp_path, field(1, 4) + field(500, field(1, layer))))


@pytest.mark.parametrize(
    "data",
    [
        field(1, 8) + field(502, field(2, b"") * 20_000),
        field(1, 4) + field(202, field(1, b"") * 2_000),
        field(1, 4) + field(202, field(2, b"") * 2_000),
        field(1, 4) + field(2, field(1, b"") * 20_000) + field(500, b""),
    ],
    ids=["functions", "models", "names of models", "inputs"],
)
def test_crowds_are_refused(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(LimitError):
        ckptconv.open(written(tmp_path, data), format="coreml")


def loading_constants(body: bytes) -> bytes:
    return field(1, 4) + field(500, field(1, field(1, b"l") + field(290, body)))


def test_a_long_shape_of_many_weights_costs_neither_memory_nor_time(tmp_path: Path) -> None:
    sizes, weights = field(1, b"\x7f" * 60) * 1_000, field(2, field(1, bytes(4))) * 20_000
    with limited_memory(256 << 20), pytest.raises(LimitError, match="more than 64 dimensions"):
        ckptconv.open(written(tmp_path, loading_constants(sizes + weights)))


def test_a_layer_of_many_numbers_takes_no_longer_for_each(tmp_path: Path) -> None:
    """60,000 different fields, of which a network's walk went through all for each."""
    numbers = b"".join(field(number, 1) for number in range(3, 60_000))
    path = written(tmp_path, loading_constants(numbers + field(2, field(1, bytes(4)))))
    start = process_time()
    with ckptconv.open(path) as checkpoint:
        assert list(checkpoint) == ["l.data"]
    assert process_time() - start < 10


def test_long_names_of_pipelines_in_each_other_cost_no_memory(tmp_path: Path) -> None:
    model = field(1, 4) + field(202, field(1, field(1, 4) + field(500, b"")) * 900)
    for _ in range(7):
        model = field(1, 4) + field(202, field(1, model) + field(2, b"n" * 60_000))
    with limited_memory(256 << 20), pytest.raises(LimitError, match="names repeat"):
        ckptconv.open(written(tmp_path, model))


def test_paths_of_many_folders_are_refused_and_none_is_cut(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*"abcdefgh")
    deep.mkdir(parents=True)
    (deep / "weight.bin").write_bytes(WEIGHTS)
    data = functions(("m", const("w", value(11, [2], blob(64, "@model_path/a/b/c/d/e/f/g/h/i/weight.bin")))))
    with pytest.raises(LimitError, match="more than 8 folders"):
        ckptconv.open(written(tmp_path, data))
    shutil.copytree(NET, tmp_path / "x.mlpackage")
    root = {"itemInfoEntries": {"a": {"path": "a/" * 30_000}}, "rootModelIdentifier": "a"}
    (tmp_path / "x.mlpackage" / "Manifest.json").write_text(json.dumps(root))
    with pytest.raises(LimitError, match="more than 8 folders"):
        ckptconv.open(tmp_path / "x.mlpackage")
