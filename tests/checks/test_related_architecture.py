"""A sound model of an architecture that the library lacks is not a damaged one of its neighbour's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

import ckptconv
from ckptconv.checks.related_architecture import built_differently
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
    ("name", "settings", "nearest", "said"),
    [
        ("DiffLlama", DECODER, "llama", "has model.layers.*.self_attn.lambda_q*"),
        ("Nystromformer", ENCODER, "bert", "has encoder.layer.*.attention.self.conv.weight"),
        ("XLMRobertaXL", ENCODER, "roberta", "lacks roberta.encoder.layer.*.attention.output.LayerNorm.weight"),
        ("VisualBert", ENCODER, "bert", "has embeddings.visual_token_type_embeddings.weight"),  # outside of the layers
    ],
)
def test_a_neighbour_is_not_reported_as_damaged(
    name: str, settings: dict[str, object], nearest: str, said: str, tmp_path: Path
) -> None:
    config = getattr(transformers, f"{name}Config")(**settings)
    kinds = [f"{name}ForCausalLM", f"{name}Model"]
    model = next(getattr(transformers, kind) for kind in kinds if hasattr(transformers, kind))(config)
    with pytest.raises(
        UsageError, match=f"the nearest in the library, {nearest}, differs: this (has|lacks) "
    ) as caught:
        ckptconv.validate(saved(model, tmp_path / "model.pth"))
    assert said in str(caught.value)
    assert f"--arch {nearest} says what differs" in str(caught.value.hint)
    result = ckptconv.validate(tmp_path / "model.pth", arch=nearest)
    assert not result.valid
    causes = {"missing-tensor", "unexpected-tensor", "renamed", "fused"}
    assert causes.intersection(finding.code for finding in result.findings)


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


def without_the_last_norm(state: dict[str, torch.Tensor]) -> None:
    del state["model.norm.weight"]


def without_the_end(state: dict[str, torch.Tensor]) -> None:
    """The last layer is half there, what is behind it is not."""
    for name in ("model.layers.2.mlp.down_proj.weight", "model.layers.2.input_layernorm.weight", "model.norm.weight"):
        del state[name]


def with_another_name(state: dict[str, torch.Tensor]) -> None:
    state["lm_head.weight_orig"] = state.pop("lm_head.weight")


@pytest.mark.parametrize(
    "damage",
    [
        without_a_tensor, with_a_stray_tensor, transposed, prefixed, without_the_last_norm, without_the_end,
        with_another_name,
    ],
)  # fmt: skip
def test_a_damaged_model_stays_invalid(damage: Callable[[dict[str, torch.Tensor]], None], tmp_path: Path) -> None:
    state = dict(transformers.LlamaForCausalLM(transformers.LlamaConfig(**DECODER)).state_dict())
    damage(state)
    torch.save(state, tmp_path / "model.pth")
    result = ckptconv.validate(tmp_path / "model.pth")
    assert (result.arch, result.valid) == ("llama", False)


def averaged(model: torch.nn.Module) -> torch.nn.Module:
    return torch.optim.swa_utils.AveragedModel(model)


class Training(torch.nn.Module):
    """As a LightningModule is: the network, and a loss with weights of the classes."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.net, self.crit = model, torch.nn.CrossEntropyLoss(weight=torch.ones(3))


@pytest.mark.parametrize(
    ("wrapper", "prefix", "stray"), [(averaged, "module.", "n_averaged"), (Training, "net.", "crit.weight")]
)
def test_tensors_beside_a_known_network_are_reported_as_unexpected(
    wrapper: Callable[[torch.nn.Module], torch.nn.Module], prefix: str, stray: str, tmp_path: Path
) -> None:
    model = wrapper(transformers.LlamaForCausalLM(transformers.LlamaConfig(**DECODER)))
    path = saved(model, tmp_path / "model.pth")
    result = ckptconv.validate(path)
    assert (result.arch, [finding.code for finding in result.findings if finding.severity == "error"]) == (
        "llama", ["prefixed", "unexpected-tensor"],
    )  # fmt: skip
    assert repr(prefix) in result.findings[0].message and result.findings[1].where == stray
    assert ckptconv.validate(path, arch="llama").findings == result.findings


def test_an_averaged_model_is_seen_through_however_small_it_is(tmp_path: Path) -> None:
    """The one that torch itself makes: six tensors of an mlp, and the number of those that were averaged."""
    small = torch.nn.Module()
    small.hidden_layers = torch.nn.ModuleList([torch.nn.Linear(8, 6), torch.nn.Linear(6, 5)])
    small.output = torch.nn.Linear(5, 3)
    result = ckptconv.validate(saved(averaged(small), tmp_path / "model.pth"))
    assert result.arch == "mlp"
    assert [(one.code, one.where) for one in result.findings if one.severity == "error"] == [
        ("prefixed", result.findings[0].where), ("unexpected-tensor", "n_averaged"),
    ]  # fmt: skip


def finding(code: str, where: str) -> Finding:
    return Finding(code, "error", where, "")


NAMES = [f"blocks.{i}.{part}" for i in range(4) for part in ("norm.weight", "gamma")]
EXPECTED = [*(f"blocks.{i}.norm.{part}" for i in range(4) for part in ("weight", "bias")), "out.weight", "out.bias"]


def difference(
    findings: list[Finding], names: list[str], explained: list[Finding] | None = None, known: tuple[str, ...] = ()
) -> tuple[list[str], ...]:
    return tuple(built_differently(findings, findings if explained is None else explained, names, EXPECTED, known))


def test_what_all_layers_lack_or_have_is_a_difference_and_what_some_do_is_none() -> None:
    gammas = [finding("unexpected-tensor", f"blocks.{i}.gamma") for i in range(4)]
    biases = [finding("missing-tensor", f"blocks.{i}.norm.bias") for i in range(4)]
    shapes = [finding("shape-mismatch", f"blocks.{i}.norm.weight") for i in range(4)]
    assert difference(gammas, NAMES) == (["blocks.*.gamma"], [], [])
    assert difference(gammas[:3], NAMES) == ([], [], [])
    assert difference(biases[:2], NAMES) == ([], ["blocks.*.norm.bias"], [])
    assert difference(biases, [*NAMES, "blocks.9.norm.bias"]) == ([], [], [])
    assert difference(shapes[:3], NAMES) == ([], [], ["blocks.*.norm.weight"])
    assert difference(shapes[:2], NAMES) == ([], [], [])


def test_what_is_renamed_in_all_layers_is_a_difference_though_it_is_explained() -> None:
    both = [
        finding(c, f"blocks.{i}.{n}")
        for i in range(4)
        for c, n in (("missing-tensor", "b"), ("unexpected-tensor", "gamma"))
    ]
    assert difference(both, NAMES, []) == (["blocks.*.gamma"], ["blocks.*.b"], [])


def test_a_module_that_is_unknown_or_gone_whole_is_a_difference() -> None:
    whole = [finding("missing-tensor", f"out.{part}") for part in ("weight", "bias")]
    assert difference(whole, NAMES) == ([], ["out.weight", "out.bias"], [])
    assert difference(whole[:1], [*NAMES, "out.bias"]) == ([], [], [])
    assert difference([*whole, finding("missing-tensor", "blocks.1.gamma")], NAMES) == ([], [], [])  # damage is about
    other = [finding("unexpected-tensor", f"fc.{part}") for part in ("weight", "bias")]
    assert difference([*whole, *other], [*NAMES, "fc.weight", "fc.bias"], []) == (
        ["fc.weight", "fc.bias"], ["out.weight", "out.bias"], [],
    )  # fmt: skip


def test_one_name_more_is_a_difference_outside_of_the_layers_if_it_has_no_partner() -> None:
    token = [finding("unexpected-tensor", "token")]
    assert difference(token, [*NAMES, "token"]) == (["token"], [], [])
    assert difference(token, [*NAMES, "token"], []) == ([], [], [])  # a missing one is likely called so
    head = [finding("unexpected-tensor", "head.0.weight")]
    assert difference(head, [*NAMES, "head.0.weight"]) == (["head.0.weight"], [], [])
    other = [finding("unexpected-tensor", "out.weight_orig")]
    assert difference(other, [*NAMES, "out.weight_orig"]) == ([], [], [])  # out.weight is not there
    stray = [finding("unexpected-tensor", "blocks.1.extra")]
    assert difference(stray, [*NAMES, "blocks.1.extra"]) == ([], [], [])


def test_what_the_architecture_could_have_is_half_of_a_part_and_no_unknown_one() -> None:
    head = [finding("unexpected-tensor", "head.bias")]
    assert difference(head, [*NAMES, "head.bias"]) == (["head.bias"], [], [])
    assert difference(head, [*NAMES, "head.bias"], known=("head.bias",)) == ([], [], [])


def test_modules_that_several_layers_lack_and_others_have_are_a_difference() -> None:
    names = [*NAMES, "blocks.0.se.weight", "blocks.0.se.bias"]
    lost = [finding("missing-tensor", f"blocks.{i}.se.{part}") for i in (1, 2) for part in ("weight", "bias")]
    assert difference(lost, names) == ([], ["blocks.*.se.weight", "blocks.*.se.bias"], [])
    assert difference(lost[:2], names) == ([], [], [])  # one layer
    halves = [lost[0], lost[2]]
    assert difference(halves, [*names, "blocks.1.se.bias", "blocks.2.se.bias"]) == ([], [], [])
    gone = [name for name in names if not name.startswith(("blocks.1.", "blocks.2."))]
    assert difference(lost, gone) == ([], [], [])  # and with them the layers


def test_other_shapes_in_many_modules_are_a_difference_whatever_their_kinds() -> None:
    shapes = [finding("shape-mismatch", f"{module}.weight") for module in ("stem", "neck", "out", "head")]
    assert difference(shapes, NAMES)[2] == [f"{module}.weight" for module in ("stem", "neck", "out", "head")]
    assert difference(shapes[:3], NAMES)[2] == []
