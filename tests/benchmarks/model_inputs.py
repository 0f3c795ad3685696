"""The models that `models.py` works on, of random numbers: ``python model_inputs.py KIND FOLDER``.

llama   12 of Llama-3.2-3B's 28 layers, BF16, in files of 1 GB, with a tokenizer of as many tokens: 3.2 GB
lora    a LoRA of rank 16 for all its linear layers, as peft saves it
fp8     3 of Llama-3.1-8B's 32 layers, 8-bit floats with a scale for each 128 by 128, as DeepSeek-V3 has them
"""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LAYERS, WIDTH, INNER, HEADS, GROUPS, SIZE, TOKENS = 12, 3072, 8192, 24, 8, 128, 128_256
RANK = 16
SHARD = 10**9
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0, "max_position_embeddings": 131_072, "head_dim": SIZE, "torch_dtype": "bfloat16",
    "bos_token_id": 128_000, "eos_token_id": 128_001,
}  # fmt: skip
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
"""How Llama 3 cuts a text."""


def linear(width: int, inner: int, groups: int) -> dict[str, tuple[int, int]]:
    """The matrices of a layer."""
    return {
        "self_attn.q_proj": (width, width), "self_attn.k_proj": (groups, width), "self_attn.v_proj": (groups, width),
        "self_attn.o_proj": (width, width), "mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
    }  # fmt: skip


def noise(*shape: int) -> torch.Tensor:
    """Numbers about 0."""
    return (torch.randn(shape) * 0.02).bfloat16()


def llama(folder: Path) -> None:
    """The model, shard by shard."""
    tensors: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (TOKENS, WIDTH), "model.norm.weight": (WIDTH,)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        tensors |= {f"{prefix}{name}.weight": shape for name, shape in linear(WIDTH, INNER, GROUPS * SIZE).items()}
        tensors |= {f"{prefix}{name}_layernorm.weight": (WIDTH,) for name in ("input", "post_attention")}
    where: dict[str, Any] = {}
    for number, names in enumerate(_shards(tensors)):
        file = f"model-{number:05}.safetensors"
        save_file({name: noise(*tensors[name]) for name in names}, folder / file, {"format": "pt"})
        where |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    sizes = {
        "hidden_size": WIDTH, "intermediate_size": INNER, "num_attention_heads": HEADS, "vocab_size": TOKENS,
        "num_key_value_heads": GROUPS, "num_hidden_layers": LAYERS, "tie_word_embeddings": True,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(CONFIG | sizes))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))


def _shards(tensors: Mapping[str, tuple[int, ...]]) -> Iterator[list[str]]:
    names, size = [], 0
    for name, shape in tensors.items():
        names.append(name)
        size += 2 * torch.Size(shape).numel()
        if size > SHARD:
            yield names
            names, size = [], 0
    yield names


def tokenizer() -> dict[str, object]:
    """Byte-level BPE as Llama 3 has it, of pairs and their pairs."""
    letters = [*map(chr, range(33, 127)), *map(chr, range(161, 173)), *map(chr, range(174, 324))]
    vocab = {letter: number for number, letter in enumerate(letters)}
    merges = []
    for other, one in product([*letters, *map("".join, product(letters, letters))], letters):  # pairs, then threes
        if len(vocab) == TOKENS - 256:
            break
        if one + other not in vocab:
            vocab[one + other] = len(vocab)
            merges.append([one, other])
    added = [
        {"id": number, "content": f"<|{number}|>", "special": True, "single_word": False, "lstrip": False,
         "rstrip": False, "normalized": False}
        for number in range(TOKENS - 256, TOKENS)
    ]  # fmt: skip
    cut = {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False}
    as_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0", "added_tokens": added, "normalizer": None, "post_processor": None, "decoder": as_bytes,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [cut, as_bytes]},
        "model": {"type": "BPE", "ignore_merges": True, "vocab": vocab, "merges": merges},
    }  # fmt: skip


def lora(folder: Path) -> None:
    """The adapter."""
    tensors = {}
    shapes = linear(WIDTH, INNER, GROUPS * SIZE)
    for layer, (name, (rows, columns)) in product(range(LAYERS), shapes.items()):
        prefix = f"base_model.model.model.layers.{layer}.{name}"
        tensors[f"{prefix}.lora_A.weight"] = noise(RANK, columns).float()
        tensors[f"{prefix}.lora_B.weight"] = noise(rows, RANK).float()
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    modules = [name.partition(".")[2] for name in shapes]
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 32, "target_modules": modules}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def fp8(folder: Path) -> None:
    """The quantized model, in one file."""
    tensors = {f"{name}.weight": noise(32_000, 4096) for name in ("model.embed_tokens", "lm_head")}
    for layer, (name, (rows, columns)) in product(range(3), linear(4096, 14_336, 1024).items()):
        weight = f"model.layers.{layer}.{name}.weight"
        tensors[weight] = (torch.randn(rows, columns) * 100).to(torch.float8_e4m3fn)
        tensors[f"{weight}_scale_inv"] = torch.rand(-(-rows // 128), -(-columns // 128)) * 1e-3
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    kind = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
    (folder / "config.json").write_text(json.dumps(CONFIG | {"quantization_config": kind}))


KINDS = {"llama": llama, "lora": lora, "fp8": fp8}


def main(kind: str, folder: str) -> None:
    """Make it; the same bytes every time."""
    torch.manual_seed(0)
    Path(folder).mkdir()
    KINDS[kind](Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
