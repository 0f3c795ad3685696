"""Branches, attention and tensors that belong to no layer, in recipes: against torch, torchvision and transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from ckptconv.arch.load import load_spec, parse_text
from ckptconv.arch.recipe.catalog import KINDS
from ckptconv.arch.recipe.expand import expand_recipe
from ckptconv.arch.recipe.module import build_module
from ckptconv.arch.solver import solve
from ckptconv.arch.table import expand
from ckptconv.errors import CorruptFileError, UsageError
from tests.arch.real_models import infos, torchvision_models, transformers_module
from tests.arch.recipe.test_recipe import OPERATIONS, close, run_of, session, shuffled

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptconv.arch.recipe.program import Program


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def written(tensors: str, inputs: str, steps: str, dtype: str = "", **params: int) -> Program:
    """The program of a spec of one recipe."""
    named = "".join(f'{name} = "int"\n' for name in params)
    text = f'spec = 1\nname = "one"\n[params]\n{named}[tensors]\n{tensors}\n[forward]\ninput = "{inputs}"\n{dtype}\n'
    return expand_recipe(expand(parse_text(f"{text}steps = [{steps}]\n"), params))


class Part(nn.Module):
    """A function of one tensor of its own, and of what goes in."""

    def __init__(self, size: tuple[int, ...], compute: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.m, self.compute = nn.Parameter(torch.randn(size)), compute

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.compute(self.m, x)


def repeated(m: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([m.expand(len(x), -1, -1), x], 1)


TENSORS: dict[str, tuple[tuple[int, ...], str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]] = {
    "plus m": ((1, 5, 6), "batch 5 6", lambda m, x: x + m),
    "times m": ((6,), "batch length 6", lambda m, x: m * x),
    "prepend m": ((1, 2, 6), "batch length 6", repeated),
}


@pytest.mark.parametrize("opset", [17, 21])
@pytest.mark.parametrize("step", TENSORS)
def test_tensors_of_no_layer_are_added_multiplied_and_put_first(step: str, opset: int) -> None:
    size, inputs, compute = TENSORS[step]
    run = written(f'"m" = "{" ".join(map(str, size))}"', inputs, f'"{step}"')
    close(run, Part(size, compute), torch.randn(3, 5, 6), opset=opset)


FUNCTIONS: dict[str, tuple[str, tuple[int, ...], Callable[[torch.Tensor], torch.Tensor]]] = {
    "relu6": ("batch n", (3, 7), functional.relu6),
    "hardswish": ("batch n", (3, 7), functional.hardswish),
    "hardsigmoid": ("batch n", (3, 7), functional.hardsigmoid),
    "tokens": ("batch 4 height width", (2, 4, 3, 5), lambda x: x.flatten(2).transpose(1, 2)),
    "channels_last": ("batch 4 height width", (2, 4, 3, 5), lambda x: x.permute(0, 2, 3, 1)),
    "channels_first": ("batch height width 4", (2, 3, 5, 4), lambda x: x.permute(0, 3, 1, 2)),
    "select index=2": ("batch length 4", (2, 5, 4), lambda x: x[:, 2]),
    "chunk index=1 count=3": ("batch length 6", (2, 5, 6), lambda x: x.chunk(3, -1)[1]),
}


class Function(nn.Module):
    def __init__(self, compute: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.forward = compute


@pytest.mark.parametrize("opset", [17, 21])
@pytest.mark.parametrize("step", FUNCTIONS)
def test_operations_without_tensors_are_torchs(step: str, opset: int) -> None:
    inputs, shape, compute = FUNCTIONS[step]
    close(written("", inputs, f'"{step}"'), Function(compute), 4 * torch.randn(shape), opset=opset)


class Gated(nn.Module):
    """A sum, a product and a concatenation, with an empty branch in each."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + torch.relu(x) + self.a(x)
        x = torch.cat([x, x.sigmoid()], 1)
        return x * self.b(functional.adaptive_avg_pool2d(x, 1))


GATED = """
["sum", ["branch"], ["branch", "relu"], ["branch", "conv2d a"]],
["concat axis=1", ["branch"], ["branch", "sigmoid"]],
["product", ["branch"], ["branch if n == 1", "tanh"], ["branch", "adaptive_avg_pool2d size=1", "conv2d b"]],
"""


def test_branches_are_added_multiplied_and_concatenated() -> None:
    tensors = '"a.weight" = "4 4 1 1"\n"a.bias" = "4"\n"b.weight" = "8 8 1 1"\n"b.bias" = "8"'
    run = written(tensors, "batch 4 height width", GATED, n=2)
    assert run.output.shape == ("batch", 8, "height", "width")
    close(run, Gated(), torch.randn(2, 4, 5, 5))


class Attends(nn.Module):
    def __init__(self, *, causal: bool) -> None:
        super().__init__()
        self.causal, self.qkv = causal, nn.Linear(12, 36, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = [each.unflatten(-1, (3, 4)).transpose(1, 2) for each in self.qkv(x).chunk(3, -1)]
        scores = rows[0] @ rows[1].mT / 2
        if self.causal:
            scores = scores.masked_fill(torch.ones_like(scores[0, 0], dtype=torch.bool).triu(1), float("-inf"))
        return (scores.softmax(-1) @ rows[2]).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("causal", ["true", "false"])
def test_attention_is_the_formula_of_its_paper(causal: str) -> None:
    parts = ", ".join(f'["branch", "chunk index={index} count=3"]' for index in range(3))
    steps = f'"linear qkv", ["attention heads=3 causal={causal}", {parts}]'
    run = written('"qkv.weight" = "36 12"', "batch length 12", steps)
    network, x = Attends(causal=causal == "true"), torch.randn(2, 7, 12)
    built = build_module(run)
    built.load_state_dict(network.state_dict(), strict=True)
    with torch.inference_mode():
        torch.testing.assert_close(built(x), network(x))
        (found,) = session(run, network.state_dict()).run(None, {"input": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), network(x))


class Encoder(nn.Module):
    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        self.m = nn.MultiheadAttention(12, 3, bias=bias, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.m(x, x, x, need_weights=False)[0]


@pytest.mark.parametrize("bias", [True, False])
def test_self_attention_is_torchs(bias: bool) -> None:
    tensors = ['"m.in_proj_weight" = "36 12"', '"m.out_proj.weight" = "12 12"']
    if bias:
        tensors += ['"m.in_proj_bias" = "36"', '"m.out_proj.bias" = "12"']
    run = written("\n".join(tensors), "batch length 12", '"self_attention m heads=3"')
    close(run, shuffled(Encoder(bias=bias)), torch.randn(2, 7, 12), ulps=16)


def small(name: str) -> nn.Module:
    """A small model of torchvision's."""
    models = torchvision_models()
    if name == "convnext":
        config = models.convnext.CNBlockConfig
        return models.ConvNeXt([config(8, 12, 2), config(12, None, 1)], num_classes=5)
    options: dict[str, tuple[Any, dict[str, Any]]] = {
        "vit": (models.VisionTransformer, {
            "image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 4, "hidden_dim": 24, "mlp_dim": 40,
            "representation_size": 12,
        }),
        "mobilenet_v2": (models.mobilenet_v2, {"width_mult": 0.35}),
        "squeezenet": (models.squeezenet1_0, {}),
        "squeezenet 1.1": (models.squeezenet1_1, {}),
        "densenet": (models.DenseNet, {"growth_rate": 4, "block_config": (2, 3, 1, 2), "num_init_features": 8}),
    }  # fmt: skip
    build, more = options[name]
    return build(num_classes=5, **more)


@pytest.mark.parametrize("name", ["vit", "convnext", "mobilenet_v2", "squeezenet", "squeezenet 1.1", "densenet"])
def test_torchvisions_classifiers_are_built_bit_for_bit(name: str) -> None:
    spec, network = name.partition(" ")[0], shuffled(small(name))
    solved = solve(load_spec(spec), infos(network.state_dict()), []).params
    run = run_of(spec, {**solved, "heads": 4} if spec == "vit" else solved)
    built = build_module(run, device="meta")
    built.load_state_dict(network.state_dict(), strict=True, assign=True)
    x = torch.randn(2, 3, 32 if spec == "vit" else 64, 32 if spec == "vit" else 64)
    with torch.inference_mode():
        expected = network(x)
        assert torch.equal(built(x), expected)
        (found,) = session(run, network.state_dict()).run(None, {"input": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
def test_nanogpt_computes_what_gpt2_of_transformers_does(bias: bool) -> None:
    transformers = transformers_module()
    config = transformers.GPT2Config(
        vocab_size=65, n_positions=12, n_embd=8, n_layer=2, n_head=2, activation_function="gelu"
    )
    model = shuffled(transformers.GPT2LMHeadModel(config))
    if not bias:
        for name, tensor in model.state_dict().items():
            tensor.mul_(0 if name.endswith("bias") else 1)
    turned = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    state = {name: tensor.T if name.endswith(turned) else tensor for name, tensor in model.state_dict().items()}
    state = {name: tensor for name, tensor in state.items() if bias or not name.endswith("bias")}
    sizes = {"vocab_size": 65, "block_size": 12, "n_embd": 8, "n_layer": 2, "n_head": 2, "bias": bias}
    if bias:  # as files from before torch 2 have it
        state |= {f"transformer.h.{layer}.attn.bias": torch.ones(1, 1, 12, 12).tril() for layer in range(2)}
    run = expand_recipe(expand(load_spec("nanogpt"), sizes), state)
    built, tokens = build_module(run), torch.randint(0, 65, (2, 9))
    built.load_state_dict(state, strict=True)
    with torch.inference_mode():
        expected = model(tokens).logits
        torch.testing.assert_close(built(tokens), expected)
        (found,) = session(run, state).run(None, {"input": tokens.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected)


@pytest.mark.parametrize(
    ("steps", "problem"),
    [
        ('["sum", "relu"]', "takes branches"),
        ('["branch", "relu"]', "a branch stands directly in one of sum"),
        ('["sum", ["branch", "relu"]]', "takes two or more branches, and has 1"),
        ('["sum", ["branch"], ["branch", "select index=0"]]', "does not go with"),
        ('["product heads=2", ["branch"], ["branch"]]', "no attribute 'heads'"),
        ('["attention heads=5", ["branch"], ["branch"], ["branch"]]', "do not divide into 5 heads"),
        ('["attention heads=3", ["branch"], ["branch"]]', "takes 3 branches, and has 2"),
        ('["attention", ["branch"], ["branch"], ["branch"]]', "needs heads="),
        ('["concat axis=4", ["branch"], ["branch"]]', "nothing is joined along axis 4"),
        ('"chunk index=3 count=3"', "there is no part 3 of 3"),
        ('"select index=7"', "there is no number 7 among 7"),
    ],
)
def test_branches_that_do_not_fit_together_are_refused_with_their_place(steps: str, problem: str) -> None:
    with pytest.raises(CorruptFileError, match=problem):
        written("", "batch 7 12", steps)


def test_a_recipe_says_which_models_it_is_for() -> None:
    text = 'spec = 1\nname = "one"\n[params]\nn = "int"\n[forward]\nwhen = "n > 1"\ninput = "n"\nsteps = ["relu"]\n'
    spec = parse_text(text.replace("[forward]", "[tensors]\n[forward]"))
    assert len(expand_recipe(expand(spec, {"n": 2})).operations) == 1
    with pytest.raises(UsageError, match="it has no forward recipe"):
        expand_recipe(expand(spec, {"n": 1}))


def test_every_operation_of_the_catalog_is_tried() -> None:
    tried = {row[2].split()[0] for row in OPERATIONS.values()}
    elsewhere = {"embedding", "relu", "gelu_tanh", "tanh", "sigmoid", "identity", "dropout"}
    elsewhere |= {step.split()[0] for step in (*TENSORS, *FUNCTIONS)}
    elsewhere |= {"positions", "self_attention", "unused"}
    assert tried | elsewhere == set(KINDS)
