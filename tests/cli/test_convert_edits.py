"""What `convert` does to tensors on their way, as it is typed."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.arch.families.diffusion import asked
from tests.support.hub import small_adapter, small_qwen2
from tests.support.mmproj import folder_of
from tests.support.pipelines import save_pipeline

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run


@pytest.fixture
def source(tmp_path: Path) -> Path:
    state = {f"module.net.{i}.{kind}": torch.randn(3, 3) for i in range(2) for kind in ("weight", "bias")}
    torch.save(state, tmp_path / "a.pth")
    return tmp_path / "a.pth"


def test_names_change_in_the_order_in_which_they_are_typed(run: Run, tmp_path: Path, source: Path) -> None:
    one = run("convert", source, tmp_path / "b.safetensors", "--strip-prefix", "module.", "--add-prefix", "x.",
              "--rename", "^x=module", "--strip-prefix=module.net.")  # fmt: skip
    assert one.exit_code == 0, one.output
    assert sorted(load_file(tmp_path / "b.safetensors")) == ["0.bias", "0.weight", "1.bias", "1.weight"]
    other = run("convert", source, tmp_path / "c.safetensors", "--add-prefix", "x.", "--strip-prefix", "module.")
    assert other.exit_code == 2
    assert "--strip-prefix 'module.' changes no name" in other.output


def test_a_dry_run_prints_the_plan(run: Run, tmp_path: Path, source: Path) -> None:
    typed = ["convert", source, tmp_path / "b.pth", "--dry-run", "--drop", "*.1.*", "--strip-prefix", "module."]
    shown = run(*typed).output
    assert "module.net.0.weight → net.0.weight  F32  [3, 3]" in shown
    document = json.loads(run(*typed, "--dtype", "bf16", "--json").output)
    assert document["plan"] == [
        {"sources": [f"module.net.0.{kind}"], "target": f"net.0.{kind}", "dtype": "BF16", "shape": [3, 3],
         "file": str(tmp_path / "b.pth")}
        for kind in ("weight", "bias")
    ] + [
        {"sources": [f"module.net.1.{kind}"], "target": None, "dtype": "F32", "shape": [3, 3], "file": None}
        for kind in ("weight", "bias")
    ]  # fmt: skip
    assert not (tmp_path / "b.pth").exists()


def test_what_diff_prints_is_replayed_and_undone(run: Run, tmp_path: Path, source: Path) -> None:
    state = torch.load(source, weights_only=True)
    torch.save({name.removeprefix("module."): tensor.double() for name, tensor in state.items()}, tmp_path / "b.pth")
    (tmp_path / "edits.json").write_text(run("diff", source, tmp_path / "b.pth", "--json").output)
    assert run("convert", source, tmp_path / "c.pth", "--rules", tmp_path / "edits.json").exit_code == 0
    assert run("diff", tmp_path / "b.pth", tmp_path / "c.pth").exit_code == 0
    undone = run("convert", tmp_path / "c.pth", tmp_path / "d.pth", "--rules", tmp_path / "edits.json", "--reverse")
    assert undone.exit_code == 0, undone.output
    assert run("diff", source, tmp_path / "d.pth").exit_code == 0


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["--select", "nothing*"], "--select 'nothing*' matches no tensor"),
        (["--drop", "*"], "leaves no tensor"),
        (["--rename", "("], "REGEX=REPL"),
        (["--rename", "(=x"], "unterminated subpattern"),
        (["--dtype", "F31"], "no element type 'F31'"),
        (["--dtype", "x*=F16"], "matches no tensor"),
        (["--dtype", "x*=F16"], "hint: names are those that the target gets"),
        (["--dtype", "IQ3_S"], "quantizing to IQ3_S is not supported"),
        (["--dtype", "Q4_K_M"], "a mixture of types is for a llama.cpp model"),
        (["--dtype", "Q8_0"], "can be Q8_0, which is for matrices"),
        (["--rules", "missing.toml"], "no such file"),
        (["--reverse"], "no rules to reverse"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_a_hint(
    run: Run, tmp_path: Path, source: Path, typed: list[str], words: str
) -> None:
    done = run("convert", source, tmp_path / "b.safetensors", *typed)
    assert done.exit_code == 2
    assert words in done.output
    assert "hint: " in done.output
    assert not (tmp_path / "b.safetensors").exists()


def test_an_overflow_is_a_loss(run: Run, tmp_path: Path) -> None:
    torch.save({"w": torch.tensor([1e5])}, tmp_path / "a.pth")
    refused = run("convert", tmp_path / "a.pth", tmp_path / "b.pth", "--dtype", "F16")
    assert refused.exit_code == 2
    assert "past the range of F16" in refused.output
    assert "--allow-loss overflow" in refused.output
    done = run("convert", tmp_path / "a.pth", tmp_path / "b.pth", "--dtype", "F16", "--allow-loss", "overflow")
    assert done.exit_code == 0
    assert torch.load(tmp_path / "b.pth", weights_only=True)["w"].isinf().all()


def test_quantizing_says_what_it_cost_and_what_stays(run: Run, tmp_path: Path) -> None:
    torch.save({"w": torch.eye(64), "norm": torch.ones(64), "odd": torch.ones(3, 5)}, tmp_path / "a.pth")
    done = run("convert", tmp_path / "a.pth", tmp_path / "b.gguf", "--dtype", "q8_0")
    assert done.exit_code == 0, done.output
    assert "2 tensors are not quantized: Q8_0 is for matrices whose rows are whole blocks of 32: 'norm', 'odd'" in (
        done.output
    )
    assert "1 tensor is quantized to Q8_0: the RMS error is " in done.output
    assert run("diff", tmp_path / "a.pth", tmp_path / "b.gguf").exit_code == 1
    wrong = run("convert", tmp_path / "a.pth", tmp_path / "b.safetensors", "--dtype", "Q8_0")
    assert (wrong.exit_code, "safetensors has no Q8_0" in wrong.output) == (2, True)
    assert "a .gguf holds blocks" in wrong.output


def test_a_pipeline_becomes_a_single_file(run: Run, tmp_path: Path) -> None:
    made = asked("translations")["unclip"]["components"]
    parts = {part: {name: np.ones(row[0], "f2") for name, row in rows.items()} for part, rows in made.items()}
    pipeline = save_pipeline(tmp_path / "pipe", parts)
    typed = ["convert", pipeline, tmp_path / "one.safetensors", "--translate", "to-ldm"]
    planned = run(*typed, "--dry-run").output
    assert "unet.up_blocks.0.resnets.0.norm1.bias → model.diffusion_model.output_blocks.0.0.in_layers.0.bias" in planned
    assert run(*typed).exit_code == 0
    assert "valid: fits stable_diffusion" in run("validate", tmp_path / "one.safetensors").output
    again = run(*typed, "--force", "--drop", "vae.decoder.conv_in.*")
    assert again.exit_code == 2
    assert "a part of the decoder is missing" in again.output


def test_a_model_of_transformers_becomes_one_of_llama_cpp(run: Run, tmp_path: Path) -> None:
    source = small_qwen2(tmp_path / "model")
    typed = ["convert", source, tmp_path / "a.gguf", "--translate", "to-gguf", "--dtype", "F16"]
    assert run(*typed).exit_code == 0
    shown = run("inspect", tmp_path / "a.gguf").output
    assert re.search(r"general\.architecture +'qwen2'", shown)
    assert "blk.0–1 ×2" in shown
    planned = run(*typed, "--dry-run", "--force").output
    assert "model.layers.1.self_attn.q_proj.bias → blk.1.attn_q.bias" in planned
    (source / "config.json").unlink()
    refused = run(*typed, "--force")
    assert refused.exit_code == 2
    assert "no configuration says which transformers class this is\nhint: it is made from a folder" in refused.output


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (
            ["--translate", "to-mmproj"],
            "--translate to-gguf and --translate to-mmproj: each makes a file for llama",
        ),
        (["--translate", "to-gguf"], "--translate to-gguf and --translate to-gguf: each makes a file for llama"),
        (["--verify"], "--verify goes by an architecture, and none has llama.cpp's names"),
        (["--with-params"], "hint: leave --with-params out; ckptconv validate"),
        (["--arch", "llama"], "--arch goes by an architecture, and none has llama.cpp's names"),
        (["--lora", "adapter"], "hint: another base, or --lora before --translate to-gguf"),
    ],
)
def test_what_does_not_go_with_a_model_for_llama_cpp(run: Run, tmp_path: Path, typed: list[str], words: str) -> None:
    source, target = small_qwen2(tmp_path / "model"), tmp_path / "a.gguf"
    typed = [str(small_adapter(tmp_path / one)) if one == "adapter" else one for one in typed]
    done = run("convert", source, target, "--translate", "to-gguf", *typed)
    assert done.exit_code == 2
    assert words in done.output
    assert not target.exists()


def test_a_folder_for_a_gguf_asks_for_no_configuration(run: Run, tmp_path: Path) -> None:
    source = small_qwen2(tmp_path / "model")
    assert "are not copied" in run("convert", source, f"{tmp_path / 'copy'}/").output
    done = run("convert", source, f"{tmp_path / 'for-llama-cpp'}/", "--translate", "to-gguf", "--to", "gguf")
    assert done.exit_code == 0
    assert "are not copied" not in done.output


def test_of_a_model_with_pictures_there_is_a_second_file(run: Run, tmp_path: Path) -> None:
    source = folder_of("gemma3", tmp_path / "model")
    typed = ["convert", source, tmp_path / "mmproj.gguf", "--translate", "to-mmproj", "--dtype", "F16"]
    planned = run(*typed, "--dry-run").output
    assert "vision_tower.vision_model.encoder.layers.1.mlp.fc1.weight → v.blk.1.ffn_up.weight" in planned
    told = run(*typed).output
    assert "warning: tensors of the language model are left out (1), of which --translate to-gguf makes a file" in told
    shown = run("inspect", tmp_path / "mmproj.gguf").output
    assert re.search(r"clip\.projector_type +'gemma3'", shown)
    assert "blk.0–3 ×4" in shown
    validated = run("validate", tmp_path / "mmproj.gguf")
    assert validated.exit_code == 2
    assert "what llama.cpp has for pictures or sounds beside a language model (mmproj)" in validated.output
    again = run(*typed, "--force", "--meta", "clip.vision.image_std=3")
    assert again.exit_code == 2
    assert "--meta clip.vision.image_std: '3' is not a float32[], which llama.cpp expects there" in again.output
    pair = run(*typed, "--force", "--meta", "clip.vision.image_std=[1, 2]")
    assert pair.exit_code == 2
    assert "[1.0, 2.0] are not 3 numbers, one for each colour" in pair.output
    mixed = run(*typed[:-1], "Q4_K_M", "--force")
    assert mixed.exit_code == 2
    assert "--dtype Q4_K_M: a mixture of types is for a language model, and not for a tower" in mixed.output
