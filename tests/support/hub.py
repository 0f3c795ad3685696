"""A small model as found on the Hugging Face hub, made without transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

FIXTURE = Path(__file__).parents[2] / "fixtures" / "others" / "llama-cpp-models.json"
LAYER = {
    "self_attn.q_proj.weight": (64, 64), "self_attn.q_proj.bias": (64,), "self_attn.k_proj.weight": (32, 64),
    "self_attn.k_proj.bias": (32,), "self_attn.v_proj.weight": (32, 64), "self_attn.v_proj.bias": (32,),
    "self_attn.o_proj.weight": (64, 64), "mlp.gate_proj.weight": (96, 64), "mlp.up_proj.weight": (96, 64),
    "mlp.down_proj.weight": (64, 96), "input_layernorm.weight": (64,), "post_attention_layernorm.weight": (64,),
}  # fmt: skip


def small_qwen2(folder: Path) -> Path:
    """Write the weights, configuration and tokenizer of a Qwen2ForCausalLM with two layers."""
    folder.mkdir()
    config: dict[str, Any] = json.loads(FIXTURE.read_text("utf-8"))["qwen2"]["config"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (300, 64), "model.norm.weight": (64,)}
    shapes |= {f"model.layers.{i}.{name}": shape for i in range(2) for name, shape in LAYER.items()}
    rng = np.random.default_rng(0)
    save_file({name: rng.standard_normal(shape, "f4") for name, shape in shapes.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    made = Tokenizer(models.BPE(vocab={text: i for i, text in enumerate(["h", "e", "he"])}, merges=[("h", "e")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    (folder / "tokenizer.json").write_text(made.to_str(), "utf-8")
    return folder


def small_adapter(folder: Path) -> Path:
    """Write a LoRA of its q_proj, as peft saves it."""
    folder.mkdir()
    stem = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    factors = {f"{stem}A.weight": np.ones((2, 64), "f4"), f"{stem}B.weight": np.ones((64, 2), "f4")}
    save_file(factors, folder / "adapter_model.safetensors")
    said = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "Qwen/Qwen2-0.5B"}
    (folder / "adapter_config.json").write_text(json.dumps(said))
    return folder
