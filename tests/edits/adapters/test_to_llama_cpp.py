"""Adapters of PEFT's as llama.cpp loads them: what its converter makes of them, and what a weight becomes by theirs."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import pytest
import torch

from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import TensorInfo, in_memory
from ckptconv.edits.apply import apply
from ckptconv.edits.dialects.gguf_table import architectures
from ckptconv.edits.translate import changes_in, translation
from ckptconv.errors import EditError, UnsupportedError
from tests.edits.dialects.llama_cpp import converted
from tests.edits.dialects.test_of_gguf import Case
from tests.edits.dialects.test_to_gguf import config_of, lazy, made

if TYPE_CHECKING:
    from ckptconv.core.tensor import LazyTensor

CASES: dict[str, Any] = json.loads(
    (Path(__file__).parents[3] / "fixtures" / "others" / "llama-cpp-adapters.json").read_text("utf-8")
)


def values(name: str, shape: list[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """As fixtures/others/make_lora_gguf.py has them."""
    numbers = (np.arange(np.prod(shape), dtype=np.int64) * 37 + crc32(name.encode())) % 1013 - 506
    return (numbers.astype(np.float32) / np.float32(512)).reshape(shape)


def adapter(case: str) -> dict[str, LazyTensor]:
    return {
        name: in_memory(TensorInfo.of(DType.F32, tuple(shape)), values(name, shape).tobytes(), name)
        for name, shape in CASES[case]["shapes"].items()
    }


@pytest.mark.parametrize("case", CASES)
def test_it_is_what_llama_cpp_makes(case: str) -> None:
    found = made(adapter(case), "to-gguf", CASES[case]["config"])
    assert {
        name: [list(one.info.shape[::-1]), sha256(one.numpy().tobytes()).hexdigest()[:16]]
        for name, one in found.items()
    } == CASES[case]["tensors"]


RANK = 2
LAYOUTS = (
    "llama", "llama Mixtral", "gpt2", "falcon", "bloom", "gptneox", "granitemoe", "granitehybrid", "phi3", "gemma3",
    "olmo", "mamba2", "lfm2", "starcoder", "qwen3moe", "qwen3next", "qwen35", "qwen35moe", "qwen3vl",
)  # fmt: skip
CONV1D = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


def adapted(case: Case) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Factors for every matrix of a layer, and what they are multiplied; of GPT-2's as it has the weight, turned."""
    factors: dict[str, torch.Tensor] = {}
    products: dict[str, torch.Tensor] = {}
    generator = torch.Generator().manual_seed(0)
    for name, weight in case.state.items():
        if weight.ndim != 2 or not name.endswith(".weight") or not any(part.isdecimal() for part in name.split(".")):
            continue
        turned = case.arch == "gpt2" and name.endswith(CONV1D)
        outputs, inputs = weight.shape[::-1] if turned else weight.shape
        a = torch.randint(-8, 8, (RANK, inputs), generator=generator).float()
        b = torch.randint(-8, 8, (outputs, RANK), generator=generator).float()
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        factors |= {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b}
        products[name] = (b @ a).T if turned else b @ a
    return factors, products


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_product_is_what_llama_cpp_makes_of_the_weight(name: str) -> None:
    case = Case(name)
    factors, products = adapted(case)
    stored = converted(case.arch, products, case.config)
    found = made(lazy(factors), "to-gguf", config_of(case))
    assert found.keys() == {f"{key}.{factor}" for key in stored for factor in ("lora_a", "lora_b")}
    for key, tensor in stored.items():
        a, b = found[f"{key}.lora_a"].numpy(), found[f"{key}.lora_b"].numpy()
        assert np.array_equal((b @ a).reshape(tensor.shape), tensor.numpy()), key


PEFTS = "base_model.model."
Q = f"{PEFTS}model.layers.0.self_attn.q_proj"
EMBEDDING = f"{PEFTS}model.embed_tokens.lora_embedding_"


def config(architecture: str = "Qwen2ForCausalLM", **more: Any) -> dict[object, object]:
    usual: dict[object, object] = {"architectures": [architecture], "num_attention_heads": 2}
    return usual | more


def factors(stem: str = Q, /, **more: torch.Tensor) -> dict[str, torch.Tensor]:
    return {f"{stem}.lora_A.weight": torch.ones(2, 4), f"{stem}.lora_B.weight": torch.ones(4, 2), **more}


EXPERT = f"{PEFTS}model.layers.0.block_sparse_moe.experts.{{}}.w1"
MIXTRAL = config("MixtralForCausalLM", num_local_experts=2)


@pytest.mark.parametrize(
    ("tensors", "said", "error", "words"),
    [
        (factors(**{f"{Q}.lora_magnitude_vector": torch.ones(4)}), config(), UnsupportedError, "is a DoRA's"),
        (factors(**{f"{Q}.lora_B.bias": torch.ones(4)}), config(), UnsupportedError, "is a LoRA bias"),
        (factors(**{f"{Q}.base_layer.bias": torch.ones(4)}), config(), UnsupportedError, "replaces the base"),
        (factors(**{f"{PEFTS}lm_head.weight": torch.ones(4)}), config(), UnsupportedError, "replaces the"),
        ({f"{Q}.hada_w1_a": torch.ones(2, 2)}, config(), UnsupportedError, "is LoHa, which llama.cpp does not load"),
        ({f"{Q}.lora_A.weight": torch.ones(2, 4)}, config(), EditError, "has no up beside down"),
        (
            {f"{Q}.lora_A.weight": torch.ones(2, 4), f"{Q}.lora_B.weight": torch.ones(4, 3)},
            config(), EditError, "which are of two ranks",
        ),
        (
            {f"{Q}.lora_A.weight": torch.ones(2, 4, 1), f"{Q}.lora_B.weight": torch.ones(4, 2)},
            config(), UnsupportedError, "takes factors that are matrices",
        ),
        (factors(f"{PEFTS}model.layers.0.extra"), config(), EditError, "no place for 'model.layers.0.extra.weight'"),
        (factors(f"{PEFTS}model.visual.proj"), config("Qwen2VLForConditionalGeneration"), EditError, "no place for"),
        (factors(f"{PEFTS}lm_head"), config(tie_word_embeddings=True), UnsupportedError, "embeddings are the output"),
        (factors(f"{PEFTS}lm_head"), config("GemmaForCausalLM"), UnsupportedError, "the embeddings are the output too"),
        (
            {f"{EMBEDDING}A": torch.ones(2, 4), f"{EMBEDDING}B": torch.ones(4, 2)},
            config(tie_word_embeddings=True), UnsupportedError, "takes no adapter of 'model.embed_tokens.weight'",
        ),
        (
            {f"{PEFTS}transformer.wpe.lora_embedding_{end}": torch.ones(2, 2) for end in "AB"},
            config("GPT2LMHeadModel"), UnsupportedError, "adapts that of tokens alone",
        ),
        (factors(), config("DeepseekV3ForCausalLM"), UnsupportedError, "computes attn_q without adapters"),
        (factors(EXPERT.format(0)), MIXTRAL, EditError, "is made of 2 experts, and there are 1"),
        (
            {**factors(EXPERT.format(0)), f"{EXPERT.format(1)}.lora_A.weight": torch.ones(3, 4),
             f"{EXPERT.format(1)}.lora_B.weight": torch.ones(4, 3)},
            MIXTRAL, UnsupportedError, "has the factors of all experts in one tensor",
        ),
        (factors(), config("RwkvModel"), UnsupportedError, "does not know how llama.cpp has a 'RwkvModel'"),
        (factors(), {}, EditError, "no configuration says which transformers class"),
    ],
)  # fmt: skip
def test_what_llama_cpp_cannot_is_refused_by_name(
    tensors: dict[str, torch.Tensor], said: dict[object, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        translation("to-gguf", lazy(tensors), said)


def test_the_base_s_own_weight_is_left_out_and_reported() -> None:
    copy = f"{PEFTS}model.embed_tokens.base_layer.weight"
    tensors = lazy(factors(**{copy: torch.ones(4, 4)}))
    changes = changes_in("to-gguf", {name: one.info for name, one in tensors.items()}, config())
    assert [(name, one.note) for name, one in changes.items() if one.dropped] == [
        (copy, f"the base's own {copy}, which PEFT saved beside its factors, is left out")
    ]
    assert made(tensors, "to-gguf", config()).keys() == {"blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b"}


def test_factors_keep_their_type_or_become_f32() -> None:
    a, b = torch.ones(2, 4, dtype=torch.bfloat16), torch.ones(4, 2, dtype=torch.float64)
    found = apply(
        lazy({f"{Q}.lora_A.weight": a, f"{Q}.lora_B.weight": b}),
        translation("to-gguf", lazy({f"{Q}.lora_A.weight": a, f"{Q}.lora_B.weight": b}), config()),
    )
    assert [one.info.dtype for one in found.values()] == [DType.BF16, DType.F32]


def test_what_is_computed_without_adapters_is_known_for_architectures_that_are_written() -> None:
    assert all(one.classes for one in architectures().values() if one.unadapted)
