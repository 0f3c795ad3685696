"""Llama as Meta has it and transformers' with its translated weights compute the same."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn import functional

import ckptconv
from ckptconv.edits.name_rule import NameRule
from ckptconv.errors import EditError
from tests.arch.families.originals import meta
from tests.arch.real_models import transformers_module

if TYPE_CHECKING:
    from pathlib import Path

SIZES = {"vocab_size": 40, "dim": 16, "n_layers": 2, "hidden_dim": 24, "n_heads": 4, "n_kv_heads": 2}
HEAD = 4


def turned(x: torch.Tensor) -> torch.Tensor:
    """Rotary positions as in llama/model.py: neighbours are complex numbers, [batch, length, heads, HEAD]."""
    rates = 1.0 / 10000.0 ** (torch.arange(0, HEAD, 2).double() / HEAD)
    angles = torch.outer(torch.arange(x.shape[1]).double(), rates)
    rotation = torch.polar(torch.ones_like(angles), angles)[None, :, None]
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * rotation).flatten(3)


def computed(model: Any, tokens: torch.Tensor, sizes: dict[str, int] = SIZES) -> torch.Tensor:
    """The logits of Meta's network, as its forward functions compute them."""

    def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * weight

    x = model["tok_embeddings"](tokens)
    for layer in model["layers"]:
        part, h = layer["attention"], norm(x, layer["attention_norm"].weight)
        q, k = (turned(part[name](h).unflatten(-1, (-1, HEAD))) for name in ("wq", "wk"))
        v = part["wv"](h).unflatten(-1, (-1, HEAD))
        k, v = (each.repeat_interleave(sizes["n_heads"] // sizes["n_kv_heads"], 2) for each in (k, v))
        q, k, v = (each.transpose(1, 2) for each in (q, k, v))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + part["wo"](mixed.transpose(1, 2).flatten(2))
        feed, h = layer["feed_forward"], norm(x, layer["ffn_norm"].weight)
        x = x + feed["w2"](functional.silu(feed["w1"](h)) * feed["w3"](h))
    return model["output"](norm(x, model["norm"].weight))


def weights_of_meta(**sizes: Any) -> tuple[Any, dict[str, int]]:
    """A network of Meta's of these sizes."""
    torch.manual_seed(0)
    made = meta(**sizes, head_dim=HEAD).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, 0.1, 0.5)
    return made, sizes


def transformers_model(sizes: dict[str, int] = SIZES) -> Any:
    """transformers' network of these sizes."""
    config = transformers_module().LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=sizes["n_kv_heads"], rms_norm_eps=1e-6, max_position_embeddings=32,
        tie_word_embeddings=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return transformers_module().LlamaForCausalLM(config).double().eval()


@pytest.fixture
def network() -> Any:
    return weights_of_meta(**SIZES)[0]


def translated(source: Path, target: Path) -> dict[str, torch.Tensor]:
    edits = ckptconv.Edits(names=[NameRule("translate", "meta")])
    ckptconv.convert(source, target, edits=edits, bare=True)
    return torch.load(target, weights_only=True)


@pytest.mark.parametrize("where", ["params.json", "model_args", "root"])
def test_transformers_computes_what_metas_network_does(where: str, network: Any, tmp_path: Path) -> None:
    path, state = tmp_path / "consolidated.00.pth", network.state_dict()
    heads = {name: SIZES[name] for name in ("n_heads", "n_kv_heads")}
    if where == "params.json":
        torch.save(state, path)
        (tmp_path / "params.json").write_text(json.dumps(heads))
    else:
        torch.save({"model": state, **({"model_args": heads} if where == "model_args" else heads)}, path)
    model = transformers_model()
    model.load_state_dict(translated(path, tmp_path / "out.pth"))
    tokens = torch.arange(14).reshape(2, 7)
    with torch.no_grad():
        assert torch.allclose(model(tokens).logits, computed(network, tokens), rtol=1e-5, atol=1e-5)


def test_without_the_number_of_heads_it_is_refused(network: Any, tmp_path: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "a.pth")
    with pytest.raises(EditError, match="how many heads") as error:
        translated(tmp_path / "a.pth", tmp_path / "b.pth")
    assert "params.json" in str(error.value.hint)
    (tmp_path / "params.json").write_text(json.dumps({"n_heads": 3}))
    with pytest.raises(EditError, match="16 rows, and 3 heads of 5 take 15"):
        translated(tmp_path / "a.pth", tmp_path / "b.pth")


def test_a_params_json_says_what_the_network_was_made_with(network: Any, tmp_path: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "consolidated.00.pth")
    (tmp_path / "params.json").write_text(json.dumps(SIZES))
    result = ckptconv.validate(tmp_path / "consolidated.00.pth")
    assert (result.valid, result.arch, result.evidence) == (True, "llama_meta", "params.json")
    assert (result.params["n_heads"], result.params["head_dim"]) == (4, 4)


def test_a_norm_and_an_output_alone_are_not_llamas(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.ones(2, 3), "norm.weight": torch.ones(3), "output.weight": torch.ones(2, 2)},
               tmp_path / "a.pth")  # fmt: skip
    with pytest.raises(EditError, match="none of its words"):
        translated(tmp_path / "a.pth", tmp_path / "b.pth")
