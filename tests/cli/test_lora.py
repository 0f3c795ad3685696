"""Adapters, as they are typed: what `inspect` says of one, and `convert --lora`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.cli.conftest import strict
from tests.edits.adapters.lora_cases import CASES, case, part, write_adapter

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run

BASE = "meta-llama/Llama-3.2-1B"


def rows(output: str) -> dict[str, str]:
    header = output.split("\n\n")[0].splitlines()[1:]
    return {line[2:].split("  ")[0]: line[2:].partition("  ")[2].strip() for line in header}


def test_inspect_says_what_an_adapter_is(run: Run, tmp_path: Path) -> None:
    config = CASES["lora-patterns"]["config"] | {"base_model_name_or_path": BASE}
    adapter = write_adapter(tmp_path / "a", part("lora-patterns/adapter"), config)
    said = rows(run("inspect", adapter).output)
    assert said["adapter"] == "PEFT's LoRA ×4"
    assert said["rank"] == "2 ×2, 4 ×2; scale 4 ×1, 1.75 ×1, 2.5 ×1, 2 ×1"
    assert said["targets"] == "o_proj ×2, q_proj ×2"
    assert said["changes"] == "168 parameters of the base's, by 160 (95.24%)"
    assert said["base model"] == BASE
    assert said["merging"] == f"ckptconv convert BASE DST --lora {adapter}"
    found = strict(run("inspect", "--json", adapter).output)["adapter"]
    assert found == {
        "maker": "PEFT", "peft_type": "LORA", "kinds": {"LoRA": 4}, "targets": {"o_proj": 2, "q_proj": 2},
        "ranks": {"2": 2, "4": 2}, "scales": {"4": 1, "1.75": 1, "2.5": 1, "2": 1}, "base_model": BASE, "dora": False,
        "rslora": False, "inside": False, "whole": [], "components": {"the network": 4}, "parameters": 160,
        "changes": 168, "mergeable": True, "obstacle": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "row", "text"),
    [
        ("lora-dora", "adapter", "PEFT's LoRA ×4, DoRA"), ("lora-rslora", "adapter", "PEFT's LoRA ×4, rsLoRA"),
        ("lora-saved", "whole", "1 tensor: lm_head.weight"), ("ia3", "adapter", "PEFT's IA3 ×4"),
        ("kohya-lora", "adapter", "kohya's LoRA ×3"), ("kohya-lokr", "adapter", "kohya's LoKr ×3"),
        ("kohya-lora", "rank", "4 ×2, 2 ×1; scale 0.75 ×2, 0.5 ×1"),
    ],
)  # fmt: skip
def test_inspect_knows_the_kinds(name: str, row: str, text: str, run: Run, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "a", part(f"{name}/adapter"), CASES[name]["config"])
    assert rows(run("inspect", adapter / "adapter_model.safetensors").output)[row] == text


def test_inspect_says_why_an_adapter_is_not_merged(run: Run, tmp_path: Path) -> None:
    config = {"peft_type": "PROMPT_TUNING", "base_model_name_or_path": BASE}
    adapter = write_adapter(tmp_path / "a", {"prompt_embeddings": torch.ones(8, 4)}, config)
    said = rows(run("inspect", adapter).output)
    assert said["adapter"] == "PEFT's type PROMPT_TUNING"
    assert said["merging"].startswith("no: adapters of PEFT's type PROMPT_TUNING are not merged: they put tokens")
    (adapter / "adapter_config.json").write_text("{")
    assert "no: adapter_config.json is not JSON" in rows(run("inspect", adapter).output)["merging"]


def test_inspect_has_nothing_to_say_of_a_model(run: Run, tmp_path: Path) -> None:
    base, _, _ = case("lora", tmp_path)
    assert "adapter" not in rows(run("inspect", base).output)
    assert "adapter" not in strict(run("inspect", "--json", base).output)


def test_an_adapter_is_merged_and_reported(run: Run, tmp_path: Path) -> None:
    base, adapter, expected = case("lora", tmp_path)
    done = run("convert", base, tmp_path / "out.pth", "--lora", f"{adapter}=0.5", "--lora", adapter)
    assert done.exit_code == 0, done.output
    assert f"info: {adapter}: 4 tensors are changed (LoRA ×4), times 0.5" in done.output
    assert f"info: {adapter}: 4 tensors are changed (LoRA ×4)\n" in done.output
    before, found = load_file(base), torch.load(tmp_path / "out.pth")
    for key, exact in expected.items():
        torch.testing.assert_close(found[key].double(), before[key] + 1.5 * (exact - before[key]), rtol=1e-7, atol=1e-8)


def test_a_dry_run_lists_what_would_be_merged(run: Run, tmp_path: Path) -> None:
    base, adapter, expected = case("lora-saved", tmp_path)
    typed = ["convert", base, tmp_path / "out.safetensors", "--lora", adapter, "--add-prefix", "x.", "--dry-run"]
    shown = run(*typed)
    key = "model.layers.0.q_proj.weight"
    assert f"  {key} + {adapter} → x.{key}  F32  [8, 6]" in shown.output
    plan = strict(run(*typed, "--json").output)["plan"]
    assert {row["sources"][0] for row in plan if row.get("merged") == [str(adapter)]} == expected.keys()
    assert not (tmp_path / "out.safetensors").exists()


def test_its_place_is_where_it_is_typed(run: Run, tmp_path: Path) -> None:
    base, adapter, _ = case("lora", tmp_path)
    renamed = tmp_path / "renamed.safetensors"
    save_file({key.replace("layers", "blocks"): tensor for key, tensor in load_file(base).items()}, renamed)
    fine = run("convert", renamed, tmp_path / "a.safetensors", "--rename", "blocks=layers", "--lora", adapter)
    assert fine.exit_code == 0, fine.output
    wrong = run("convert", renamed, tmp_path / "b.safetensors", "--lora", adapter, "--rename", "blocks=layers")
    assert wrong.exit_code == 2
    assert "the adapter changes 4 modules that the base lacks" in wrong.output


def test_shards_and_records_are_right_afterwards(run: Run, tmp_path: Path) -> None:
    base, adapter, _ = case("lora", tmp_path)
    assert run("convert", base, tmp_path / "s", "--shard-size", "400", "--meta", "a=1").exit_code == 0
    whole, parts = tmp_path / "w.safetensors", tmp_path / "p"
    assert run("convert", base, whole, "--lora", adapter, "--meta", "a=1").exit_code == 0
    assert run("convert", tmp_path / "s", parts, "--lora", adapter, "--shard-size", "400").exit_code == 0
    assert run("diff", whole, parts).exit_code == 0
    assert run("inspect", "--digest", whole, parts).exit_code == 0


@pytest.mark.parametrize("scale", ["much", ""])
def test_a_scale_that_is_no_number_is_reported(scale: str, run: Run, tmp_path: Path) -> None:
    base, adapter, _ = case("lora", tmp_path)
    done = run("convert", base, tmp_path / "o.pth", "--lora", f"{adapter}={scale}", "--json")
    assert done.exit_code == 2
    assert "is not a number" in json.loads(done.stdout)["error"]["message"]


def test_a_scale_without_an_adapter_is_reported(run: Run, tmp_path: Path) -> None:
    base, _, _ = case("lora", tmp_path)
    done = run("convert", base, tmp_path / "o.pth", "--lora", "=0.8")
    assert done.exit_code == 2
    assert done.stderr.splitlines() == [
        "ckptconv: error: --lora '=0.8' names no adapter", "hint: --lora ADAPTER=0.8"
    ]  # fmt: skip


def test_a_configuration_stands_for_its_folder(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, adapter, _ = case("lora", tmp_path)
    assert run("convert", base, tmp_path / "a.pth", "--lora", adapter).exit_code == 0
    assert run("convert", base, tmp_path / "b.pth", "--lora", adapter / "adapter_config.json").exit_code == 0
    monkeypatch.chdir(adapter)
    assert run("convert", base, tmp_path / "c.pth", "--lora", "adapter_config.json").exit_code == 0
    for name in ("b.pth", "c.pth"):
        assert run("diff", tmp_path / "a.pth", tmp_path / name).exit_code == 0


def test_an_overflow_asks_for_consent(run: Run, tmp_path: Path) -> None:
    base, adapter, _ = case("lora", tmp_path, torch.float16)
    done = run("convert", base, tmp_path / "o.pth", "--lora", f"{adapter}=1e6")
    assert done.exit_code == 2
    assert "hint: --allow-loss overflow goes on; or --dtype 'NAME=F32' for these alone" in done.output
    assert (
        run("convert", base, tmp_path / "o.pth", "--lora", f"{adapter}=1e6", "--allow-loss", "overflow").exit_code == 0
    )


def test_what_overflows_f32_is_reported_without_a_wider_type(run: Run, tmp_path: Path) -> None:
    base, adapter, _ = case("lora", tmp_path, torch.float32)
    done = run("convert", base, tmp_path / "o.pth", "--lora", f"{adapter}=1e308")
    assert done.exit_code == 2
    assert done.output.endswith("hint: --allow-loss overflow goes on\n")
