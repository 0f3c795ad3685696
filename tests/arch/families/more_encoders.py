"""More encoders, and models of an encoder and a decoder."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from tests.arch.real_models import Case, hugging, torch

if TYPE_CHECKING:
    from collections.abc import Callable


def sizes(**more: Any) -> list[dict[str, Any]]:
    """Two small sizes of an encoder."""
    rows = [(97, 24, 40, 1, 4, 33), (120, 32, 56, 2, 8, 50)]
    keys = (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "max_position_embeddings",
    )  # fmt: skip
    return [dict(zip(keys, row, strict=True)) | more for row in rows]


def mpnet() -> list[Case]:
    """MPNet bare, and with its language model."""
    small, large = sizes(num_labels=5)
    return [
        hugging("mpnet", "MPNetModel", "MPNetConfig", **large, relative_attention_num_buckets=16),
        hugging("mpnet", "MPNetForMaskedLM", "MPNetConfig", **small),
    ]


def electra() -> list[Case]:
    """ELECTRA, its embeddings as wide as its layers and wider."""
    small, large = sizes(num_labels=5)
    same = {**large, "embedding_size": large["hidden_size"]}
    crossed = {
        **small,
        "embedding_size": 48,
        "is_decoder": True,
        "add_cross_attention": True,
        "tie_word_embeddings": False,
    }
    return [
        hugging("electra", "ElectraModel", "ElectraConfig", label="same", **same),
        hugging("electra", "ElectraForCausalLM", "ElectraConfig", label="crossed", **crossed),
        hugging("electra", "ElectraForMultipleChoice", "ElectraConfig", **same),
    ]


def albert() -> list[Case]:
    """ALBERT, its layers in one group and in two."""
    small, large = sizes(num_labels=5, embedding_size=16)
    grouped = {**large, "num_hidden_groups": 2, "inner_group_num": 2, "num_hidden_layers": 4}
    return [
        hugging("albert", "AlbertModel", "AlbertConfig", **grouped),
        hugging("albert", "AlbertForPreTraining", "AlbertConfig", **small),
    ]


def deberta_v2() -> list[Case]:
    """DeBERTa with all that its switches add, and with none of it."""
    small, large = sizes(num_labels=5)
    second = {
        "relative_attention": True, "position_buckets": 10, "norm_rel_ebd": "layer_norm",
        "pos_att_type": "p2c|c2p", "position_biased_input": False, "conv_kernel_size": 3, "conv_groups": 2,
        "type_vocab_size": 2, "legacy": False,
    }  # fmt: skip
    narrow = {**small, "embedding_size": 16}
    return [
        hugging("deberta_v2", "DebertaV2ForMaskedLM", "DebertaV2Config", label="v2", **large, **second),
        hugging("deberta_v2", "DebertaV2ForMaskedLM", "DebertaV2Config", label="narrow", **narrow),
    ]


def deberta() -> list[Case]:
    """The first DeBERTa with all that its switches add."""
    small, _ = sizes(num_labels=5)
    base: dict[str, Any] = {
        "relative_attention": True, "pos_att_type": "c2p|p2c", "position_biased_input": False, "talking_head": True,
    }  # fmt: skip
    return [
        hugging("deberta", "DebertaForSequenceClassification", "DebertaConfig", **small, **base),
    ]


def modernbert() -> list[Case]:
    """ModernBERT with all of its biases, and without."""
    tokens = dict.fromkeys(("pad_token_id", "cls_token_id", "sep_token_id", "bos_token_id", "eos_token_id"), 0)
    small, large = sizes(num_labels=5, **tokens)
    biases: dict[str, Any] = dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"), True)
    return [
        hugging("modernbert", "ModernBertForMaskedLM", "ModernBertConfig", **large, **biases),
        hugging("modernbert", "ModernBertForSequenceClassification", "ModernBertConfig", **small),
    ]


def bart() -> list[Case]:
    """mBART, which has all that BART has, BART's decoder, and M2M100, which stores no positions."""
    keys = (
        "vocab_size", "d_model", "encoder_layers", "decoder_layers", "encoder_ffn_dim", "decoder_ffn_dim",
        "max_position_embeddings",
    )  # fmt: skip
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 8, "num_labels": 5}
    small: dict[str, Any] = dict(zip(keys, (97, 24, 1, 2, 40, 56, 33), strict=True)) | heads
    return [
        hugging("bart", "MBartForConditionalGeneration", "MBartConfig", **small, tie_word_embeddings=False),
        hugging("bart", "BartForCausalLM", "BartConfig", **small),
        hugging("bart", "M2M100ForConditionalGeneration", "M2M100Config", **small),
    ]


def wav2vec2() -> list[Case]:
    """wav2vec 2.0 with the weight norm of earlier torch, and with all of its adapters."""
    small: dict[str, Any] = {
        "vocab_size": 30, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 40,
        "conv_dim": [8, 12], "conv_kernel": [5, 3], "conv_stride": [5, 2], "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 4, "num_labels": 5, "classifier_proj_size": 18,
    }  # fmt: skip
    normed = {**small, "feat_extract_norm": "layer", "conv_bias": True, "num_hidden_layers": 2, "hidden_size": 32}
    adapted = {
        **normed, "do_stable_layer_norm": True, "adapter_attn_dim": 7, "add_adapter": True, "output_hidden_size": 20,
        "num_adapter_layers": 2,
    }  # fmt: skip
    model = hugging("wav2vec2", "Wav2Vec2ForCTC", "Wav2Vec2Config", **small)
    return [
        Case("wav2vec2", "weight_norm", partial(earlier, model.build), model.config),
        hugging("wav2vec2", "Wav2Vec2ForCTC", "Wav2Vec2Config", label="adapted", **adapted),
    ]


def earlier(build: Callable[[], Any]) -> Any:
    """A model with the weight norm of earlier torch."""
    made = build()
    positions = made.wav2vec2.encoder.pos_conv_embed
    old = positions.conv
    new = torch.nn.Conv1d(old.in_channels, old.out_channels, *old.kernel_size, groups=old.groups)
    positions.conv = torch.nn.utils.weight_norm(new, dim=2)
    return made


def xlnet() -> list[Case]:
    """XLNet with its language model, and with heads of several parts."""
    small: dict[str, Any] = {"vocab_size": 97, "d_model": 24, "n_layer": 1, "n_head": 4, "d_inner": 40, "num_labels": 5}
    large: dict[str, Any] = {"vocab_size": 120, "d_model": 32, "n_layer": 2, "n_head": 8, "d_inner": 56, "d_head": 4}
    return [
        hugging("xlnet", "XLNetLMHeadModel", "XLNetConfig", **large),
        hugging("xlnet", "XLNetForSequenceClassification", "XLNetConfig", **small),
        hugging("xlnet", "XLNetForQuestionAnswering", "XLNetConfig", **small),
    ]


def kin() -> list[Case]:
    """Models with the names of those in other files, or nearly so."""
    small, _ = sizes(num_labels=5, type_vocab_size=2)
    t5: dict[str, Any] = {
        "vocab_size": 97, "d_model": 24, "d_kv": 6, "d_ff": 40, "num_layers": 2, "num_decoder_layers": 1,
        "num_heads": 4, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
    }  # fmt: skip
    untyped = {key: value for key, value in small.items() if key != "type_vocab_size"}
    first = hugging("bert", "BertForPreTraining", "BertConfig", **small)
    return [
        Case("bert", "gamma", partial(tensorflow_names, first.build), first.config),
        hugging("roberta", "Data2VecTextForMaskedLM", "Data2VecTextConfig", **small),
        hugging("t5", "UMT5ForConditionalGeneration", "UMT5Config", **t5),
        hugging("t5", "T5ForQuestionAnswering", "T5Config", **t5, num_labels=2),
        hugging("t5", "T5ForTokenClassification", "T5Config", **t5),
        hugging("bert", "BertGenerationEncoder", "BertGenerationConfig", **untyped),
        hugging("bert", "BertGenerationDecoder", "BertGenerationConfig", **untyped, is_decoder=True),
        Case("bert", "dpr", hugging("bert", "DPRQuestionEncoder", "DPRConfig", **small).build),
    ]


def tensorflow_names(build: Callable[[], Any]) -> Any:
    """A BERT with the names of the first files, which were made from TensorFlow's."""
    made = build()
    for module in made.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.gamma, module.beta = module.weight, module.bias
            del module.weight, module.bias
    return made
