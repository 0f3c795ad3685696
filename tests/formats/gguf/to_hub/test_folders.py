"""A GGUF as a folder that transformers loads: it computes what the folder did that the GGUF was made of."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import processors

import ckptconv
from ckptconv.edits.name_rule import NameRule
from ckptconv.errors import LossError, TargetExistsError, UnsupportedError, UsageError
from tests.arch.real_models import transformers_module
from tests.edits.dialects.test_of_gguf import Case
from tests.formats.gguf.hub.test_model import SCALED, SIZES
from tests.formats.gguf.hub.test_tokenizer import byte_level
from tests.formats.gguf.to_hub.test_tokenizer import TEXTS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NONE: dict[str, Any] = {"tokenizer.ggml.model": "none"}
BACK, THERE = [NameRule("translate", "gguf")], [NameRule("translate", "to-gguf")]
MIXTURE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True}
LATENT = {"kv_lora_rank": 16, "q_lora_rank": 12, "qk_rope_head_dim": 8, "v_head_dim": 16, "qk_nope_head_dim": 16,
          "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
          "first_k_dense_replace": 1, "num_key_value_heads": 4, "n_group": 2, "topk_group": 1, "head_dim": 8,
          "pad_token_id": 0}  # fmt: skip
LONG = {"rope_type": "longrope", "long_factor": [1.5, 2.0, 3.0, 4.0], "short_factor": [1.0, 1.1, 1.2, 1.3],
        "rope_theta": 1e4, "original_max_position_embeddings": 16}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {"rope_scaling": SCALED, "tie_word_embeddings": True, "attention_bias": True},
    "Qwen3MoeForCausalLM": MIXTURE | {"head_dim": 16},
    "Gemma3ForCausalLM": {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 8, "num_hidden_layers": 7},
    "DeepseekV3ForCausalLM": LATENT,
    "Phi3ForCausalLM": {"rope_scaling": LONG, "original_max_position_embeddings": 16, "pad_token_id": 0},
    "FalconForCausalLM": {"new_decoder_architecture": True, "num_kv_heads": 2, "alibi": False, "bias": False},
}


def saved(path: Path, name: str = "LlamaForCausalLM", **more: Any) -> Path:
    """A folder with a small model."""
    cls = getattr(transformers_module(), name)
    torch.manual_seed(0)
    cls(cls.config_class(**SIZES | MODELS[name] | more)).save_pretrained(path)
    return path


def to_gguf(folder: Path, target: Path, dtype: Sequence[str] = ("F32",), **options: Any) -> Path:
    options = {"metadata": NONE} | options
    ckptconv.convert(folder, target, edits=ckptconv.Edits(names=THERE, dtype=dtype), **options)
    return target


def back(source: Path, target: Path | str, dtype: Sequence[str] = (), **options: Any) -> Any:
    return ckptconv.convert(source, target, edits=ckptconv.Edits(names=BACK, dtype=dtype), **options)


def outputs(folder: Path) -> torch.Tensor:
    """What the model computes in float32; every weight of it is in the folder."""
    model, info = transformers_module().AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    ids = torch.arange(5, 45).reshape(2, 20)
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(input_ids=ids).logits
    return logits


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_it_computes_the_same_bits(name: str, tmp_path: Path) -> None:
    first = saved(tmp_path / "a", name)
    back(to_gguf(first, tmp_path / "m.gguf"), f"{tmp_path / 'b'}/")
    assert json.loads((tmp_path / "b" / "config.json").read_text())["architectures"] == [name]
    assert torch.equal(outputs(first), outputs(tmp_path / "b"))


@pytest.mark.filterwarnings("ignore")
def test_of_blocks_and_of_several_files_it_computes_what_their_floats_say(tmp_path: Path) -> None:
    first = saved(tmp_path / "a", hidden_size=64)
    to_gguf(first, tmp_path / "m.gguf", ("Q8_0",), shard_size="40KB")
    source = min(tmp_path.glob("m-00001-of-*.gguf"))
    stays = back(source, f"{tmp_path / 'd'}/", dry_run=True)
    assert [(one.severity, one.hint) for one in stays.findings if one.code == "blocks"] == [("warning", "--dtype BF16")]
    back(source, f"{tmp_path / 'b'}/", ("BF16",))
    back(source, f"{tmp_path / 'c'}/", ("BF16",), shard_size="40KB")
    assert json.loads((tmp_path / "b" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert len([*(tmp_path / "c").glob("model-*.safetensors")]) > 1
    assert torch.equal(outputs(tmp_path / "b"), outputs(tmp_path / "c"))
    assert torch.allclose(outputs(tmp_path / "b"), outputs(first), atol=0.05)


def test_what_is_quantized_on_the_way_is_in_the_configuration(gguf: Path, tmp_path: Path) -> None:
    """Without it, transformers would compute with the integers."""
    edits = ckptconv.Edits(names=BACK, dtype=["BF16"], quantize=["int8"])
    ckptconv.convert(gguf, f"{tmp_path / 'b'}/", edits=edits)
    ckptconv.convert(gguf, f"{tmp_path / 'plain'}/", edits=ckptconv.Edits(names=BACK, dtype=["BF16"]))
    edits = ckptconv.Edits(quantize=["int8"])
    ckptconv.convert(tmp_path / "plain", f"{tmp_path / 'c'}/", edits=edits, with_files=True)
    made, copied = (json.loads((tmp_path / name / "config.json").read_text()) for name in "bc")
    assert made["quantization_config"]["quant_method"] == "compressed-tensors"
    assert made == copied
    assert (tmp_path / "b" / "model.safetensors").read_bytes() == (tmp_path / "c" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf")
    return to_gguf(saved(path / "a"), path / "m.gguf")


def test_what_the_files_say_is_not_said_again(gguf: Path, tmp_path: Path) -> None:
    """Not as a tensor, nor as metadata. What they do not say stays; what a person sets outranks the file."""
    done = back(gguf, f"{tmp_path}/out/", metadata={"llama.context_length": 99, "note": "mine"})
    assert done.files == [tmp_path / "out" / "config.json"]
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert "rope_freqs.weight" not in file.keys()  # noqa: SIM118
        said = file.metadata()
    assert {"general.name", "note"} <= said.keys()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["max_position_embeddings"] == 99
    assert not {"llama.context_length", "general.architecture", "general.file_type"} & said.keys()
    assert {finding.code for finding in done.findings} >= {"made-files", "left-out"}


def test_a_file_gets_weights_alone_unless_files_are_asked_for(gguf: Path, tmp_path: Path) -> None:
    assert back(gguf, tmp_path / "a.safetensors").files == []
    assert not (tmp_path / "config.json").exists()
    with pytest.raises(UsageError) as refused:
        ckptconv.convert(gguf, tmp_path / "b.safetensors", with_files=True)
    assert refused.value.hint == "--translate gguf makes them of the GGUF's metadata"
    (tmp_path / "out").mkdir()
    back(gguf, tmp_path / "out" / "b.safetensors", with_files=True)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "float32"


def test_a_configuration_beside_the_gguf_is_copied_if_files_are_asked_for(gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    source = tmp_path / "in" / "m.gguf"
    source.write_bytes(gguf.read_bytes())
    (tmp_path / "in" / "config.json").write_text('{"mine": 1}')
    back(source, f"{tmp_path}/out/", with_files=True)
    assert (tmp_path / "out" / "config.json").read_text() == '{"mine": 1}'


def test_a_model_without_a_configuration_is_weights_alone_unless_files_are_asked_for(tmp_path: Path) -> None:
    source = to_gguf(saved(tmp_path / "a"), tmp_path / "m.gguf", metadata=NONE | {"llama.rope.scaling.type": "ntk"})
    ckptconv.convert(source, tmp_path / "n.gguf", metadata={"llama.attention.key_length": 6})
    done = back(tmp_path / "n.gguf", f"{tmp_path}/out/", dry_run=True)
    assert [(one.code, one.severity) for one in done.findings if one.code == "no-config"] == [("no-config", "warning")]
    with pytest.raises(UnsupportedError) as refused:
        back(tmp_path / "n.gguf", f"{tmp_path}/out/", with_files=True)
    assert refused.value.hint
    assert refused.value.path == tmp_path / "n.gguf"
    assert not (tmp_path / "out").exists()


def test_all_is_written_or_nothing(gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text("{}")
    with pytest.raises(TargetExistsError):
        back(gguf, f"{tmp_path}/out/")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["config.json"]
    back(gguf, f"{tmp_path}/out/", force=True)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "llama"
    big = load_file(tmp_path / "out" / "model.safetensors")
    big["model.norm.weight"] *= 1e6
    save_file(big, tmp_path / "out" / "model.safetensors")
    to_gguf(tmp_path / "out", tmp_path / "big.gguf")
    with pytest.raises(LossError):  # found as values are written
        back(tmp_path / "big.gguf", f"{tmp_path}/new/", ("F16",))
    assert not [*tmp_path.glob("new/*")]


def test_a_dry_run_names_the_files_and_writes_none(gguf: Path, tmp_path: Path) -> None:
    done = back(gguf, f"{tmp_path}/out/", dry_run=True)
    assert [path.name for path in done.files] == ["config.json"]
    assert [move.sources for move in done.plan if move.target is None] == [("rope_freqs.weight",)]
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def with_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer, and its GGUF in a folder of its own."""
    path = tmp_path_factory.mktemp("tokenizer")
    saved(path / "a", vocab_size=270)
    made = byte_level()
    made.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B:1", [("<s>", 260)])
    (path / "a" / "tokenizer.json").write_text(made.to_str(), "utf-8")
    said = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>",
            "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": "{{ messages[0].content }}"}  # fmt: skip
    (path / "a" / "tokenizer_config.json").write_text(json.dumps(said))
    to_gguf(path / "a", path / "m.gguf", metadata={"tokenizer.ggml.eot_token_id": 262})
    return path


def test_transformers_reads_the_same_tokenizer_of_the_folder_and_of_the_gguf(
    with_tokenizer: Path, tmp_path: Path
) -> None:
    done = back(with_tokenizer / "m.gguf", f"{tmp_path}/out/")
    assert [path.name for path in done.files] == [
        "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    load = transformers_module().AutoTokenizer.from_pretrained
    first, found = load(with_tokenizer / "a"), load(tmp_path / "out")
    read = load(with_tokenizer, gguf_file="m.gguf")
    for text in TEXTS:
        assert found.encode(text) == first.encode(text) == read.encode(text), text
    messages = [{"role": "user", "content": "hell"}]
    assert found.apply_chat_template(messages, tokenize=False) == "hell"
    assert (found.bos_token, found.eos_token, found.pad_token_id) == ("<s>", "</s>", 261)
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert not [key for key in file.metadata() if key.startswith("tokenizer.")]


def test_a_language_model_of_another_model_gets_the_names_of_its_own_class(tmp_path: Path) -> None:
    source = Case("qwen3vl").write(tmp_path / "m.gguf")
    done = back(source, f"{tmp_path}/out/", dry_run=True)
    assert ("blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight") in [
        (*move.sources, move.target) for move in done.plan
    ]  # fmt: skip
    back(source, f"{tmp_path}/out/")
    transformers = transformers_module()
    _, info = transformers.Qwen3ForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]


def test_the_folder_makes_the_same_gguf_again(with_tokenizer: Path, tmp_path: Path) -> None:
    """Its name, too, as the folder has that of the first."""
    back(with_tokenizer / "m.gguf", f"{tmp_path}/a/")
    to_gguf(tmp_path / "a", tmp_path / "n.gguf", metadata={"tokenizer.ggml.eot_token_id": 262})
    assert ckptconv.diff(with_tokenizer / "m.gguf", tmp_path / "n.gguf").equal


def test_generating_stops_at_each_end_that_the_gguf_states(with_tokenizer: Path, tmp_path: Path) -> None:
    said = {"tokenizer.ggml.eot_token_id": 262, "tokenizer.ggml.eom_token_id": 261}
    ckptconv.convert(with_tokenizer / "m.gguf", tmp_path / "n.gguf", metadata=said)
    back(tmp_path / "n.gguf", f"{tmp_path}/out/")
    found = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert found == {"bos_token_id": 260, "eos_token_id": [261, 262], "pad_token_id": 261}


def test_a_tokenizer_that_cannot_be_made_is_left_out_unless_files_are_asked_for(
    with_tokenizer: Path, tmp_path: Path
) -> None:
    ckptconv.convert(with_tokenizer / "m.gguf", tmp_path / "n.gguf", metadata={"tokenizer.ggml.pre": "viking"})
    done = back(tmp_path / "n.gguf", f"{tmp_path}/out/")
    assert [path.name for path in done.files] == ["config.json", "generation_config.json"]
    assert [one.severity for one in done.findings if one.code == "no-tokenizer"] == ["warning"]
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert "tokenizer.ggml.tokens" in file.metadata()
    with pytest.raises(UnsupportedError, match="'viking' splits texts is not known"):
        back(tmp_path / "n.gguf", f"{tmp_path}/new/", with_files=True)
    assert not (tmp_path / "new").exists()
    known = back(tmp_path / "n.gguf", f"{tmp_path}/new/", with_files=True, metadata={"tokenizer.ggml.pre": "llama-bpe"})
    assert len(known.files) == 4


@pytest.mark.parametrize(("kind", "number"), [("cls_token", 2), ("mean_tokens", 1)])
def test_an_encoder_its_words_and_its_pooling(kind: str, number: int, tmp_path: Path) -> None:
    """BERT, whose words llama.cpp spells otherwise, with sentence-transformers' files."""
    transformers = transformers_module()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{number}" for number in range(40)), "##ll", "he"]
    torch.manual_seed(0)
    sizes = {"vocab_size": len(words), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
             "num_attention_heads": 4, "max_position_embeddings": 64}  # fmt: skip
    transformers.BertModel(transformers.BertConfig(**sizes)).save_pretrained(tmp_path / "a")
    (tmp_path / "a" / "vocab.txt").write_text("\n".join(words) + "\n", "utf-8")
    (tmp_path / "a" / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    (tmp_path / "a" / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 32, f"pooling_mode_{kind}": True}
    (tmp_path / "a" / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    back(to_gguf(tmp_path / "a", tmp_path / "m.gguf", metadata={}), f"{tmp_path}/b/")
    assert pooling.items() <= json.loads((tmp_path / "b" / "1_Pooling" / "config.json").read_text()).items()
    modules = json.loads((tmp_path / "b" / "modules.json").read_text())
    assert [module["path"] for module in modules] == ["", "1_Pooling"]
    with ckptconv.open(to_gguf(tmp_path / "b", tmp_path / "n.gguf", metadata={})) as again:
        assert again.metadata["bert.pooling_type"] == number
    inputs = transformers.AutoTokenizer.from_pretrained(tmp_path / "b")("word7 HELL [MASK]", return_tensors="pt")
    assert inputs["input_ids"].tolist() == [[2, 12, 46, 45, 4, 3]]
    models = [transformers.AutoModel.from_pretrained(tmp_path / name, dtype=torch.float32) for name in "ab"]
    with torch.no_grad():
        found = [model.eval()(**inputs).last_hidden_state for model in models]
    assert torch.equal(*found)
