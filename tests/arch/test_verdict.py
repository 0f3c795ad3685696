"""The verdict is load_state_dict's: random mutations of state_dicts, against the module that the params describe."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptconv.arch.bind import Source
from ckptconv.arch.check import check
from ckptconv.arch.load import load_spec
from ckptconv.arch.solver import solve
from tests.arch.families.tutorials import LeNet, Mlp, sequential
from tests.arch.real_models import infos, torchvision_models, transformers_module

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

torch = pytest.importorskip("torch", reason="the oracle is torch")

EXAMPLES = 300
"""For each family; the seven make 2,100."""


@dataclass(frozen=True)
class Family:
    """A spec, params to start from, and the module that any params describe."""

    spec: str
    params: Mapping[str, Any]
    make: Callable[[Mapping[str, Any]], Any]
    made: dict[str, Any] = field(default_factory=dict, compare=False)

    def build(self, params: Mapping[str, Any]) -> Any:
        """The module, made once: on the meta device loading changes nothing in it."""
        key = repr(sorted(params.items()))
        if key not in self.made:
            self.made[key] = self.make(params)
        return self.made[key]


def build_mlp(p: Mapping[str, Any]) -> Any:
    if p["variant"] == "modules":
        return Mlp(p["input_size"], p["hidden_layers"], p["output_size"], bias=p["bias"])
    return sequential(p["input_size"], p["hidden_layers"], p["output_size"], p["norm"].replace("none", "plain"))


def build_lenet(p: Mapping[str, Any]) -> Any:
    module = LeNet(p["in_channels"], p["channels"], p["kernel"], p["hidden"], 1)
    module.fc1 = torch.nn.Linear(p["features"], p["hidden"][0])
    setattr(module, f"fc{len(p['hidden']) + 1}", torch.nn.Linear(p["hidden"][-1], p["num_classes"]))
    return module


def build_resnet(p: Mapping[str, Any]) -> Any:
    resnet = torchvision_models().resnet
    block = resnet.Bottleneck if p["bottleneck"] else resnet.BasicBlock
    module = resnet.ResNet(
        block, p["depths"], num_classes=p["num_classes"], groups=p["groups"], width_per_group=p["width_per_group"]
    )
    module.conv1 = torch.nn.Conv2d(p["in_channels"], p["stem"], 7, bias=False)
    if not p.get("head", True):
        module.fc = torch.nn.Identity()
    return module


def build_llama(p: Mapping[str, Any]) -> Any:
    transformers = transformers_module()
    config = transformers.LlamaConfig(
        vocab_size=p["vocab"], hidden_size=p["hidden"], intermediate_size=p["intermediate"],
        num_hidden_layers=p["layers"], num_attention_heads=p["heads"], num_key_value_heads=p["kv_heads"],
        head_dim=p["head_dim"], attention_bias=p["attention_bias"], mlp_bias=p["mlp_bias"], tie_word_embeddings=False,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def build_gpt2(p: Mapping[str, Any]) -> Any:
    transformers = transformers_module()
    config = transformers.GPT2Config(
        vocab_size=p["vocab"], n_embd=p["hidden"], n_layer=p["layers"], n_head=p["heads"], n_positions=p["positions"],
        n_inner=p["intermediate"], bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return transformers.GPT2Model(config)


def build_t5(p: Mapping[str, Any]) -> Any:
    transformers = transformers_module()
    config = transformers.T5Config(
        vocab_size=p["vocab"], d_model=p["hidden"], d_kv=p["head_dim"], d_ff=p["intermediate"], num_layers=p["layers"],
        num_heads=p["heads"], relative_attention_num_buckets=p["buckets"],
    )  # fmt: skip
    return transformers.T5EncoderModel(config)


def clip_text(p: Mapping[str, Any]) -> Any:
    transformers = transformers_module()
    config = transformers.CLIPTextConfig(
        vocab_size=p["vocab"], hidden_size=p["text_hidden"], intermediate_size=p["text_intermediate"],
        num_hidden_layers=p["text_layers"], num_attention_heads=p["text_heads"],
        max_position_embeddings=p["positions"], bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return transformers.CLIPTextModel(config)


WIDTHS = {"input_size": 20, "hidden_layers": [16, 12, 12], "output_size": 5}
DECODER = {
    "vocab": 60, "hidden": 24, "intermediate": 40, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 6,
    "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False, "variant": "llama",
}  # fmt: skip
RESNET = {
    "depths": [1, 2, 1, 1], "widths": [64, 128, 256, 512], "bottleneck": False, "groups": 1, "width_per_group": 64,
    "stem": 64, "in_channels": 3, "num_classes": 4,
}  # fmt: skip
FAMILIES = [
    Family("mlp", {**WIDTHS, "variant": "modules", "bias": True}, build_mlp),
    Family("mlp", {**WIDTHS, "variant": "numbered", "norm": "batch", "bias": True, "prefix": "net."}, build_mlp),
    Family(
        "lenet",
        {"in_channels": 1, "channels": [6, 16], "kernel": 5, "features": 256, "hidden": [20, 12], "num_classes": 10},
        build_lenet,
    ),
    Family("resnet", RESNET, build_resnet),
    Family("llama", DECODER, build_llama),
    Family(
        "gpt2",
        {"vocab": 50, "positions": 16, "hidden": 24, "intermediate": 40, "layers": 2, "heads": 4, "head": "none"},
        build_gpt2,
    ),
    Family(
        "t5",
        {"vocab": 50, "hidden": 24, "intermediate": 40, "layers": 2, "heads": 3, "head_dim": 5, "buckets": 32,
         "decoder": False, "lm_head": False},
        build_t5,
    ),
    Family(
        "clip",
        {"vocab": 50, "positions": 16, "text_hidden": 24, "text_intermediate": 40, "text_layers": 2, "text_heads": 4,
         "model": "text", "text_prefix": ""},
        clip_text,
    ),
]  # fmt: skip


def mutated(state: dict[str, Any], rng: random.Random) -> None:
    """One random change of a state_dict, in place."""
    name = rng.choice(list(state))
    tensor = state[name]
    match rng.randrange(10):
        case 0:
            del state[name]
        case 1:
            state[rng.choice([f"{name}.x", f"module.{name}", name.replace("0", "7"), name[1:], "stray"])] = tensor
        case 2:
            state[name + "_"] = state.pop(name)
        case 3:
            state[name] = tensor.new_empty((*tensor.shape, 1))
        case 4:
            state[name] = tensor.new_empty(tensor.shape[1:])
        case 5:
            state[name] = tensor.new_empty(tuple(reversed(tensor.shape)))
        case 6 | 7:
            shape = list(tensor.shape) or [1]
            axis = rng.randrange(len(shape))
            shape[axis] = max(0, shape[axis] + rng.choice([-1, 1, 3, shape[axis]]))
            state[name] = tensor.new_empty(shape)
        case 8:
            other = rng.choice(list(state))
            state[name], state[other] = state[other], state[name]
        case _:
            layer = rng.choice([part for part in name.split(".") if part.isdigit()] or ["0"])
            for key in [key for key in state if f".{layer}." in f".{key}."]:
                if rng.random() < 0.8:
                    del state[key]


def loads(module: Any, state: Mapping[str, Any]) -> bool:
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError:
        return False
    return True


def verdict(family: Family, state: Any, sources: list[Source]) -> tuple[bool, dict[str, Any], list[Any]]:
    spec = load_spec(family.spec)
    solution = solve(spec, infos(state), sources)
    assert solution.table is not None, solution.problem
    found = [*solution.findings, *check(solution.table, infos(state), versions=getattr(state, "_metadata", None))]
    return all(finding.severity != "error" for finding in found), solution.params, found


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.spec)
@settings(max_examples=EXAMPLES)
@given(seed=st.integers(0, 2**32), changes=st.integers(0, 3), versioned=st.booleans())
def test_the_verdict_is_that_of_load_state_dict(family: Family, seed: int, changes: int, versioned: bool) -> None:
    """With the params stated: valid says that the described module loads, and that nothing contradicts the params."""
    rng = random.Random(seed)
    with torch.device("meta"):
        module = family.build(family.params)
        state = module.state_dict()
        for _ in range(changes):
            if state:
                mutated(state, rng)
        if not versioned and hasattr(state, "_metadata"):
            del state._metadata
        valid, params, found = verdict(family, state, [Source("metadata", family.params)])
        stated = {name: params.get(name) for name in family.params}
        if stated == dict(family.params):
            assert valid == loads(module, state), [finding.message for finding in found]
        else:
            assert not valid, "the tensors outvoted what the metadata says"


@pytest.mark.parametrize("family", [FAMILIES[0], *FAMILIES[2:4]], ids=lambda family: family.spec)
@settings(max_examples=EXAMPLES)
@given(seed=st.integers(0, 2**32), changes=st.integers(0, 2))
def test_without_metadata_it_is_that_of_the_module_that_the_tensors_describe(
    family: Family, seed: int, changes: int
) -> None:
    rng = random.Random(seed)
    with torch.device("meta"):
        state = family.build(family.params).state_dict()
        for _ in range(changes):
            if state:
                mutated(state, rng)
        valid, params, found = verdict(family, state, [])
        try:
            module = family.build(params)
        except (KeyError, ValueError, IndexError, AssertionError, TypeError, RuntimeError):
            assert not valid, "there is no such module"
            return
        broken = any(finding.code == "constraint" for finding in found)
        assert valid == (loads(module, state) and not broken), [finding.message for finding in found]
