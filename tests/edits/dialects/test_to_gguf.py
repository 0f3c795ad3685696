"""transformers' names and layouts as llama.cpp has them: what its converter makes of them, and the way back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import TensorInfo, in_memory
from ckptconv.edits.apply import apply
from ckptconv.edits.dialects.gguf_table import architectures, by_class
from ckptconv.edits.dialects.to_gguf import is_kept_f32
from ckptconv.edits.translate import changes_in, left_alone, translation
from ckptconv.errors import EditError, UnsupportedError
from tests.edits.dialects.gguf_cases import CASES
from tests.edits.dialects.test_of_gguf import Case

if TYPE_CHECKING:
    from ckptconv.core.tensor import LazyTensor

WRITTEN = [case for case in CASES if CASES[case][0].partition(" ")[0] in by_class()]


def lazy(state: dict[str, torch.Tensor]) -> dict[str, LazyTensor]:
    types = {torch.float32: DType.F32, torch.bfloat16: DType.BF16, torch.float64: DType.F64, torch.int8: DType.I8}
    return {
        name: in_memory(TensorInfo.of(types[one.dtype], tuple(one.shape)), one.view(torch.uint8).numpy().tobytes()
                        if one.ndim else one.numpy().tobytes(), name)
        for name, one in state.items()
    }  # fmt: skip


def made(tensors: dict[str, LazyTensor], dialect: str, said: dict[object, object]) -> dict[str, LazyTensor]:
    return apply(tensors, translation(dialect, tensors, said))


def config_of(case: Case) -> dict[object, object]:
    return {**case.config.to_dict(), "architectures": [CASES[case.name][0].partition(" ")[0]]}


def entries(case: Case) -> dict[object, object]:
    """What the way back has to know."""
    heads = getattr(case.config, "num_attention_heads", 1)
    groups = getattr(case.config, "num_key_value_heads", None) or heads
    if case.arch == "falcon":
        groups = case.config.num_kv_heads if case.config.new_decoder_architecture else 1
    said = {"attention.head_count": heads, "attention.head_count_kv": groups}
    if hasattr(case.config, "linear_num_value_heads"):
        said |= {"ssm.group_count": case.config.linear_num_key_heads, "ssm.state_size": case.config.linear_key_head_dim}
        said |= {"ssm.time_step_rank": case.config.linear_num_value_heads}
        said |= {"ssm.inner_size": case.config.linear_num_value_heads * case.config.linear_value_head_dim}
    return {"general.architecture": case.arch, **{f"{case.arch}.{key}": said[key] for key in said}}


def assert_equal(key: str, found: Any, wanted: Any) -> None:
    """The same bits; of an exponential, and of its logarithm, torch's may be others than the nearest."""
    assert found.shape == wanted.shape, key
    if key.endswith(("ssm_a", "A_log")):
        np.testing.assert_allclose(found, wanted, 1e-6, 1e-6)
    else:
        assert np.array_equal(found, wanted), key


def test_every_architecture_that_is_written_has_a_case() -> None:
    assert {case.split(" ")[0] for case in WRITTEN} == {n for n, one in architectures().items() if one.classes}


@pytest.mark.parametrize("name", WRITTEN)
def test_it_is_what_llama_cpp_makes_and_goes_back(name: str) -> None:
    case = Case(name)
    found = made(lazy(case.state), "to-gguf", config_of(case))
    assert found.keys() == case.stored.keys()
    for key, tensor in case.stored.items():
        assert_equal(key, found[key].numpy(), tensor.numpy())
    back = made(found, "gguf", entries(case))
    assert back.keys() == case.expected().keys()
    for key, tensor in case.expected().items():
        assert_equal(key, back[key].numpy(), tensor.numpy())


@pytest.mark.parametrize(
    ("case", "inside", "old", "new"),
    [
        ("bert", "bert.", "embeddings.word_embeddings.weight", "token_embd.weight"),
        ("gpt2", "", "h.1.attn.c_attn.bias", "blk.1.attn_qkv.bias"),
        ("qwen3", "", "layers.1.self_attn.q_norm.weight", "blk.1.attn_q_norm.weight"),
    ],
)
def test_names_of_a_class_around_it_or_in_it(case: str, inside: str, old: str, new: str) -> None:
    """BertForMaskedLM has all of BertModel within ``bert``; GPT2Model has no ``transformer``."""
    one = Case(case)
    cut = {"gpt2": "transformer.", "qwen3": "model."}.get(case, "")
    state = {inside + name.removeprefix(cut): tensor for name, tensor in one.state.items()}
    changes = changes_in("to-gguf", {k: t.info for k, t in lazy(state).items()}, config_of(one))
    assert changes[inside + old].names == (new,)
    assert [k for k, change in changes.items() if change.dropped] == [k for k in state if "pooler" in k]


def small(**more: torch.Tensor) -> dict[str, torch.Tensor]:
    embeddings = torch.arange(8, dtype=torch.bfloat16).reshape(4, 2)
    return {"model.embed_tokens.weight": embeddings, "model.norm.weight": torch.ones(2, dtype=torch.bfloat16), **more}


def config(architecture: str = "Qwen2ForCausalLM", **more: Any) -> dict[object, object]:
    usual: dict[object, object] = {"architectures": [architecture], "num_attention_heads": 2}
    return usual | more


def test_vectors_are_f32_and_matrices_stay_what_they_are() -> None:
    more = {"model.layers.0.self_attn.q_proj.weight": torch.ones(2, 2, dtype=torch.float64)}
    found = made(lazy(small(**more)), "to-gguf", config())
    assert {name: one.info.dtype.name for name, one in found.items()} == {
        "token_embd.weight": "BF16", "output_norm.weight": "F32", "blk.0.attn_q.weight": "F32",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "rank", "kept"),
    [
        ("blk.0.ffn_gate_inp.weight", 2, True), ("blk.0.attn_q.weight", 2, False), ("blk.0.attn_q.bias", 1, True),
        ("position_embd.weight", 2, True), ("token_embd.weight", 2, False), ("blk.0.attn_q_norm.weight", 2, True),
        ("blk.3.ssm_a", 2, True), ("blk.0.ffn_up_exps.weight", 3, False),
    ],
)  # fmt: skip
def test_which_are_f32_in_every_file(name: str, rank: int, kept: bool) -> None:
    assert is_kept_f32(name, rank) is kept


def test_an_output_that_is_the_embeddings_is_left_out() -> None:
    state = small(**{"lm_head.weight": small()["model.embed_tokens.weight"].clone()})
    assert "output.weight" not in made(lazy(state), "to-gguf", config())
    assert "output.weight" not in made(lazy(state), "to-gguf", config(tie_word_embeddings=True))
    state["lm_head.weight"] += 1
    assert "output.weight" in made(lazy(state), "to-gguf", config())


def test_an_output_that_ought_to_be_the_embeddings_and_is_not_is_refused() -> None:
    state = small(**{"lm_head.weight": small()["model.embed_tokens.weight"] + 1})
    with pytest.raises(
        EditError, match=r"'lm_head\.weight' has other values than 'model\.embed_tokens\.weight'"
    ) as error:
        made(lazy(state), "to-gguf", config(tie_word_embeddings=True))
    assert error.value.hint is not None
    assert error.value.hint.startswith("--drop lm_head.weight before --translate")


LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 2, "linear_value_head_dim": 2}
EXPERT = "model.layers.0.block_sparse_moe.experts.{}.w1.weight"


@pytest.mark.parametrize(
    ("more", "said", "error", "words"),
    [
        ({}, {"architectures": ["RwkvModel"]}, UnsupportedError, "does not know how llama.cpp has a 'RwkvModel'"),
        ({}, {}, EditError, "no configuration says which transformers class"),
        ({}, {"architectures": []}, EditError, "no configuration says which transformers class"),
        (
            {"score.weight": torch.ones(2, 2)},
            config(),
            EditError,
            r"llama.cpp's qwen2 has no place for 'score\.weight'",
        ),
        (
            {"model.layers.0.self_attn.q_proj.weight": torch.ones(2, 2, dtype=torch.int8)},
            config(),
            EditError,
            "is of I8, and not of floats",
        ),
        (
            {"model.layers.0.self_attn.q_proj.weight": torch.ones(6, 2)},
            config("LlamaForCausalLM"),
            EditError,
            "6 rows, which are no 2 heads of two halves",
        ),
        (
            {"model.layers.0.self_attn.q_proj.weight": torch.ones(4, 2)},
            {"architectures": ["LlamaForCausalLM"]},
            EditError,
            "the configuration says no num_attention_heads",
        ),
        (
            {"model.layers.0.linear_attn.in_proj_z.weight": torch.ones(6, 2)},
            config("Qwen3_5ForCausalLM", **LINEAR),
            EditError,
            "is 6 wide, and heads as the metadata says take 8",
        ),
        (
            {"model.layers.0.linear_attn.in_proj_qkvz.weight": torch.ones(6, 2)},
            config("Qwen3NextForCausalLM", **LINEAR),
            EditError,
            "is 6 wide, and heads as the metadata says take 24",
        ),
        (
            {"model.layers.0.linear_attn.in_proj_qkvz.weight": torch.ones(6, 2)},
            config("Qwen3NextForCausalLM", **LINEAR | {"linear_num_value_heads": 1 << 40}),
            EditError,
            "does not say how many heads its linear attention has",
        ),
        (
            {EXPERT.format(0): torch.ones(2, 2), EXPERT.format(2): torch.ones(2, 2)},
            config("MixtralForCausalLM", num_local_experts=3),
            EditError,
            "is made of 3 experts, and there are 2",
        ),
        (
            {EXPERT.format(0): torch.ones(2, 2)},
            config("MixtralForCausalLM", num_local_experts=1 << 40),
            EditError,
            "is made of 1099511627776 experts, and there are 1",
        ),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(
    more: dict[str, torch.Tensor], said: dict[object, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        made(lazy(small(**more)), "to-gguf", said)


PICTURES = "vision_tower.patch.weight"


@pytest.mark.parametrize(
    ("before", "head", "pictures"),
    [
        ("language_model.model.", "language_model.lm_head", PICTURES),
        ("model.language_model.", "lm_head", f"model.{PICTURES}"),
    ],
)
def test_of_a_model_with_pictures_its_language_model_is_taken(before: str, head: str, pictures: str) -> None:
    state = {before + name.removeprefix("model."): tensor for name, tensor in small().items()}
    state |= {pictures: torch.ones(2, 2), f"{head}.weight": torch.ones(4, 2)}
    said = config("Gemma3ForConditionalGeneration")
    infos = {name: tensor.info for name, tensor in lazy(state).items()}
    assert made(lazy(state), "to-gguf", said).keys() == {"token_embd.weight", "output_norm.weight", "output.weight"}
    told = [(one.code, one.where, one.message[:49]) for one in left_alone("to-gguf", infos, said)]
    assert told == [("left-out", pictures, "tensors for pictures or sounds are left out (1), ")]


def test_layers_that_llama_cpp_does_not_compute_are_left_out() -> None:
    """DeepSeek V3's last, which predicts one more token."""
    more = {f"model.layers.{layer}.input_layernorm.weight": torch.ones(2) for layer in range(2)}
    state = small(**more, **{"model.layers.1.eh_proj.weight": torch.ones(2, 4)})
    said = config("DeepseekV3ForCausalLM", num_hidden_layers=1)
    infos = {name: tensor.info for name, tensor in lazy(state).items()}
    assert [name for name in made(lazy(state), "to-gguf", said) if name.startswith("blk")] == ["blk.0.attn_norm.weight"]
    told = left_alone("to-gguf", infos, said)
    assert [one.where for one in told] == ["model.layers.1.input_layernorm.weight"]


def test_further_tokens_of_qwen_are_left_out_and_reported() -> None:
    state = small(**{"mtp.fc.weight": torch.ones(2, 4), "mtp.layers.0.input_layernorm.weight": torch.ones(2)})
    said = config("Qwen3_5ForCausalLM", **LINEAR)
    assert made(lazy(state), "to-gguf", said).keys() == {"token_embd.weight", "output_norm.weight"}
    told = left_alone("to-gguf", {name: one.info for name, one in lazy(state).items()}, said)
    assert [(one.where, one.message[:46]) for one in told] == [
        ("mtp.fc.weight", "layers that predict further tokens (mtp) are l")
    ]


@pytest.mark.parametrize("architecture", ["Qwen3_5MoeForCausalLM", "Qwen3NextForCausalLM"])
def test_experts_in_one_tensor_are_what_those_of_their_own_are(architecture: str) -> None:
    """transformers holds them so; some files have them."""
    experts = "model.layers.0.mlp.experts."
    parts = {name: torch.randn(3, *shape) for name, shape in {"gate": (4, 2), "up": (4, 2), "down": (2, 4)}.items()}
    alone = {f"{experts}{i}.{name}_proj.weight": part[i] for name, part in parts.items() for i in range(3)}
    fused = {f"{experts}gate_up_proj": torch.cat([parts["gate"], parts["up"]], 1)}
    fused[f"{experts}down_proj"] = parts["down"]
    said = config(architecture, num_experts=3, hidden_size=2, **LINEAR)
    one, two = (made(lazy(small(**state)), "to-gguf", said) for state in (alone, fused))
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name].numpy(), two[name].numpy()) for name in one)


@pytest.mark.parametrize(("width", "wide"), [(2, 3), (2, 1), (4, 4)])
def test_experts_of_qwen3_vl_lie_either_way(width: int, wide: int) -> None:
    """As the hub has them, and as transformers 5 saves them: what the width says, which one of the two has once."""
    experts = "model.language_model.layers.0.mlp.experts."
    state = {
        f"{experts}gate_up_proj": torch.randn(2, 2 * wide, width),
        f"{experts}down_proj": torch.randn(2, width, wide),
    }
    hubs = {name: one.transpose(-1, -2).contiguous() for name, one in state.items()}
    said = config("Qwen3VLMoeForConditionalGeneration", num_experts=2, hidden_size=width)
    one, two = (made(lazy(tensors), "to-gguf", said) for tensors in (state, hubs))
    assert one["blk.0.ffn_up_exps.weight"].info.shape == (2, wide, width)
    assert all(np.array_equal(one[name].numpy(), two[name].numpy()) for name in one)


GATE_UP = "model.layers.0.feed_forward.experts.gate_up_proj"
KV = "model.layers.0.self_attn.kv_b_proj.weight"
LATENT = {"qk_nope_head_dim": 2, "v_head_dim": 4}


@pytest.mark.parametrize(
    ("name", "shape", "said", "words"),
    [
        (GATE_UP, (2, 3, 5), config("Llama4ForCausalLM"), r"is \[2, 3, 5\], which are no 2 equal parts"),
        (GATE_UP, (6, 4), config("Llama4ForCausalLM"), r"is \[6, 4\], which are no 2 equal parts"),
        (
            "model.layers.0.block_sparse_moe.input_linear.weight",
            (6,),
            config("GraniteMoeForCausalLM"),
            "no 2 equal parts",
        ),
        (KV, (10, 2), config("DeepseekV3ForCausalLM", **LATENT), r"is \[10, 2\], which are no 2 heads of 2 \+ 4 rows"),
        (KV, (12, 2), config("DeepseekV3ForCausalLM", v_head_dim=4), "says no qk_nope_head_dim"),
        (
            "transformer.h.0.self_attention.query_key_value.weight",
            (10, 2),
            config("FalconForCausalLM", new_decoder_architecture=True, num_kv_heads=2),
            "10 rows, which are no 2 heads in 2 groups",
        ),
    ],
)
def test_what_cannot_be_cut_is_refused(name: str, shape: tuple[int, ...], said: Any, words: str) -> None:
    with pytest.raises(EditError, match=words):
        made(lazy({name: torch.ones(shape)}), "to-gguf", said)


def test_blocks_of_gpt_oss_get_a_hint_on_how_to_become_blocks_again() -> None:
    state = small(**{"model.layers.0.mlp.experts.down_proj_blocks": torch.ones(2, 2, dtype=torch.int8)})
    with pytest.raises(EditError, match="has no place for") as refused:
        made(lazy(state), "to-gguf", config("GptOssForCausalLM"))
    assert refused.value.hint is not None
    assert refused.value.hint.startswith("--dequantize makes floats of them, and --dtype '*_exps.weight=MXFP4'")


def test_a_prefix_of_all_names_is_reported() -> None:
    with pytest.raises(EditError, match="has no place for") as refused:
        made(lazy({f"module.{name}": tensor for name, tensor in small().items()}), "to-gguf", config())
    assert refused.value.hint == "--strip-prefix module. before it makes transformers' names of them"
