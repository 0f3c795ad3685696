"""config.json as llama.cpp's hyperparameters: what its own converter wrote of the same configurations is the oracle."""

from __future__ import annotations

import importlib
import json
import math
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import TensorInfo
from ckptconv.edits.dialects.gguf_config import architecture, written_as
from ckptconv.errors import CkptconvError, CorruptFileError, EditError, UnsupportedError
from ckptconv.formats.gguf.hub.config import Config
from ckptconv.formats.gguf.hub.encoder import pooling, token_types
from ckptconv.formats.gguf.hub.hyperparameters import hyperparameters
from ckptconv.formats.gguf.hub.rope import rope_tensors
from tests.arch.real_models import transformers_module

CASES: dict[str, Any] = json.loads(
    (Path(__file__).parents[4] / "fixtures" / "others" / "llama-cpp-models.json").read_text("utf-8")
)

WITHOUT = {
    "nemotron.rope.scaling.type",  # "none", which is what nothing means
    "phi2.feed_forward_length",  # four times the width, whatever the configuration says
}
"""What the converter writes otherwise."""

BESIDE = {"vocab_size", "rope.freq_base"}
"""What it leaves out of some architectures, for llama.cpp to find out."""


TEXT: dict[str, Any] = CASES["qwen2vl"]["config"]["text_config"]


def infos(tensors: dict[str, Any]) -> dict[str, TensorInfo]:
    return {name: TensorInfo.of(DType.F32, tuple(dims[::-1])) for name, (_, dims) in tensors.items()}


def single(value: Any) -> Any:
    return array("f", [value])[0] if isinstance(value, float) else value


@pytest.mark.parametrize("case", CASES)
def test_it_is_what_llama_cpp_writes(case: str) -> None:
    wanted = {k: one for k, one in CASES[case]["entries"].items() if not k.startswith("general.") and k not in WITHOUT}
    config, tensors = Config(CASES[case]["config"]), infos(CASES[case]["tensors"])
    arch = architecture(config.values)
    written = written_as(arch, config.values)
    assert written == CASES[case]["entries"]["general.architecture"]["value"]
    found = hyperparameters(arch, config, tensors, [])
    extra = {key for key in found.keys() - wanted.keys() - WITHOUT if key.removeprefix(f"{written}.") not in BESIDE}
    assert not extra
    assert {key: (found[key][0], single(found[key][1])) for key in wanted} == {
        key: (one["type"], one["value"]) for key, one in wanted.items()
    }
    made = {name: list(one.info.shape) for name, one in rope_tensors(arch, config).items()}
    assert made == {name: dims for name, (_, dims) in CASES[case]["tensors"].items() if name.startswith("rope_")}


def config(case: str, **changed: Any) -> Config:
    return Config({key: value for key, value in (CASES[case]["config"] | changed).items() if value != "gone"})


def of(case: str, **changed: Any) -> dict[str, Any]:
    made = config(case, **changed)
    return hyperparameters(architecture(made.values), made, infos(CASES[case]["tensors"]), [])


@pytest.mark.parametrize(
    ("case", "changed", "error", "words"),
    [
        ("llama", {"hidden_act": "gelu"}, UnsupportedError, "llama has no hidden_act 'gelu': it computes with silu"),
        ("qwen3next", {"linear_value_head_dim": 8}, UnsupportedError, "linear_value_head_dim '8': it is that of k"),
        ("qwen3next", {"layer_types": ["full_attention"]}, CorruptFileError, "no kind of attention for each layer"),
        ("qwen3next", {"attn_output_gate": False}, UnsupportedError, "attention has a gate"),
        ("bert", {"hidden_act": "relu"}, UnsupportedError, "bert has no hidden_act 'relu'"),
        ("qwen3moe", {"norm_topk_prob": False}, UnsupportedError, "qwen3moe has no norm_topk_prob"),
        ("qwen3moe", {"mlp_only_layers": [1]}, UnsupportedError, "all layers are mixtures"),
        ("smollm3", {"no_rope_layers": [1, 1, 1, 1]}, UnsupportedError, "every fourth layer is not turned"),
        ("granite", {"head_dim": 32}, UnsupportedError, "granite has no head_dim '32'"),
        ("gemma2", {"query_pre_attn_scalar": 99}, UnsupportedError, "query_pre_attn_scalar '99.0': it scales by 16"),
        ("gemma2", {"layer_types": ["full_attention"] * 2}, UnsupportedError, "gemma2 has no layer_types"),
        ("gemma3", {"attn_logit_softcapping": 9.0}, UnsupportedError, "it caps no scores"),
        ("olmoe", {"num_key_value_heads": 2}, UnsupportedError, "as many k and v as q"),
        ("olmoe", {"clip_qkv": 8.0}, UnsupportedError, "it clamps nothing"),
        ("phi2", {"qk_layernorm": True}, UnsupportedError, "q and k have no norms"),
        ("starcoder", {"multi_query": False}, UnsupportedError, "all heads share one k and v"),
        ("bert", {"position_embedding_type": "relative_key"}, UnsupportedError, "they are absolute"),
        ("bert", {"is_decoder": True}, UnsupportedError, "it is an encoder"),
        ("qwen2", {"rope_parameters": {"rope_type": "ntk"}}, UnsupportedError, "no rope_type 'ntk'"),
        ("arcee", {"hidden_act": "silu"}, UnsupportedError, "it computes with relu2"),
        ("cohere2", {"layer_types": ["full_attention"] * 4}, UnsupportedError, "of 4 layers the last attends to all"),
        ("deepseek2-v3-yarn", {"q_lora_rank": None}, UnsupportedError, "q is one matrix in models of 26 or 27 layers"),
        ("deepseek2-v2-yarn", {"q_lora_rank": 8}, UnsupportedError, "deepseek2 has no q_lora_rank '8'"),
        ("deepseek2-v3-yarn", {"scoring_func": "tanh"}, UnsupportedError, "scored by softmax or sigmoid"),
        ("deepseek2-v3-yarn", {"rope_interleave": False}, UnsupportedError, "heads are turned as neighbours"),
        ("deepseek2-v2-yarn", {"topk_method": "group_limited_greedy", "n_group": 2}, UnsupportedError, "two best"),
        ("deepseek2-v3-yarn", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "mscale": 1.0,
         "original_max_position_embeddings": 32}}, UnsupportedError, "no mscale '1.0': it is mscale_all_dim"),
        ("ernie4_5", {"use_bias": True}, UnsupportedError, "ernie4_5 has no use_bias 'True'"),
        ("ernie4_5-moe", {"moe_layer_end_index": 1}, UnsupportedError, "the last layers are mixtures"),
        ("exaone4-full", {"sliding_window": 16}, UnsupportedError, "only 64 layers have one"),
        ("falcon", {"alibi": True}, UnsupportedError, "falcon has no alibi 'True': heads are turned"),
        ("falcon-40b", {"num_kv_heads": "gone"}, CorruptFileError, "says no num_kv_heads"),
        ("gemma3-pictures", {"text_config": {"use_bidirectional_attention": True, "hidden_size": 64,
         "num_hidden_layers": 7, "query_pre_attn_scalar": 256}}, UnsupportedError, "texts are read from their start"),
        ("glm4", {"rope_parameters": {"mrope_section": [1, 1, 1]}}, UnsupportedError, "turned in one direction"),
        ("gpt-oss", {"swiglu_limit": 9.0}, UnsupportedError, "it limits to 7.0"),
        ("granitehybrid", {"layer_types": ["attention"] * 3}, UnsupportedError, "'nope': its heads are turned"),
        ("granitehybrid", {"layer_types": ["mamba"] * 2}, UnsupportedError, "each layer is of mamba, or attends"),
        ("granitehybrid", {"position_embedding_type": "rope"}, UnsupportedError, "attend turn nothing"),
        ("hunyuan-alpha", {"rope_parameters": {"rope_type": "dynamic", "alpha": -1.0}}, UnsupportedError,
         "alpha '-1.0'"),
        ("lfm2", {"conv_bias": True}, UnsupportedError, "its convolutions have no biases"),
        ("lfm2", {"layer_types": ["mamba"] * 3}, UnsupportedError, "layers are convolutions, or attend to all"),
        ("lfm2moe", {"norm_topk_prob": False}, UnsupportedError, "the weights of experts are normed"),
        ("llama4", {"attention_chunk_size": 64}, UnsupportedError, "layers attend to 8192 tokens at a time"),
        ("llama4", {"no_rope_layers": [1, 1, 1, 1]}, UnsupportedError, "every fourth layer is not turned"),
        ("llama4", {"moe_layers": [0, 1]}, UnsupportedError, "of 2 layers the last is a mixture"),
        ("llama4", {"max_position_embeddings": 10**6, "attn_scale": 0.2}, UnsupportedError, "another temperature"),
        ("mamba", {"intermediate_size": 96}, UnsupportedError, "it is twice the width, 128"),
        ("mamba", {"use_conv_bias": False}, UnsupportedError, "its convolution has a bias"),
        ("mamba2", {"time_step_limit": [0.0, 1.0]}, UnsupportedError, "it cuts off no time step"),
        ("mamba2", {"head_dim": 48}, UnsupportedError, "heads are 128 wide together"),
        ("modern-bert", {"norm_bias": True}, UnsupportedError, "nothing has a bias"),
        ("modern-bert", {"layer_types": ["full_attention"] * 4}, UnsupportedError, "the first attends to all"),
        ("nomic-bert", {"moe_every_n_layers": 2}, UnsupportedError, "it has no experts"),
        ("nomic-bert", {"activation_function": "gelu"}, UnsupportedError, "it computes with swiglu"),
        ("qwen2vl", {"text_config": TEXT | {"rope_parameters": {"mrope_section": 1}}}, CorruptFileError, "no three"),
        ("t5", {"feed_forward_proj": "gated-silu"}, UnsupportedError, "it is relu, or gated-gelu"),
        ("t5encoder", {"relative_attention_max_distance": 64}, UnsupportedError, "further apart than 128 are alike"),
        ("t5", {"num_decoder_layers": 3}, EditError, "says 3 layers, and the tensors have 2"),
        ("t5", {"num_decoder_layers": 1 << 31}, EditError, "says 2147483648 layers, and the tensors have 2"),
        ("llama4", {"num_hidden_layers": 5, "layer_types": "gone", "no_rope_layers": "gone", "moe_layers": "gone"},
         EditError, "says 5 layers"),
        ("llama", {"hidden_size": 32}, EditError, r"says a width of 32, and the embeddings are \[300, 64\]"),
        ("llama", {"num_hidden_layers": 3}, EditError, "says 3 layers, and the tensors have 2"),
        ("llama", {"num_hidden_layers": 10**7}, CorruptFileError, "num_hidden_layers is '10000000'"),
        ("llama", {"hidden_size": "gone"}, CorruptFileError, "config.json says no hidden_size"),
        ("llama", {"hidden_size": -1}, CorruptFileError, "hidden_size is '-1', and not a whole number"),
        ("llama", {"hidden_size": True}, CorruptFileError, "hidden_size is 'True'"),
        ("llama", {"num_attention_heads": 0}, CorruptFileError, "num_attention_heads is '0'"),
        ("llama", {"rms_norm_eps": "small"}, CorruptFileError, "rms_norm_eps is 'small', and no number"),
        ("llama", {"rms_norm_eps": 1e39}, CorruptFileError, "rms_norm_eps is out of range"),
        ("llama", {"rms_norm_eps": math.nan}, CorruptFileError, "rms_norm_eps is out of range"),
        ("llama", {"rms_norm_eps": 10**400}, CorruptFileError, "rms_norm_eps is out of range"),
        ("llama", {"rope_parameters": [1]}, CorruptFileError, r"rope_parameters is '\[1\]', and not an object"),
        ("gemma3", {"rope_parameters": {"full_attention": {}, "sliding_attention": [1, 2]}}, CorruptFileError,
         r"rope_parameters of sliding_attention is '\[1, 2\]', and not an object"),
        ("yarn", {"rope_parameters": {"rope_type": "yarn", "factor": -4}}, CorruptFileError, "rope_scaling is -4"),
        ("yarn", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, CorruptFileError, "original_max_position"),
        ("phi2", {"rope_parameters": {"partial_rotary_factor": 2}}, CorruptFileError, "partial_rotary_factor is '2.0'"),
        ("phi2", {"qk_layernorm": "no"}, CorruptFileError, "qk_layernorm is 'no', and not true or false"),
        ("smollm3", {"no_rope_layers": "all"}, CorruptFileError, "no_rope_layers is 'all', and not a list"),
        ("llama", {"hidden_act": 5}, CorruptFileError, "hidden_act is '5', and not a text"),
    ],
)  # fmt: skip
def test_what_llama_cpp_would_compute_otherwise_and_what_is_wrong_is_refused(
    case: str, changed: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as refused:
        of(case, **changed)
    assert isinstance(refused.value, CkptconvError)
    assert refused.value.hint


def test_layers_of_gemma_3_that_are_not_as_usual_are_listed() -> None:
    kinds = ["full_attention", *["sliding_attention"] * 6]
    found = of("gemma3", layer_types=kinds)
    assert found["gemma3.attention.sliding_window_pattern"] == ("bool[]", [False, *[True] * 6])


def test_a_language_model_within_another() -> None:
    inner = CASES["qwen2"]["config"]
    outer = dict.fromkeys(inner, "gone") | {"architectures": inner["architectures"], "text_config": inner}
    assert of("qwen2", **outer) == of("qwen2")


@pytest.mark.parametrize(
    ("case", "said", "told"),
    [
        ("mistral", {"sliding_window": 16}, True), ("mistral", {"sliding_window": 4096}, False),
        ("qwen2", {"sliding_window": 16, "use_sliding_window": False}, False),
        ("gemma2", {"sliding_window": 16}, False),
        ("phi3", {"sliding_window": 16}, True),
    ],
)  # fmt: skip
def test_windows_that_llama_cpp_does_not_have_are_reported(case: str, said: dict[str, Any], *, told: bool) -> None:
    findings: list[Any] = []
    made = config(case, **said)
    hyperparameters(architecture(made.values), made, infos(CASES[case]["tensors"]), findings)
    assert [one.code for one in findings] == ["sliding-window"] * told


def test_what_is_null_in_rope_parameters_is_not_there() -> None:
    assert of("llama", rope_parameters={"rope_type": None, "rope_theta": 5.0})["llama.rope.freq_base"] == ("float32", 5)


@pytest.mark.parametrize(
    ("case", "said", "code"),
    [
        ("falcon-mamba", {}, "epsilon"), ("falcon-mamba", {"mixer_rms_eps": 1e-5}, ""), ("mamba", {}, ""),
        ("t5-v1", {}, "scaled"), ("t5", {"tie_word_embeddings": False}, ""),
        ("gpt-oss", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "truncate": False,
         "original_max_position_embeddings": 32}}, "rope"),
    ],
)  # fmt: skip
def test_what_llama_cpp_computes_a_little_otherwise_is_reported(case: str, said: dict[str, Any], code: str) -> None:
    findings: list[Any] = []
    made = config(case, **said)
    hyperparameters(architecture(made.values), made, infos(CASES[case]["tensors"]), findings)
    assert [one.code for one in findings] == [code] * bool(code)


def test_what_a_part_of_another_configuration_leaves_out_is_what_its_class_takes() -> None:
    """Gemma 3's, as it was released: transformers saved of it what is not the class' own."""
    inner = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024,
             "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "model_type": "gemma3_text"}  # fmt: skip
    said = Config({"architectures": ["Gemma3ForConditionalGeneration"], "text_config": inner, "vision_config": {}})
    names = CASES["gemma3-pictures"]["tensors"]
    layers = {
        f"blk.{layer}.{name[6:]}": one for name, one in names.items() if name[:6] == "blk.0." for layer in range(34)
    }
    shapes = {name: ["F32", [2560]] for name in layers if "norm" in name}
    tensors = {**shapes, "token_embd.weight": ["F32", [2560, 262_208]], "output_norm.weight": ["F32", [2560]]}
    found = hyperparameters("gemma3", said, infos(tensors), [])
    wanted = {
        "attention.head_count": 8, "attention.head_count_kv": 4, "attention.key_length": 256, "context_length": 131_072,
        "rope.freq_base": 1e6, "rope.freq_base_swa": 1e4, "rope.scaling.factor": 8.0, "vocab_size": 262_208,
        "attention.sliding_window": 1024,
    }  # fmt: skip
    assert {key: found[f"gemma3.{key}"][1] for key in wanted} == wanted


def test_the_larger_exaone_has_windows() -> None:
    kinds = ["full_attention" if layer % 4 == 3 else "sliding_attention" for layer in range(64)]
    layers = {f"blk.{layer}.attn_norm.weight": ["F32", [64]] for layer in range(64)}
    ends = {key: CASES["exaone4-full"]["tensors"][key] for key in ("token_embd.weight", "output_norm.weight")}
    made = config("exaone4-full", num_hidden_layers=64, sliding_window=4096, layer_types=kinds)
    found = hyperparameters("exaone4", made, infos({**layers, **ends}), [])
    assert found["exaone4.attention.sliding_window"] == ("uint32", 4096)
    assert found["exaone4.attention.sliding_window_pattern"] == ("bool[]", [True, True, True, False] * 16)


@pytest.mark.parametrize(("there", "counts"), [(True, (4, 1)), (False, (3, 0))])
def test_layers_that_predict_further_tokens_are_counted_where_there_are_any(*, there: bool, counts: Any) -> None:
    tensors = dict(CASES["glm4moe"]["tensors"])
    if there:
        tensors |= {name.replace("blk.2.", "blk.3."): one for name, one in tensors.items() if name.startswith("blk.2.")}
        tensors["blk.3.nextn.eh_proj.weight"] = ["F32", [128, 64]]
    found = hyperparameters("glm4moe", config("glm4moe", num_nextn_predict_layers=1), infos(tensors), [])
    assert (found["glm4moe.block_count"][1], found["glm4moe.nextn_predict_layers"][1]) == counts


@pytest.mark.parametrize(
    ("case", "lost"),
    [
        ("glm4moe", "blk.1.ffn_down_exps.weight"), ("glm4moe", "blk.2.ffn_gate_inp.weight"),
        ("lfm2", "blk.2.shortconv.conv.weight"), ("lfm2", "token_embd_norm.weight"),
        ("t5", "dec.blk.1.cross_attn_q.weight"), ("t5", "enc.blk.0.ffn_up.weight"),
        ("granitehybrid", "blk.2.ssm_d"), ("modern-bert", "blk.3.ffn_norm.weight"),
    ],
)  # fmt: skip
def test_a_tensor_that_is_missing_from_a_layer_of_its_kind_is_reported(case: str, lost: str) -> None:
    tensors = {name: one for name, one in CASES[case]["tensors"].items() if name != lost}
    assert len(tensors) < len(CASES[case]["tensors"])
    made = config(case)
    with pytest.raises(EditError, match=r"has no|there is no"):
        hyperparameters(architecture(made.values), made, infos(tensors), [])


def test_dynamic_scaling_is_reported() -> None:
    findings: list[Any] = []
    made = config("llama", rope_parameters={"rope_type": "dynamic", "factor": 2.0})
    hyperparameters("llama", made, infos(CASES["llama"]["tensors"]), findings)
    assert [(one.code, one.severity) for one in findings] == [("rope", "warning")]


@pytest.mark.parametrize(
    "rope",
    [
        {"factor": 0.0},
        {"factor": None},
        {"rope_theta": -1.0},
        {"original_max_position_embeddings": 1e5},
    ],
)
def test_invalid_frequencies_of_llama_3(rope: dict[str, Any]) -> None:
    said = CASES["llama3"]["config"]["rope_parameters"]
    with pytest.raises(CorruptFileError):
        rope_tensors("llama", config("llama3", rope_parameters=said | rope))


def test_frequencies_of_llama_4_have_nothing_between() -> None:
    """Both factors are one in its released configurations."""
    transformers = transformers_module()
    rope = {"rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 1.0,
            "original_max_position_embeddings": 32, "rope_theta": 1e4}  # fmt: skip
    one = config("llama3", rope_parameters=rope)
    (made,) = rope_tensors("llama", one).values()
    scaled = transformers.LlamaConfig(rope_parameters=rope, hidden_size=one.head_width, num_attention_heads=1)
    functions = importlib.import_module("transformers.modeling_rope_utils").ROPE_INIT_FUNCTIONS
    frequencies, _ = functions["llama3"](scaled, "cpu")
    plain = 1e4 ** (-np.arange(0, one.head_width, 2) / one.head_width)
    assert set(made.numpy().tolist()) == {1.0, 16.0}
    np.testing.assert_allclose(plain / made.numpy(), frequencies.numpy(), 1e-6)


def test_factors_of_phi_3_have_to_be_as_many_as_frequencies() -> None:
    said = CASES["phi3long"]["config"]["rope_parameters"]
    with pytest.raises(CorruptFileError, match="no 8 numbers as long_factor"):
        rope_tensors("phi3", config("phi3long", rope_parameters=said | {"long_factor": [1.0] * 7}))


def test_what_is_reported_of_an_encoder() -> None:
    assert token_types("bert", config("bert")) == {"tokenizer.ggml.token_type_count": ("uint32", 2)}
    assert pooling("bert", {"pooling_mode_cls_token": True}) == {"bert.pooling_type": ("uint32", 2)}
    assert pooling("bert", {"pooling_mode": "mean"}) == {"bert.pooling_type": ("uint32", 1)}
    assert not pooling("bert", None)
    assert pooling("bert", {"pooling_mode_mean_tokens": True}) == {"bert.pooling_type": ("uint32", 1)}
    for said in ("max_tokens",), ("mean_tokens", "max_tokens"):
        with pytest.raises(CorruptFileError, match="not one of mean, cls and lasttoken"):
            pooling("bert", {f"pooling_mode_{one}": True for one in said})
