"""Codecs and models of sound as transformers names them."""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.arch.families.heard_and_found import of_earlier_torch
from tests.arch.families.pictures import both
from tests.arch.real_models import Case, hugging

CODEC: dict[str, Any] = {
    "num_filters": 4, "hidden_size": 12, "codebook_size": 16, "num_lstm_layers": 1, "upsampling_ratios": [5, 4, 3, 2],
}  # fmt: skip


def codecs() -> list[Case]:
    """EnCodec, whose weights are normed in two ways or whose layers are, with shortcuts and without; DAC."""
    normed = hugging("encodec_transformers", "EncodecModel", "EncodecConfig", **CODEC, target_bandwidths=[1.5])
    layers = {**CODEC, "norm_type": "time_group_norm", "audio_channels": 2, "use_conv_shortcut": False}
    return [
        normed,
        Case("encodec_transformers", "weight_norm", partial(of_earlier_torch, normed.build), normed.config),
        hugging("encodec_transformers", "EncodecModel", "EncodecConfig", label="layers", **layers),
        hugging(
            "dac_transformers", "DacModel", "DacConfig", encoder_hidden_size=4, downsampling_ratios=[2, 3, 5],
            decoder_hidden_size=24, n_codebooks=2, codebook_size=16,
        ),
    ]  # fmt: skip


def told_and_heard() -> list[Case]:
    """MusicGen with a layer behind T5 and without; Qwen2-Audio in memory and on disk."""
    text: dict[str, Any] = {
        "model_type": "t5", "vocab_size": 97, "d_model": 24, "d_kv": 6, "d_ff": 40, "num_layers": 2, "num_heads": 4,
    }  # fmt: skip
    codec = {"model_type": "encodec", **CODEC}
    decoder: dict[str, Any] = {
        "model_type": "musicgen_decoder", "vocab_size": 16, "hidden_size": 32, "num_hidden_layers": 2, "ffn_dim": 44,
        "num_attention_heads": 4, "pad_token_id": 16, "bos_token_id": 16,
    }  # fmt: skip
    same = {**decoder, "hidden_size": 24, "num_codebooks": 2, "num_hidden_layers": 1}
    heard: dict[str, Any] = {
        "model_type": "qwen2_audio_encoder", "num_mel_bins": 10, "d_model": 24, "encoder_layers": 2,
        "encoder_attention_heads": 4, "encoder_ffn_dim": 40, "max_source_positions": 30,
    }  # fmt: skip
    told: dict[str, Any] = {
        "model_type": "qwen2", "vocab_size": 97, "hidden_size": 32, "intermediate_size": 44, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2,
    }  # fmt: skip
    name, config = "MusicgenForConditionalGeneration", "MusicgenConfig"
    audio = "Qwen2AudioForConditionalGeneration"
    return [
        hugging("musicgen", name, config, text_encoder=text, audio_encoder=codec, decoder=decoder),
        hugging("musicgen", name, config, label="narrow", text_encoder=text, audio_encoder=codec, decoder=same),
        *both([hugging("qwen2_audio", audio, "Qwen2AudioConfig", audio_config=heard, text_config=told)]),
    ]


def told_by_tokens() -> list[Case]:
    """Bark with biases and without, Parakeet with its head and without."""
    small: dict[str, Any] = {
        "block_size": 16, "input_vocab_size": 40, "output_vocab_size": 30, "num_layers": 2, "num_heads": 2,
        "hidden_size": 12,
    }  # fmt: skip
    fine = {**small, "output_vocab_size": 40, "n_codes_total": 4, "n_codes_given": 2, "hidden_size": 8}
    bark: dict[str, Any] = {"coarse_acoustics_config": {**small, "num_layers": 1}, "fine_acoustics_config": fine}
    bark["codec_config"] = {"model_type": "encodec", **CODEC}
    heard: dict[str, Any] = {
        "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_mel_bins": 16, "subsampling_conv_channels": 6,
    }  # fmt: skip
    plain = {**heard, "attention_bias": False, "convolution_bias": False, "subsampling_factor": 4}
    return [
        hugging("bark", "BarkModel", "BarkConfig", semantic_config=small, **bark),
        hugging("bark", "BarkModel", "BarkConfig", label="plain", semantic_config={**small, "bias": False}, **bark),
        hugging("parakeet", "ParakeetForCTC", "ParakeetCTCConfig", encoder_config=heard, vocab_size=33),
        hugging("parakeet", "ParakeetEncoder", "ParakeetEncoderConfig", **plain, conv_kernel_size=5),
    ]
