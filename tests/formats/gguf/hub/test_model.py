"""Whole folders as GGUF files: what transformers makes of the file is what it makes of the folder."""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from gguf import GGUFReader, quants
from safetensors.torch import load_file, save_file

import ckptconv
from ckptconv.edits.name_rule import NameRule
from ckptconv.errors import CkptconvError, CorruptFileError, EditError, UnsupportedError, UsageError
from tests.arch.real_models import transformers_module
from tests.formats.gguf.hub.test_tokenizer import byte_level

if TYPE_CHECKING:
    from pathlib import Path

SIZES: dict[str, Any] = {
    "vocab_size": 270, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 260, "eos_token_id": 261,
}  # fmt: skip
SCALED = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16, "rope_theta": 1e4}  # fmt: skip
TO_GGUF = [NameRule("translate", "to-gguf")]
TEXTS = ("hell", "the hell of it", "<s>he</s>", "é 😶\u200d🌫️\r\n\t 3.14", "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama with its tokenizer, in BF16."""
    path = tmp_path_factory.mktemp("model")
    transformers = transformers_module()
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZES, rope_scaling=SCALED, tie_word_embeddings=False)
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(path)
    (path / "tokenizer.json").write_text(byte_level().to_str(), "utf-8")
    said = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (path / "tokenizer_config.json").write_text(json.dumps(said))
    return path


def made(source: Path, target: Path, dtype: tuple[str, ...] = (), **options: Any) -> Path:
    ckptconv.convert(source, target, edits=ckptconv.Edits(names=TO_GGUF, dtype=dtype), **options)
    return target


def test_transformers_reads_the_same_weights_and_tokens(folder: Path, tmp_path: Path) -> None:
    transformers = transformers_module()
    path = made(folder, tmp_path / "a.gguf", ("F32",))
    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    load = importlib.import_module("transformers.modeling_gguf_pytorch_utils").load_gguf_checkpoint
    read = load(path, return_tensors=True, model_to_load=model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(read["tensors"][name], tensor), name
    for key in ("hidden_size", "num_hidden_layers", "num_key_value_heads", "rms_norm_eps", "vocab_size"):
        assert read["config"][key] == pytest.approx(getattr(model.config, key))
    ours = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="a.gguf")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert [ours.encode(text) for text in TEXTS] == [theirs.encode(text) for text in TEXTS]


@pytest.mark.parametrize(("dtype", "kind", "number"), [((), "BF16", 32), (("F16",), "F16", 1), (("F32",), "F32", 0)])
def test_types_and_what_the_file_says_of_them(
    dtype: tuple[str, ...], kind: str, number: int, folder: Path, tmp_path: Path
) -> None:
    """Vectors stay F32, also where all floats are asked for in another type."""
    reader = GGUFReader(made(folder, tmp_path / "a.gguf", dtype))
    types = {tensor.tensor_type.name for tensor in reader.tensors if len(tensor.shape) > 1}
    assert types == {kind}
    assert {tensor.tensor_type.name for tensor in reader.tensors if len(tensor.shape) == 1} == {"F32"}
    assert reader.fields["general.file_type"].contents() == number
    assert "ckptconv" not in reader.fields


def test_there_and_back_the_weights_are_the_same_bits(folder: Path, tmp_path: Path) -> None:
    made(folder, tmp_path / "a.gguf")
    back = ckptconv.Edits(names=[NameRule("translate", "gguf")], drop=["rope_freqs.weight"], dtype=["BF16"])
    ckptconv.convert(tmp_path / "a.gguf", tmp_path / "b.safetensors", edits=back, bare=True)
    found, wanted = load_file(tmp_path / "b.safetensors"), load_file(folder / "model.safetensors")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_what_a_person_says_outranks_the_documents(folder: Path, tmp_path: Path) -> None:
    said: dict[str, Any] = {"general.name": "Small", "tokenizer.ggml.pre": "viking", "llama.context_length": 7}
    reader = GGUFReader(made(folder, tmp_path / "a.gguf", metadata=said))
    assert {key: reader.fields[key].contents() for key in said} == said
    reader = GGUFReader(made(folder, tmp_path / "b.gguf", metadata={"tokenizer.ggml.model": "none"}))
    assert [key for key in reader.fields if key.startswith("tokenizer")] == ["tokenizer.ggml.model"]


def test_the_weights_alone_still_have_what_llama_cpp_asks_for(folder: Path, tmp_path: Path) -> None:
    assert made(folder, tmp_path / "a.gguf").read_bytes() == made(folder, tmp_path / "b.gguf", bare=True).read_bytes()
    again = made(folder / "model.safetensors", tmp_path / "c.gguf")
    assert again.read_bytes() == (tmp_path / "a.gguf").read_bytes()


def test_a_dry_run_names_what_is_computed(folder: Path, tmp_path: Path) -> None:
    done = ckptconv.convert(folder, tmp_path / "a.gguf", edits=ckptconv.Edits(names=TO_GGUF), dry_run=True)
    assert [move.target for move in done.plan if not move.sources] == ["rope_freqs.weight"]
    assert not (tmp_path / "a.gguf").exists()


def test_an_output_that_llama_cpp_wants_is_written_again(tmp_path: Path) -> None:
    """OLMo 2 has one of its own there, also where it is the embeddings."""
    transformers = transformers_module()
    transformers.Olmo2ForCausalLM(transformers.Olmo2Config(**SIZES, tie_word_embeddings=True)).save_pretrained(tmp_path)
    path = made(tmp_path, tmp_path / "a.gguf", metadata={"tokenizer.ggml.model": "none"})
    tensors = {tensor.name: tensor.data for tensor in GGUFReader(path).tensors}
    assert (tensors["output.weight"] == tensors["token_embd.weight"]).all()


def test_the_translation_is_hinted_at_if_it_was_not_asked_for(folder: Path, tmp_path: Path) -> None:
    done = ckptconv.convert(folder, tmp_path / "a.gguf", dry_run=True)
    assert [finding.hint for finding in done.findings if finding.code == "dialect"] == ["--translate to-gguf"]
    with pytest.raises(EditError) as refused:
        ckptconv.convert(folder, tmp_path / "a.gguf", edits=ckptconv.Edits(names=[NameRule("translate", "gguf")]))
    assert refused.value.hint == "--translate to-gguf makes llama.cpp's names of transformers'"


def test_what_a_person_says_gets_the_type_that_llama_cpp_takes(folder: Path, tmp_path: Path) -> None:
    said = {
        "general.name": 5,
        "llama.rope.freq_base": 7,
        "llama.context_length": 32,
        "my.own": 1,
        "llama.rope.scaling.factor": 4,
    }
    path = made(folder, tmp_path / "a.gguf", metadata=said)
    fields = GGUFReader(path).fields
    assert {key: (fields[key].types[0].name, fields[key].contents()) for key in said} == {
        "general.name": ("STRING", "5"), "llama.rope.freq_base": ("FLOAT32", 7.0),
        "llama.context_length": ("UINT32", 32), "my.own": ("UINT32", 1),
        "llama.rope.scaling.factor": ("FLOAT32", 4.0),
    }  # fmt: skip
    with pytest.raises(EditError, match=r"--meta llama\.context_length: 'long' is not a uint32"):
        made(folder, tmp_path / "b.gguf", metadata={"llama.context_length": "long"})
    with pytest.raises(EditError, match="is not a float32"):
        made(folder, tmp_path / "b.gguf", metadata={"llama.rope.freq_base": 10**400})


def test_a_folder_whose_name_is_no_text_still_gives_one(folder: Path, tmp_path: Path) -> None:
    path = made(copied(folder, tmp_path / "caf\udce9"), tmp_path / "a.gguf")
    assert GGUFReader(path).fields["general.name"].contents() == "caf?"


@pytest.mark.parametrize("dtype", ["F64", "I8", "F8_E4M3", "*attn_q.weight=F64"])
def test_numbers_that_llama_cpp_does_not_compute_with_are_refused(dtype: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=f"does not compute with {dtype.rpartition('=')[2]}") as refused:
        made(folder, tmp_path / "a.gguf", (dtype,))
    assert refused.value.hint == "--dtype F16, BF16, F32, or blocks as Q8_0"


def test_another_format_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the target is safetensors"):
        made(folder, tmp_path / "a.safetensors")


def copied(folder: Path, target: Path, **config: Any) -> Path:
    target.mkdir()
    save_file(load_file(folder / "model.safetensors"), target / "model.safetensors")
    said = json.loads((folder / "config.json").read_text()) | config
    (target / "config.json").write_text(json.dumps(said))
    (target / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    return target


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        ({"architectures": ["RwkvForCausalLM"]}, UnsupportedError, "does not know how llama.cpp has a 'Rwkv"),
        ({"hidden_act": "relu"}, UnsupportedError, "llama has no hidden_act 'relu'"),
        ({"num_hidden_layers": 9}, EditError, "says 9 layers, and the tensors have 2"),
        ({"vocab_size": None}, CorruptFileError, "says no vocab_size"),
        ({"rms_norm_eps": []}, CorruptFileError, "rms_norm_eps is"),
    ],
)
def test_errors_leave_nothing_and_say_where(
    config: dict[str, Any], error: type[CkptconvError], words: str, folder: Path, tmp_path: Path
) -> None:
    source = copied(folder, tmp_path / "model", **config)
    with pytest.raises(error, match=words) as refused:
        made(source, tmp_path / "a.gguf")
    assert refused.value.hint
    assert not list(tmp_path.glob("*.gguf*"))


def test_a_damaged_configuration_is_named(folder: Path, tmp_path: Path) -> None:
    source = copied(folder, tmp_path / "model")
    (source / "config.json").write_text("{")
    with pytest.raises(
        CorruptFileError, match="the configuration beside the weights is not JSON: Expecting"
    ) as refused:
        made(source, tmp_path / "a.gguf")
    assert refused.value.path == source / "config.json"


def test_blocks_of_gpt_oss_keep_their_values(tmp_path: Path) -> None:
    """Dequantized and quantized again: a block's scale may become another, and no value."""
    transformers = transformers_module()
    config = transformers.GptOssConfig(**SIZES | {"intermediate_size": 64}, head_dim=8, num_local_experts=2)
    transformers.GptOssForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path)
    state, generator = load_file(tmp_path / "model.safetensors"), torch.Generator().manual_seed(0)
    for name in [name for name in state if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, width, rows = state.pop(name).shape
        shape = (experts, rows, width // 32)
        state[f"{name}_blocks"] = torch.randint(256, (*shape, 16), dtype=torch.uint8, generator=generator)
        state[f"{name}_scales"] = torch.randint(120, 130, shape, dtype=torch.uint8, generator=generator)
    save_file(state, tmp_path / "model.safetensors")
    said = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(said | {"quantization_config": {"quant_method": "mxfp4"}}))
    found = {}
    for kind in ("F32", "MXFP4"):
        edits = ckptconv.Edits(names=TO_GGUF, dequantize=True, dtype=[f"*_exps.weight={kind}"])
        path = tmp_path / f"{kind}.gguf"
        ckptconv.convert(tmp_path, path, edits=edits, metadata={"tokenizer.ggml.model": "none"})
        found[kind] = {t.name: t for t in GGUFReader(path).tensors if "_exps.weight" in t.name}
    assert len(found["F32"]) == 6
    for name, plain in found["F32"].items():
        packed = found["MXFP4"][name]
        assert packed.tensor_type.name == "MXFP4"
        assert (quants.dequantize(packed.data, packed.tensor_type) == plain.data).all(), name


def test_a_damaged_document_is_named(folder: Path, tmp_path: Path) -> None:
    source = copied(folder, tmp_path / "model")
    (source / "tokenizer.json").write_text("{")
    with pytest.raises(CorruptFileError) as refused:
        made(source, tmp_path / "a.gguf")
    assert refused.value.path == source / "tokenizer.json"
