"""The verdict on a table of a real module is that of the module's own ``load_state_dict(strict=True)``.

torch is the oracle: a mutation of a module's state_dict, module versions and all, is loaded into it. Names that the
module ties may be absent if another of their group is there; nothing else is allowed for.
"""

from __future__ import annotations

import functools
import warnings
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="torch is the oracle")

from torch import nn  # noqa: E402

from ckptconv.arch.factory import module_table  # noqa: E402
from ckptconv.checks.validate import validate_table  # noqa: E402
from tests.arch.real_models import transformers_module  # noqa: E402
from tests.checks.support import checkpoint  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptconv.core.checkpoint import Checkpoint

EXAMPLES = 350
"""For each of the six architectures; 2,100 together."""


def perceptron() -> Any:
    from fixtures.network import Network

    return Network(20, 4, [12, 8, 8])


def sequential() -> Any:
    return nn.Sequential(
        nn.Linear(9, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 5, bias=False), nn.LayerNorm(5), nn.Linear(5, 1)
    )


class Block(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, after, 3, bias=False), nn.BatchNorm2d(after)
        self.conv2, self.bn2 = nn.Conv2d(after, after, 3, bias=False), nn.BatchNorm2d(after)
        self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after))


class ResNet(nn.Module):
    """torchvision's names, with one scalar parameter as ConvNeXt-like models have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 7, bias=False), nn.BatchNorm2d(8)
        self.layer1, self.layer2 = nn.Sequential(Block(8, 8), Block(8, 8)), nn.Sequential(Block(8, 16))
        self.scale = nn.Parameter(torch.ones(()))
        self.fc = nn.Linear(16, 10)


def llama() -> Any:
    config = transformers_module().LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, pad_token_id=None, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return transformers_module().LlamaForCausalLM(config)


def bert() -> Any:
    config = transformers_module().BertConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=12,
    )  # fmt: skip
    return transformers_module().BertForMaskedLM(config)


class Tied(nn.Module):
    """Three names of one tensor, a buffer that is tied, a buffer that is not kept."""

    mask: Any

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head, self.norm = nn.Embedding(12, 4), nn.Linear(4, 12, bias=False), nn.BatchNorm1d(4)
        self.other = nn.Linear(4, 12)
        self.head.weight = self.other.weight = self.embed.weight
        self.register_buffer("mask", torch.ones(3))
        self.register_buffer("same_mask", self.mask)
        self.register_buffer("passing", torch.ones(2), persistent=False)


@functools.cache
def built(make: Callable[[], Any]) -> tuple[Any, Any]:
    with torch.device("meta"):
        module = make()
    if hasattr(module, "tie_weights"):
        module.tie_weights()
    return module, module_table(module, make.__name__, {})


State = dict[str, Any]
Step = tuple[str, int, int]
NUMBERS = st.integers(0, 10**6)
KINDS = (
    "resize", "resize", "transpose", "rank", "scalar", "drop", "drop counter", "add", "rename", "rename as", "prefix",
    "swap", "cast", "plain", "no versions", "old versions", "drop tied", "strip prefix",
)  # fmt: skip
STEPS = st.lists(st.tuples(st.sampled_from(KINDS), NUMBERS, NUMBERS), max_size=2)


def mutate(state: State, versions: dict[str, Any], step: Step, groups: list[list[str]]) -> State:
    what, a, b = step
    names = list(state)
    name, other = names[a % len(names)], names[b % len(names)]
    tensor = state[name]
    match what:
        case "resize" if tensor.ndim:
            shape = list(tensor.shape)
            shape[b % tensor.ndim] += 1 + b % 3
            state[name] = tensor.new_empty(shape)
        case "transpose":
            state[name] = tensor.flatten().reshape(tensor.shape[::-1])
        case "rank":
            state[name] = tensor[None] if b % 2 else tensor.flatten()
        case "scalar":
            name = next((n for n, t in state.items() if t.ndim == 0 and not n.endswith("tracked")), name)
            state[name] = tensor.new_empty([1] * (b % 3))
        case "drop":
            del state[name]
        case "drop counter" | "drop tied":
            tied = {n for group in groups for n in group}
            wanted = [n for n in names if (n.endswith("num_batches_tracked") if what == "drop counter" else n in tied)]
            if wanted:
                del state[wanted[a % len(wanted)]]
        case "add":
            state[f"{name}_extra" if b % 2 else "extra.0.weight"] = tensor
        case "rename":
            return {(n + "x" if n == name else n): t for n, t in state.items()}
        case "rename as":
            return {(other if n == name else n): t for n, t in state.items()}
        case "prefix":
            return {"module." + n: t for n, t in state.items()}
        case "strip prefix":
            return {n.partition(".")[2] or n: t for n, t in state.items()}
        case "swap":
            state[name], state[other] = state[other], state[name]
        case "cast":
            state[name] = tensor.to(torch.float16)
        case "no versions":
            versions.clear()
        case "old versions":
            versions.update({key: {"version": 1} for key in versions})
    return state


def loads(module: Any, state: State, versions: dict[str, Any], groups: list[list[str]]) -> bool:
    """What torch says, with tied names filled in from one of their group, of whatever shape that has."""
    for group in groups:
        there = [name for name in group if name in state]
        own = dict(module.state_dict())
        for name in group:
            if there and name not in state:
                state[name] = own[name]
    filled: Any = torch.nn.modules.module.OrderedDict(state)
    filled._metadata = versions
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # copying to a meta tensor does nothing, which is all that is wanted
        try:
            module.load_state_dict(filled, strict=True)
        except RuntimeError:
            return False
    return True


def tied_groups(module: Any) -> list[list[str]]:
    groups: dict[int, list[str]] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        groups.setdefault(id(tensor), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def headers(state: State, versions: dict[str, Any], plain: list[str]) -> Checkpoint:
    return checkpoint({name: tuple(tensor.shape) for name, tensor in state.items()}, versions=versions, plain=plain)


def agree(make: Callable[[], Any], steps: list[Step]) -> None:
    module, table = built(make)
    groups = tied_groups(module)
    state, versions = dict(module.state_dict()), dict(module.state_dict()._metadata)
    plain = []
    for step in steps:
        if step[0] == "plain":
            plain = [list(state)[step[1] % len(state)] if step[2] % 2 else "epoch"]
            state.pop(plain[0], None)
        elif state:
            state = mutate(state, versions, step, groups)
    verdict = validate_table(headers(state, dict(versions), plain), table)
    ours = verdict.valid
    theirs = loads(module, state | dict.fromkeys(plain, 1), versions, groups)
    assert ours == theirs, (steps, [finding.message for finding in verdict.findings])


ARCHITECTURES = (perceptron, sequential, ResNet, llama, bert, Tied)


@pytest.mark.parametrize("make", ARCHITECTURES)
def test_every_module_fits_its_own_state_dict(make: Callable[[], Any]) -> None:
    agree(make, [])
    module, table = built(make)
    assert not validate_table(
        headers(module.state_dict(), module.state_dict()._metadata, []), table
    ).findings or tied_groups(module)


@pytest.mark.parametrize("make", ARCHITECTURES)
def test_verdicts_are_those_of_load_state_dict(make: Callable[[], Any]) -> None:
    built(make)

    @settings(max_examples=EXAMPLES)
    @given(STEPS)
    def agrees(steps: list[Step]) -> None:
        agree(make, steps)

    agrees()
