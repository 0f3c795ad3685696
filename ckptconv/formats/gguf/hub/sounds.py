"""What configurations say of a tower for sounds, as llama.cpp's hyperparameters (``clip.audio.``): towers of Whisper's.

How sounds become spectra, llama.cpp's own code says: windows of 400 samples every 160, 16,000 a second, 30 seconds.

Sources: llama.cpp's conversion/ultravox.py, tools/mtmd/clip.cpp (`load_hparams`), tools/mtmd/models/whisper-enc.cpp; of
what configurations leave out, transformers' configuration_*.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.formats.gguf.hub.tower import Said
    from ckptconv.formats.gguf.values import Typed

SOUND_UNSAID: Mapping[str, Mapping[str, Any]] = {
    "qwen2a": {
        "d_model": 1280, "encoder_ffn_dim": 5120, "encoder_layers": 32, "encoder_attention_heads": 20,
        "num_mel_bins": 128, "max_source_positions": 1500,
    },
    "voxtral": {
        "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
        "num_mel_bins": 128, "max_source_positions": 1500,
    },
}  # fmt: skip
"""What configurations leave out where it is what transformers' class takes by itself."""

_EPSILON = 1e-5
"""torch's own, which Whisper's layers have."""
_STACKED = 4
_KEYS = {
    "embedding_length": ("hidden_size", "d_model"),
    "feed_forward_length": ("intermediate_size", "encoder_ffn_dim"),
    "block_count": ("num_hidden_layers", "encoder_layers"),
    "attention.head_count": ("num_attention_heads", "encoder_attention_heads"),
    "num_mel_bins": ("num_mel_bins",),
}


def sound_entries(said: Said) -> dict[str, Typed]:
    """The entries of one projector's tower. Raises CorruptFileError, UnsupportedError."""
    said.check("activation_function", "gelu", "it computes with gelu")
    said.check("scale_embedding", False, "its inputs are not scaled")
    found: dict[str, Typed] = {
        "clip.projector_type": ("string", said.projector),
        "clip.has_audio_encoder": ("bool", True),
        "clip.audio.attention.layer_norm_epsilon": ("float32", _EPSILON),
    }
    for name, keys in _KEYS.items():
        found[f"clip.audio.{name}"] = ("uint32", said.tower.positive(*keys))
    if said.projector == "voxtral":
        said.check("projector_hidden_act", "gelu", "its projector computes with gelu")
        width, wide = said.tower.width, said.tower.positive("intermediate_size")
        if wide != _STACKED * width:
            raise said.unlike("intermediate_size", wide, f"{_STACKED} frames of {width} become one")
        found["clip.audio.projector.stack_factor"] = ("uint32", _STACKED)
    return found
