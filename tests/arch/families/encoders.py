"""BERT and its kin."""

from __future__ import annotations

from tests.arch.real_models import Case, encoder_sizes, hugging


def encoders() -> list[Case]:
    """BERT, RoBERTa, DistilBERT with each head."""
    heads = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
    more = {"Bert": ("ForPreTraining", "ForNextSentencePrediction", "ForMultipleChoice"), "Roberta": ("ForCausalLM",)}
    cases: list[Case] = []
    for family in ("Bert", "Roberta"):
        for head in (*heads, *more[family]):
            for size, options in enumerate(encoder_sizes(type_vocab_size=2, num_labels=5)):
                if size == 0 or head in heads[:3]:
                    cases.append(
                        hugging(family.lower(), f"{family}{head}", f"{family}Config", label=str(size), **options)
                    )
    for head in heads:
        for size, (width, layers) in enumerate(((24, 1), (32, 3), (48, 2))):
            options = {
                "vocab_size": 97 + size, "dim": width, "n_layers": layers, "n_heads": 4, "hidden_dim": 40 + 9 * size,
                "max_position_embeddings": 33 + size, "num_labels": 2,
            }  # fmt: skip
            if size == 0 or head in heads[:3]:
                cases.append(hugging("distilbert", f"DistilBert{head}", "DistilBertConfig", label=str(size), **options))
    return cases
