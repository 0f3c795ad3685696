"""config.json of a GGUF's metadata: what transformers' classes make of it is what they make of the first one."""

from __future__ import annotations

import importlib
import math
from typing import Any

import pytest

from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import LazyTensor, TensorInfo, in_memory
from ckptconv.edits.dialects.gguf_config import architecture
from ckptconv.edits.dialects.gguf_table import architectures, by_class
from ckptconv.errors import CkptconvError, CorruptFileError, UnsupportedError
from ckptconv.formats.gguf.hub.config import Config
from ckptconv.formats.gguf.hub.rope import rope_tensors
from ckptconv.formats.gguf.to_hub.config import Restored, restore_config
from ckptconv.formats.gguf.to_hub.rope import FREQS
from ckptconv.formats.gguf.to_hub.said import Said, shortest
from ckptconv.formats.gguf.to_hub.table import rows
from tests.arch.real_models import transformers_module
from tests.formats.gguf.hub.test_hyperparameters import CASES

NO_CONFIG = {"qwen3vlmoe"}
"""Its configuration is also that of a tower for pictures, of which a GGUF has nothing."""

OTHER_CLASS = {
    "internvl-chat", "granite4-dense", "granite4-moe", "qwen2_5vl", "qwen2vl", "qwen3vl", "nomic-bert",
}  # fmt: skip
"""Those whose configuration has other keys than that of the class that computes the same."""

SAME = {
    "gpt-oss": {"rope_parameters"},
    "exaone4-full": {"head_dim"}, "gemma": {"hidden_activation"}, "gemma2": {"hidden_act"}, "gpt2": {"n_inner"},
    "hunyuan-alpha": {"rope_parameters", "max_position_embeddings"}, "lfm2": {"full_attn_idxs"},
    "lfm2-adjusted": {"full_attn_idxs", "block_multiple_of", "block_auto_adjust_ff_dim", "intermediate_size"},
    "mixtral": {"head_dim"}, "phi3": {"partial_rotary_factor"}, "starcoder": {"n_inner"},
    "phi3long": {"partial_rotary_factor"}, "modern-bert": {"layer_norm_eps"},
    "t5": {"n_positions"}, "t5-v1": {"n_positions"}, "umt5": {"n_positions"}, "t5encoder": {"n_positions", "use_cache"},
    "bert": {"position_embedding_type"},
    "granitehybrid": {"max_position_embeddings"}, "granitehybrid-dense": {"max_position_embeddings"},
    "mistral3-small": {"tie_word_embeddings"}, "internvl": {"tie_word_embeddings"},
}  # fmt: skip
"""What is said in other words, or what llama.cpp does not have and no class computes with."""

NAMES = {"architectures", "model_type", "dtype", "initializer_range", "full_attention_interval"}
TOKENS = {"bos_token_id", "eos_token_id", "pad_token_id", "cls_token_id", "sep_token_id", "decoder_start_token_id"}


def entries(case: str) -> dict[object, object]:
    return {key: one["value"] for key, one in CASES[case]["entries"].items()}


def tensors(case: str) -> dict[str, LazyTensor]:
    config = Config(CASES[case]["config"])
    factors = rope_tensors(architecture(config.values), config)
    return {
        name: factors.get(name) or zeros(*dims[::-1]) for name, (_, dims) in CASES[case]["tensors"].items()
    }  # fmt: skip


def zeros(*shape: int) -> LazyTensor:
    return in_memory(TensorInfo.of(DType.F32, shape), bytes(4 * math.prod(shape)))


def restored(case: str, changed: dict[str, Any] | None = None) -> Restored:
    said = {key: value for key, value in (entries(case) | (changed or {})).items() if value != "gone"}
    return restore_config(Said(said, tensors(case)))


def by_transformers(model_type: str, config: dict[str, Any]) -> dict[str, Any]:
    transformers_module()
    classes = importlib.import_module("transformers.models.auto.configuration_auto").CONFIG_MAPPING
    stated = {key: value for key, value in config.items() if key != "model_type"}
    found: dict[str, Any] = classes[model_type](**stated).to_dict()
    rope = found.get("rope_parameters")
    if isinstance(rope, dict):
        rope.pop("type", None)
    return found


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return math.inf if "__float__" in value else {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list) else value


def test_every_architecture_that_is_written_comes_back_or_is_known_not_to() -> None:
    assert {*rows()} == {*by_class().values()} - NO_CONFIG


@pytest.mark.filterwarnings("ignore")
def test_transformers_makes_the_same_configuration_of_it() -> None:
    """Of all that llama.cpp's own converter wrote: all keys, but those that are said in other words."""
    others = {}
    for case, stated in CASES.items():
        arch = stated["entries"]["general.architecture"]["value"]
        if arch in NO_CONFIG or case in OTHER_CLASS:
            continue
        found, config = restored(case).values, plain(stated["config"])
        theirs = by_transformers(found["model_type"], config | config.get("text_config", {}))
        ours = by_transformers(found["model_type"], found)
        keys = (ours.keys() & theirs.keys()) - NAMES - TOKENS - SAME.get(case, set())
        if differ := {key: (ours[key], theirs[key]) for key in keys if ours[key] != theirs[key]}:
            others[case] = differ
    assert not others


def test_a_class_that_computes_the_same_stands_for_one_with_parts_that_a_gguf_lacks() -> None:
    found = {case: restored(case).values["architectures"] for case in ("qwen2vl", "granite4-moe", "mistral3-small")}
    assert found == {
        "qwen2vl": ["Qwen2ForCausalLM"], "granite4-moe": ["GraniteMoeSharedForCausalLM"],
        "mistral3-small": ["MistralForCausalLM"],
    }  # fmt: skip


@pytest.mark.parametrize("case", ["qwen35", "qwen35moe", "lfm2"])
def test_it_is_what_transformers_itself_makes_of_the_metadata(case: str) -> None:
    """Of three architectures, it knows all keys, too."""
    transformers_module()
    module = importlib.import_module("transformers.integrations.gguf.gguf_config_mapping")
    tokens = {"tokenizer.ggml.tokens": tensors(case)["token_embd.weight"].info.shape[0]}
    theirs = module.get_gguf_config(entries(case) | tokens, tuple(tensors(case)))
    found = restored(case).values
    rope = found.get("rope_parameters") or {"rope_type": "default", "rope_theta": found["rope_theta"]}
    assert theirs.pop("rope_parameters").items() <= (rope | {"mrope_section": [1, 1]}).items()
    assert {key: found[key] for key in theirs} == {
        key: shortest(value) if isinstance(value, float) else value for key, value in theirs.items()
    }


def test_llama_3s_factors_become_its_numbers_and_others_numbers_that_fit() -> None:
    """The original length is lost: a half of it with half of the factors is the same."""
    said = restored("llama3")
    assert said.tensors == (FREQS,)
    found = said.values["rope_scaling"]
    assert (found["rope_type"], found["factor"], found["original_max_position_embeddings"]) == ("llama3", 32.0, 32)
    odd = {"rope_type": "llama3", "factor": 5.0, "low_freq_factor": 2.0, "high_freq_factor": 14.0,
           "original_max_position_embeddings": 3000, "rope_theta": 1e4}  # fmt: skip
    config = Config({**CASES["llama3"]["config"], "head_dim": 128, "rope_parameters": odd})
    wanted = rope_tensors("llama", config)[FREQS]
    changed = entries("llama3") | {"llama.rope.freq_base": 1e4}
    scaling = restore_config(Said(changed, tensors("llama3") | {FREQS: wanted})).values["rope_scaling"]
    again = rope_tensors("llama", Config({**config.values, "rope_parameters": scaling | {"rope_theta": 1e4}}))[FREQS]
    assert memoryview(again.read()).cast("f").tolist() == pytest.approx(memoryview(wanted.read()).cast("f").tolist())


@pytest.mark.parametrize(
    ("case", "changed", "error", "words"),
    [
        ("llama", {"general.architecture": "afmoe"}, UnsupportedError, "'afmoe', of which only the weights"),
        ("qwen3vlmoe", {}, UnsupportedError, "for the architecture 'qwen3vlmoe'"),
        ("gemma2", {"gemma2.attention.key_length": 8}, UnsupportedError, r"attn_q has 32 rows"),
        ("cohere2", {"cohere2.rope.scaling.type": "linear", "cohere2.rope.scaling.factor": 2.0}, UnsupportedError,
         r"cohere2\.rope\.scaling\.type = linear: a Cohere2ForCausalLM computes with none"),
        ("deepseek2-v2-yarn", {"deepseek2.expert_group_count": 2}, UnsupportedError, "by their two best experts"),
        ("qwen3moe", {"qwen3moe.expert_used_count": 0}, UnsupportedError, "makes no config"),
        ("llama", {"llama.block_count": 1 << 30}, UnsupportedError, "a number up to 100,000"),
        ("gemma2", {"gemma2.block_count": 1 << 30}, CorruptFileError, r"gemma2\.block_count is 1,073,741,824"),
        ("llama", {"llama.attention.layer_norm_rms_epsilon": math.nan}, CorruptFileError, "makes no config"),
        ("lfm2", {"lfm2.attention.head_count_kv": [2]}, CorruptFileError, "no item for each of 3 layers"),
        ("llama", {"llama.rope.scaling.type": "ntk"}, UnsupportedError, "'ntk', which transformers does not have"),
    ],
)  # fmt: skip
def test_what_no_configuration_says_is_refused(
    case: str, changed: dict[str, Any], error: type[CkptconvError], words: str
) -> None:
    with pytest.raises(error, match=words) as refused:
        restored(case, changed)
    assert refused.value.hint


def test_biases_that_llama_cpp_computes_without_are_refused() -> None:
    biased = tensors("falcon") | {f"blk.{layer}.attn_qkv.bias": zeros(96) for layer in range(2)}
    with pytest.raises(UnsupportedError, match="falcon has no bias 'True': its projections have no biases"):
        restore_config(Said(entries("falcon"), biased))


def test_what_is_lost_or_taken_for_granted_is_told() -> None:
    said = restored("gemma2", {"gemma2.own.thing": 3, "gemma2.attention.sliding_window": "gone"})
    assert [(finding.code, finding.severity, finding.message) for finding in said.findings] == [
        ("config", "warning", "config.json has no place for what the file says as gemma2.own.thing"),
        ("assumed", "info", "the file does not say sliding_window: transformers' own values hold"),
    ]
    assert "gemma2.own.thing" not in said.keys
    message = "the file does not say rope_scaling's truncate = false, as all gpt-oss models have it"
    assert [finding.message for finding in restored("gpt-oss").findings] == [message]
    assert "gemma2.block_count" in said.keys


def test_only_weights_of_other_architectures_are_translated() -> None:
    assert {name for name in architectures() if name not in rows()} == {
        "afmoe", "dots1", "eurobert", "exaone-moe", "gemma-embedding", "gemma4", "hunyuan-moe", "jamba", "minimax-m2",
        "mpt", "phimoe", "qwen3vlmoe",
    }  # fmt: skip


def test_deepseek_as_older_files_have_it() -> None:
    """k and v of the latent are one tensor, and the widths of heads are those of the configuration."""
    case = "deepseek2-v2-yarn"
    older = {"attention.key_length": 24, "attention.value_length": 24, "attention.head_count_kv": 4}
    said = {key: value for key, value in entries(case).items() if not str(key).endswith("_mla")}
    said |= {f"deepseek2.{key}": value for key, value in older.items()}
    parts = {name: one for name, one in tensors(case).items() if ".attn_k_b." not in name and ".attn_v_b." not in name}
    parts |= {f"blk.{layer}.attn_kv_b.weight": zeros(4 * (16 + 24), 32) for layer in range(27)}
    assert restore_config(Said(said, parts)).values == restored(case).values


def test_floats_have_the_digits_that_a_person_wrote() -> None:
    assert [shortest(one) for one in (9.999999747378752e-06, 0.20000000298023224, 1e6, 1.0, 0.0)] == [
        1e-5, 0.2, 1e6, 1.0, 0.0,
    ]  # fmt: skip


def test_an_entry_that_is_missing_is_said_to_be() -> None:
    said = Said({"general.architecture": "llama"}, {})
    for read in (said.whole, said.positive, said.number):
        with pytest.raises(CorruptFileError, match=r"it does not say llama\.attention\.head_count\n"):
            read("attention.head_count")
