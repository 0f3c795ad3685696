"""Encoders, and those with a decoder: what llama.cpp has to know of them, such as kinds of tokens, and how the vectors
of a sentence become one.

Sources: llama.cpp's conversion/ (bert.py, t5.py), src/models/ (bert.cpp, modern-bert.cpp, t5.cpp, t5encoder.cpp).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.arch.statements import CONFIG
from ckptconv.core.report import Finding
from ckptconv.formats.gguf.hub.config import unlike
from ckptconv.formats.gguf.hub.documents import bad
from ckptconv.formats.gguf.hub.shared import check_said

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.formats.gguf.hub.config import Config
    from ckptconv.formats.gguf.values import Typed

    Entries = dict[str, Typed]

_POOLING = {"mean": 1, "cls": 2, "lasttoken": 3}
"""``llama_pooling_type``, by sentence-transformers' words, which were keys before: ``pooling_mode_mean_tokens``."""
_ENDINGS = ("", "_token", "_tokens")
_KINDS = ("bert", "nomic-bert")
"""Those that tell kinds of tokens apart."""


def token_types(arch: str, config: Config) -> dict[str, Typed]:
    """How many kinds of tokens BERT tells apart: it is the tokenizer's in llama.cpp, whatever the tokenizer."""
    count: Typed = ("uint32", config.integer("type_vocab_size", default=1))
    return {"tokenizer.ggml.token_type_count": count} if arch in _KINDS else {}


def pooling(arch: str, document: Mapping[str, object] | None) -> dict[str, Typed]:
    """How the vectors of a sentence's tokens become one, as sentence-transformers says it beside the model."""
    if document is None:
        return {}
    kind = next((number for word, number in _POOLING.items() if _pools(document, word)), None)
    joined = [key for key, value in document.items() if key.startswith("pooling_mode_") and value is True]
    if kind is None or len(joined) > 1:
        raise bad("the pooling is not one of mean, cls and lasttoken, which are llama.cpp's")
    return {f"{arch}.pooling_type": ("uint32", kind)}


def _pools(document: Mapping[str, object], word: str) -> bool:
    if document.get("pooling_mode") is not None:
        return document["pooling_mode"] == word
    return any(document.get(f"pooling_mode_{word}{ending}") is True for ending in _ENDINGS)


def bert(config: Config) -> Entries:
    """BERT, whose positions are added to the tokens."""
    if config.text("position_embedding_type", default="absolute") != "absolute":
        raise unlike("bert", "position_embedding_type", config.get("position_embedding_type"), "they are absolute")
    if config.flag("is_decoder"):
        raise unlike("bert", "is_decoder", True, "it is an encoder")
    return {"attention.causal": ("bool", False)}


def nomic_bert(config: Config) -> Entries:
    """Nomic's, whose heads are turned. Its released configurations say more positions than it was trained for."""
    for key, wanted, why in (
        ("moe_every_n_layers", 0, "it has no experts"), ("prenorm", False, "norms come last"),
        ("rotary_emb_fraction", 1.0, "heads are turned whole"), ("rotary_emb_interleaved", False, "halves are turned"),
        ("rotary_scaling_factor", None, "positions are not scaled"), ("causal", False, "it is an encoder"),
        ("qkv_proj_bias", False, "its projections have no biases"), ("mlp_fc1_bias", False, "nor has what follows"),
    ):  # fmt: skip
        check_said("nomic-bert", config, key, wanted, why)
    trained = config.integer("max_trained_positions", default=0)
    return {
        "attention.causal": ("bool", False),
        "context_length": ("uint32", min(config.context, trained or config.context)),
    }


def modern_bert(config: Config) -> Entries:
    """ModernBERT, some of whose layers attend to a window on both sides."""
    for key in ("attention_bias", "mlp_bias", "norm_bias"):
        check_said("modern-bert", config, key, False, "nothing has a bias")
    period = config.positive("global_attn_every_n_layers", default=3)
    said = config.items("layer_types")
    wanted = ["sliding_attention" if layer % period else "full_attention" for layer in range(config.layers)]
    if said is not None and said != wanted:
        raise unlike("modern-bert", "layer_types", said, f"of {period} layers the first attends to all")
    return {
        "attention.layer_norm_epsilon": ("float32", config.number("norm_eps", "layer_norm_eps", default=1e-5)),
        "attention.causal": ("bool", False),
        "attention.sliding_window": ("uint32", config.positive("local_attention", default=128)),
        "attention.sliding_window_pattern": ("uint32", period),
        "rope.scaling.type": ("string", "none"),
        "hidden_activation": ("string", config.text("hidden_activation", "hidden_act", default="gelu")),
    }


def t5(config: Config, findings: list[Finding]) -> Entries:
    """T5 and umT5."""
    found = t5_encoder(config, findings)
    if config.flag("tie_word_embeddings", default=True):
        message = (
            "llama.cpp does not divide what comes out of tied embeddings by the root of d_model: probabilities are "
            "other ones than transformers', their order is not"
        )
        findings.append(Finding("scaled", "warning", CONFIG, message))
    return {
        **found,
        "decoder_block_count": ("uint32", config.positive("num_decoder_layers", default=config.layers)),
        "decoder_start_token_id": ("uint32", config.integer("decoder_start_token_id", default=0)),
    }


def t5_encoder(config: Config, findings: list[Finding]) -> Entries:
    """T5's encoder alone, and what it shares with the whole."""
    feed = config.text("feed_forward_proj", default="relu")
    if feed not in ("relu", "gated-gelu"):
        raise unlike("t5", "feed_forward_proj", feed, "it is relu, or gated-gelu")
    check_said("t5", config, "relative_attention_max_distance", 128, "positions further apart than 128 are alike")
    width, epsilon = config.positive("d_kv"), config.number("layer_norm_epsilon", default=1e-6)
    return {
        "context_length": ("uint32", config.positive("n_positions", default=512)),
        "embedding_length": ("uint32", config.positive("d_model")),
        "feed_forward_length": ("uint32", config.positive("d_ff")),
        "block_count": ("uint32", config.layers),
        "attention.head_count": ("uint32", config.heads),
        "attention.key_length": ("uint32", width),
        "attention.value_length": ("uint32", width),
        "attention.layer_norm_epsilon": ("float32", epsilon),
        "attention.layer_norm_rms_epsilon": ("float32", epsilon),
        "attention.relative_buckets_count": ("uint32", config.positive("relative_attention_num_buckets", default=32)),
    }
