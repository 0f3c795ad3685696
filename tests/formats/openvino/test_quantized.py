"""Weights that NNCF compressed: `--dequantize` gives what OpenVINO computes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import ckptconv
from ckptconv.edits.quantized import matrix
from ckptconv.errors import EditError
from tests.formats.openvino.test_openvino import const, written

RUNTIMES = Path(__file__).parents[3] / "fixtures" / "others" / "runtimes"
NNCF = RUNTIMES / "openvino-nncf.xml"
DEQUANTIZE = ckptconv.Edits(dequantize=True)


@pytest.mark.parametrize("tile", [5, matrix.TILE])
def test_every_way_of_nncfs_gives_what_openvino_computes(
    tile: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrix, "TILE", tile)
    done = ckptconv.convert(NNCF, tmp_path / "x.safetensors", edits=DEQUANTIZE)
    made = load_file(tmp_path / "x.safetensors")
    with np.load(RUNTIMES / "openvino-nncf.npz") as computed:
        assert len(computed.files) == 9
        assert f"{len(computed.files)} weights are dequantized" in str(done.findings)
        for name in computed.files:
            assert made[name].dtype == np.float16  # in which the graph computes
            assert np.array_equal(made[name].astype(np.float32), computed[name]), name
    assert not [name for name in made if name.endswith(("scale", "zero_point", "idxs"))]
    assert not [one for one in done.findings if one.code == "read-as"]
    with ckptconv.open(tmp_path / "x.safetensors") as checkpoint:
        assert "packed" not in checkpoint.metadata
    assert ckptconv.inspect(NNCF).quantized == {"integers with scales": 9}


def layer(number: int, kind: str, data: str = "", shape: str = "") -> str:
    dims = "".join(f"<dim>{size}</dim>" for size in shape.split(","))
    output = f'<output><port id="2" precision="FP32">{dims}</port></output>'
    return f'<layer id="{number}" name="l{number}" type="{kind}"><data {data}/>{output}</layer>'


def graph(folder: Path, *edges: tuple[int, int, int], weights: bytes, layers: list[str]) -> Path:
    path = written(folder, "".join(layers), weights)
    arrows = "".join(f'<edge from-layer="{a}" from-port="0" to-layer="{b}" to-port="{port}"/>' for a, b, port in edges)
    path.write_text(path.read_text().replace("</layers>", f"</layers><edges>{arrows}</edges>"))
    return path


def numbered(number: int, text: str) -> str:
    return text.replace('id="0"', f'id="{number}"')


VALUES = numbered(0, const("w", "i8", "2,3", 0, 6))
SCALE = numbered(1, const("s", "f32", "2,1", 8, 8))
LAYERS = [VALUES, SCALE, layer(2, "Convert", 'destination_type="f32"'), layer(3, "Multiply")]
EDGES = [(0, 2, 0), (2, 3, 0), (1, 3, 1)]
BYTES = np.arange(-3, 3, dtype=np.int8).tobytes() + bytes(2) + np.array([0.5, 4], "<f4").tobytes() + bytes(48)


def test_a_scale_may_stand_first_and_a_weight_is_reshaped_where_nothing_else_takes_it(tmp_path: Path) -> None:
    swapped = [(0, 2, 0), (2, 3, 1), (1, 3, 0)]
    reshape = layer(4, "Reshape", shape="3,2")
    for more, shape in (([(3, 4, 0)], (3, 2)), ([(3, 4, 0), (3, 5, 0)], (2, 3))):
        path = graph(tmp_path, *swapped, *more, weights=BYTES, layers=[*LAYERS, reshape, layer(5, "MatMul")])
        ckptconv.convert(path, tmp_path / "x.safetensors", edits=DEQUANTIZE, force=True)
        made = load_file(tmp_path / "x.safetensors")
        assert made["w"].shape == shape
        assert made["w"].reshape(-1).tolist() == [-1.5, -1, -0.5, 0, 4, 8]


@pytest.mark.parametrize(
    ("edges", "layers"),
    [
        ([(1, 2, 0), (2, 3, 0), (0, 3, 1)], LAYERS),  # floats times integers
        ([(0, 3, 0), (1, 3, 1)], LAYERS),  # never converted
        ([*EDGES, (2, 4, 0), (1, 4, 1)], [*LAYERS, layer(4, "Multiply")]),  # by two
        ([(2, 3, 0), (3, 2, 0), (1, 3, 1)], LAYERS),  # in a circle
        ([], LAYERS),
    ],
)
def test_other_arithmetic_makes_no_weight(edges: list[tuple[int, int, int]], layers: list[str], tmp_path: Path) -> None:
    path = graph(tmp_path, *edges, weights=BYTES, layers=layers)
    assert not ckptconv.inspect(path).quantized
    with pytest.raises(EditError, match="finds no quantized weight"):
        ckptconv.convert(path, tmp_path / "x.safetensors", edits=DEQUANTIZE)


@pytest.mark.parametrize(
    ("scale", "reshape", "words"),
    [
        (const("s", "f32", "3", 8, 12), "2,3", None),
        (const("s", "f32", "2", 8, 8), "2,3", r"scale of shape \[2\] does not go with"),
        (const("s", "i64", "", 8, 8), "2,3", "scale is I64"),
        (SCALE, "-1,3", "shape is a list of sizes"),
        (SCALE, "9,9", r"do not make one of \[9, 9\]"),
    ],
)
def test_shapes_have_to_fit(scale: str, reshape: str, words: str | None, tmp_path: Path) -> None:
    layers = [VALUES, numbered(1, scale), *LAYERS[2:], layer(4, "Reshape", shape=reshape)]
    path = graph(tmp_path, *EDGES, (3, 4, 0), weights=BYTES, layers=layers)
    ckptconv.inspect(path)
    if words is None:
        ckptconv.convert(path, tmp_path / "x.safetensors", edits=DEQUANTIZE)
        return
    with pytest.raises(EditError, match=words):
        ckptconv.convert(path, tmp_path / "x.safetensors", edits=DEQUANTIZE)
