"""Random scripts of the kind that people write between two checkpoints: (the tensors before, the tensors after)."""

from __future__ import annotations

import random

import torch

State = dict[str, torch.Tensor]


def transformer(rng: torch.Generator) -> State:
    """Decoder blocks with separate q, k, v and a tied head."""
    state = {"embed.weight": torch.randn(24, 8, generator=rng)}
    for i in range(4):
        for part in ("q", "k", "v", "o"):
            state[f"layers.{i}.attn.{part}.weight"] = torch.randn(8, 8, generator=rng)
        state[f"layers.{i}.up.weight"] = torch.randn(12, 8, generator=rng)
        state[f"layers.{i}.down.weight"] = torch.randn(8, 12, generator=rng)
        state[f"layers.{i}.norm.weight"] = torch.randn(8, generator=rng)
    state["norm.weight"] = torch.randn(8, generator=rng)
    state["head.weight"] = state["embed.weight"]
    return state


def convolutions(rng: torch.Generator) -> State:
    """Convolutions with norms, and a classifier."""
    state: State = {}
    for i in range(4):
        state[f"features.{i}.conv.weight"] = torch.randn(6 + i, 5 + i, 3, 3, generator=rng)
        state[f"features.{i}.norm.weight"] = torch.randn(6 + i, generator=rng)
        state[f"features.{i}.norm.bias"] = torch.randn(6 + i, generator=rng)
    state["classifier.weight"] = torch.randn(10, 9, generator=rng)
    return state


def perceptron(rng: torch.Generator) -> State:
    """Hidden layers of falling widths."""
    widths = [16, 14, 12, 10, 7]
    state: State = {}
    for i in range(4):
        state[f"hidden_layers.{i}.weight"] = torch.randn(widths[i + 1], widths[i], generator=rng)
        state[f"hidden_layers.{i}.bias"] = torch.randn(widths[i + 1], generator=rng)
    return state


def _prefix(state: State, choose: random.Random) -> State:
    prefix = choose.choice(["module.", "_orig_mod.", "model."])
    return {prefix + name: tensor for name, tensor in state.items()}


def _rename(state: State, choose: random.Random) -> State:
    old, new = choose.choice([("layers", "blocks"), ("features", "stages"), ("hidden_layers", "fc"), ("norm", "ln")])
    return {name.replace(old, new): tensor for name, tensor in state.items()}


def _fuse(state: State, choose: random.Random) -> State:
    made: State = {}
    for name, tensor in state.items():
        if ".q.weight" in name:
            names = [name.replace(".q.", f".{part}.") for part in "qkv"]
            made[name.replace(".q.", ".qkv.")] = torch.cat([state[one] for one in names])
        elif ".k.weight" not in name and ".v.weight" not in name:
            made[name] = tensor
    return made


def _transpose(state: State, choose: random.Random) -> State:
    return {
        name: tensor.T.contiguous() if tensor.dim() == 2 and tensor.shape[0] != tensor.shape[1] and "embed" not in name
        and "head" not in name else tensor
        for name, tensor in state.items()
    }  # fmt: skip


def _cast(state: State, choose: random.Random) -> State:
    dtype = choose.choice([torch.bfloat16, torch.float16, torch.float64])
    shared = {id(tensor): tensor.to(dtype) for tensor in state.values()}
    return {name: shared[id(tensor)] for name, tensor in state.items()}


def _untie(state: State, choose: random.Random) -> State:
    return {name: tensor.clone() if "head" in name else tensor for name, tensor in state.items()}


def _remove_layer(state: State, choose: random.Random) -> State:
    gone = choose.randrange(4)
    made: State = {}
    for name, tensor in state.items():
        parts = name.split(".")
        numbers = [i for i, part in enumerate(parts) if part.isdigit()]
        if not numbers:
            made[name] = tensor
            continue
        number = int(parts[numbers[0]])
        if number != gone:
            parts[numbers[0]] = str(number - (number > gone))
            made[".".join(parts)] = tensor
    return made


STEPS = (_remove_layer, _fuse, _transpose, _untie, _rename, _cast, _prefix)
"""In the order in which a script does them."""


def _steps(number: int) -> list[object]:
    choose = random.Random(number)
    return [step for step in STEPS if choose.random() < 0.45] or [_prefix]


def make(number: int) -> tuple[State, State]:
    """The tensors before and after script `number`."""
    rng, choose = torch.Generator().manual_seed(number), random.Random(number)
    before = (transformer, convolutions, perceptron)[number % 3](rng)
    after = before
    for step in _steps(number):
        after = step(after, choose)  # type: ignore[operator]
    return before, after
