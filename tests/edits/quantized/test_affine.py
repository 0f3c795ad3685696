"""torch's own quantized tensors, and those of TensorFlow Lite, as torch's `dequantize()` has them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import ckptconv
from ckptconv.edits.quantized import matrix
from ckptconv.errors import EditError

OTHERS = Path(__file__).parents[3] / "fixtures" / "others"
DEQUANTIZE = ckptconv.Edits(dequantize=True)

# torch is taking quantized tensors out of its own care
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def quantized() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 5, 3, 2, generator=generator)
    state = {
        "unsigned": torch.quantize_per_tensor(weight, 0.031, 7, torch.quint8),
        "signed": torch.quantize_per_tensor(weight, 0.031, -3, torch.qint8),
        "bias": torch.quantize_per_tensor(weight[0, :, 0, 0], 0.0007, 0, torch.qint32),
        "scalar": torch.quantize_per_tensor(weight[0, 0, 0, 0], 0.03, 0, torch.qint8),
        "empty": torch.quantize_per_tensor(torch.zeros(0, 3), 0.1, 0, torch.qint8),
        "plain": weight,
    }
    for axis, count in enumerate(weight.shape):
        scales = torch.rand(count, generator=generator, dtype=torch.float64) / 20 + 0.01
        zeros = torch.randint(-9, 9, (count,), generator=generator)
        state[f"axis {axis}"] = torch.quantize_per_channel(weight, scales, zeros, axis, torch.qint8)
    return state


@pytest.mark.parametrize("tile", [1, 7, matrix.TILE])
def test_torchs_own_become_what_dequantize_gives(tile: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "TILE", tile)
    state = quantized()
    torch.save(state, tmp_path / "a.pth")
    done = ckptconv.convert(tmp_path / "a.pth", tmp_path / "b.pth", edits=DEQUANTIZE)
    made = torch.load(tmp_path / "b.pth")
    assert list(made) == list(state)
    for name, tensor in state.items():
        expected = tensor.dequantize() if tensor.is_quantized else tensor
        assert made[name].dtype == torch.float32
        assert torch.equal(made[name], expected), name
    (finding,) = (one for one in done.findings if one.code == "dequantized")
    assert "9 weights are dequantized (affine integers)" in finding.message


def test_they_are_cast_and_read_in_ranges(tmp_path: Path) -> None:
    state = quantized()
    torch.save(state, tmp_path / "a.pth")
    half = ckptconv.Edits(dequantize=True, dtype=["BF16"])
    ckptconv.convert(tmp_path / "a.pth", tmp_path / "b.pth", edits=half)
    made = torch.load(tmp_path / "b.pth")
    for name, tensor in state.items():
        expected = (tensor.dequantize() if tensor.is_quantized else tensor).to(torch.bfloat16)
        assert torch.equal(made[name], expected), name


@pytest.mark.parametrize("name", ["tflite-int8", "tflite-int16", "tflite-dynamic"])
def test_those_of_tensorflow_lite_likewise(name: str, tmp_path: Path) -> None:
    source = OTHERS / f"{name}.tflite"
    ckptconv.convert(source, tmp_path / "quantized.pth", bare=True)
    ckptconv.convert(source, tmp_path / "plain.pth", bare=True, edits=DEQUANTIZE)
    before, after = torch.load(tmp_path / "quantized.pth", weights_only=False), torch.load(tmp_path / "plain.pth")
    whole = {key: one for key, one in before.items() if isinstance(one, torch.Tensor) and one.is_quantized}
    assert whole
    for key, tensor in whole.items():
        assert torch.equal(after[key], tensor.dequantize()), key
        assert f"{key}.scale" not in after


def test_several_to_a_byte_are_refused_by_name(tmp_path: Path) -> None:
    scales, zeros = torch.rand(3) + 0.1, torch.zeros(3)
    four = torch.quantize_per_channel(torch.randn(3, 4), scales, zeros, 0, torch.quint4x2)
    torch.save({"embed": four}, tmp_path / "a.pth")
    with pytest.raises(EditError, match=r"'embed' is QU4 \[3, 4\].*share a byte"):
        ckptconv.convert(tmp_path / "a.pth", tmp_path / "b.pth", edits=DEQUANTIZE)
