"""Damaged copies of a checkpoint that says what it is, each with the names that a person would point at.

The checkpoint is ``{"input_size", "output_size", "hidden_layers", "state_dict"}`` of a fully connected network.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from random import Random

NETWORKS = (
    (64, [64, 32], 10),
    (784, [512, 256, 128], 10),
    (30, [40, 40, 40], 5),
    (20, [16, 24, 12, 18, 9], 2),
    (7, [11], 3),
)
"""(inputs, hidden widths, outputs)."""


@dataclass
class Mutant:
    """A checkpoint, what was done to it, and for each fault the names of which one must be in an error."""

    document: dict[str, Any]
    done: list[str] = field(default_factory=list)
    culprits: list[tuple[str, ...]] = field(default_factory=list)

    def fault(self, what: str, *culprits: str) -> None:
        self.done.append(what)
        self.culprits.append(culprits)

    @property
    def state(self) -> dict[str, torch.Tensor]:
        state: dict[str, torch.Tensor] = self.document["state_dict"]
        return state


def healthy(inputs: int, hidden: list[int], outputs: int) -> dict[str, Any]:
    """The metadata checkpoint of a network of these widths."""
    widths = [inputs, *hidden]
    state = {}
    for i, (before, after) in enumerate(pairwise(widths)):
        state[f"hidden_layers.{i}.weight"] = torch.ones(after, before)
        state[f"hidden_layers.{i}.bias"] = torch.ones(after)
    state["output.weight"], state["output.bias"] = torch.ones(outputs, widths[-1]), torch.ones(outputs)
    return {"input_size": inputs, "output_size": outputs, "hidden_layers": list(hidden), "state_dict": state}


def _any(mutant: Mutant, random: Random) -> str:
    return random.choice(list(mutant.state))


def a_size(mutant: Mutant, random: Random) -> None:
    name = _any(mutant, random)
    shape = list(mutant.state[name].shape)
    axis = random.randrange(len(shape))
    shape[axis] = max(1, random.choice([shape[axis] + 1, shape[axis] - 1, shape[axis] * 2, shape[axis] + 7]))
    if shape == list(mutant.state[name].shape):
        shape[axis] += 1
    mutant.state[name] = torch.ones(shape)
    mutant.fault(f"{name} made {shape}", name)


def a_rank(mutant: Mutant, random: Random) -> None:
    name = _any(mutant, random)
    tensor = mutant.state[name]
    changed = random.choice(
        [tensor.unsqueeze(0), tensor.unsqueeze(-1), tensor.flatten() if tensor.ndim > 1 else tensor[None]]
    )
    mutant.state[name] = changed.contiguous()
    mutant.fault(f"{name} made {list(changed.shape)}", name)


def a_name(mutant: Mutant, random: Random) -> None:
    name = _any(mutant, random)
    module, _, last = name.rpartition(".")
    new = random.choice(
        [
            f"{module}.{last[:-1]}",
            f"{module}.{'gamma' if last == 'weight' else 'beta'}",
            f"{module}_{last}",
            f"{module}.linear.{last}",
            f"{name}_orig",
            f"x{name}",
        ]
    )
    _rename(mutant, {name: new})
    mutant.fault(f"{name} renamed {new}", name, new)


def a_module_name(mutant: Mutant, random: Random) -> None:
    module = _any(mutant, random).rpartition(".")[0]
    new = random.choice(["fc", "classifier.0", module + "x", "layers." + module])
    changed = {name: new + name[len(module) :] for name in mutant.state if name.rpartition(".")[0] == module}
    _rename(mutant, changed)
    mutant.fault(f"{module} renamed {new}", module + ".", new + ".")


def _rename(mutant: Mutant, changed: dict[str, str]) -> None:
    mutant.document["state_dict"] = {changed.get(name, name): tensor for name, tensor in mutant.state.items()}


def a_lost_tensor(mutant: Mutant, random: Random) -> None:
    name = _any(mutant, random)
    del mutant.state[name]
    mutant.fault(f"{name} removed", name)


def an_added_tensor(mutant: Mutant, random: Random) -> None:
    layer = random.randrange(len(mutant.document["hidden_layers"]))
    name = random.choice([f"hidden_layers.{layer}.scale", "output.gamma", "extra.weight", "head.bias", "dropout.p"])
    mutant.state[name] = torch.ones(random.choice([(), (3,), (4, 5), tuple(mutant.state[_any(mutant, random)].shape)]))
    mutant.fault(f"{name} added", name)


def a_lost_layer(mutant: Mutant, random: Random) -> None:
    layer = random.choice(["output", *(f"hidden_layers.{i}" for i in range(len(mutant.document["hidden_layers"])))])
    for name in [name for name in mutant.state if name.startswith(layer + ".")]:
        del mutant.state[name]
    mutant.fault(f"{layer} removed", layer)


def an_added_layer(mutant: Mutant, random: Random) -> None:
    hidden = mutant.document["hidden_layers"]
    layer, width = f"hidden_layers.{len(hidden)}", random.choice([hidden[-1], hidden[-1] + 3])
    mutant.state[f"{layer}.weight"] = torch.ones(width, hidden[-1])
    mutant.state[f"{layer}.bias"] = torch.ones(width)
    mutant.fault(f"{layer} added, {width} wide", layer)


def a_metadata_field(mutant: Mutant, random: Random) -> None:
    document = mutant.document
    field = random.choice(["input_size", "output_size", "hidden_layers", "hidden_layers"])
    value = document[field]
    if isinstance(value, list):
        at = random.randrange(len(value))
        changed = random.choice(
            [[*value, value[-1]], value[:-1], [*value[:at], value[at] + 1, *value[at + 1 :]], "many", 3]
        )
    else:
        changed = random.choice([value + 1, value * 2, value - 1, "many", [value]])
    document[field] = changed
    mutant.fault(f"metadata {field} made {changed}", field)


def a_transpose(mutant: Mutant, random: Random) -> None:
    names = [name for name, tensor in mutant.state.items() if tensor.ndim == 2 and tensor.shape[0] != tensor.shape[1]]
    if names:
        name = random.choice(names)
        mutant.state[name] = mutant.state[name].T.contiguous()
        mutant.fault(f"{name} transposed", name)


def every_transpose(mutant: Mutant, random: Random) -> None:
    for name, tensor in mutant.state.items():
        if tensor.ndim == 2 and tensor.shape[0] != tensor.shape[1]:
            mutant.state[name] = tensor.T.contiguous()
            mutant.fault(f"{name} transposed", name)


def a_swap(mutant: Mutant, random: Random) -> None:
    a = _any(mutant, random)
    others = [name for name, tensor in mutant.state.items() if tensor.shape != mutant.state[a].shape]
    b = random.choice(others)
    mutant.state[a], mutant.state[b] = mutant.state[b], mutant.state[a]
    mutant.fault(f"{a} and {b} swapped", a)
    mutant.culprits.append((b,))


def a_prefix(mutant: Mutant, random: Random) -> None:
    prefix = random.choice(["module.", "_orig_mod.", "model.", "net.", "module._orig_mod."])
    _rename(mutant, {name: prefix + name for name in mutant.state})
    mutant.fault(f"{prefix} added", prefix)


def a_lost_prefix(mutant: Mutant, random: Random) -> None:
    _rename(mutant, {name: name.removeprefix("hidden_layers.") for name in mutant.state})
    mutant.fault("hidden_layers. removed", "hidden_layers.")


FAULTS: tuple[Callable[[Mutant, Random], None], ...] = (
    a_size, a_rank, a_name, a_module_name, a_lost_tensor, an_added_tensor, a_lost_layer, an_added_layer,
    a_metadata_field, a_transpose, every_transpose, a_swap, a_prefix, a_lost_prefix,
)  # fmt: skip
PAIRS = (
    (a_prefix, a_size),
    (a_prefix, a_transpose),
    (a_prefix, a_name),
    (a_size, a_metadata_field),
    (a_name, a_transpose),
    (a_lost_tensor, a_size),
    (a_swap, a_metadata_field),
    (a_name, a_name),
    (a_lost_layer, a_metadata_field),
    (a_prefix, a_lost_tensor),
    (an_added_tensor, a_transpose),
    (a_prefix, a_swap),
)


def mutants(count: int, random: Random) -> Iterator[Mutant]:
    """`count` mutants, of one fault and of two in turn, of every network."""
    made = 0
    while made < count:
        mutant = Mutant(healthy(*copy.deepcopy(NETWORKS[made % len(NETWORKS)])))
        double = made % 4 == 3
        faults = PAIRS[made // 4 % len(PAIRS)] if double else (FAULTS[made % len(FAULTS)],)
        for fault in sorted(faults, key=lambda fault: fault is a_prefix):
            fault(mutant, random)
        if mutant.culprits:
            made += 1
            yield mutant
        else:
            made += 1
            count += 1
