"""llama.cpp's names and layouts as transformers' classes have them.

Two oracles: what llama.cpp makes of a class' tensors comes back as those tensors, and where transformers reads the
architecture, it is what transformers makes of the same file, bit for bit.
"""

from __future__ import annotations

import importlib
import warnings
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, quants
from safetensors.torch import load_file

import ckptconv
from ckptconv.edits.dialects.gguf_table import architectures
from ckptconv.edits.name_rule import NameRule
from ckptconv.errors import EditError, LimitError, UnsupportedError, UsageError
from tests.arch.real_models import transformers_module
from tests.edits.dialects.gguf_cases import BY_TRANSFORMERS, CASES, EXPERTS, FFN, HEADS, HIDDEN, LAYERS, VOCAB
from tests.edits.dialects.llama_cpp import ONE_ADDED, converted

if TYPE_CHECKING:
    from pathlib import Path

rng = np.random.default_rng(0)


def model(case: str) -> Any:
    """The class on the meta device."""
    class_name, _, config_name = CASES[case][0].partition(" ")
    module = transformers_module()
    cls = getattr(module, class_name)
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        made = getattr(module, config_name)(**CASES[case][1]) if config_name else cls.config_class(**CASES[case][1])
        return cls(made)


def saved(made: Any, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors as save_pretrained writes them: an entry for each expert, names of the first release; Qwen3-VL's
    experts as that release has them.
    """
    found = importlib.import_module("transformers.core_model_loading").revert_weight_conversion(made, dict(state))
    if type(made).__name__.startswith("Qwen3VLMoe"):
        found = {name: one.transpose(-1, -2) if ".experts." in name else one for name, one in found.items()}
    return {name: tensor for name, tensor in found.items() if not name.startswith(("visual", "model.visual"))}


def shared(name: str) -> bool:
    """Whether it is the embeddings, which the output may be."""
    return name.endswith(
        (".embed_tokens.weight", ".word_embeddings.weight", ".wte.weight", "embeddings.weight", "shared.weight")
    )


class Case:
    """A model with values, and what llama.cpp makes of it."""

    def __init__(self, case: str) -> None:
        self.name, self.arch, self.model = case, case.split(" ")[0], model(case)
        self.config = self.model.config.get_text_config()
        shapes = {name: tuple(tensor.shape) for name, tensor in saved(self.model, self.model.state_dict()).items()}
        self.state = {name: torch.from_numpy(rng.standard_normal(shape).astype("f4")) for name, shape in shapes.items()}
        if self.config.tie_word_embeddings and "lm_head.weight" in self.state:
            self.state["lm_head.weight"] = next(one for name, one in self.state.items() if shared(name))
        if "shared.weight" in self.state:
            self.state |= {name: self.state["shared.weight"] for name in self.state if ".embed_tokens" in name}
        self.stored = converted(self.arch, self.state, self.config)

    def expected(self) -> dict[str, torch.Tensor]:
        """What has to come back: what llama.cpp took, with what computing it to and fro rounds away."""
        left = set(self.state) - {
            n for n in self.state if n.startswith("lm_head") and "output.weight" not in self.stored
        }
        found = {name: self.state[name] for name in left if ".embed_tokens" not in name or self.arch[:2] != "t5"}
        for name, tensor in found.items():
            if self.arch in ONE_ADDED and name.endswith("norm.weight") and "linear_attn" not in name:
                found[name] = tensor + 1 - 1
            if name.endswith("A_log"):
                found[name] = torch.from_numpy(np.log(torch.exp(tensor).numpy()))
        return {name: tensor for name, tensor in found.items() if not name.startswith("pooler")}

    def write(self, path: Path, *, quantized: bool = False) -> Path:
        """As a GGUF; with blocks where rows have whole ones."""
        writer = GGUFWriter(path, self.arch)
        writer.add_name(self.name)
        writer.add_block_count(LAYERS)
        writer.add_context_length(32)
        writer.add_embedding_length(self.config.hidden_size)
        writer.add_feed_forward_length(getattr(self.config, "intermediate_size", 0) or FFN)
        writer.add_vocab_size(VOCAB)
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_layer_norm_eps(1e-6)
        heads = getattr(self.config, "num_attention_heads", HEADS)
        groups = getattr(self.config, "num_key_value_heads", None) or heads
        if self.arch == "falcon":
            groups = self.config.num_kv_heads if self.config.new_decoder_architecture else 1
        writer.add_head_count(heads)
        writer.add_head_count_kv([0, groups] if self.arch in ("lfm2", "granitehybrid") else groups)
        writer.add_key_length(HIDDEN // HEADS)
        if hasattr(self.config, "linear_num_value_heads"):
            writer.add_ssm_group_count(self.config.linear_num_key_heads)
            writer.add_ssm_time_step_rank(self.config.linear_num_value_heads)
            writer.add_ssm_state_size(self.config.linear_key_head_dim)
            writer.add_ssm_inner_size(self.config.linear_num_value_heads * self.config.linear_value_head_dim)
        if EXPERTS in (getattr(self.config, key, 0) for key in ("num_experts", "num_local_experts")):
            writer.add_expert_count(EXPERTS)
            writer.add_expert_used_count(2)
        for name, tensor in self.stored.items():
            kind = GGMLQuantizationType.Q8_0
            if quantized and tensor.ndim > 1 and tensor.shape[-1] % 32 == 0:
                writer.add_tensor(name, quants.quantize(tensor.numpy(), kind), raw_dtype=kind)
            else:
                writer.add_tensor(name, tensor.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path


def by_us(path: Path, target: Path) -> dict[str, torch.Tensor]:
    edits = ckptconv.Edits(names=[NameRule("translate", "gguf")], dtype=["F32"])
    ckptconv.convert(path, target, edits=edits, bare=True)
    return load_file(target)


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor.float()), name


def test_every_architecture_has_a_case() -> None:
    assert {case.split(" ")[0] for case in CASES} == set(architectures())


@pytest.mark.parametrize("case", CASES)
def test_what_llama_cpp_took_comes_back(case: str, tmp_path: Path) -> None:
    """As floats, and as blocks the same as from a file with what these say."""
    made = Case(case)
    assert_same(by_us(made.write(tmp_path / "a.gguf"), tmp_path / "a.safetensors"), made.expected())
    if made.name.split(" ")[0] in (
        "bloom",
        "deepseek2",
        "falcon",
        "gpt2",
        "gpt-oss",
        "granitemoe",
        "llama",
        "llama4",
        "qwen35",
    ):
        found = by_us(made.write(tmp_path / "b.gguf", quantized=True), tmp_path / "b.safetensors")
        made.stored = {
            name: torch.from_numpy(quants.dequantize(quants.quantize(t.numpy(), q8), q8))
            if t.ndim > 1 and t.shape[-1] % 32 == 0
            else t
            for name, t in made.stored.items()
            for q8 in [GGMLQuantizationType.Q8_0]
        }
        assert_same(found, by_us(made.write(tmp_path / "c.gguf"), tmp_path / "c.safetensors"))


@pytest.mark.parametrize("case", BY_TRANSFORMERS)
def test_it_is_what_transformers_loads(case: str, tmp_path: Path) -> None:
    made = Case(case)
    load = importlib.import_module("transformers.modeling_gguf_pytorch_utils").load_gguf_checkpoint
    path = made.write(tmp_path / "a.gguf", quantized=True)
    loaded = load(path, return_tensors=True, model_to_load=made.model)["tensors"]
    found = by_us(path, tmp_path / "b.safetensors")
    if case == "gemma4":  # it looks for its layers' scalars under another name
        found = {name: tensor for name, tensor in found.items() if not name.endswith("layer_scalar")}
    assert_same(found, saved(made.model, loaded))


def test_a_file_of_blocks_is_compared_with_its_translation(tmp_path: Path) -> None:
    """Floats that are rounded on one side beside blocks, which are cast to nothing."""
    path = Case("gemma2").write(tmp_path / "a.gguf", quantized=True)
    edits = ckptconv.Edits(names=[NameRule("translate", "gguf")], dtype=["BF16"])
    ckptconv.convert(path, tmp_path / "b.safetensors", edits=edits, bare=True)
    assert not ckptconv.diff(path, tmp_path / "b.safetensors").equal


def plain(
    path: Path,
    arch: str,
    tensors: dict[str, tuple[int, ...]],
    heads: int | list[int] | None = HEADS,
    more: dict[str, Any] | None = None,
) -> Path:
    writer = GGUFWriter(path, arch)
    for key, value in (more or {}).items():
        add: Any = {str: writer.add_string, int: writer.add_uint32, list: writer.add_array}[type(value)]
        add(key, value)
    if isinstance(heads, int):
        writer.add_head_count(heads)
    elif heads is not None:
        writer.add_array(f"{arch}.attention.head_count", heads)
    for name, shape in tensors.items():
        writer.add_tensor(name, -rng.random(shape).astype("f4"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("stacked", [True, False])
def test_mixtral_is_a_llama_with_experts(tmp_path: Path, *, stacked: bool) -> None:
    """transformers reads no such file: that its class has these names is checked by the library's spec of it."""
    layer = {
        "attn_norm": (HIDDEN,), "ffn_norm": (HIDDEN,), "ffn_gate_inp": (EXPERTS, HIDDEN), "attn_q": (HIDDEN, HIDDEN),
        "attn_k": (HIDDEN, HIDDEN), "attn_v": (HIDDEN, HIDDEN), "attn_output": (HIDDEN, HIDDEN),
    }  # fmt: skip
    for part, shape in {"gate": (FFN, HIDDEN), "up": (FFN, HIDDEN), "down": (HIDDEN, FFN)}.items():
        names = {f"ffn_{part}_exps": (EXPERTS, *shape)}
        layer |= names if stacked else {f"ffn_{part}.{i}": shape for i in range(EXPERTS)}
    tensors = {f"blk.{i}.{name}.weight": shape for i in range(LAYERS) for name, shape in layer.items()}
    tensors |= {"token_embd.weight": (VOCAB, HIDDEN), "output_norm.weight": (HIDDEN,), "output.weight": (VOCAB, HIDDEN)}
    by_us(plain(tmp_path / "a.gguf", "llama", tensors), tmp_path / "b.safetensors")
    result = ckptconv.validate(tmp_path / "b.safetensors")
    assert (result.arch, result.valid) == ("mixtral", True)
    assert result.params["experts"] == EXPERTS


def test_what_transformers_computes_of_its_configuration_keeps_its_name(tmp_path: Path) -> None:
    path = plain(tmp_path / "a.gguf", "llama", {"rope_freqs.weight": (8,), "output_norm.weight": (8,)})
    assert by_us(path, tmp_path / "b.safetensors").keys() == {"rope_freqs.weight", "model.norm.weight"}


@pytest.mark.parametrize(
    ("arch", "tensors", "heads", "error", "words"),
    [
        ("rwkv7", {"blk.0.attn_q.weight": (8, 8)}, 2, UnsupportedError, "does not know the architecture 'rwkv7'"),
        ("llama", {"blk.0.attn_q.weight": (8, 8)}, [0, 4], UnsupportedError, "how many heads layer 0 has"),
        ("llama", {"blk.1.attn_q.weight": (8, 8)}, [4], UnsupportedError, "how many heads layer 1 has"),
        ("llama", {"blk.0.attn_q.weight": (8, 8)}, None, UnsupportedError, "how many heads layer 0 has"),
        ("llama", {"blk.0.attn_q.weight": (6, 8)}, 2, EditError, "6 rows, which are no 2 heads"),
        ("bloom", {"blk.0.attn_qkv.weight": (8, 8)}, 2, EditError, "8 rows, which are no q, k and v of 2 heads"),
        ("falcon", {"blk.0.attn_qkv.bias": (8,)}, 3, EditError, "8 rows, which are no 3 heads in 3 groups"),
        ("qwen3moe", {"blk.0.ffn_up_exps.weight": (300_000, 1, 1)}, 2, LimitError, "cut into more than 131,072"),
        ("gpt-oss", {"blk.0.ffn_up_exps.bias": (3, 8)}, 2, EditError, r"there is no 'blk\.0\.ffn_gate_exps\.bias'"),
        (
            "deepseek2",
            {"blk.0.attn_k_b.weight": (8,), "blk.0.attn_v_b.weight": (8,)},
            2,
            EditError,
            "permutes no shape",
        ),
        ("gpt-oss", {"enc.blk.0.ffn_up_exps.bias": (3, 8), "token_embd.weight": (3, 8)}, 2, None, ""),
        ("mamba", {"blk.0.ssm_a": (2, 2), "blk.0.ssm_conv1d.bias": (4,)}, None, None, ""),
        ("bert", {"token_types.weight": (2, 8)}, 2, None, ""),
        ("bert", {"token_embd.weight": (4, 8)}, 2, UnsupportedError, "bert with no token_types: it is no BERT"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(
    arch: str, tensors: dict[str, tuple[int, ...]], heads: int | None, error: type[Exception] | None, words: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    path = plain(tmp_path / "a.gguf", arch, tensors, heads)
    with pytest.raises(error, match=words) if error else nullcontext():
        by_us(path, tmp_path / "b.safetensors")


@pytest.mark.parametrize(
    ("arch", "key", "value", "words"),
    [
        ("qwen35", "qwen35.nextn_predict_layers", 1, r"qwen35 with .* 1: layers that predict further tokens"),
        ("qwen35", "qwen35.ssm.group_count", 1, r"qwen35\.ssm does not say how many heads"),
        ("bert", "tokenizer.ggml.model", "t5", "bert with tokenizer.ggml.model 't5': of RoBERTa and its kin"),
        ("glm4", "glm4.rope.dimension_sections", [8, 12, 12, 0], r"glm4 with .* \[8, 12, 12, 0\]: llama.cpp turned"),
    ],
)
def test_files_of_an_architecture_that_are_not_as_others(
    arch: str, key: str, value: Any, words: str, tmp_path: Path
) -> None:
    tensors = {"token_embd.weight": (4, 8), "token_types.weight": (2, 8), "blk.0.ssm_a": (4,)}
    path = plain(tmp_path / "a.gguf", arch, tensors, more={key: value})
    with pytest.raises(UnsupportedError, match=words):
        by_us(path, tmp_path / "b.safetensors")


def test_more_experts_than_models_have_hinder_nothing_where_names_stay(tmp_path: Path) -> None:
    path = plain(tmp_path / "a.gguf", "qwen3moe", {"blk.0.ffn_up_exps.weight": (300_000, 1, 1)})
    ckptconv.convert(path, tmp_path / "b.safetensors")
    assert ckptconv.diff(path, tmp_path / "b.safetensors", bare=True).equal
    with pytest.raises(UsageError, match="nothing says which architecture"):
        ckptconv.validate(path)


def test_parts_of_a_block_that_are_not_known_are_reported(tmp_path: Path) -> None:
    tensors: dict[str, tuple[int, ...]] = {
        f"blk.{i}.{part}.weight": (8,) for i in range(2) for part in ("attn_norm", "attn_hum")
    }
    path = plain(tmp_path / "a.gguf", "olmo2", tensors | {"rope_freqs.weight": (8,)})
    edits = ckptconv.Edits(names=[NameRule("translate", "gguf")])
    done = ckptconv.convert(path, tmp_path / "b.safetensors", edits=edits, bare=True)
    told = [(one.where, one.message) for one in done.findings if one.code == "left-alone"]
    assert told == [("blk.0.attn_hum.weight", "of olmo2 no attn_hum is known, which keeps its name")]


def test_names_of_which_nothing_says_whose_they_are(tmp_path: Path) -> None:
    torch.save({"blk.0.attn_q.weight": torch.zeros(8, 8)}, tmp_path / "a.pth")
    with pytest.raises(EditError, match=r"no general\.architecture"):
        by_us(tmp_path / "a.pth", tmp_path / "b.safetensors")
