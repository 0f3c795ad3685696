"""Models of sound, and detectors with a backbone of another package."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from tests.arch.families.pictures import both
from tests.arch.real_models import Case, hugging, torch

if TYPE_CHECKING:
    from collections.abc import Callable

WIDTHS: dict[str, Any] = {
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
}  # fmt: skip


def speech() -> list[Case]:
    """Wav2Vec2-BERT with each kind of positions and its adapters; SpeechT5 and its vocoder."""
    small: dict[str, Any] = {**WIDTHS, "vocab_size": 33, "feature_projection_input_dim": 10}
    adapted = {**small, "add_adapter": True, "output_hidden_size": 20, "use_intermediate_ffn_before_adapter": True}
    summed = {**small, "position_embeddings_type": "rotary", "use_weighted_layer_sum": True}
    told: dict[str, Any] = {
        "vocab_size": 33, "hidden_size": 24, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 30, "decoder_ffn_dim": 36, "num_mel_bins": 10,
        "speaker_embedding_dim": 6, "speech_decoder_prenet_units": 8, "speech_decoder_postnet_units": 9,
        "speech_decoder_postnet_layers": 3, "encoder_max_relative_position": 7,
    }  # fmt: skip
    rates: dict[str, Any] = {"upsample_rates": [4, 2], "upsample_kernel_sizes": [8, 4]}
    return [
        hugging("wav2vec2_bert", "Wav2Vec2BertForCTC", "Wav2Vec2BertConfig", **adapted),
        hugging("wav2vec2_bert", "Wav2Vec2BertForSequenceClassification", "Wav2Vec2BertConfig", **summed),
        hugging("wav2vec2_bert", "Wav2Vec2BertModel", "Wav2Vec2BertConfig", **small, mask_time_prob=0.0),
        hugging(
            "wav2vec2_bert", "Wav2Vec2BertForAudioFrameClassification", "Wav2Vec2BertConfig", **small,
            position_embeddings_type="relative",
        ),
        hugging("speecht5", "SpeechT5ForTextToSpeech", "SpeechT5Config", **told),
        hugging(
            "speecht5_hifigan", "SpeechT5HifiGan", "SpeechT5HifiGanConfig", model_in_dim=10,
            upsample_initial_channel=16, **rates,
        ),
    ]  # fmt: skip


def sounds() -> list[Case]:
    """CLAP, for sounds of one length and of any."""
    text = {**WIDTHS, "vocab_size": 97, "max_position_embeddings": 30}
    audio: dict[str, Any] = {
        "patch_embeds_hidden_size": 8, "hidden_size": 32, "depths": [1, 2, 1], "num_attention_heads": [1, 2, 4],
        "window_size": 2, "spec_size": 64, "num_mel_bins": 16,
    }  # fmt: skip
    plain = {**audio, "hidden_size": 16, "depths": [1, 3], "num_attention_heads": [1, 2], "qkv_bias": False}
    return [
        hugging("clap", "ClapModel", "ClapConfig", label=label, text_config=text, audio_config=more, projection_dim=12)
        for label, more in (("", plain), ("fused", {**audio, "enable_fusion": True}))
    ]


def detr() -> list[Case]:
    """DETR and Table Transformer with transformers' names, on two sizes of ResNet."""
    sizes: dict[str, Any] = {
        "d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 20,
        "decoder_attention_heads": 2, "decoder_ffn_dim": 28, "num_queries": 7, "num_labels": 3,
        "use_pretrained_backbone": False, "use_timm_backbone": True,
    }  # fmt: skip
    found = hugging("detr_transformers", "DetrForObjectDetection", "DetrConfig", **sizes, backbone="resnet18")
    table = "TableTransformerForObjectDetection"
    return [
        *both([found]),
        hugging("detr_transformers", "DetrModel", "DetrConfig", **sizes, backbone="resnet50"),
        hugging("detr_transformers", table, "TableTransformerConfig", **sizes, backbone="resnet50"),
    ]


def read() -> list[Case]:
    """TrOCR on a ViT and on a DeiT, as it is saved and in memory."""
    seen: dict[str, Any] = {**WIDTHS, "hidden_size": 20, "image_size": 32, "patch_size": 8}
    decoder: dict[str, Any] = {
        "model_type": "trocr", "vocab_size": 97, "d_model": 24, "decoder_layers": 2, "decoder_attention_heads": 4,
        "decoder_ffn_dim": 30, "max_position_embeddings": 20, "cross_attention_hidden_size": 20,
    }  # fmt: skip
    bare = {**decoder, "use_learned_position_embeddings": False, "layernorm_embedding": False}
    name, config = "VisionEncoderDecoderModel", "VisionEncoderDecoderConfig"
    first = hugging("trocr", name, config, encoder={**seen, "model_type": "vit", "qkv_bias": False}, decoder=decoder)
    return [
        *both([first]),
        hugging("trocr", name, config, label="small", encoder={**seen, "model_type": "deit"}, decoder=bare),
    ]


def long_and_placed() -> list[Case]:
    """Relatives of BERT and RoBERTa: Longformer, LayoutLM, RoFormer."""
    small: dict[str, Any] = {**WIDTHS, "vocab_size": 97, "max_position_embeddings": 30, "num_labels": 5}
    rows: list[tuple[str, str, dict[str, Any]]] = [
        ("Longformer", "ForMaskedLM", {"attention_window": 4}),
        ("Longformer", "ForSequenceClassification", {"attention_window": 4}),
        ("Longformer", "Model", {"attention_window": 4}),
        ("LayoutLM", "ForTokenClassification", {"max_2d_position_embeddings": 20}),
        ("LayoutLM", "ForMaskedLM", {"max_2d_position_embeddings": 20}),
        ("LayoutLM", "Model", {"max_2d_position_embeddings": 20}),
        ("RoFormer", "ForMaskedLM", {"embedding_size": 16}),
        ("RoFormer", "ForSequenceClassification", {}),
        ("RoFormer", "ForMultipleChoice", {}),
        ("RoFormer", "Model", {}),
    ]
    return [hugging(name.lower(), f"{name}{head}", f"{name}Config", **small, **more) for name, head, more in rows]


def told() -> list[Case]:
    """VITS with each predictor of durations, with one voice and with several; Moonshine."""
    small: dict[str, Any] = {
        "vocab_size": 33, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 30,
        "flow_size": 20, "spectrogram_bins": 17, "upsample_initial_channel": 16, "upsample_rates": [4, 2],
        "upsample_kernel_sizes": [8, 4], "prior_encoder_num_flows": 2, "prior_encoder_num_wavenet_layers": 2,
        "posterior_encoder_num_wavenet_layers": 3,
    }  # fmt: skip
    plain = {**small, "use_stochastic_duration_prediction": False, "duration_predictor_filter_channels": 13}
    many = hugging("vits", "VitsModel", "VitsConfig", label="many", **small, num_speakers=3, speaker_embedding_size=5)
    heads = {f"{side}_num_{name}": count for side in ("encoder", "decoder") for name, count in (
        ("hidden_layers", 2), ("attention_heads", 4), ("key_value_heads", 2),
    )}  # fmt: skip
    heard: dict[str, Any] = {"vocab_size": 33, "hidden_size": 24, "intermediate_size": 40, **heads}
    return [
        many,
        Case("vits", "weight_norm", partial(of_earlier_torch, many.build), many.config),
        hugging("vits", "VitsModel", "VitsConfig", **plain),
        hugging("moonshine", "MoonshineForConditionalGeneration", "MoonshineConfig", **heard),
        hugging("moonshine", "MoonshineModel", "MoonshineConfig", **heard, attention_bias=True),
    ]


def of_earlier_torch(build: Callable[[], Any]) -> Any:
    """A model with the weight norms of earlier torch."""
    made = build()
    for module in [each for each in made.modules() if hasattr(each, "parametrizations")]:
        torch.nn.utils.parametrize.remove_parametrizations(module, "weight")
        torch.nn.utils.weight_norm(module)
    return made
