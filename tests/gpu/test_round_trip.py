"""Outputs after every hop of a conversion, in torch on the device and in onnxruntime.

Weights are bit-equal after each hop; so are torch's outputs on one device; onnxruntime's, and those of another device,
are within the bound that `verify` has. Without a GPU all of this runs on the CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnxruntime
import pytest
import torch
from torch import nn

import ckptconv
from ckptconv.checks.torch_runner import exact
from fixtures.network import Network

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))
DEVICES = ["cpu", CUDA]


class Convolutions(nn.Module):
    """A small CNN with batch norm, as a spec of its own describes it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


class Transformer(nn.Module):
    """One block of attention over token numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 16)
        self.block = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.out = nn.Linear(16, 40)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.block(self.embed(ids)))


PARAMS = {"input_size": 64, "output_size": 10, "hidden_layers": [64, 32]}
NETWORKS: dict[str, Any] = {
    "digits": (lambda: Network(64, 10, [64, 32]), "mlp", "", (33, 64), PARAMS),
    "cnn": (Convolutions, f"{__file__}:Convolutions", "x:{}[N,3,16,16]", (9, 3, 16, 16), {"epoch": 3}),
    "transformer": (Transformer, f"{__file__}:Transformer", "ids:I64[N,T]<40", (5, 7), {"betas": (0.9, 0.99)}),
}
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def made(which: str, dtype: torch.dtype, seed: int = 0) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(seed)
    module = NETWORKS[which][0]().eval()
    for name, tensor in module.state_dict().items():
        if "running_var" in name:
            tensor.uniform_(0.5, 1.5)
    shape = NETWORKS[which][3]
    x = torch.randint(0, 40, shape) if which == "transformer" else torch.randn(shape)
    return module.to(dtype), x if which == "transformer" else x.to(dtype)


def described(which: str, dtype: torch.dtype) -> list[str]:
    """What ``--input`` says: an F16 network takes F16; one whose weights are BF16 is computed in F32."""
    text = NETWORKS[which][2]
    return [text.format("F16" if dtype is torch.float16 else "F32")] if text else []


def outputs(path: Path, which: str, dtype: torch.dtype, device: str, x: torch.Tensor) -> torch.Tensor:
    """What torch computes on the device with the weights of a file, which are loaded straight onto it."""
    with torch.device(device):
        module = NETWORKS[which][0]().to(dtype)
    with ckptconv.open(path) as found:
        module.load_state_dict(found.to_torch(device), strict=True)
    with exact(), torch.inference_mode():
        return module.eval()(x.to(device)).cpu()


def weights(path: Path) -> dict[str, torch.Tensor]:
    with ckptconv.open(path) as found:
        return {name: tensor.to_torch() for name, tensor in found.items()}


def graph_device(device: str) -> str:
    """Where onnxruntime runs: it may be built without CUDA."""
    return device if device == "cpu" or "CUDAExecutionProvider" in onnxruntime.get_available_providers() else "cpu"


def report(*words: object) -> None:
    """A line for RESULTS.md; ``pytest -s`` shows it."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(f"{gpu}, torch {torch.__version__}, onnxruntime {onnxruntime.__version__}:", *words)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("which", NETWORKS)
def test_a_raw_checkpoint_computes_the_same_after_every_hop(
    tmp_path: Path, which: str, dtype: torch.dtype, device: str
) -> None:
    module, x = made(which, dtype)
    path = tmp_path / "a.pth"
    torch.save(module.state_dict(), path)
    expected = outputs(path, which, dtype, device, x)
    for name in ("b.safetensors", "c.pth"):
        ckptconv.convert(path, tmp_path / name)
        path = tmp_path / name
        same_bits(weights(path), module.state_dict())
        assert torch.equal(outputs(path, which, dtype, device, x), expected)
    same_bits(torch.load(path, weights_only=True), module.state_dict())


def same_bits(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype is tensor.dtype
        ours, theirs = (one.contiguous().reshape(-1).view(torch.uint8) for one in (found[name], tensor))
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("which", NETWORKS)
def test_a_metadata_checkpoint_computes_the_same_after_every_hop(
    tmp_path: Path, which: str, dtype: torch.dtype, device: str
) -> None:
    module, x = made(which, dtype)
    _, arch, _, _, params = NETWORKS[which]
    inputs = described(which, dtype)
    first = path = tmp_path / "a.pth"
    torch.save({**params, "state_dict": module.state_dict()}, first)
    expected = outputs(first, which, dtype, device, x)
    for name in ("b.safetensors", "c.onnx", "d.safetensors", "e.pth"):
        graph = {"arch": arch, "inputs": inputs if "py:" in arch else ()} if name.endswith(".onnx") else {}
        ckptconv.convert(path, tmp_path / name, **graph)
        path = tmp_path / name
        assert ckptconv.diff(first, path).equal
        same_bits(weights(path), module.state_dict())
        assert torch.equal(outputs(path, which, dtype, device, x), expected)
    found = torch.load(path, weights_only=True)
    assert {key: value for key, value in found.items() if key != "state_dict"} == params
    there = ckptconv.run(first, arch=arch, inputs=inputs, device=device)  # type: ignore[arg-type]
    runtime = graph_device(device)
    graph_run = ckptconv.run(tmp_path / "c.onnx", arch=arch, device=runtime, like=there)  # type: ignore[arg-type]
    result = ckptconv.compare(there, graph_run)
    worst = result.outputs[0]
    report(f"{which} {dtype} torch on {device}, onnxruntime on {runtime}: {worst.max_abs:.3g} of {worst.bound:.3g}")
    assert result.equivalent, result.outputs


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("which", NETWORKS)
def test_the_devices_agree_within_the_bound(tmp_path: Path, which: str, dtype: torch.dtype) -> None:
    module, _ = made(which, dtype)
    _, arch, _, _, params = NETWORKS[which]
    torch.save({**params, "state_dict": module.state_dict()}, tmp_path / "a.pth")
    here = ckptconv.run(tmp_path / "a.pth", arch=arch, inputs=described(which, dtype))
    there = ckptconv.run(tmp_path / "a.pth", arch=arch, device="cuda", like=here)
    result = ckptconv.compare(here, there)
    worst = result.outputs[0]
    report(f"{which} {dtype}: CPU and CUDA {worst.max_abs:.3g} apart, {worst.bound:.3g} allowed")
    assert "standard deviations" in result.reason
    assert result.equivalent, result.outputs
    again = ckptconv.run(tmp_path / "a.pth", arch=arch, device="cuda", like=here)
    assert ckptconv.compare(there, again).outputs[0].max_abs == 0
