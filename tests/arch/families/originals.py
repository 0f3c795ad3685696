"""Networks with the names of their first releases, which are in no package that is light enough to be installed here.

What is built has the structure of karpathy/nanoGPT (model.py), meta-llama/llama (llama/model.py) and openai/whisper
(whisper/model.py).
"""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.arch.real_models import Case, torch

nn = torch.nn


def nanogpt() -> list[Case]:
    """nanoGPT with biases and without."""
    sizes = {"vocab_size": 65, "block_size": 12, "n_layer": 2, "n_embd": 8}
    return [
        Case("nanogpt", "biases", partial(nano, **sizes), None, {**sizes, "n_head": 2, "bias": True}),
        Case("nanogpt", "plain", partial(nano, **sizes, bias=False), None, {**sizes, "n_head": 2, "bias": False}),
    ]


def nano(*, vocab_size: int, block_size: int, n_layer: int, n_embd: int, bias: bool = True) -> Any:
    """A GPT of nanoGPT."""

    def norm() -> Any:
        return nn.LayerNorm(n_embd, bias=bias)

    def block() -> Any:
        attention = {"c_attn": nn.Linear(n_embd, 3 * n_embd, bias=bias), "c_proj": nn.Linear(n_embd, n_embd, bias=bias)}
        mlp = {"c_fc": nn.Linear(n_embd, 4 * n_embd, bias=bias), "c_proj": nn.Linear(4 * n_embd, n_embd, bias=bias)}
        return nn.ModuleDict(
            {"ln_1": norm(), "attn": nn.ModuleDict(attention), "ln_2": norm(), "mlp": nn.ModuleDict(mlp)}
        )

    trunk = {
        "wte": nn.Embedding(vocab_size, n_embd),
        "wpe": nn.Embedding(block_size, n_embd),
        "h": nn.ModuleList(block() for _ in range(n_layer)),
        "ln_f": norm(),
    }
    model = nn.ModuleDict({"transformer": nn.ModuleDict(trunk), "lm_head": nn.Linear(n_embd, vocab_size, bias=False)})
    trunk["wte"].weight = model["lm_head"].weight
    return model


def llama() -> list[Case]:
    """Llama as Meta has it, with fewer key heads and without, tied as in llama2.c, and with other heads as Mistral."""
    sizes = {"vocab_size": 40, "dim": 16, "n_layers": 2, "hidden_dim": 48}
    heads = {"n_heads": 4, "n_kv_heads": 4, "head_dim": 4}
    grouped = {**heads, "n_kv_heads": 2}
    wide = {"n_heads": 4, "n_kv_heads": 2, "head_dim": 6}
    return [
        Case("llama_meta", name, partial(meta, **sizes, **each, **more), None, {**sizes, **each})
        for name, each, more in [
            ("first", heads, {}),
            ("grouped", grouped, {}),
            ("tied", grouped, {"tied": True}),
            ("wide", wide, {}),
        ]
    ]


def meta(
    *, vocab_size: int, dim: int, n_layers: int, hidden_dim: int, n_heads: int, n_kv_heads: int, head_dim: int,
    tied: bool = False,
) -> Any:  # fmt: skip
    """A Transformer of Meta's."""

    def linear(before: int, after: int) -> Any:
        return nn.Linear(before, after, bias=False)

    def block() -> Any:
        wide, narrow = n_heads * head_dim, n_kv_heads * head_dim
        attention = {"wq": linear(dim, wide), "wk": linear(dim, narrow), "wv": linear(dim, narrow)}
        attention["wo"] = linear(wide, dim)
        mlp = {"w1": linear(dim, hidden_dim), "w2": linear(hidden_dim, dim), "w3": linear(dim, hidden_dim)}
        return nn.ModuleDict(
            {
                "attention": nn.ModuleDict(attention),
                "feed_forward": nn.ModuleDict(mlp),
                "attention_norm": nn.RMSNorm(dim),
                "ffn_norm": nn.RMSNorm(dim),
            }
        )

    model = nn.ModuleDict({"tok_embeddings": nn.Embedding(vocab_size, dim)})
    model["layers"] = nn.ModuleList(block() for _ in range(n_layers))
    model["norm"] = nn.RMSNorm(dim)
    model["output"] = linear(dim, vocab_size)
    if tied:
        model["tok_embeddings"].weight = model["output"].weight
    return model


def whisper() -> list[Case]:
    """Whisper of two sizes, as many layers on both sides and not."""
    small = {
        "n_mels": 10, "n_audio_ctx": 15, "n_audio_state": 16, "n_audio_head": 4, "n_audio_layer": 2,
        "n_vocab": 40, "n_text_ctx": 9, "n_text_state": 16, "n_text_head": 4, "n_text_layer": 2,
    }  # fmt: skip
    turbo = {**small, "n_text_state": 24, "n_text_layer": 1, "n_audio_layer": 3}
    return [
        Case("whisper_openai", name, partial(spoken, **each), None, each)
        for name, each in {"small": small, "turbo": turbo}.items()
    ]


def spoken(**dims: int) -> Any:
    """A Whisper of OpenAI's."""

    def attention(width: int) -> Any:
        parts = {name: nn.Linear(width, width, bias=name != "key") for name in ("query", "key", "value", "out")}
        return nn.ModuleDict(parts)

    def block(width: int, *, crossed: bool) -> Any:
        parts = {"attn": attention(width), "attn_ln": nn.LayerNorm(width)}
        if crossed:
            parts |= {"cross_attn": attention(width), "cross_attn_ln": nn.LayerNorm(width)}
        parts["mlp"] = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        return nn.ModuleDict({**parts, "mlp_ln": nn.LayerNorm(width)})

    audio, text = dims["n_audio_state"], dims["n_text_state"]
    encoder = nn.ModuleDict({"conv1": nn.Conv1d(dims["n_mels"], audio, 3), "conv2": nn.Conv1d(audio, audio, 3)})
    encoder.register_buffer("positional_embedding", torch.ones(dims["n_audio_ctx"], audio))
    encoder["blocks"] = nn.ModuleList(block(audio, crossed=False) for _ in range(dims["n_audio_layer"]))
    encoder["ln_post"] = nn.LayerNorm(audio)
    decoder = nn.ModuleDict({"token_embedding": nn.Embedding(dims["n_vocab"], text)})
    decoder.register_parameter("positional_embedding", nn.Parameter(torch.ones(dims["n_text_ctx"], text)))
    decoder["blocks"] = nn.ModuleList(block(text, crossed=True) for _ in range(dims["n_text_layer"]))
    decoder["ln"] = nn.LayerNorm(text)
    return nn.ModuleDict({"encoder": encoder, "decoder": decoder})
