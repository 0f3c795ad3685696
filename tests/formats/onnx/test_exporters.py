"""What PyTorch's two exporters write: every weight that survived has its own name and bits, and nothing is made up."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import onnx
import pytest
import torch
from torch import nn

import ckptconv
from ckptconv.formats.onnx.unnamed import is_generated

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ckptconv.core.checkpoint import Checkpoint

pytest.importorskip("onnxscript")
pytestmark = pytest.mark.filterwarnings("ignore")


class Perceptron(nn.Module):
    """Linear layers of all kinds, and matrices that only look like theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.body = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Sequential(nn.Linear(6, 3)))
        self.plain = nn.Linear(3, 5, bias=False)
        self.scale = nn.Parameter(torch.rand(5))
        self.matrix = nn.Parameter(torch.rand(5, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.plain(self.body(self.first(x))) * self.scale) @ self.matrix.t()


class Decoy(nn.Module):
    """A bias that is added to a product with another weight than its module's, computed when exporting."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ (self.fc.weight * 2).t() + self.fc.bias


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.bn = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.bn(self.conv(x)).relu().mean((2, 3)))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(4, 3, batch_first=True)
        self.head = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(x)[0])


def shuffled(module: nn.Module) -> nn.Module:
    """No two weights of a fresh module are equal, as none of a trained one are."""
    torch.manual_seed(0)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.1)
    return module.eval()


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "perceptron on 2-D": (Perceptron, (2, 4)),
    "perceptron on 3-D": (Perceptron, (2, 3, 4)),
    "decoy": (Decoy, (2, 3, 4)),
    "convolution": (Convolution, (1, 1, 5, 5)),
    "transformer": (Block, (1, 3, 4)),
    "recurrent": (Recurrent, (1, 3, 4)),
}
WAYS: dict[str, dict[str, object]] = {
    "old, folded": {"dynamo": False},
    "old": {"dynamo": False, "do_constant_folding": False},
    "new, optimised": {"dynamo": True, "optimize": True, "external_data": False},
    "new": {"dynamo": True, "optimize": False, "external_data": True},
}


def export(module: nn.Module, shape: tuple[int, ...], path: Path, **options: object) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (torch.rand(shape),), path, verbose=False, **options)  # type: ignore[arg-type]
    return path


def folded(found: Checkpoint) -> str:
    return " ".join(one.message for one in found.findings if one.code == "folded")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("which", MODULES)
def test_every_weight_that_survived_has_its_name_and_its_bits(tmp_path: Path, which: str, way: str) -> None:
    make, shape = MODULES[which]
    module = shuffled(make())
    state = module.state_dict()
    path = export(module, shape, tmp_path / "m.onnx", **WAYS[way])
    with ckptconv.open(path) as found:
        for name, lazy in found.items():
            if name not in state:
                assert is_generated(name) or name == "t", name
            elif f"'{name}'" not in folded(found):
                assert tuple(state[name].shape) == lazy.info.shape, name
                assert torch.equal(lazy.to_torch(), state[name]), name
        stored = {one.name for one in onnx.load(path, load_external_data=False).graph.initializer}
        assert stored & state.keys() <= set(found)
        if "folded" not in way and "optimised" not in way:
            assert {name for name in state if "num_batches" not in name} <= set(found)
    done = ckptconv.convert(path, tmp_path / "m.safetensors")
    assert done.tensors == len(found)


@pytest.mark.parametrize("way", ["old, folded", "new, optimised"])
def test_transposed_weights_of_linear_layers_have_their_names_back(tmp_path: Path, way: str) -> None:
    module = shuffled(Perceptron())
    path = export(module, (2, 3, 4), tmp_path / "m.onnx", **WAYS[way])
    with ckptconv.open(path) as found:
        assert {"first.weight", "body.0.weight", "body.2.0.weight"} <= set(found)
        assert ("plain.weight" in found) == (way == "new, optimised")  # without a bias, the old one leaves no proof
        assert "matrix" not in found
        graph: Any = found.notes.graph
        assert set(graph["renamed"]) <= set(found)
        assert any(one.code == "renamed" for one in found.findings)
    ckptconv.convert(path, tmp_path / "m.pth")
    loaded = torch.load(tmp_path / "m.pth")
    for name in ("first.weight", "body.0.weight", "body.2.0.weight"):
        assert torch.equal(loaded[name], module.state_dict()[name])


@pytest.mark.parametrize("way", ["old, folded", "new, optimised"])
def test_a_folded_batch_norm_is_reported(tmp_path: Path, way: str) -> None:
    path = export(shuffled(Convolution()), (1, 1, 5, 5), tmp_path / "m.onnx", **WAYS[way])
    with ckptconv.open(path) as found:
        assert folded(found).endswith(("'onnx::Conv_17', 'onnx::Conv_18'", "'conv.weight', 'conv.bias'"))
        assert "bn.weight" not in found


def test_equal_tensors_that_the_older_exporter_stores_once_are_all_read(tmp_path: Path) -> None:
    module = Convolution().eval()  # a fresh batch norm is full of equal tensors
    path = export(module, (1, 1, 5, 5), tmp_path / "m.onnx", **WAYS["old"])
    with ckptconv.open(path) as found:
        for name, tensor in module.state_dict().items():
            if "num_batches" not in name:
                assert torch.equal(found[name].to_torch(), tensor)
        assert not found.ties
        assert any(one.code == "equal" for one in found.findings)


def test_external_data_of_the_newer_exporter_is_read(tmp_path: Path) -> None:
    module = nn.Linear(300, 300).eval()
    path = export(module, (1, 300), tmp_path / "m.onnx", dynamo=True, external_data=True)
    assert (tmp_path / "m.onnx.data").stat().st_size >= 360_000
    with ckptconv.open(path) as found:
        file: Any = getattr(found["weight"].span, "file", None)
        assert file.path.name == "m.onnx.data"
        assert torch.equal(found["weight"].to_torch(), module.weight)
    ckptconv.convert(path, tmp_path / "m.safetensors")


def test_the_graph_is_described(tmp_path: Path) -> None:
    path = export(shuffled(Perceptron()), (2, 4), tmp_path / "m.onnx", **WAYS["new, optimised"])
    loaded = onnx.load(path)
    with ckptconv.open(path) as found:
        graph: Any = found.notes.graph
    assert graph["producer"].startswith("pytorch")
    assert graph["opset"] == {one.domain or "ai.onnx": one.version for one in loaded.opset_import}
    assert graph["nodes"] == len(loaded.graph.node)
    assert graph["inputs"] == [{"name": "x", "dtype": "F32", "shape": [2, 4]}]


RECURRENT: dict[str, tuple[Any, dict[str, Any]]] = {
    "LSTM": (nn.LSTM, {}),
    "LSTM of two layers, both ways": (nn.LSTM, {"num_layers": 2, "bidirectional": True}),
    "LSTM without bias": (nn.LSTM, {"bias": False}),
    "GRU": (nn.GRU, {"num_layers": 2}),
    "GRU both ways": (nn.GRU, {"bidirectional": True}),
    "RNN": (nn.RNN, {}),
}


class Tagger(nn.Module):
    """A recurrent layer inside a module inside the model."""

    def __init__(self, make: Callable[..., nn.Module], **options: object) -> None:
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.rnn = make(4, 5, batch_first=True, **options)
        self.head = nn.Linear(10 if options.get("bidirectional") else 5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder.get_submodule("rnn")(x)[0])


@pytest.mark.parametrize("way", ["old, folded", "new, optimised"])
@pytest.mark.parametrize("which", RECURRENT)
def test_recurrent_layers_are_unpacked_to_torchs_gates(tmp_path: Path, which: str, way: str) -> None:
    make, options = RECURRENT[which]
    module = shuffled(Tagger(make, **options))
    path = export(module, (2, 3, 4), tmp_path / "m.onnx", **WAYS[way])
    state = module.state_dict()
    packed = make is not nn.RNN or way == "old, folded"  # the newer exporter takes an RNN apart, step by step
    with ckptconv.open(path) as found:
        # which modules were not called themselves, the older exporter does not say: the names stay the graph's
        module_of = {"old, folded": f"/rnn/{make.__name__}", "new, optimised": "encoder.rnn"}[way]
        ours = {f"encoder.rnn.{name.rpartition('.')[2]}": name for name in found if name.startswith(f"{module_of}.")}
        for name, own in ours.items():
            assert torch.equal(found[own].to_torch(), state[name]), name
            assert bytes(found[own].read(3, 17)) == bytes(found[own].read())[3:17]
        if packed:
            assert set(ours) == {name for name in state if ".rnn." in name}
            assert any(one.code == "unpacked" for one in found.findings)
    done = ckptconv.convert(path, tmp_path / "m.safetensors")
    assert done.tensors == len(found)
