"""A model of Keras 3 and torch's network with its weights compute the same: the output is what Keras gave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import ckptconv
from ckptconv.edits.name_rule import NameRule

CELL = ("kernel", "recurrent_kernel", "bias")
OTHERS = Path(__file__).parents[3] / "fixtures" / "others"


class Attention(nn.Module):
    """Keras' MultiHeadAttention, of two heads."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(size, 2 * width) for _ in range(3))
        self.attention_output = nn.Linear(2 * width, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part(x).unflatten(-1, (2, -1)).transpose(1, 2) for part in (self.query, self.key, self.value))
        return self.attention_output(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Network(nn.Module):
    """The network of `fixtures/others/make.py`, with Keras' names for its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.batch_normalization = nn.BatchNorm2d(4, eps=1e-3)
        self.depthwise_conv2d = nn.Conv2d(4, 8, 2, groups=4)
        self.separable_conv2d = nn.ModuleDict(
            {"depthwise": nn.Conv2d(8, 8, 2, groups=8, bias=False), "pointwise": nn.Conv2d(8, 6, 1, bias=False)}
        )
        self.separable_conv2d.bias = nn.Parameter(torch.zeros(6))
        self.up = nn.ConvTranspose2d(6, 3, 2, stride=2)
        self.sequential = nn.ModuleDict({"hidden": nn.Linear(3, 6), "dense": nn.Linear(6, 4, bias=False)})
        self.embedding = nn.Embedding(20, 4)
        self.attention = Attention(4, 3)
        self.layer_normalization = nn.LayerNorm(4, eps=1e-3)
        self.head = nn.Linear(4, 2)

    def forward(self, picture: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        x = self.depthwise_conv2d(self.batch_normalization(self.stem(picture.movedim(-1, 1))))
        separable: Any = self.separable_conv2d
        x = separable["pointwise"](separable["depthwise"](x)) + separable.bias[:, None, None]
        x = self.up(x).mean((2, 3))
        y = self.layer_normalization(self.attention(self.embedding(tokens))).mean(1)
        return self.head(self.sequential["dense"](self.sequential["hidden"](x)) + y)


def translated(source: Path, target: Path) -> dict[str, torch.Tensor]:
    edits = ckptconv.Edits(names=[NameRule("translate", "keras")])
    ckptconv.convert(source, target, edits=edits, bare=True)
    return torch.load(target, weights_only=True)


def test_torchs_network_computes_what_keras_did(tmp_path: Path) -> None:
    network = Network().eval()
    network.load_state_dict(translated(OTHERS / "keras-3.keras", tmp_path / "a.pth"))
    with np.load(OTHERS / "keras-3.npz") as arrays, torch.no_grad():
        found = network(torch.tensor(arrays["picture"]), torch.tensor(arrays["tokens"]))
        assert np.allclose(found.numpy(), arrays["output"], rtol=1e-4)


def written(path: Path, groups: dict[str, list[tuple[int, ...]]], names: dict[str, str]) -> Path:
    with h5py.File(path, "w") as file:
        for group, shapes in groups.items():
            made = file.create_group(f"{group}/vars")
            if group in names:
                made.attrs["name"] = names[group]
            for i, shape in enumerate(shapes):
                made[str(i)] = np.zeros(shape, "f4")
    return path


@pytest.mark.parametrize(
    ("group", "name", "shapes", "expected"),
    [
        ("layers/dense_12", "out", [(3, 2)], ["out.weight"]),
        ("layers/dense", "", [(3, 2), (2,)], ["dense.weight", "dense.bias"]),
        ("encoder/first", "dense_3", [(3, 2), (2,)], ["encoder.first.weight", "encoder.first.bias"]),
        ("layers/functional/layers/conv1d", "c", [(5, 3, 2)], ["functional.c.weight"]),
        ("layers/batch_normalization", "b", [(3,)] * 2, ["b.running_mean", "b.running_var"]),
        ("layers/rms_normalization", "n", [(3,)], ["n.weight"]),
        ("layers/batch_normalization", "b", [(3,)] * 3, [f"layers.batch_normalization.vars.{i}" for i in range(3)]),
        ("layers/my_layer", "m", [(3, 2)], ["layers.my_layer.vars.0"]),
        ("layers/gru/cell", "gru_cell", [(3, 6)] * 3, [f"gru.cell.{word}" for word in CELL]),
        ("layers/gru/cell", "gru_cell", [(3, 6)] * 4, [f"layers.gru.cell.vars.{i}" for i in range(4)]),
    ],
)  # fmt: skip
def test_only_the_class_says_what_numbers_mean(
    group: str, name: str, shapes: list[tuple[int, ...]], expected: list[str], tmp_path: Path
) -> None:
    path = written(tmp_path / "a.h5", {group: shapes, "layers/embedding": [(4, 2)]}, {group: name} if name else {})
    assert sorted(translated(path, tmp_path / "b.pth")) == sorted([*expected, "embedding.weight"])
