"""The networks of tutorials: fully connected ones, LeNet."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

from tests.arch.real_models import Case, torch


def mlp() -> list[Case]:
    """Fully connected networks in each form."""
    rows = [(784, [512, 256, 128], 10), (20, [30], 5), (8, [16, 16, 24, 12], 3)]
    cases = [
        Case("mlp", f"modules{size}", partial(Mlp, *row), None, dict(zip(MLP_PARAMS, row, strict=True)))
        for size, row in enumerate(rows)
    ]
    for size, row in enumerate(rows):
        for style in ("plain", "dropout", "batch", "layer", "nobias"):
            build = partial(sequential, *row, style)
            cases.append(Case("mlp", f"{style}{size}", build, None, dict(zip(MLP_PARAMS, row, strict=True))))
    return cases


MLP_PARAMS = ("input_size", "hidden_layers", "output_size")


class Mlp(torch.nn.Module):
    """The fully connected network of the classic tutorial: a ModuleList, then an output layer."""

    def __init__(self, input_size: int, hidden_layers: list[int], output_size: int, *, bias: bool = True) -> None:
        super().__init__()
        widths = [input_size, *hidden_layers]
        pairs = pairwise(widths)
        self.hidden_layers = torch.nn.ModuleList(torch.nn.Linear(a, b, bias=bias) for a, b in pairs)
        self.output = torch.nn.Linear(widths[-1], output_size, bias=bias)


def sequential(input_size: int, hidden: list[int], output_size: int, style: str = "plain") -> Any:
    """An ``nn.Sequential``, inside a module where there is normalisation."""
    nn = torch.nn
    between = {
        "plain": lambda width: [nn.ReLU()],
        "nobias": lambda width: [nn.ReLU()],
        "dropout": lambda width: [nn.ReLU(), nn.Dropout()],
        "batch": lambda width: [nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout()],
        "layer": lambda width: [nn.LayerNorm(width), nn.GELU()],
    }[style]
    widths = [input_size, *hidden]
    layers: list[Any] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b, bias=style != "nobias"), *between(b)]
    row = nn.Sequential(*layers, nn.Linear(widths[-1], output_size, bias=style != "nobias"))
    return nn.ModuleDict({"net": row}) if style in ("batch", "layer") else row


class LeNet(torch.nn.Module):
    """The network of PyTorch's beginner tutorials."""

    def __init__(self, in_channels: int, channels: list[int], kernel: int, hidden: list[int], side: int) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(in_channels, channels[0], kernel)
        self.conv2 = torch.nn.Conv2d(channels[0], channels[1], kernel)
        widths = [channels[1] * side * side, *hidden, 10]
        for number, (a, b) in enumerate(pairwise(widths)):
            setattr(self, f"fc{number + 1}", torch.nn.Linear(a, b))


def lenet() -> list[Case]:
    """LeNet-5 for digits, for colour images, and the smaller network of PyTorch's MNIST example."""
    rows = [(1, [6, 16], 5, [120, 84], 4), (3, [6, 16], 5, [120, 84], 5), (1, [32, 64], 3, [128], 12)]
    keys = ("in_channels", "channels", "kernel", "hidden")
    return [
        Case(
            "lenet",
            str(size),
            partial(LeNet, *row),
            None,
            {**dict(zip(keys, row, strict=False)), "features": row[1][1] * row[4] ** 2, "num_classes": 10},
        )
        for size, row in enumerate(rows)
    ]
