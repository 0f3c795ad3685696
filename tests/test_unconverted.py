"""A GGUF set beside the model that it was made of: under transformers' names, its blocks as floats."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import ckptconv
from tests.arch.real_models import transformers_module

if TYPE_CHECKING:
    from pathlib import Path

SIZES = {
    "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 48, "max_position_embeddings": 64,
}  # fmt: skip
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


def folder_of(path: Path, seed: int = 0) -> Path:
    """A small Llama as save_pretrained writes it."""
    transformers = transformers_module()
    torch.manual_seed(seed)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)).save_pretrained(path)
    return path


def gguf_of(source: Path, target: Path, *dtype: str) -> Path:
    edits = ckptconv.Edits(names=[ckptconv.NameRule("translate", "to-gguf")], dtype=dtype)
    ckptconv.convert(source, target, edits=edits, metadata={"tokenizer.ggml.model": "none"})
    return target


def codes(found: ckptconv.Difference) -> set[str]:
    return {finding.code for finding in found.findings}


def test_the_model_that_it_was_made_of_differs_in_metadata_alone(tmp_path: Path) -> None:
    """The heads of Llama's are in another order in the file."""
    model = folder_of(tmp_path / "llama")
    made = gguf_of(model, tmp_path / "llama.gguf", "F32")
    for one, other in ((model, made), (made, model)):
        found = ckptconv.diff(one, other)
        assert codes(found) == {"translated", "metadata-changed"}
        assert found.partners[Q_PROJ] == Q_PROJ
    headers = ckptconv.diff(model, made, headers=True)
    assert codes(headers) == {"translated", "metadata-changed"}


def test_of_blocks_it_says_how_far_the_floats_are_off(tmp_path: Path) -> None:
    quants = pytest.importorskip("gguf").quants
    model = folder_of(tmp_path / "llama")
    made = gguf_of(model, tmp_path / "llama.gguf", "Q8_0")
    found = ckptconv.diff(model, made)
    figures = {finding.where: values for finding, values in found.values.items()}
    with ckptconv.open(model) as checkpoint:
        name = "model.layers.0.mlp.down_proj.weight"
        before = checkpoint[name].numpy().astype(np.float64)
    kind = pytest.importorskip("gguf").GGMLQuantizationType.Q8_0
    after = quants.dequantize(quants.quantize(before.astype(np.float32), kind), kind).astype(np.float64)
    assert figures[name].change == pytest.approx(np.linalg.norm(after - before) / np.linalg.norm(before), rel=1e-5)
    assert Q_PROJ in figures
    assert "floats that they stand for" in found.findings[0].message
    assert "Q8_0" in {finding.found for finding in ckptconv.diff(model, made, headers=True).findings}


def test_two_files_of_llama_cpps_and_other_models_are_compared_as_they_are(tmp_path: Path) -> None:
    model = folder_of(tmp_path / "llama")
    made = gguf_of(model, tmp_path / "llama.gguf", "F32")
    save_file({"fc.weight": torch.ones(3, 2)}, tmp_path / "other.safetensors")
    assert ckptconv.diff(made, made).equal
    assert "translated" not in codes(ckptconv.diff(made, tmp_path / "other.safetensors"))


def test_verify_runs_it_in_the_class_that_a_configuration_names(tmp_path: Path) -> None:
    model = folder_of(tmp_path / "llama")
    config = str(model / "config.json")
    same = ckptconv.verify(model, gguf_of(model, tmp_path / "same.gguf", "F32"), arch=config, samples=3)
    assert same.equivalent
    assert [finding.code for finding in same.findings] == ["translated"]
    other = gguf_of(folder_of(tmp_path / "other", seed=1), tmp_path / "other.gguf", "F32")
    assert not ckptconv.verify(model, other, arch=config, samples=3).equivalent


def test_json_and_the_page_say_it(tmp_path: Path) -> None:
    from ckptconv.cli.render_diff import page

    model = folder_of(tmp_path / "llama")
    found = ckptconv.diff(model, gguf_of(model, tmp_path / "llama.gguf", "F32"))
    assert any(line.startswith("info: ") and "--translate gguf" in line for line in page(found))
    assert json.loads(json.dumps(found.to_dict()))["findings"][0]["code"] == "translated"
