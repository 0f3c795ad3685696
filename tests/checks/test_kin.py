"""A sound model of an architecture that the library lacks is no damaged one of its neighbour's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

import ckptconv
from ckptconv.checks.kin import differences
from ckptconv.core.report import Finding
from ckptconv.errors import UsageError
from tests.arch.real_models import transformers_module

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

transformers = transformers_module()

SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
DECODER = {**SMALL, "vocab_size": 20, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
ENCODER = {**SMALL, "vocab_size": 20, "max_position_embeddings": 16}


def saved(model: torch.nn.Module, path: Path) -> Path:
    torch.save(model.state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("name", "settings", "nearest", "kind"),
    [
        ("Arcee", DECODER, "llama", "model.layers.*.mlp.gate_proj.weight"),  # it has none
        ("DiffLlama", DECODER, "llama", "model.layers.*.self_attn.lambda_q*"),
        (
            "Longformer",
            {**ENCODER, "attention_window": 4},
            "bert",
            "encoder.layer.*.attention.self.query_global.weight",
        ),
    ],
)
def test_a_neighbour_is_not_told_to_be_damaged(
    name: str, settings: dict[str, object], nearest: str, kind: str, tmp_path: Path
) -> None:
    config = getattr(transformers, f"{name}Config")(**settings)
    kinds = [f"{name}ForCausalLM", f"{name}Model"]
    model = next(getattr(transformers, kind) for kind in kinds if hasattr(transformers, kind))(config)
    with pytest.raises(UsageError, match=f"the names are like those of {nearest}, whose layers differ in ") as caught:
        ckptconv.validate(saved(model, tmp_path / "model.pth"))
    assert kind in str(caught.value)
    assert f"--arch {nearest} says what differs" in str(caught.value.hint)
    result = ckptconv.validate(tmp_path / "model.pth", arch=nearest)
    assert not result.valid
    assert any(finding.code in ("missing-tensor", "unexpected-tensor") for finding in result.findings)


def without_a_tensor(state: dict[str, torch.Tensor]) -> None:
    del state["model.layers.1.mlp.gate_proj.weight"]


def with_a_stray_tensor(state: dict[str, torch.Tensor]) -> None:
    state["model.layers.1.mlp.extra.weight"] = torch.ones(2)


def transposed(state: dict[str, torch.Tensor]) -> None:
    for name in [name for name in state if name.endswith("gate_proj.weight")]:
        state[name] = state[name].T.contiguous()


def prefixed(state: dict[str, torch.Tensor]) -> None:
    for name in list(state):
        state[f"net.inner.{name}"] = state.pop(name)
    del state["net.inner.model.layers.1.mlp.gate_proj.weight"]


@pytest.mark.parametrize("damage", [without_a_tensor, with_a_stray_tensor, transposed, prefixed])
def test_a_damaged_model_stays_invalid(damage: Callable[[dict[str, torch.Tensor]], None], tmp_path: Path) -> None:
    state = dict(transformers.LlamaForCausalLM(transformers.LlamaConfig(**DECODER)).state_dict())
    damage(state)
    torch.save(state, tmp_path / "model.pth")
    result = ckptconv.validate(tmp_path / "model.pth")
    assert (result.arch, result.valid) == ("llama", False)


def finding(code: str, where: str) -> Finding:
    return Finding(code, "error", where, "")  # type: ignore[arg-type]


def test_what_all_layers_lack_or_have_is_a_difference_and_what_some_do_is_none() -> None:
    names = [f"blocks.{i}.{part}" for i in range(4) for part in ("norm.weight", "gamma")]
    gammas = [finding("unexpected-tensor", f"blocks.{i}.gamma") for i in range(4)]
    biases = [finding("missing-tensor", f"blocks.{i}.norm.bias") for i in range(4)]
    shapes = [finding("shape-mismatch", f"blocks.{i}.norm.weight") for i in range(4)]
    assert differences(gammas, names) == ["blocks.*.gamma"]
    assert differences(gammas[:3], names) == []
    assert differences(biases[:2], names) == ["blocks.*.norm.bias"]
    assert differences(biases, [*names, "blocks.9.norm.bias"]) == []
    assert differences(shapes[:3], names) == ["blocks.*.norm.weight"]
    assert differences(shapes[:2], names) == []
