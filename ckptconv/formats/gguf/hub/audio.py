"""llama.cpp's hyperparameters for audio towers (``clip.audio.…``), which are Whisper's encoder.

How audio becomes spectra is hard-coded in llama.cpp: 16 kHz, windows of 400 samples every 160, chunks of 30 seconds.

Sources: llama.cpp's conversion/ultravox.py, tools/mtmd/clip.cpp (`load_hparams`), tools/mtmd/models/whisper-enc.cpp;
for the defaults, transformers' configuration_*.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.formats.gguf.hub.tower import TowerConfigs
    from ckptconv.formats.gguf.values import Typed

AUDIO_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "qwen2a": {
        "d_model": 1280, "encoder_ffn_dim": 5120, "encoder_layers": 32, "encoder_attention_heads": 20,
        "num_mel_bins": 128, "max_source_positions": 1500,
    },
    "voxtral": {
        "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
        "num_mel_bins": 128, "max_source_positions": 1500,
    },
}  # fmt: skip
"""The defaults of transformers' classes, which configurations leave out, by projector."""

_EPSILON = 1e-5
"""torch's default, which Whisper's norms have."""
_STACKED = 4
_KEYS = {
    "embedding_length": ("hidden_size", "d_model"),
    "feed_forward_length": ("intermediate_size", "encoder_ffn_dim"),
    "block_count": ("num_hidden_layers", "encoder_layers"),
    "attention.head_count": ("num_attention_heads", "encoder_attention_heads"),
    "num_mel_bins": ("num_mel_bins",),
}


def audio_entries(configs: TowerConfigs) -> dict[str, Typed]:
    """The entries of an audio tower. Raises CorruptFileError, UnsupportedError."""
    configs.check("activation_function", "gelu", "it computes with gelu")
    configs.check("scale_embedding", False, "its inputs are not scaled")
    entries: dict[str, Typed] = {
        "clip.projector_type": ("string", configs.projector),
        "clip.has_audio_encoder": ("bool", True),
        "clip.audio.attention.layer_norm_epsilon": ("float32", _EPSILON),
    }
    for name, keys in _KEYS.items():
        entries[f"clip.audio.{name}"] = ("uint32", configs.tower.positive(*keys))
    if configs.projector == "voxtral":
        configs.check("projector_hidden_act", "gelu", "its projector computes with gelu")
        width, feed_forward = configs.tower.width, configs.tower.positive("intermediate_size")
        if feed_forward != _STACKED * width:
            raise configs.unsupported("intermediate_size", feed_forward, f"{_STACKED} frames of {width} become one")
        entries["clip.audio.projector.stack_factor"] = ("uint32", _STACKED)
    return entries
