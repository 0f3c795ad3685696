"""Names that an exporter lost, given back by an architecture."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import onnx
import pytest
import torch
from torch import nn

import ckptconv
from ckptconv.api.naming import Lost, match

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
        return self.rnns[0](self.down(torch.tanh(self.two(x))))[0]  # type: ignore[no-any-return]


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
    (ordered,) = [finding for finding in made.findings if finding.code == "named-by-order"]
    assert "2 of them" in ordered.message
    assert ordered.where == "layers.one.weight"


def test_without_an_architecture_the_names_stay_the_graphs(tmp_path: Path, exported: tuple[Path, nn.Module]) -> None:
    made = ckptconv.convert(exported[0], tmp_path / "a.pth")
    assert "unnamed" in {finding.code for finding in made.findings}
    assert not set(torch.load(tmp_path / "a.pth", weights_only=True)) & set(exported[1].state_dict())


def test_what_shapes_and_counts_do_not_decide_is_left_alone() -> None:
    lost = [Lost("a", True, "MatMul"), Lost("b", True, "MatMul"), Lost("c", False, "Add")]
    shapes = {"a": (4, 6), "b": (6, 6), "c": (6,)}
    missing = {"up.weight": (6, 4), "one.weight": (6, 6), "two.weight": (6, 6), "other": (5,)}
    assert match(lost, shapes, missing) == ({"a": ("up.weight", True)}, [])
    # a name that two tensors would get is given to none
    lost = [Lost("a", True, "MatMul"), Lost("b", False, "Gemm")]
    assert match(lost, {"a": (4, 6), "b": (6, 4)}, {"w": (6, 4)}) == ({}, [])
