"""A model of PEFT's that was saved whole, with its adapter inside: what is said of it, and whether the hints hold."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.conftest import strict
from tests.cli.test_lora import rows
from tests.edits.adapters.lora_cases import CASES, case, part, write_adapter

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run

WHAT = "this is a model with an adapter (LoRA) in it that is not merged"
FACTOR = re.compile(r"(.+)\.(lora_[AB])\.weight")
SCALE = CASES["lora-saved"]["config"]["lora_alpha"] / CASES["lora-saved"]["config"]["r"]


def write_whole(path: Path, name: str = "lora-saved") -> Path:
    """``torch.save(peft_model.state_dict())``, under the names that peft 0.21.2 has in it."""
    base, adapter = part(f"{CASES[name]['network']}/base"), part(f"{name}/adapter")
    factors = {key: match for key in adapter if (match := FACTOR.fullmatch(key))}
    changed = {match[1] for match in factors.values()}
    state = {f"{match[1]}.{match[2]}.default.weight": adapter[key] for key, match in factors.items()}
    for plain, tensor in base.items():
        key = f"base_model.model.{plain}"
        module, _, end = key.rpartition(".")
        if module in changed:
            state[f"{module}.base_layer.{end}"] = tensor
        elif key in adapter:
            state[f"{module}.original_module.{end}"] = tensor
            state[f"{module}.modules_to_save.default.{end}"] = adapter[key]
        else:
            state[key] = tensor
    torch.save(state, path)
    return path


def follow(hint: str, source: Path, word: str, target: Path, run: Run) -> None:
    """The command line in a hint, as a reader types it."""
    typed = hint[hint.index("ckptconv convert ") : hint.index(" takes")].removeprefix("ckptconv ")
    line = [{"FILE": str(source), word: str(target)}.get(one, one) for one in shlex.split(typed)]
    assert run(*line).exit_code == 0


def test_the_hints_take_it_apart_and_merging_both_is_what_peft_makes(run: Run, tmp_path: Path) -> None:
    whole, base, adapter = write_whole(tmp_path / "a.pth"), tmp_path / "base.pth", tmp_path / "adapter.safetensors"
    said = run("validate", whole)
    assert said.exit_code == 2
    assert f"{WHAT}\n" in said.output
    assert "merge_and_unload() of peft" in said.output
    follow(said.output, whole, "BASE.pth", base, run)
    assert torch.load(base).keys() == part("Decoder/base").keys()
    said = run("convert", base, tmp_path / "out.safetensors", "--lora", f"{whole}={SCALE}")
    assert said.exit_code == 2
    assert WHAT in said.output
    follow(said.output, whole, "ADAPTER.safetensors", adapter, run)
    said = run("convert", base, tmp_path / "out.safetensors", "--lora", adapter)
    assert said.exit_code == 2
    assert "nothing says its alpha" in said.output
    assert "--lora ADAPTER=SCALE says it: lora_alpha / r" in said.output
    assert run("convert", base, tmp_path / "out.safetensors", "--lora", f"{adapter}={SCALE}").exit_code == 0
    found = load_file(tmp_path / "out.safetensors")
    for name, tensor in part("lora-saved/expected").items():
        torch.testing.assert_close(found[name].double(), tensor, rtol=1e-6, atol=1e-6)


def test_inspect_says_that_an_adapter_is_inside(run: Run, tmp_path: Path) -> None:
    whole = write_whole(tmp_path / "a.pth")
    said = rows(run("inspect", whole).output)
    assert said["adapter"] == "PEFT's LoRA ×4, inside the model that it changes"
    assert said["merging"] == f"no: {WHAT}"
    assert said["whole"] == "1 tensor: lm_head.weight"
    assert strict(run("inspect", "--json", whole).output)["adapter"]["inside"] is True


def test_with_an_architecture_it_is_the_cause_of_what_is_missing(run: Run, tmp_path: Path) -> None:
    whole = write_whole(tmp_path / "a.pth", "lora")
    base, _, _ = case("lora", tmp_path)
    said = run("validate", whole, "--arch", base)
    assert said.exit_code == 1
    assert strict(run("validate", "--json", whole, "--arch", base).output)["findings"][0]["code"] == "adapter-inside"
    assert run("validate", whole, "--arch", whole).exit_code == 0


@pytest.mark.parametrize("scale", ["1", "2.5"])
def test_a_scale_of_one_counts_as_given(scale: str, run: Run, tmp_path: Path) -> None:
    base, _, _ = case("lora", tmp_path)
    bare = write_adapter(tmp_path / "bare", part("lora/adapter"))
    assert run("convert", base, tmp_path / "out.pth", "--lora", f"{bare}={scale}").exit_code == 0


def test_what_is_no_product_of_alpha_takes_no_scale_for_its_configuration(run: Run, tmp_path: Path) -> None:
    base, _, _ = case("ia3", tmp_path)
    bare = write_adapter(tmp_path / "bare", part("ia3/adapter"))
    said = run("convert", base, tmp_path / "out.pth", "--lora", f"{bare}=0.5")
    assert said.exit_code == 2
    assert said.output.endswith("hint: PEFT's adapter_config.json belongs beside the file\n")
