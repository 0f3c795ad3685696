"""Encoder and decoder: T5, Whisper."""

from __future__ import annotations

from tests.arch.real_models import Case, hugging


def seq2seq() -> list[Case]:
    """T5 (both versions) and Whisper."""
    cases: list[Case] = []
    for size, (width, layers, decoder) in enumerate(((24, 1, 2), (32, 3, 3), (48, 2, 1))):
        options = {
            "vocab_size": 97 + size, "d_model": width, "d_kv": 5 + size, "d_ff": 40 + 8 * size, "num_layers": layers,
            "num_decoder_layers": decoder, "num_heads": 3 + size,
        }  # fmt: skip
        for name in ("T5ForConditionalGeneration", "T5Model", "T5EncoderModel", "T5ForSequenceClassification"):
            if size == 0 or name != "T5ForSequenceClassification":
                cases.append(hugging("t5", name, "T5Config", label=str(size), **options))
        gated = {**options, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
        cases.append(hugging("t5", "T5ForConditionalGeneration", "T5Config", label=f"v1.1-{size}", **gated))
        whisper = {
            "vocab_size": 97 + size, "d_model": width, "encoder_layers": layers, "decoder_layers": decoder,
            "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 40 + size,
            "decoder_ffn_dim": 52 + size, "num_mel_bins": 10 + size, "max_source_positions": 30 + size,
            "max_target_positions": 20 + size, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3,
        }  # fmt: skip
        for name in ("WhisperForConditionalGeneration", "WhisperModel"):
            cases.append(hugging("whisper", name, "WhisperConfig", label=str(size), **whisper))
    return cases
