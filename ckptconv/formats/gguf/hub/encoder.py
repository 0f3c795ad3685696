"""Hyperparameters of encoders (BERT's kind) and encoder-decoders (T5), with pooling and token types.

Sources: llama.cpp's conversion/ (bert.py, t5.py), src/models/ (bert.cpp, modern-bert.cpp, t5.cpp, t5encoder.cpp).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.arch.statements import CONFIG
from ckptconv.core.report import Finding
from ckptconv.formats.gguf.hub.config import unsupported
from ckptconv.formats.gguf.hub.documents import bad
from ckptconv.formats.gguf.hub.shared import check_value

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.formats.gguf.hub.config import Config
    from ckptconv.formats.gguf.values import Typed

    Entries = dict[str, Typed]

POOLING = {"mean": 1, "cls": 2, "lasttoken": 3}
"""``llama_pooling_type``, by sentence-transformers' names. Older files have keys like ``pooling_mode_mean_tokens``."""
_ENDINGS = ("", "_token", "_tokens")
_WITH_TOKEN_TYPES = ("bert", "nomic-bert")
"""Architectures that have token types, as embeddings."""


def token_types(arch: str, config: Config) -> dict[str, Typed]:
    """The number of BERT's token types, which llama.cpp has among the tokenizer's entries."""
    count: Typed = ("uint32", config.integer("type_vocab_size", default=1))
    return {"tokenizer.ggml.token_type_count": count} if arch in _WITH_TOKEN_TYPES else {}


def pooling(arch: str, document: Mapping[str, object] | None) -> dict[str, Typed]:
    """How token vectors become one sentence vector. `document` is sentence-transformers' for the pooling, if any."""
    if document is None:
        return {}
    kind = next((number for mode, number in POOLING.items() if _has_mode(document, mode)), None)
    modes = [key for key, value in document.items() if key.startswith("pooling_mode_") and value is True]
    if kind is None or len(modes) > 1:
        raise bad("the pooling is not one of mean, cls and lasttoken, which are llama.cpp's")
    return {f"{arch}.pooling_type": ("uint32", kind)}


def _has_mode(document: Mapping[str, object], mode: str) -> bool:
    if document.get("pooling_mode") is not None:
        return document["pooling_mode"] == mode
    return any(document.get(f"pooling_mode_{mode}{ending}") is True for ending in _ENDINGS)


def bert(config: Config) -> Entries:
    """BERT, which adds learned positions to its token embeddings."""
    if config.text("position_embedding_type", default="absolute") != "absolute":
        raise unsupported("bert", "position_embedding_type", config.get("position_embedding_type"), "they are absolute")
    if config.flag("is_decoder"):
        raise unsupported("bert", "is_decoder", True, "it is an encoder")
    return {"attention.causal": ("bool", False)}


def nomic_bert(config: Config) -> Entries:
    """Nomic BERT, with rotary embeddings. Its configurations state more positions than it was trained for."""
    for key, wanted, why in (
        ("moe_every_n_layers", 0, "it has no experts"), ("prenorm", False, "norms come last"),
        ("rotary_emb_fraction", 1.0, "heads are turned whole"), ("rotary_emb_interleaved", False, "halves are turned"),
        ("rotary_scaling_factor", None, "positions are not scaled"), ("causal", False, "it is an encoder"),
        ("qkv_proj_bias", False, "its projections have no biases"), ("mlp_fc1_bias", False, "nor has what follows"),
    ):  # fmt: skip
        check_value("nomic-bert", config, key, wanted, why)
    trained = config.integer("max_trained_positions", default=0)
    return {
        "attention.causal": ("bool", False),
        "context_length": ("uint32", min(config.context, trained or config.context)),
    }


def modern_bert(config: Config) -> Entries:
    """ModernBERT, some of whose layers attend to a window to both sides."""
    for key in ("attention_bias", "mlp_bias", "norm_bias"):
        check_value("modern-bert", config, key, False, "nothing has a bias")
    period = config.positive("global_attn_every_n_layers", default=3)
    stated = config.items("layer_types")
    expected = ["sliding_attention" if layer % period else "full_attention" for layer in range(config.layers)]
    if stated is not None and stated != expected:
        raise unsupported("modern-bert", "layer_types", stated, f"of {period} layers the first attends to all")
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
    """T5's encoder on its own; T5 has these entries, too."""
    projection = config.text("feed_forward_proj", default="relu")
    if projection not in ("relu", "gated-gelu"):
        raise unsupported("t5", "feed_forward_proj", projection, "it is relu, or gated-gelu")
    check_value("t5", config, "relative_attention_max_distance", 128, "positions further apart than 128 are alike")
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
