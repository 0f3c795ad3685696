"""Checkpoints of nothing but headers, and tables of nothing but shapes; reading a tensor fails the test."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ckptconv.arch.spec import Spec
from ckptconv.arch.table import Expected, Table
from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.dtypes import DType
from ckptconv.core.metadata import StateDict
from ckptconv.core.tensor import LazyTensor, TensorInfo

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptconv.core.report import Finding

Shapes = dict[str, tuple[int, ...]]


def unread(start: int, stop: int) -> memoryview:
    raise AssertionError("a tensor was read")


def checkpoint(
    shapes: Mapping[str, Sequence[int]],
    *,
    metadata: Mapping[str, Any] | None = None,
    dtypes: Mapping[str, DType] | None = None,
    ties: Mapping[str, str] | None = None,
    versions: Any = None,
    plain: Sequence[str] = (),
) -> Checkpoint:
    """A checkpoint of these shapes; `ties` maps names to the one that they share their storage with."""
    ties = ties or {}
    tensors = {
        name: LazyTensor(
            TensorInfo.of((dtypes or {}).get(name, DType.F32), tuple(shape)), unread, alias=ties.get(name, name)
        )
        for name, shape in shapes.items()
    }
    state_dict = StateDict(plain=tuple((len(shapes) + i, key, 1) for i, key in enumerate(plain)), versions=versions)
    return Checkpoint(tensors, root=state_dict if metadata is None else {**metadata, "state_dict": state_dict})


def table(shapes: Mapping[str, Sequence[int | None]], **more: Mapping[str, Any]) -> Table:
    """A table of these shapes; ``tied_to={…}``, ``dtypes={…}`` and so on by tensor."""
    extra = {name: {key: values[name] for key, values in more.items() if name in values} for name in shapes}
    return Table(
        Spec(name="table"), {}, {name: Expected(tuple(shape), **extra[name]) for name, shape in shapes.items()}
    )


def errors(findings: Sequence[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity == "error"]


def codes(findings: Sequence[Finding]) -> list[str]:
    return [finding.code for finding in findings]


def perceptron(*widths: int) -> Shapes:
    """The tensors of a fully connected network: ``perceptron(784, 512, 10)`` has one hidden layer."""
    shapes: Shapes = {}
    for i, (before, after) in enumerate(pairwise(widths[:-1])):
        shapes |= {f"hidden_layers.{i}.weight": (after, before), f"hidden_layers.{i}.bias": (after,)}
    return shapes | {"output.weight": (widths[-1], widths[-2]), "output.bias": (widths[-1],)}


def decoder(layers: int, width: int = 8) -> Shapes:
    """The tensors of a small decoder, named as many are."""
    shapes: Shapes = {"model.embed.weight": (50, width)}
    for i in range(layers):
        block = f"model.layers.{i}"
        shapes |= {f"{block}.attn.{x}_proj.weight": (width, width) for x in "qkvo"}
        shapes |= {f"{block}.mlp.up.weight": (3 * width, width), f"{block}.mlp.down.weight": (width, 3 * width)}
        shapes |= {f"{block}.norm.weight": (width,), f"{block}.norm.bias": (width,)}
    return shapes | {"lm_head.weight": (50, width)}
