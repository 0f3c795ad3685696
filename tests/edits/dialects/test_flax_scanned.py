"""Layers of Flax in a scan become single layers, and the network computes in torch what it did in Flax."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import ckptconv
from ckptconv.edits.name_rule import NameRule
from ckptconv.errors import EditError

SCANNED = Path(__file__).parents[3] / "fixtures" / "others" / "flax-scanned"
TRANSLATE = ckptconv.Edits(names=[NameRule("translate", "flax")])

Arrays = dict[str, Any]


class Attention(nn.Module):
    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(6, 8, bias=bias) for _ in range(3))
        self.out = nn.Linear(8, 6, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part(x).unflatten(-1, (2, 4)).transpose(1, 2) for part in (self.query, self.key, self.value))
        return self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        self.attention, self.norm = Attention(bias=bias), nn.LayerNorm(6, eps=1e-6)
        self.up, self.down = nn.Linear(6, 12, bias=bias), nn.Linear(12, 6, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm(x))
        return x + self.down(self.up(x).relu())


class Network(nn.Module):
    """The network of the fixtures' make.py."""

    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, 6), nn.Linear(4, 2)
        self.layers = nn.Sequential(*(Block(bias=bias) for _ in range(3)))
        self.general, self.back = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.back(self.general(self.layers(self.stem(x)))))


def translated(arrays: Arrays, folder: Path) -> tuple[Arrays, list[str]]:
    np.savez(folder / "a.npz", **arrays)
    done = ckptconv.convert(folder / "a.npz", folder / "b.npz", edits=TRANSLATE, bare=True)
    with np.load(folder / "b.npz") as made:
        return dict(made), [finding.message for finding in done.findings if finding.code == "left-alone"]


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("name", ["first", "second"])
def test_torch_computes_what_flax_did_whichever_dimension_the_layers_are(name: str, tmp_path: Path) -> None:
    ckptconv.convert(SCANNED / f"{name}.msgpack", tmp_path / "a.pth", edits=TRANSLATE, bare=True)
    network = Network(bias=name == "first")
    network.load_state_dict(torch.load(tmp_path / "a.pth", weights_only=True))
    with np.load(SCANNED / "outputs.npz") as arrays, torch.no_grad():
        assert np.allclose(network(torch.tensor(arrays["x"])).numpy(), arrays[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["first", "second"])
def test_like_makes_the_scan_again(name: str, tmp_path: Path) -> None:
    source = SCANNED / f"{name}.msgpack"
    ckptconv.convert(source, tmp_path / "a.pth", edits=TRANSLATE, bare=True)
    like = ckptconv.Edits(names=[NameRule("like", str(source))])
    ckptconv.convert(tmp_path / "a.pth", tmp_path / "b.msgpack", edits=like, bare=True)
    with ckptconv.open(source) as old, ckptconv.open(tmp_path / "b.msgpack") as new:
        assert old.keys() == new.keys()
        assert all(old[name].info == new[name].info and old[name].read() == new[name].read() for name in old)


def test_a_model_that_is_there_several_times_is_refused(tmp_path: Path) -> None:
    arrays = {"params.Dense_0.kernel": random(8, 3, 5), "params.Dense_0.bias": random(8, 5)}
    arrays |= {"params.norm.scale": random(8, 5), "params.norm.bias": random(8, 5)}
    with pytest.raises(EditError, match="as if there were several of it"):
        translated(arrays, tmp_path)
    assert not (tmp_path / "b.npz").exists()


@pytest.mark.parametrize("bias", [None, (4, 4)], ids=["no bias", "a bias that fits nothing"])
def test_layers_in_an_unknown_place_are_refused(bias: tuple[int, int] | None, tmp_path: Path) -> None:
    arrays = {"params.layers.Dense_0.kernel": random(3, 4, 5), "params.head.kernel": random(5, 2)}
    arrays |= {"params.layers.Dense_0.bias": random(*bias)} if bias else {}
    with pytest.raises(EditError, match=r"'layers.Dense_0' has a dimension of layers, or of something else"):
        translated(arrays, tmp_path)


def test_a_single_layer_in_a_scan_loses_its_dimension(tmp_path: Path) -> None:
    kernel = random(1, 4, 5)
    arrays = {"params.stem.kernel": random(3, 4), "params.layers.mlp.kernel": kernel}
    made, _ = translated({**arrays, "params.layers.mlp.bias": random(1, 5)}, tmp_path)
    assert np.array_equal(made["layers.0.mlp.weight"], kernel[0].T)


def test_a_norm_of_two_dimensions_is_not_taken_for_layers(tmp_path: Path) -> None:
    scale = random(4, 5)
    made, _ = translated({"params.norm.scale": scale, "params.Dense_0.kernel": random(3, 2)}, tmp_path)
    assert np.array_equal(made["norm.weight"], scale)


def test_dense_layers_with_several_dimensions_become_linear_ones(tmp_path: Path) -> None:
    kernel, bias, back = random(6, 2, 3), random(2, 3), random(2, 3, 6)
    arrays = {"a.heads.kernel": kernel, "a.heads.bias": bias, "a.back.kernel": back}
    made, _ = translated(arrays, tmp_path)
    assert np.array_equal(made["a.heads.weight"], kernel.reshape(6, 6).T)
    assert np.array_equal(made["a.heads.bias"], bias.reshape(6))
    assert np.array_equal(made["a.back.weight"], back.reshape(6, 6).T)


def test_one_that_nothing_tells_the_outputs_of_stays_and_is_reported(tmp_path: Path) -> None:
    kernel = random(6, 2, 3)
    made, said = translated({"DenseGeneral_0.kernel": kernel, "Dense_0.kernel": random(3, 2)}, tmp_path)
    assert np.array_equal(made["DenseGeneral_0.kernel"], kernel)
    assert said == ["DenseGeneral_0 stays as Flax has it: nothing says which of its dimensions are inputs"]


def test_several_queries_may_share_a_key(tmp_path: Path) -> None:
    shapes = {"query": (5, 4, 3), "key": (5, 2, 3), "value": (5, 2, 3), "out": (4, 3, 5)}
    made, _ = translated({f"self.{name}.kernel": random(*shape) for name, shape in shapes.items()}, tmp_path)
    found = {name: made[f"self.{name}.weight"].shape for name in shapes}
    assert found == {"query": (12, 5), "key": (6, 5), "value": (6, 5), "out": (5, 12)}


def test_haikus_names_are_refused_by_name(tmp_path: Path) -> None:
    arrays = {"mlp/~/linear_0.w": random(3, 2), "mlp/~/linear_0.b": random(2), "layer_norm.scale": random(2)}
    with pytest.raises(EditError, match="these names are Haiku's"):
        translated(arrays, tmp_path)
