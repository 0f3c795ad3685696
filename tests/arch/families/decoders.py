"""Language models: Llama and its kin, Mixtral, GPT-2."""

from __future__ import annotations

from typing import Any

from tests.arch.real_models import Case, decoder_sizes, hugging


def decoders() -> list[Case]:
    """Llama, Mistral, Qwen2, Qwen3, Gemma 1 to 3, Mixtral."""
    cases: list[Case] = []
    for size, tied in zip(range(3), (False, True, False), strict=True):
        plain = decoder_sizes(tie_word_embeddings=tied)[size]
        for spec, name, config in (
            ("llama", "LlamaForCausalLM", "LlamaConfig"),
            ("llama", "MistralForCausalLM", "MistralConfig"),
            ("llama", "Qwen2ForCausalLM", "Qwen2Config"),
            ("mixtral", "MixtralForCausalLM", "MixtralConfig"),
        ):
            experts = {"num_local_experts": 3 + size} if spec == "mixtral" else {}
            cases.append(hugging(spec, name, config, label=str(size), **plain, **experts))
        for spec, name, config in (
            ("llama", "Qwen3ForCausalLM", "Qwen3Config"),
            ("gemma", "GemmaForCausalLM", "GemmaConfig"),
            ("gemma", "Gemma2ForCausalLM", "Gemma2Config"),
            ("gemma", "Gemma3ForCausalLM", "Gemma3TextConfig"),
        ):
            cases.append(hugging(spec, name, config, label=str(size), **plain, head_dim=8 + 2 * size))
    bare = decoder_sizes()[0]
    kinds: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("GemmaModel", "GemmaConfig", {}),
        ("Gemma3TextModel", "Gemma3TextConfig", {}),
        ("Gemma2ForTokenClassification", "Gemma2Config", {"num_labels": 5}),
        ("Gemma3TextForSequenceClassification", "Gemma3TextConfig", {"num_labels": 5}),
    )
    for name, config, more in kinds:
        cases.append(hugging("gemma", name, config, **bare, head_dim=8, **more))
    biased = decoder_sizes(attention_bias=True, mlp_bias=True)[1]
    cases.append(hugging("llama", "LlamaForCausalLM", "LlamaConfig", label="biases", **biased))
    return cases


def gpt2() -> list[Case]:
    """GPT-2 with and without its head, three sizes."""
    cases: list[Case] = []
    for size, (width, layers, inner) in enumerate(((24, 1, None), (32, 3, 100), (48, 2, None))):
        options: dict[str, Any] = {
            "vocab_size": 97 + size, "n_embd": width, "n_layer": layers, "n_head": 4, "n_positions": 20 + size,
            "n_inner": inner, "bos_token_id": 0, "eos_token_id": 0,
        }  # fmt: skip
        for name in ("GPT2LMHeadModel", "GPT2Model", "GPT2ForSequenceClassification"):
            cases.append(hugging("gpt2", name, "GPT2Config", label=str(size), **options))
    for name in ("GPT2ForTokenClassification", "GPT2ForQuestionAnswering"):
        cases.append(hugging("gpt2", name, "GPT2Config", **options, num_labels=2))
    untied = {
        "vocab_size": 97,
        "n_embd": 24,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 20,
        "tie_word_embeddings": False,
    }
    cases.append(hugging("gpt2", "GPT2LMHeadModel", "GPT2Config", label="untied", **untied))
    return cases
