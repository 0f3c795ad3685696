"""Small models of transformers' classes for every architecture that ``--translate gguf`` knows."""

from __future__ import annotations

from typing import Any

LAYERS, HIDDEN, FFN, HEADS, KV, VOCAB, EXPERTS = 2, 64, 96, 4, 2, 40, 3

SIZES: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": HIDDEN, "intermediate_size": FFN, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "num_key_value_heads": KV, "max_position_embeddings": 32, "pad_token_id": 0,
    "tie_word_embeddings": False,
}  # fmt: skip
HEAD = {"head_dim": HIDDEN // HEADS}
MOE = {"num_experts": EXPERTS, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 1}
LOCAL = {"num_local_experts": EXPERTS, "num_experts_per_tok": 2}
ROUTED = {"n_routed_experts": EXPERTS, "first_k_dense_replace": 1, "moe_intermediate_size": 32, "n_shared_experts": 1}
LATENT = {"kv_lora_rank": 32, "q_lora_rank": 20, "qk_rope_head_dim": 8, "v_head_dim": 16, "qk_nope_head_dim": 32}
GPT = {"vocab_size": VOCAB, "n_positions": 32, "n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS}
T5 = {"vocab_size": VOCAB, "d_model": HIDDEN, "d_kv": 16, "d_ff": FFN, "num_layers": LAYERS, "num_heads": HEADS}
BLOOM = {"vocab_size": VOCAB, "hidden_size": HIDDEN, "n_layer": LAYERS, "n_head": HEADS}
FALCON = {"vocab_size": VOCAB, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
MAMBA = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": LAYERS, "state_size": 8, "intermediate_size": 64}
HYBRID = {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
          "mamba_d_state": 8, "use_mamba_kernels": False}  # fmt: skip
STATES = {"shared_intermediate_size": 32, "layer_types": ["mamba", "attention"], "mamba_n_heads": 8, "mamba_d_head": 16,
          "mamba_n_groups": 2, "mamba_d_state": 8}  # fmt: skip
LINEAR = {"linear_num_value_heads": 6, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 16,
          "layer_types": ["linear_attention", "full_attention"], "shared_expert_intermediate_size": 32}  # fmt: skip
PICTURES = {"vision_config": {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2}}
GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "afmoe": ("AfmoeForCausalLM", SIZES | HEAD | MOE | {"num_dense_layers": 1}),
    "arcee": ("ArceeForCausalLM", SIZES),
    "bert": ("BertModel", SIZES),
    "bloom": ("BloomForCausalLM", BLOOM),
    "cohere2": ("Cohere2ForCausalLM", SIZES | {"tie_word_embeddings": True}),
    "command-r": ("CohereForCausalLM", SIZES | {"use_qk_norm": True, "tie_word_embeddings": True}),
    "deepseek2": ("DeepseekV3ForCausalLM", SIZES | LATENT | ROUTED | {"n_group": 1, "topk_group": 1}),
    "deepseek2 V2": ("DeepseekV2ForCausalLM", SIZES | LATENT | ROUTED | {"q_lora_rank": None}),
    "dots1": ("Dots1ForCausalLM", SIZES | HEAD | ROUTED),
    "ernie4_5": ("Ernie4_5ForCausalLM", SIZES | HEAD | {"use_bias": True}),
    "ernie4_5-moe": ("Ernie4_5_MoeForCausalLM", SIZES | {"moe_num_experts": EXPERTS, "moe_num_shared_experts": 1,
                     "moe_layer_start_index": 1, "moe_intermediate_size": 32}),
    "eurobert": ("EuroBertModel", SIZES),
    "exaone4": ("Exaone4ForCausalLM", SIZES),
    "exaone-moe": ("ExaoneMoeForCausalLM", SIZES | MOE | {"first_k_dense_replace": 1}),
    "falcon": ("FalconForCausalLM", FALCON | {"num_kv_heads": 2, "new_decoder_architecture": True}),
    "falcon 7B": ("FalconForCausalLM", FALCON | {"multi_query": True, "bias": True}),
    "gemma": ("GemmaForCausalLM", SIZES | HEAD | {"tie_word_embeddings": True}),
    "gemma2": ("Gemma2ForCausalLM", SIZES | HEAD | {"tie_word_embeddings": True}),
    "gemma3": ("Gemma3ForCausalLM Gemma3TextConfig", SIZES | HEAD),
    "gemma4": ("Gemma4ForCausalLM Gemma4TextConfig", SIZES | HEAD | {"vocab_size_per_layer_input": VOCAB,
               "hidden_size_per_layer_input": 8, "global_head_dim": 32}),
    "gemma4 MoE": ("Gemma4ForCausalLM Gemma4TextConfig", SIZES | HEAD | {"hidden_size_per_layer_input": 0,
                   "enable_moe_block": True, "num_experts": EXPERTS, "top_k_experts": 2, "moe_intermediate_size": 32}),
    "gemma-embedding": ("Gemma3TextModel Gemma3TextConfig", SIZES | HEAD),
    "glm4": ("Glm4ForCausalLM", SIZES | HEAD),
    "glm4moe": ("Glm4MoeForCausalLM", SIZES | HEAD | ROUTED | {"use_qk_norm": True}),
    "gpt2": ("GPT2LMHeadModel", GPT | {"tie_word_embeddings": False}),
    "gpt-oss": ("GptOssForCausalLM", SIZES | HEAD | LOCAL),
    "gptneox": ("GPTNeoXForCausalLM", SIZES),
    "granite": ("GraniteForCausalLM", SIZES),
    "granitemoe": ("GraniteMoeSharedForCausalLM", SIZES | LOCAL | {"shared_intermediate_size": 32}),
    "granitehybrid": ("GraniteMoeHybridForCausalLM", SIZES | LOCAL | STATES),
    "granitehybrid dense": ("GraniteMoeHybridForCausalLM", SIZES | STATES | {"num_local_experts": 0}),
    "hunyuan-dense": ("HunYuanDenseV1ForCausalLM", SIZES | HEAD),
    "hunyuan-moe": ("HunYuanMoEV1ForCausalLM", SIZES | HEAD | {"num_experts": EXPERTS, "moe_topk": 2}),
    "jamba": ("JambaForCausalLM", SIZES | HYBRID | {"num_experts": EXPERTS}),
    "lfm2": ("Lfm2ForCausalLM", SIZES | {"full_attn_idxs": [1], "tie_word_embeddings": True}),
    "lfm2moe": ("Lfm2MoeForCausalLM", SIZES | MOE | {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1,
                "tie_word_embeddings": True}),
    "llama": ("LlamaForCausalLM", SIZES),
    "llama Mixtral": ("MixtralForCausalLM", SIZES | LOCAL),
    "llama4": ("Llama4ForCausalLM Llama4TextConfig", SIZES | HEAD | LOCAL | {"interleave_moe_layer_step": 2,
               "intermediate_size_mlp": 48}),
    "mamba": ("MambaForCausalLM", MAMBA),
    "mamba Falcon": ("FalconMambaForCausalLM", MAMBA),
    "mamba2": ("Mamba2ForCausalLM", MAMBA | {"num_heads": 4, "head_dim": 16, "n_groups": 2}),
    "minimax-m2": ("MiniMaxM2ForCausalLM", SIZES | HEAD | LOCAL),
    "mistral3": ("Ministral3ForCausalLM", SIZES | HEAD),
    "modern-bert": ("ModernBertModel", SIZES),
    "mpt": ("MptForCausalLM", {"d_model": HIDDEN, "n_heads": HEADS, "n_layers": LAYERS, "vocab_size": VOCAB}),
    "nemotron": ("NemotronForCausalLM", SIZES),
    "nomic-bert": ("NomicBertModel", SIZES),
    "olmo": ("OlmoForCausalLM", SIZES),
    "olmo2": ("Olmo2ForCausalLM", SIZES),
    "olmoe": ("OlmoeForCausalLM", SIZES | MOE),
    "phi2": ("PhiForCausalLM", SIZES),
    "phi3": ("Phi3ForCausalLM", SIZES),
    "phimoe": ("PhimoeForCausalLM", SIZES | LOCAL | {"lm_head_bias": True, "attention_bias": True}),
    "qwen2": ("Qwen2ForCausalLM", SIZES),
    "qwen2moe": ("Qwen2MoeForCausalLM", SIZES | MOE | {"shared_expert_intermediate_size": 32}),
    "qwen2vl": ("Qwen2_5_VLForConditionalGeneration", PICTURES | {"text_config": SIZES}),
    "qwen3": ("Qwen3ForCausalLM", SIZES | HEAD),
    "qwen3moe": ("Qwen3MoeForCausalLM", SIZES | HEAD | MOE),
    "qwen3next": ("Qwen3NextForCausalLM", SIZES | HEAD | MOE | LINEAR),
    "qwen35": ("Qwen3_5ForConditionalGeneration", PICTURES | {"text_config": SIZES | HEAD | LINEAR}),
    "qwen35 1:1": ("Qwen3_5ForConditionalGeneration", PICTURES | {"text_config": SIZES | HEAD | LINEAR | {
                   "linear_num_value_heads": 2}}),
    "qwen35moe": ("Qwen3_5MoeForConditionalGeneration", PICTURES | {"text_config": SIZES | HEAD | MOE | LINEAR}),
    "qwen3vlmoe": ("Qwen3VLMoeForConditionalGeneration", PICTURES | {"text_config": SIZES | HEAD | MOE}),
    "qwen3vl": ("Qwen3VLForConditionalGeneration", PICTURES | {"text_config": SIZES | HEAD}),
    "seed_oss": ("SeedOssForCausalLM", SIZES | HEAD),
    "smollm3": ("SmolLM3ForCausalLM", SIZES),
    "stablelm": ("StableLmForCausalLM", SIZES | {"use_qkv_bias": True}),
    "starcoder": ("GPTBigCodeForCausalLM", GPT),
    "starcoder2": ("Starcoder2ForCausalLM", SIZES | {"use_bias": True}),
    "t5": ("T5ForConditionalGeneration", T5 | GATED),
    "t5 umT5": ("UMT5ForConditionalGeneration", T5 | GATED),
    "t5encoder": ("T5EncoderModel", T5 | {"feed_forward_proj": "relu"}),
}  # fmt: skip
BY_TRANSFORMERS = (
    "bloom", "falcon 7B", "gemma2", "gemma3", "gemma4", "gpt2", "lfm2", "llama", "mamba", "minimax-m2", "nemotron",
    "phi3", "qwen2", "qwen2moe", "qwen3", "qwen3moe", "stablelm", "starcoder2", "t5", "t5 umT5", "t5encoder",
)  # fmt: skip
"""What transformers reads. It reads Falcon's larger models too, and leaves their rows as llama.cpp has them."""
