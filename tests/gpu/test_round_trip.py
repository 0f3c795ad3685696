"""Outputs after every hop of a conversion, in torch on the device and in onnxruntime.

Weights are bit-equal after each hop; so are torch's outputs on one device; onnxruntime's, and those of another device,
are within the bound that `verify` has. Without a GPU all of this runs on the CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

import ckptconv
from ckptconv.checks.rounding import UNIT, bound
from ckptconv.checks.runners import exact
from fixtures.network import Network

if TYPE_CHECKING:
    from pathlib import Path

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))
DEVICES = ["cpu", CUDA]


class Convolutions(nn.Module):
    """A small CNN with batch norm, as a spec of its own describes it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.norm(self.conv(x))).mean((2, 3)))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """One block of attention over token numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 16)
        self.block = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.out = nn.Linear(16, 40)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.block(self.embed(ids)))  # type: ignore[no-any-return]


NETWORKS = {
    "digits": (lambda: Network(64, 10, [64, 32]), "mlp", (), (33, 64)),
    "cnn": (Convolutions, f"{__file__}:Convolutions", ("x:F32[N,3,16,16]",), (9, 3, 16, 16)),
    "transformer": (Transformer, f"{__file__}:Transformer", ("ids:I64[N,T]<40",), (5, 7)),
}


def made(which: str, dtype: torch.dtype) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    module = NETWORKS[which][0]().eval()
    for name, tensor in module.state_dict().items():
        if "running_var" in name:
            tensor.uniform_(0.5, 1.5)
    shape = NETWORKS[which][3]
    x = torch.randint(0, 40, shape) if which == "transformer" else torch.randn(shape)
    return module.to(dtype), x if which == "transformer" else x.to(dtype)


def outputs(path: Path, which: str, dtype: torch.dtype, device: str, x: torch.Tensor) -> torch.Tensor:
    """What torch computes on the device with the weights of a file, loaded by torch or as our tensors."""
    module = NETWORKS[which][0]().to(dtype)
    with ckptconv.open(path) as found:
        state = {name: tensor.to_torch(device) for name, tensor in found.items()}
    module = module.to(device)
    module.load_state_dict(state, strict=True)
    with exact(), torch.inference_mode():
        return module.eval()(x.to(device)).cpu()  # type: ignore[no-any-return]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("which", NETWORKS)
def test_every_hop_computes_the_same(tmp_path: Path, which: str, dtype: torch.dtype, device: str) -> None:
    module, x = made(which, dtype)
    _, arch, inputs, _ = NETWORKS[which]
    first = tmp_path / "a.pth"
    params = {"input_size": 64, "output_size": 10, "hidden_layers": [64, 32]} if which == "digits" else {}
    torch.save({**params, "state_dict": module.state_dict()}, first)
    expected = outputs(first, which, dtype, device, x)
    path = first
    hops = ["b.safetensors", "c.pth", "d.safetensors"]
    if dtype is torch.float32 or which == "digits":
        hops[2:2] = ["graph.onnx"]
    for name in hops:
        graph = {"arch": arch, "inputs": inputs} if name.endswith(".onnx") else {}
        ckptconv.convert(path, tmp_path / name, **graph)  # type: ignore[arg-type]
        assert ckptconv.diff(first, tmp_path / name).equal
        path = tmp_path / name
        assert torch.equal(outputs(path, which, dtype, device, x), expected)
    if "graph.onnx" in hops:
        found = ckptconv.verify(first, tmp_path / "graph.onnx", arch=arch, inputs=inputs, device="cpu")
        assert found.equivalent, found.outputs


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("which", NETWORKS)
def test_the_devices_agree_within_the_bound(which: str) -> None:
    module, x = made(which, torch.float32)
    with exact(), torch.inference_mode():
        here = module(x)
        there = module.cuda()(x.cuda()).cpu()
    limits = bound(module.cpu(), {"x": x.numpy()}, UNIT["float32"]).limits["output"]
    difference = np.abs((here - there).double().numpy())
    figures = f"{difference.max():.3g} of {limits.max():.3g}"
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: {which}: {figures}")
    assert (difference <= limits).all()
