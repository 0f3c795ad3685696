"""Names that an exporter lost, given back by an architecture."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import onnx
import pytest
import torch
from torch import nn

import ckptconv
from ckptconv.api.fitting.matching import Matches, match
from ckptconv.formats.onnx.unnamed import UnnamedTensor

if TYPE_CHECKING:
    from pathlib import Path


class Mixer(nn.Module):
    """Linear layers on three dimensions, without biases, of which two have one shape; a recurrent layer in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"up": nn.Linear(4, 6, bias=False), "one": nn.Linear(6, 6, bias=False)})
        self.two, self.down = nn.Linear(6, 6, bias=False), nn.Linear(6, 3, bias=False)
        self.rnns = nn.ModuleList([nn.GRU(3, 5, batch_first=True)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.layers["one"](torch.tanh(self.layers["up"](x))))
        return self.rnns[0](self.down(torch.tanh(self.two(x))))[0]


@pytest.fixture
def exported(tmp_path: Path) -> tuple[Path, nn.Module]:
    torch.manual_seed(0)
    module = Mixer().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older exporter says that it is old
        torch.onnx.export(module, (torch.randn(2, 3, 4),), tmp_path / "m.onnx", dynamo=False)
    assert not {one.name for one in onnx.load(tmp_path / "m.onnx").graph.initializer} & set(module.state_dict())
    return tmp_path / "m.onnx", module


def arch_of(how: str, folder: Path, module: nn.Module) -> str:
    if how == "checkpoint":
        torch.save(module.state_dict(), folder / "old.pth")
        return str(folder / "old.pth")
    rows = "\n".join(f'"{name}" = "{" ".join(map(str, t.shape))}"' for name, t in module.state_dict().items())
    (folder / "spec.toml").write_text(f'spec = 1\nname = "mixer"\n[tensors]\n{rows}\n')
    return str(folder / "spec.toml")


@pytest.mark.parametrize("how", ["checkpoint", "spec"])
def test_an_architecture_gives_names_and_layouts_back(
    tmp_path: Path, exported: tuple[Path, nn.Module], how: str
) -> None:
    path, module = exported
    arch = arch_of(how, tmp_path, module)
    assert ckptconv.validate(path, arch=arch).valid
    made = ckptconv.convert(path, tmp_path / "a.pth", arch=arch)
    state = torch.load(tmp_path / "a.pth", weights_only=True)
    assert list(state) == list(module.state_dict())
    assert all(torch.equal(state[name], tensor) for name, tensor in module.state_dict().items())
    assert {"named", "graph", "unpacked", "constants"} == {finding.code for finding in made.findings}


def test_without_an_architecture_the_names_stay_the_graphs(tmp_path: Path, exported: tuple[Path, nn.Module]) -> None:
    made = ckptconv.convert(exported[0], tmp_path / "a.pth")
    assert "unnamed" in {finding.code for finding in made.findings}
    assert not set(torch.load(tmp_path / "a.pth", weights_only=True)) & set(exported[1].state_dict())


def test_constants_stay_behind_where_no_name_is_lost(tmp_path: Path) -> None:
    """Without folding all weights have their names, and what the graph computes with is beside them."""
    module = nn.LSTM(3, 4, batch_first=True).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older exporter says that it is old
        torch.onnx.export(module, (torch.randn(2, 5, 3),), tmp_path / "m.onnx", dynamo=False, do_constant_folding=False)
    with ckptconv.open(tmp_path / "m.onnx") as checkpoint:
        assert any(name.startswith("/") for name in checkpoint)
    ckptconv.convert(tmp_path / "m.onnx", tmp_path / "a.pth", arch=arch_of("checkpoint", tmp_path, module))
    state = torch.load(tmp_path / "a.pth")
    assert state.keys() == module.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in module.state_dict().items())


class Square(nn.Module):
    """Everything has one shape, and little is called in the order in which it is listed."""

    def __init__(self) -> None:
        super().__init__()
        self.top = nn.Parameter(torch.rand(4, 4))
        self.heads = nn.ModuleDict({"b": nn.Linear(4, 4, bias=False), "a": nn.Linear(4, 4, bias=False)})
        self.body = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Sequential(nn.ReLU(), nn.Linear(4, 4, bias=False)))
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        nn.init.normal_(self.attention.out_proj.bias)  # a bias of zeros is dropped by the newer exporter
        self.pair = Pair()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.heads["b"](self.heads["a"](self.body(self.pair(x))))
        return self.attention(x, x, x, need_weights=False)[0] @ self.top.t()


class Pair(nn.Module):
    """Two parameters of one module, which nothing but their order tells apart."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Parameter(torch.rand(4, 4)), nn.Parameter(torch.rand(4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x @ self.left.t()) @ self.right.t()


@pytest.mark.parametrize("dynamo", [False, True], ids=["old", "new"])
def test_scopes_tell_apart_what_shapes_do_not(tmp_path: Path, *, dynamo: bool) -> None:
    module = Square().eval()
    path = tmp_path / "m.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (torch.randn(2, 3, 4),), path, dynamo=dynamo, verbose=False)
    made = ckptconv.convert(path, tmp_path / "a.pth", arch=arch_of("checkpoint", tmp_path, module))
    state = torch.load(tmp_path / "a.pth", weights_only=True)
    assert list(state) == list(module.state_dict())
    assert all(torch.equal(state[name], tensor) for name, tensor in module.state_dict().items())
    said = {finding.code: finding for finding in made.findings}
    assert said["named-by-order"].message.endswith(": pair.left, pair.right")
    assert "named-by-shape" not in said


def test_what_shapes_and_counts_do_not_decide_is_left_alone() -> None:
    lost = [UnnamedTensor("a", "MatMul", True), UnnamedTensor("b", "MatMul", True), UnnamedTensor("c", "Add")]
    shapes = {"a": (4, 6), "b": (6, 6), "c": (6,)}
    missing = {"up.weight": (6, 4), "one.weight": (6, 6), "two.weight": (6, 6), "other": (5,)}
    assert match(lost, shapes, missing) == Matches({"a": "up.weight"}, ["up.weight"])
    # a name that two tensors would get is given to none
    lost = [UnnamedTensor("a", "MatMul", True), UnnamedTensor("b", "Gemm")]
    assert match(lost, {"a": (4, 6), "b": (6, 4)}, {"w": (6, 4)}) == Matches()


@pytest.mark.parametrize(
    ("scope", "module", "fits"),
    [
        ("/fc", "fc", True), ("/fc", "a.fc", True), ("/fc", "fc.a", "below"), ("/fc", "other", False),
        ("/fc", "fca", False), ("/", "", True), ("/", "fc", "below"), ("/a/b", "a.b", True), ("/a/b", "b.a", False),
        ("/a/a", "a", False), ("/a/a", "a.a", True), ("/a/a.0/a.0.1", "a.0.1", True), ("/a/a.0", "a.1", False),
        ("/layers.1/fc", "net.layers.1.fc", True), ("/layers.1/fc", "net.layers.11.fc", False),
        ("a.b", "a.b", True), ("a.b", "c.a.b", False), ("a.b", "a.b.c", "below"), ("a.b", "a.bc", False),
        ("", "", True), ("", "a", "below"), (None, "a", "below"),
    ],
)  # fmt: skip
def test_a_scope_says_of_which_module_a_weight_may_be(scope: str | None, module: str, fits: bool | str) -> None:
    name = f"{module}.weight" if module else "weight"
    found = match([UnnamedTensor("x", "MatMul", True, scope)], {"x": (2, 3)}, {name: (3, 2)})
    assert found == (Matches() if not fits else Matches({"x": name}, [name] if fits == "below" else []))


def test_a_bias_says_of_which_module_the_weight_is() -> None:
    lost = [UnnamedTensor("x", "MatMul", True, "/", "a.bias"), UnnamedTensor("y", "MatMul", True, "/")]
    shapes = {"x": (2, 2), "y": (2, 2)}
    found = match(lost, shapes, {"b.weight": (2, 2), "a.weight": (2, 2)})
    assert found == Matches({"x": "a.weight", "y": "b.weight"}, ["b.weight"])
    assert match(lost[:1], shapes, {"b.weight": (2, 2)}) == Matches()


def test_an_integer_constant_gets_no_weights_name(tmp_path: Path) -> None:
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "fc.weight"], ["m"]),
        onnx.helper.make_node("Reshape", ["m", "val_0"], ["y"]),
    ]
    weights = [onnx.numpy_helper.from_array(torch.zeros(2, 2).numpy(), "fc.weight")]
    shape = onnx.numpy_helper.from_array(torch.tensor([1, -1]).numpy(), "val_0")
    graph = onnx.helper.make_graph(nodes, "g", [], [], [*weights, shape])
    onnx.save(onnx.helper.make_model(graph, producer_name="pytorch"), tmp_path / "m.onnx")
    torch.save({"fc.weight": torch.zeros(2, 2), "fc.bias": torch.zeros(2)}, tmp_path / "old.pth")
    assert not ckptconv.validate(tmp_path / "m.onnx", arch=str(tmp_path / "old.pth")).valid
