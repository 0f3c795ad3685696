"""Relatives of BERT, T5, GPT-2 and Llama that other specs would be taken for."""

from __future__ import annotations

from typing import Any

from tests.arch.real_models import Case, decoder_sizes, encoder_sizes, hugging


def without_norms() -> list[Case]:
    """OLMo and nanochat, with biases and tied."""
    small, large, _ = decoder_sizes()
    return [
        hugging("olmo", "OlmoForCausalLM", "OlmoConfig", **large, attention_bias=True),
        hugging("olmo", "OlmoForSequenceClassification", "OlmoConfig", **small, num_labels=5),
        hugging("olmo", "NanoChatForCausalLM", "NanoChatConfig", **small, tie_word_embeddings=True),
    ]


def of_gpt() -> list[Case]:
    """GPTBigCode, CodeGen, the first GPT."""
    small: dict[str, Any] = {"vocab_size": 97, "n_positions": 33, "n_embd": 24, "n_layer": 2, "n_head": 4}
    return [
        hugging("gpt_bigcode", "GPTBigCodeForCausalLM", "GPTBigCodeConfig", **small, n_inner=40),
        hugging("gpt_bigcode", "GPTBigCodeForTokenClassification", "GPTBigCodeConfig", **{**small, "n_head": 2}),
        hugging("codegen", "CodeGenForCausalLM", "CodeGenConfig", **small, n_inner=40, rotary_dim=4),
        hugging("codegen", "CodeGenModel", "CodeGenConfig", **small, rotary_dim=4, n_ctx=33),
        hugging("openai_gpt", "OpenAIGPTLMHeadModel", "OpenAIGPTConfig", **small),
        hugging("openai_gpt", "OpenAIGPTForSequenceClassification", "OpenAIGPTConfig", **{**small, "n_layer": 1}),
    ]


def of_bert() -> list[Case]:
    """BigBird with each kind of head, Megatron-BERT, ERNIE with types of tasks and without."""
    small, large, _ = encoder_sizes(num_labels=5, type_vocab_size=3)
    rows: list[tuple[str, str, dict[str, Any]]] = [
        ("BigBird", "ForPreTraining", large | {"use_bias": False}),
        ("BigBird", "ForSequenceClassification", small),
        ("BigBird", "ForQuestionAnswering", small | {"num_labels": 2}),
        ("MegatronBert", "ForPreTraining", large),
        ("MegatronBert", "ForTokenClassification", small),
    ]
    names = {"BigBird": "big_bird", "MegatronBert": "megatron_bert"}
    return [
        *(hugging(names[name], f"{name}{head}", f"{name}Config", **more) for name, head, more in rows),
        hugging("bert", "ErnieForMaskedLM", "ErnieConfig", **small, use_task_id=True, task_type_vocab_size=4),
        hugging("bert", "ErnieForSequenceClassification", "ErnieConfig", **small),
    ]


def long_texts() -> list[Case]:
    """LongT5 with both kinds of attention, and its encoder alone."""
    small: dict[str, Any] = {
        "vocab_size": 97, "d_model": 24, "d_kv": 6, "d_ff": 40, "num_layers": 2, "num_decoder_layers": 1,
        "num_heads": 4, "relative_attention_num_buckets": 16,
    }  # fmt: skip
    wide = {**small, "encoder_attention_type": "transient-global", "feed_forward_proj": "gated-gelu"}
    return [
        hugging("longt5", "LongT5ForConditionalGeneration", "LongT5Config", **wide, tie_word_embeddings=False),
        hugging("longt5", "LongT5EncoderModel", "LongT5Config", **small),
    ]


def seen_too() -> list[Case]:
    """Chinese CLIP."""
    text = encoder_sizes()[0]
    vision: dict[str, Any] = {
        "hidden_size": 20, "intermediate_size": 30, "num_hidden_layers": 2, "num_attention_heads": 4,
        "image_size": 24, "patch_size": 8,
    }  # fmt: skip
    return [
        hugging(
            "chinese_clip", "ChineseCLIPModel", "ChineseCLIPConfig", text_config=text, vision_config=vision,
            projection_dim=12,
        )
    ]  # fmt: skip


def further_decoders() -> list[Case]:
    """XGLM, BioGPT and MPT."""
    small, _, _ = encoder_sizes(num_labels=5)
    xglm: dict[str, Any] = {"vocab_size": 97, "d_model": 24, "ffn_dim": 40, "num_layers": 2, "attention_heads": 4}
    mpt: dict[str, Any] = {"vocab_size": 97, "d_model": 24, "n_layers": 2, "n_heads": 4, "num_labels": 5}
    return [
        hugging("xglm", "XGLMForCausalLM", "XGLMConfig", **xglm, tie_word_embeddings=False),
        hugging("xglm", "XGLMModel", "XGLMConfig", **{**xglm, "num_layers": 1}),
        hugging("biogpt", "BioGptForCausalLM", "BioGptConfig", **small),
        hugging("biogpt", "BioGptForTokenClassification", "BioGptConfig", **small),
        hugging("mpt", "MptForCausalLM", "MptConfig", **mpt),
        hugging("mpt", "MptForTokenClassification", "MptConfig", **{**mpt, "n_layers": 1}),
    ]


def further_encoders() -> list[Case]:
    """MobileBERT with each kind of head, LED with its language model and as it answers questions."""
    small: dict[str, Any] = {
        "vocab_size": 97, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 33, "embedding_size": 12, "intra_bottleneck_size": 16, "num_labels": 5,
    }  # fmt: skip
    plain = {**small, "trigram_input": False, "num_feedforward_networks": 2, "type_vocab_size": 3}
    led: dict[str, Any] = {
        "vocab_size": 97, "d_model": 24, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 4,
        "decoder_attention_heads": 8, "encoder_ffn_dim": 40, "decoder_ffn_dim": 56, "attention_window": 4,
        "max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 33,
    }  # fmt: skip
    return [
        hugging("mobilebert", "MobileBertForPreTraining", "MobileBertConfig", **small),
        hugging("mobilebert", "MobileBertForTokenClassification", "MobileBertConfig", **plain),
        hugging("led", "LEDForConditionalGeneration", "LEDConfig", **led, tie_word_embeddings=False),
        hugging("led", "LEDForQuestionAnswering", "LEDConfig", **{**led, "encoder_layers": 1, "num_labels": 2}),
    ]
