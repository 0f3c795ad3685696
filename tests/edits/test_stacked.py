"""Experts that lie each by itself on one side and all in one tensor on the other, as model libraries changed them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch

from ckptconv import Edits, convert, diff
from ckptconv.core.report import errors_among
from tests.arch.real_models import transformers_module
from tests.support.stopwatch import at_most

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ckptconv import Difference

State = dict[str, torch.Tensor]

EXPERTS, LAYERS = 4, 3
OLD, NEW = "model.layers.{}.block_sparse_moe.", "model.layers.{}.mlp."


def apart(*, seed: int = 0) -> State:
    """Every expert's tensors by themselves, as Mixtral's checkpoints have them; biases are zero, as training starts."""
    generator = torch.Generator().manual_seed(seed)
    state: State = {}
    for layer in range(LAYERS):
        prefix = OLD.format(layer)
        state[f"{prefix}gate.weight"] = torch.randn(EXPERTS, 8, generator=generator)
        for expert in range(EXPERTS):
            for part, shape in (("w1", (12, 8)), ("w2", (8, 12)), ("w3", (12, 8))):
                state[f"{prefix}experts.{expert}.{part}.weight"] = torch.randn(shape, generator=generator)
            state[f"{prefix}experts.{expert}.w2.bias"] = torch.zeros(8)
    return state


def stacked(state: State) -> State:
    """All experts' in one, gate and up joined before, as transformers holds them since its version 5."""
    made: State = {}
    for layer in range(LAYERS):
        old, new = OLD.format(layer), NEW.format(layer)
        made[f"{new}gate.weight"] = state[f"{old}gate.weight"]
        weights = [
            {
                part: state[f"{old}experts.{expert}.{part}"]
                for part in ("w1.weight", "w2.weight", "w3.weight", "w2.bias")
            }
            for expert in range(EXPERTS)
        ]
        made[f"{new}experts.gate_up_proj"] = torch.stack([torch.cat([w["w1.weight"], w["w3.weight"]]) for w in weights])
        made[f"{new}experts.down_proj"] = torch.stack([w["w2.weight"] for w in weights])
        made[f"{new}experts.down_proj_bias"] = torch.stack([w["w2.bias"] for w in weights])
    return made


def differ(folder: Path, a: State, b: State, *, headers: bool = False) -> Difference:
    torch.save(a, folder / "a.pth")
    torch.save(b, folder / "b.pth")
    return diff(folder / "a.pth", folder / "b.pth", headers=headers)


def edits_of(found: Difference) -> list[tuple[str, tuple[str, ...], tuple[str, ...], int]]:
    return [(edit.kind, edit.sources, edit.targets, len(edit.steps)) for edit in found.edits]


EXPERT = "model.layers.{*}.block_sparse_moe.experts."
MADE = "model.layers.{*}.mlp.experts."
GATE = "model.layers.{*}.block_sparse_moe.gate.weight", "model.layers.{*}.mlp.gate.weight"


def test_stacked_experts_are_reported_in_five_edits(tmp_path: Path) -> None:
    found = differ(tmp_path, apart(), stacked(apart()))
    assert edits_of(found) == [
        ("rename", GATE[:1], GATE[1:], 3),
        ("concat", (f"{EXPERT}{{*}}.w1.weight", f"{EXPERT}{{*}}.w3.weight"), (f"{MADE}gate_up_proj.{{*}}",), 12),
        ("stack", (f"{EXPERT}{{0-3}}.w2.weight",), (f"{MADE}down_proj",), 3),
        ("stack", (f"{EXPERT}{{0-3}}.w2.bias",), (f"{MADE}down_proj_bias",), 3),
        ("stack", (f"{MADE}gate_up_proj.{{0-3}}",), (f"{MADE}gate_up_proj",), 3),
    ]
    assert {finding.code for finding in found.findings} == {"renamed", "concatenated", "stacked"}


def test_and_taken_apart_again(tmp_path: Path) -> None:
    found = differ(tmp_path, stacked(apart()), apart())
    assert [(kind, count) for kind, _, _, count in edits_of(found)] == [
        ("rename", 3), ("unstack", 3), ("unstack", 3), ("unstack", 3), ("split", 12),
    ]  # fmt: skip
    assert {finding.code for finding in found.findings} == {"renamed", "unstacked", "split"}


@pytest.mark.parametrize("back", [False, True], ids=["stacked", "unstacked"])
def test_what_diff_found_convert_repeats(tmp_path: Path, back: bool) -> None:
    sides = (stacked(apart()), apart()) if back else (apart(), stacked(apart()))
    found = differ(tmp_path, *sides)
    rules = tmp_path / "rules.json"
    rules.write_text(json.dumps(found.to_dict()))
    convert(tmp_path / "a.pth", tmp_path / "c.pth", edits=Edits(names=[rules]))
    assert diff(tmp_path / "c.pth", tmp_path / "b.pth").equal
    made, wanted = (torch.load(tmp_path / f"{name}.pth") for name in "cb")
    assert made.keys() == wanted.keys()
    assert all(torch.equal(made[name], wanted[name]) for name in wanted)


def test_what_transformers_saves_and_holds_is_reported_and_repeated(tmp_path: Path) -> None:
    """Its files still have the experts apart; its own model, made from them, has them in one."""
    transformers = transformers_module()
    config = transformers.MixtralConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_local_experts=4, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=64,
    )  # fmt: skip
    model = transformers.MixtralForCausalLM(config)
    model.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "held.pth")
    if not any("experts.gate_up_proj" in name for name in model.state_dict()):
        pytest.skip(f"transformers {transformers.__version__} holds experts apart")
    found = diff(tmp_path / "model.safetensors", tmp_path / "held.pth")
    assert {finding.code for finding in found.findings if finding.severity == "error"} == {
        "renamed", "concatenated", "stacked",
    }  # fmt: skip
    assert len(found.edits) == 4
    rules = tmp_path / "rules.json"
    rules.write_text(json.dumps(found.to_dict()))
    convert(tmp_path / "model.safetensors", tmp_path / "made.pth", edits=Edits(names=[rules]), allow_loss="all")
    made = torch.load(tmp_path / "made.pth")
    model.load_state_dict(made, strict=True)
    assert all(torch.equal(made[name], tensor) for name, tensor in torch.load(tmp_path / "held.pth").items())


CHANGED = {
    "down": (OLD.format(1) + "experts.2.w2.weight", NEW.format(1) + "experts.down_proj"),
    "up": (OLD.format(0) + "experts.3.w3.weight", NEW.format(0) + "experts.gate_up_proj"),
}


@pytest.mark.parametrize("which", CHANGED)
@pytest.mark.parametrize("back", [False, True], ids=["stacked", "unstacked"])
def test_one_expert_that_was_trained_on_is_named(tmp_path: Path, which: str, back: bool) -> None:
    name, whole = CHANGED[which]
    before, after = apart(), apart()
    after[name] = after[name] + 1
    found = differ(tmp_path, stacked(before), after) if back else differ(tmp_path, before, stacked(after))
    changed = [finding for finding in found.findings if finding.code == "value-changed"]
    assert [finding.where for finding in changed] == [whole if back else name]
    assert found.values[changed[0]].differing == before[name].numel()
    assert {finding.code for finding in found.findings} <= {
        "renamed", "value-changed", "stacked", "unstacked", "concatenated", "split",
    }  # fmt: skip


def test_layers_in_one_tensor_are_unstacked(tmp_path: Path) -> None:
    """As frameworks store them that scan over layers."""
    layers = {f"layers.{i}.{name}": torch.randn(5, 3) for i in range(6) for name in ("up", "down")}
    one = {f"layers.{name}": torch.stack([layers[f"layers.{i}.{name}"] for i in range(6)]) for name in ("up", "down")}
    assert edits_of(differ(tmp_path, one, layers)) == [
        ("unstack", (f"layers.{name}",), (f"layers.{{0-5}}.{name}",), 1) for name in ("up", "down")
    ]


def test_names_that_nothing_counts_are_listed(tmp_path: Path) -> None:
    parts = {name: torch.randn(5, 3) for name in ("north", "east", "south")}
    found = differ(tmp_path, parts, {"all": torch.stack(list(parts.values()))})
    assert edits_of(found) == [("stack", ("north", "east", "south"), ("all",), 1)]


def test_headers_alone_tell_of_what_fits_one_tensor_only(tmp_path: Path) -> None:
    found = differ(tmp_path, apart(), stacked(apart(seed=1)), headers=True)
    assert [kind for kind, _, _, _ in edits_of(found)] == ["stack", "stack", "rename", "drop"]


UNLIKE: dict[str, Callable[[State], State]] = {
    "another": lambda s: {"all": torch.stack([torch.full((5, 3), float(i)) for i in range(7)])},
    "one twice": lambda s: {"all": torch.stack([s["e.0.w"]] * 5)},
    "other shapes": lambda s: {"all": torch.stack([s[f"e.{i}.w"].T for i in range(4)])},
}


@pytest.mark.parametrize("how", UNLIKE)
def test_what_is_no_stack_is_not_reported_as_one(tmp_path: Path, how: str) -> None:
    parts = {f"e.{i}.w": torch.randn(5, 3) for i in range(4)}
    found = differ(tmp_path, parts, UNLIKE[how](parts))
    assert {finding.code for finding in errors_among(found.findings)} == {"removed", "added"}


def test_an_expert_too_many_is_removed(tmp_path: Path) -> None:
    parts = {f"e.{i}.w": torch.randn(5, 3) for i in range(4)}
    found = differ(tmp_path, parts, {"all": torch.stack([parts[f"e.{i}.w"] for i in (0, 1, 3)])})
    assert edits_of(found) == [("stack", ("e.0.w", "e.1.w", "e.3.w"), ("all",), 1), ("drop", ("e.2.w",), (), 1)]


def test_many_stacks_of_zeros_take_no_quadratic_time(tmp_path: Path) -> None:
    """Ten thousand experts' biases, all zero, under names that nothing relates to the others'."""

    parts = {f"layers.{i}.experts.{j}.bias": torch.zeros(3) for i in range(100) for j in range(100)}
    whole = {f"blocks.{i}.bias": torch.zeros(100, 3) for i in range(100)}
    with at_most(20):
        found = differ(tmp_path, parts, whole)
    assert {finding.code for finding in found.findings} == {"stacked"}
