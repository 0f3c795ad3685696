"""config.json as llama.cpp's hyperparameters: what its own converter wrote of the same configurations is the oracle."""

from __future__ import annotations

import json
import math
from array import array
from pathlib import Path
from typing import Any

import pytest

from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import TensorInfo
from ckptconv.edits.dialects.to_gguf import architecture
from ckptconv.errors import CkptconvError, CorruptFileError, EditError, UnsupportedError
from ckptconv.formats.gguf.hub.config import Config
from ckptconv.formats.gguf.hub.encoder import pooling, token_types
from ckptconv.formats.gguf.hub.hyperparameters import hyperparameters
from ckptconv.formats.gguf.hub.rope import rope_tensors

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


def infos(tensors: dict[str, Any]) -> dict[str, TensorInfo]:
    return {name: TensorInfo.of(DType.F32, tuple(dims[::-1])) for name, (_, dims) in tensors.items()}


def single(value: Any) -> Any:
    return array("f", [value])[0] if isinstance(value, float) else value


@pytest.mark.parametrize("case", CASES)
def test_it_is_what_llama_cpp_writes(case: str) -> None:
    wanted = {k: one for k, one in CASES[case]["entries"].items() if not k.startswith("general.") and k not in WITHOUT}
    config, tensors = Config(CASES[case]["config"]), infos(CASES[case]["tensors"])
    arch = architecture(config.values)
    assert arch == CASES[case]["entries"]["general.architecture"]["value"]
    found = hyperparameters(arch, config, tensors, [])
    extra = {key for key in found.keys() - wanted.keys() - WITHOUT if key.removeprefix(f"{arch}.") not in BESIDE}
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
def test_windows_that_llama_cpp_does_not_have_are_told(case: str, said: dict[str, Any], *, told: bool) -> None:
    findings: list[Any] = []
    made = config(case, **said)
    hyperparameters(architecture(made.values), made, infos(CASES[case]["tensors"]), findings)
    assert [one.code for one in findings] == ["sliding-window"] * told


def test_what_is_null_in_rope_parameters_is_not_there() -> None:
    assert of("llama", rope_parameters={"rope_type": None, "rope_theta": 5.0})["llama.rope.freq_base"] == ("float32", 5)


def test_dynamic_scaling_is_told() -> None:
    findings: list[Any] = []
    made = config("llama", rope_parameters={"rope_type": "dynamic", "factor": 2.0})
    hyperparameters("llama", made, infos(CASES["llama"]["tensors"]), findings)
    assert [(one.code, one.severity) for one in findings] == [("rope", "warning")]


@pytest.mark.parametrize(
    "rope",
    [
        {"low_freq_factor": 4.0, "high_freq_factor": 4.0},
        {"factor": 0.0},
        {"factor": None},
        {"rope_theta": -1.0},
        {"original_max_position_embeddings": 1e5},
    ],
)
def test_frequencies_of_llama_3_that_are_none(rope: dict[str, Any]) -> None:
    said = CASES["llama3"]["config"]["rope_parameters"]
    with pytest.raises(CorruptFileError):
        rope_tensors("llama", config("llama3", rope_parameters=said | rope))


def test_factors_of_phi_3_have_to_be_as_many_as_frequencies() -> None:
    said = CASES["phi3long"]["config"]["rope_parameters"]
    with pytest.raises(CorruptFileError, match="no 8 numbers as long_factor"):
        rope_tensors("phi3", config("phi3long", rope_parameters=said | {"long_factor": [1.0] * 7}))


def test_what_is_said_of_an_encoder() -> None:
    assert token_types("bert", config("bert")) == {"tokenizer.ggml.token_type_count": ("uint32", 2)}
    assert pooling("bert", {"pooling_mode_cls_token": True}) == {"bert.pooling_type": ("uint32", 2)}
    assert pooling("bert", {"pooling_mode": "mean"}) == {"bert.pooling_type": ("uint32", 1)}
    assert not pooling("bert", None)
    assert pooling("bert", {"pooling_mode_mean_tokens": True}) == {"bert.pooling_type": ("uint32", 1)}
    for said in ("max_tokens",), ("mean_tokens", "max_tokens"):
        with pytest.raises(CorruptFileError, match="not one of mean, cls and lasttoken"):
            pooling("bert", {f"pooling_mode_{one}": True for one in said})
