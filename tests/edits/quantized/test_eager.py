"""State_dicts of torch's quantized modules become those of the modules before: what torch's dequantize() gives."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.ao import quantization

import ckptconv

if TYPE_CHECKING:
    from pathlib import Path

PLAIN = ckptconv.Edits(dequantize=True)

# torch is taking quantized modules out of its own care
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = quantization.QuantStub(), quantization.DeQuantStub()
        self.conv, self.norm, self.relu = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
        self.hidden, self.last = nn.Linear(4, 5), nn.Linear(5, 2, bias=False)
        self.sum = torch.ao.nn.quantized.FloatFunctional()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.norm(self.conv(self.quant(x)))).mean((2, 3))
        return self.dequant(self.last(self.sum.add(self.hidden(x), self.hidden(x))))


class Floats(nn.Module):
    """What the quantized network's modules were: the norm is folded into the convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.hidden, self.last = nn.Conv2d(3, 4, 3), nn.Linear(4, 5), nn.Linear(5, 2, bias=False)


def quantized() -> nn.Module:
    torch.manual_seed(0)
    network = quantization.fuse_modules(Network().eval(), [["conv", "norm", "relu"]])
    network.qconfig = quantization.get_default_qconfig("fbgemm")
    prepared = quantization.prepare(network)
    prepared(torch.randn(4, 3, 6, 6))
    return quantization.convert(prepared)


def saved(state: Any, folder: Path) -> Path:
    torch.save(state, folder / "a.pth")
    return folder / "a.pth"


def plain(state: Any, folder: Path) -> dict[str, torch.Tensor]:
    ckptconv.convert(saved(state, folder), folder / "b.pth", edits=PLAIN)
    return torch.load(folder / "b.pth", weights_only=True)


def test_statically_quantized_modules_become_what_they_were_of(tmp_path: Path) -> None:
    network = quantized()
    found = plain(network.state_dict(), tmp_path)
    Floats().load_state_dict(found)
    for name in ("conv", "hidden", "last"):
        module: Any = getattr(network, name)
        assert torch.equal(found[f"{name}.weight"], module.weight().dequantize())
    hidden: Any = network.hidden
    assert torch.equal(found["hidden.bias"], hidden.bias())


def test_validate_takes_them_for_the_modules_that_they_were(tmp_path: Path) -> None:
    path = saved(quantized().state_dict(), tmp_path)
    torch.save(Floats().state_dict(), tmp_path / "plain.pth")
    result = ckptconv.validate(path, arch=tmp_path / "plain.pth")
    assert result.valid
    assert any("torch's quantized modules" in finding.message for finding in result.findings)


@pytest.mark.parametrize("dtype", [torch.qint8, torch.float16])
def test_dynamically_quantized_linear_layers_become_plain(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = quantization.quantize_dynamic(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False)), dtype=dtype)
    found = plain({"epoch": 3, "state_dict": network.state_dict()}, tmp_path)
    assert found["epoch"] == 3
    wanted = [module.weight() for module in network]
    state: Any = found["state_dict"]
    assert list(state) == ["0.weight", "0.bias", "1.weight"]
    for number, weight in enumerate(wanted):
        assert torch.equal(state[f"{number}.weight"], weight.dequantize() if weight.is_quantized else weight)


def test_quantized_embeddings_become_plain(tmp_path: Path) -> None:
    torch.manual_seed(0)
    embedding = nn.Sequential(nn.Embedding(7, 4))
    embedding[0].qconfig = quantization.float_qparams_weight_only_qconfig  # type: ignore[assignment]
    made = quantization.convert(quantization.prepare(embedding))
    found = plain(made.state_dict(), tmp_path)
    assert list(found) == ["0.weight"]
    assert torch.equal(found["0.weight"], made[0].weight().dequantize())


def test_numbers_called_scale_stay_where_nothing_is_quantized(tmp_path: Path) -> None:
    state = {"m.scale": torch.tensor(2.0), "m.zero_point": torch.tensor(1), "w": torch.ones(2, 2)}
    with pytest.raises(ckptconv.CkptconvError, match="finds no quantized weight"):
        plain(state, tmp_path)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.both = nn.LSTM(4, 3, num_layers=2, bidirectional=True)
        self.deep, self.one = nn.LSTM(6, 5, num_layers=3), nn.GRU(5, 3)
        self.cell, self.plain = nn.LSTMCell(3, 2), nn.RNNCell(3, 2)


@pytest.mark.parametrize("dtype", [torch.qint8, torch.float16])
def test_recurrent_layers_become_plain_whichever_way_they_run(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    floats = Recurrent()
    made = quantization.quantize_dynamic(floats, {nn.LSTM, nn.GRU, nn.LSTMCell, nn.RNNCell}, dtype=dtype)
    found = plain(made.state_dict(), tmp_path)
    Recurrent().load_state_dict(found)
    for name, tensor in floats.state_dict().items():
        wanted = tensor
        if "weight" in name and name != "embedding.weight":
            wanted = dequantized_as_torch_does(tensor) if dtype is torch.qint8 else tensor.half().float()
        assert torch.equal(found[name], wanted), name


def dequantized_as_torch_does(weight: torch.Tensor) -> torch.Tensor:
    layer: Any = nn.Sequential(nn.Linear(*weight.shape[::-1]))
    layer[0].weight.data = weight
    return quantization.quantize_dynamic(layer, {nn.Linear})[0].weight().dequantize()


def test_two_layers_that_could_be_two_directions_are_not_guessed(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.LSTM(3, 3, num_layers=2))
    made = quantization.quantize_dynamic(network, {nn.LSTM})
    with pytest.raises(ckptconv.CkptconvError, match="nothing says whether '1' has two layers"):
        plain(made.state_dict(), tmp_path)


def test_loading_an_object_of_an_unknown_class_of_c_plus_plus_stays_a_call(tmp_path: Path) -> None:
    path = saved(
        quantization.quantize_dynamic(nn.Sequential(nn.Linear(2, 2), nn.GRU(2, 2)), {nn.GRU}).state_dict(), tmp_path
    )
    with ckptconv.open(path) as checkpoint:
        assert not any(use.called and not use.known for use in checkpoint.notes.globals)
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(tmp_path / "b.pth", "w") as other:
        for name in archive.namelist():
            other.writestr(
                name, archive.read(name).replace(b"classes.rnn.CellParamsBase", b"classes.own.CellParamsBase")
            )
    with pytest.raises(ckptconv.CkptconvError, match=r"made by a call of torch\.ScriptObject"):
        ckptconv.open(tmp_path / "b.pth")
