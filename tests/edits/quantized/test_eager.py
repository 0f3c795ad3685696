"""State_dicts of torch's quantized modules become those of the modules before: what torch's dequantize() gives."""

from __future__ import annotations

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
