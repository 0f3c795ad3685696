"""llama.cpp's names and layouts as transformers' classes have them: what transformers itself makes of the same file."""

from __future__ import annotations

import importlib
import re
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from gguf import MODEL_ARCH_NAMES, GGMLQuantizationType, GGUFWriter, get_tensor_name_map, quants
from safetensors.torch import load_file

import ckptconv
from ckptconv.edits.select import NameRule
from ckptconv.errors import EditError, UnsupportedError
from tests.arch.real_models import transformers_module

if TYPE_CHECKING:
    from pathlib import Path

rng = np.random.default_rng(0)
LAYERS, HIDDEN, FFN, HEADS, KV, VOCAB, EXPERTS = 2, 64, 96, 4, 2, 40, 3
ARCHES = {name: arch for arch, name in MODEL_ARCH_NAMES.items()}

SIZES: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": HIDDEN, "intermediate_size": FFN, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "num_key_value_heads": KV, "max_position_embeddings": 32,
    "tie_word_embeddings": False, "pad_token_id": 0,
}  # fmt: skip
HEAD = {"head_dim": HIDDEN // HEADS}
MOE = {"num_experts": EXPERTS, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 1}
CONFIGS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("llama", "Llama", SIZES),
    "qwen2": ("qwen2", "Qwen2", SIZES),
    "qwen3": ("qwen3", "Qwen3", SIZES | HEAD),
    "qwen2moe": ("qwen2moe", "Qwen2Moe", SIZES | MOE | {"shared_expert_intermediate_size": 32}),
    "qwen3moe": ("qwen3moe", "Qwen3Moe", SIZES | HEAD | MOE),
    "phi3": ("phi3", "Phi3", SIZES),
    "starcoder2": ("starcoder2", "Starcoder2", SIZES | {"use_bias": True}),
    "stablelm": ("stablelm", "StableLm", SIZES | {"use_qkv_bias": True, "use_parallel_residual": False}),
    "gpt2": ("gpt2", "GPT2", {"vocab_size": VOCAB, "n_positions": 32, "n_embd": HIDDEN, "n_layer": LAYERS,
                              "n_head": HEADS, "tie_word_embeddings": False}),
}  # fmt: skip


def config(case: str) -> Any:
    _, cls, sizes = CONFIGS[case]
    return getattr(transformers_module(), f"{cls}Config")(**sizes)


def class_of(case: str) -> Any:
    return getattr(transformers_module(), f"{CONFIGS[case][1]}{'LMHeadModel' if case == 'gpt2' else 'ForCausalLM'}")


def model(case: str) -> Any:
    made = config(case)
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        return class_of(case)(made)


def stored(case: str) -> dict[str, tuple[int, ...]]:
    """The tensors that llama.cpp writes of the model, by the `gguf` package's own table of names."""
    arch, _, _ = CONFIGS[case]
    names = get_tensor_name_map(ARCHES[arch], LAYERS)
    found: dict[str, tuple[int, ...]] = {}
    for name, tensor in model(case).state_dict().items():
        shape = tuple(tensor.shape)
        if (stack := re.fullmatch(r"model\.layers\.(\d+)\.mlp\.experts\.(gate_up|down)_proj", name)) is not None:
            parts = {"gate": (shape[0], shape[1] // 2, shape[2]), "up": (shape[0], shape[1] // 2, shape[2])}
            parts = parts if stack[2] == "gate_up" else {"down": shape}
            found |= {f"blk.{stack[1]}.ffn_{part}_exps.weight": size for part, size in parts.items()}
            continue
        stem, _, kind = name.rpartition(".")
        known = names.get_name(stem)
        assert known is not None, name
        turned = case == "gpt2" and len(shape) == 2 and ".h." in name
        single = "gate_inp_shexp" in known
        found[f"{known}.{kind}"] = shape[1:] if single else shape[::-1] if turned else shape
    return found


def write(case: str, path: Path, *, quantized: bool = False) -> None:
    arch, _, sizes = CONFIGS[case]
    writer = GGUFWriter(path, arch)
    writer.add_name(case)
    writer.add_block_count(LAYERS)
    writer.add_context_length(32)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(sizes.get("intermediate_size", 4 * HIDDEN))
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV if case != "gpt2" else HEADS)
    writer.add_vocab_size(VOCAB)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_layer_norm_eps(1e-6)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    if case == "qwen3" or case == "qwen3moe":
        writer.add_key_length(HIDDEN // HEADS)
    if "num_experts" in sizes:
        writer.add_expert_count(EXPERTS)
        writer.add_expert_used_count(2)
        writer.add_expert_feed_forward_length(32)
    if case == "qwen2moe":
        writer.add_expert_shared_feed_forward_length(32)
    for name, shape in stored(case).items():
        values = rng.standard_normal(shape).astype("f4")
        if quantized and len(shape) > 1 and shape[-1] % 32 == 0:
            kind = GGMLQuantizationType.Q8_0
            writer.add_tensor(name, quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def by_transformers(case: str, path: Path) -> dict[str, torch.Tensor]:
    """What transformers loads from the file, its stacks of experts taken apart as it does to save them."""
    made = model(case)
    load = importlib.import_module("transformers.modeling_gguf_pytorch_utils").load_gguf_checkpoint
    found: dict[str, torch.Tensor] = {}
    for name, tensor in load(path, return_tensors=True, model_to_load=made)["tensors"].items():
        if ".experts." not in name:
            found[name] = tensor
            continue
        parts = ("gate_proj", "up_proj") if name.endswith("gate_up_proj") else ("down_proj",)
        for number, expert in enumerate(tensor):
            for part, weight in zip(parts, expert.chunk(len(parts)), strict=True):
                found[f"{name.rpartition('.')[0]}.{number}.{part}.weight"] = weight
    return found


def by_us(path: Path, target: Path) -> dict[str, torch.Tensor]:
    edits = ckptconv.Edits(names=[NameRule("translate", "gguf")], dtype=["F32"])
    ckptconv.convert(path, target, edits=edits, bare=True)
    return load_file(target)


@pytest.mark.parametrize("quantized", [False, True], ids=["floats", "blocks"])
@pytest.mark.parametrize("case", CONFIGS)
def test_it_is_what_transformers_loads(case: str, tmp_path: Path, *, quantized: bool) -> None:
    write(case, tmp_path / "a.gguf", quantized=quantized)
    expected = by_transformers(case, tmp_path / "a.gguf")
    found = by_us(tmp_path / "a.gguf", tmp_path / "b.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor.float()), name


def plain(path: Path, arch: str, tensors: dict[str, tuple[int, ...]], heads: object = HEADS) -> Path:
    writer = GGUFWriter(path, arch)
    if isinstance(heads, int):
        writer.add_head_count(heads)
    elif heads is not None:
        writer.add_array(f"{arch}.attention.head_count", heads)
    for name, shape in tensors.items():
        writer.add_tensor(name, rng.standard_normal(shape).astype("f4"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("stacked", [True, False])
def test_mixtral_is_a_llama_with_experts(tmp_path: Path, *, stacked: bool) -> None:
    """transformers reads no such file: that its class has these names is checked by the library's spec of it."""
    layer = {
        "attn_norm": (HIDDEN,), "ffn_norm": (HIDDEN,), "ffn_gate_inp": (EXPERTS, HIDDEN), "attn_q": (HIDDEN, HIDDEN),
        "attn_k": (HIDDEN, HIDDEN), "attn_v": (HIDDEN, HIDDEN), "attn_output": (HIDDEN, HIDDEN),
    }  # fmt: skip
    for part, shape in {"gate": (FFN, HIDDEN), "up": (FFN, HIDDEN), "down": (HIDDEN, FFN)}.items():
        names = {f"ffn_{part}_exps": (EXPERTS, *shape)}
        layer |= names if stacked else {f"ffn_{part}.{i}": shape for i in range(EXPERTS)}
    tensors = {f"blk.{i}.{name}.weight": shape for i in range(LAYERS) for name, shape in layer.items()}
    tensors |= {"token_embd.weight": (VOCAB, HIDDEN), "output_norm.weight": (HIDDEN,), "output.weight": (VOCAB, HIDDEN)}
    by_us(plain(tmp_path / "a.gguf", "llama", tensors), tmp_path / "b.safetensors")
    result = ckptconv.validate(tmp_path / "b.safetensors")
    assert (result.arch, result.valid) == ("mixtral", True)
    assert result.params["experts"] == EXPERTS


def test_what_transformers_computes_of_its_configuration_keeps_its_name(tmp_path: Path) -> None:
    path = plain(tmp_path / "a.gguf", "llama", {"rope_freqs.weight": (8,), "output_norm.weight": (8,)})
    assert by_us(path, tmp_path / "b.safetensors").keys() == {"rope_freqs.weight", "model.norm.weight"}


@pytest.mark.parametrize(
    ("arch", "shape", "heads", "error", "words"),
    [
        ("gemma2", (8, 8), 2, UnsupportedError, "does not know the architecture 'gemma2'"),
        ("llama", (8, 8), [2, 4], UnsupportedError, "not one number of heads"),
        ("llama", (8, 8), None, UnsupportedError, "not one number of heads"),
        ("llama", (6, 8), 2, EditError, "6 rows, which are no 2 heads"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(
    arch: str, shape: tuple[int, ...], heads: object, error: type[Exception], words: str, tmp_path: Path
) -> None:
    path = plain(tmp_path / "a.gguf", arch, {"blk.0.attn_q.weight": shape}, heads)
    with pytest.raises(error, match=words):
        by_us(path, tmp_path / "b.safetensors")


def test_names_of_which_nothing_says_whose_they_are(tmp_path: Path) -> None:
    torch.save({"blk.0.attn_q.weight": torch.zeros(8, 8)}, tmp_path / "a.pth")
    with pytest.raises(EditError, match=r"no general\.architecture"):
        by_us(tmp_path / "a.pth", tmp_path / "b.safetensors")
