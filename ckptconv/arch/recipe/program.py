"""What a forward recipe becomes (`expand`): a list of operations, each with its shape and its tensors' names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.arch.recipe.catalog import Attribute, Dims
    from ckptconv.arch.table import Table

INPUT = "input"
OUTPUT = "output"


@dataclass(frozen=True, slots=True)
class Operation:
    """One step of the computation.

    kind:       a key of `catalog.KINDS`, or "add".
    name:       its module's name; an operation without one is called after its kind.
    inputs:     names of values.
    output:     the name of the value that it computes.
    attributes: all of the kind's attributes, including defaults.
    weights:    the names of its tensors, by role.
    shape:      the shape of its output.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    shape: Dims = ()


@dataclass(frozen=True, slots=True)
class Value:
    """An input or output: its name, its dimensions, and its element type if the recipe states one."""

    name: str
    shape: Dims
    dtype: str | None = None


@dataclass(frozen=True, slots=True)
class Program:
    """What a network with known params computes, in an order in which every value is computed before it is used.

    params: names of the params that were used; the tensors alone may not determine them.
    """

    table: Table
    operations: tuple[Operation, ...]
    input: Value
    output: Value
    params: tuple[str, ...] = ()


def stored_as(table: Table, name: str) -> str:
    """The name under which a tied tensor is stored; its own if it is not tied, or only may be."""
    seen = {name}
    while (entry := table.tensors[name]).tied_to in table.tensors and not entry.loose and entry.tied_to not in seen:
        assert entry.tied_to is not None
        name = entry.tied_to
        seen.add(name)
    return name
