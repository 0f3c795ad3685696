"""Sets that Hugging Face's libraries wrote are read bit by bit, and they load ours."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import load_file, save_file

import ckptconv
from ckptconv.errors import UnsupportedError
from tests.arch.real_models import transformers_module

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def build(config: Any, kind: str) -> Any:
    torch.manual_seed(0)
    return getattr(transformers_module(), kind)(config).eval()


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    """Small models with random weights; GPT-2's and BERT's heads are tied, Llama's weights are BF16."""
    library = transformers_module()
    llama = library.LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    gpt2 = library.GPT2Config(vocab_size=80, n_embd=16, n_layer=2, n_head=2, n_positions=32)
    bert = library.BertConfig(
        vocab_size=70, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20
    )
    return {
        "llama": build(llama, "LlamaForCausalLM").to(torch.bfloat16),
        "gpt2": build(gpt2, "GPT2LMHeadModel"),
        "bert": build(bert, "BertForMaskedLM"),
    }


MODELS = pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])


def saved(model: Any, folder: Path, **how: Any) -> Path:
    model.save_pretrained(folder, **how)
    return folder


def save_binaries(model: Any, folder: Path, size: int) -> Path:
    """As transformers did before version 5, with the splitter that it used and still uses."""
    state = model.state_dict()
    parts = split_torch_state_dict_into_shards(
        state, filename_pattern="pytorch_model{suffix}.bin", max_shard_size=size
    )  # fmt: skip
    folder.mkdir()
    model.config.save_pretrained(folder)
    for file, names in parts.filename_to_tensors.items():
        torch.save({name: state[name] for name in names}, folder / file)
    index = {"metadata": parts.metadata, "weight_map": parts.tensor_to_filename}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    return folder


def same(ours: Mapping[str, Any], theirs: Mapping[str, torch.Tensor], *, tied: bool = False) -> None:
    assert set(ours) == set(theirs) or (tied and set(ours) < set(theirs))
    for name, tensor in ours.items():
        found = tensor.to_torch()
        assert found.dtype == theirs[name].dtype
        assert torch.equal(found, theirs[name]), name


@MODELS
def test_a_set_that_save_pretrained_wrote_is_read_bit_by_bit(name: str, models: Any, tmp_path: Path) -> None:
    folder = saved(models[name], tmp_path / "set", max_shard_size="4KB")
    assert len(list(folder.glob("*.safetensors"))) > 3
    with ckptconv.open(folder) as checkpoint:
        assert checkpoint.findings == ()
        assert dict(checkpoint.metadata) == {}
        same(checkpoint, models[name].state_dict(), tied=name != "llama")


@MODELS
def test_a_set_of_pickled_shards_is_read_bit_by_bit(name: str, models: Any, tmp_path: Path) -> None:
    folder = save_binaries(models[name], tmp_path / "set", 4000)
    assert len(list(folder.glob("*.bin"))) > 3
    with ckptconv.open(folder / "pytorch_model.bin.index.json") as checkpoint:
        assert checkpoint.findings == ()
        assert checkpoint.format == "torch-sharded"
        same(checkpoint, models[name].state_dict())
        assert bool(checkpoint.ties) is (name != "llama")


def test_a_variant_of_a_set_is_found(models: Any, tmp_path: Path) -> None:
    folder = saved(models["llama"], tmp_path / "set", max_shard_size="4KB", variant="fp16")
    assert (folder / "model.safetensors.index.fp16.json").exists()
    with ckptconv.open(folder) as checkpoint:
        same(checkpoint, models["llama"].state_dict())
        assert checkpoint.findings == ()


def test_a_snapshot_with_a_single_file_is_that_file(models: Any, tmp_path: Path) -> None:
    folder = saved(models["llama"], tmp_path / "set")
    with ckptconv.open(folder) as checkpoint:
        assert checkpoint.format == "safetensors"
        same(checkpoint, models["llama"].state_dict())


@MODELS
def test_a_folder_is_validated_by_the_config_in_it(name: str, models: Any, tmp_path: Path) -> None:
    folder = saved(models[name], tmp_path / "set", max_shard_size="4KB")
    for path in (folder, folder / "model.safetensors.index.json"):
        result = ckptconv.validate(path)
        assert (result.arch, result.evidence, result.valid) == (name, "config.json", True), result.findings


@MODELS
@pytest.mark.parametrize("kind", ["safetensors", "torch"])
def test_from_pretrained_loads_ours_bit_by_bit(name: str, kind: str, models: Any, tmp_path: Path) -> None:
    model, out = models[name], tmp_path / "out"
    torch.save({"epoch": 3, "note": ("a", 1), "state_dict": model.state_dict()}, tmp_path / "in.pth")
    model.config.save_pretrained(out)
    ckptconv.convert(tmp_path / "in.pth", f"{out}/", to_format=kind, shard_size="4KB")
    assert len(list(out.glob("*-of-*"))) > 3
    options = {} if kind == "safetensors" else {"use_safetensors": False}
    loaded, said = type(model).from_pretrained(out, dtype="auto", output_loading_info=True, **options)
    assert not said["missing_keys"]
    assert not said["mismatched_keys"]
    same({key: Plain(value) for key, value in loaded.state_dict().items()}, model.state_dict())


class Plain:
    """A torch tensor that answers as ours do."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def to_torch(self) -> torch.Tensor:
        return self.tensor


def test_from_pretrained_loads_a_set_that_replaced_one_of_as_many_shards(models: Any, tmp_path: Path) -> None:
    model, out = models["llama"], tmp_path / "out"
    saved(model, out, max_shard_size="4KB")
    ckptconv.convert(out, f"{out}/", shard_size="4KB", force=True)
    assert list(out.glob("model.1-00001-of-*"))
    loaded = type(model).from_pretrained(out, dtype="auto")
    same({key: Plain(value) for key, value in loaded.state_dict().items()}, model.state_dict())


def test_a_headless_model_loads_from_a_part_of_ours(models: Any, tmp_path: Path) -> None:
    model, out = models["bert"], tmp_path / "out"
    torch.save(model.state_dict(), tmp_path / "in.pth")
    model.config.save_pretrained(out)
    ckptconv.convert(tmp_path / "in.pth", f"{out}/", shard_size="4KB", bare=True)
    loaded = type(model.bert).from_pretrained(out, add_pooling_layer=False)
    same({key: Plain(value) for key, value in loaded.state_dict().items()}, model.bert.state_dict())


@MODELS
def test_load_file_takes_each_shard_and_finds_what_the_index_says(name: str, models: Any, tmp_path: Path) -> None:
    torch.save(models[name].state_dict(), tmp_path / "in.pth")
    ckptconv.convert(tmp_path / "in.pth", tmp_path / "out.safetensors", shard_size="4KB")
    index = json.loads((tmp_path / "out.safetensors.index.json").read_text())
    state = models[name].state_dict()
    total = 0
    for file in set(index["weight_map"].values()):
        loaded = load_file(tmp_path / file)
        assert loaded.keys() == {key for key, value in index["weight_map"].items() if value == file}
        assert all(torch.equal(tensor, state[key]) for key, tensor in loaded.items())
        total += sum(tensor.nbytes for tensor in loaded.values())
    assert total == index["metadata"]["total_size"]


@MODELS
@pytest.mark.parametrize("size", [300, 2000, 5000, 20_000, 10**9])
def test_tensors_are_split_as_huggingface_hub_splits_them(name: str, size: int, models: Any, tmp_path: Path) -> None:
    state = models[name].state_dict()
    theirs = split_torch_state_dict_into_shards(state, filename_pattern="out{suffix}.bin", max_shard_size=size)
    torch.save(state, tmp_path / "in.pth")
    ckptconv.convert(tmp_path / "in.pth", tmp_path / "out.bin", shard_size=size)
    if not theirs.is_sharded:
        assert [path.name for path in tmp_path.glob("out*")] == ["out.bin"]
        return
    index = json.loads((tmp_path / "out.bin.index.json").read_text())
    assert index["weight_map"] == theirs.tensor_to_filename
    assert index["metadata"]["total_size"] == theirs.metadata["total_size"]
    for file, names in theirs.filename_to_tensors.items():
        loaded = torch.load(tmp_path / file, weights_only=True)
        assert set(loaded) == set(names)
        assert all(torch.equal(loaded[key], state[key]) for key in names)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_other_modules_of_sentence_transformers_are_reported(name: str, tmp_path: Path) -> None:
    parts = [{"idx": 0, "path": ""}, {"idx": 1, "path": "1_Pooling"}, {"idx": 2, "path": "2_Dense"}]
    (tmp_path / "modules.json").write_text(json.dumps(parts))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text("{}")
    (tmp_path / "2_Dense").mkdir()
    torch.save({"embeddings.weight": torch.ones(2)}, tmp_path / "a.pth")
    torch.save({"linear.weight": torch.ones(3)}, tmp_path / "b.pth")
    kind = "safetensors" if name.endswith("safetensors") else "torch"
    ckptconv.convert(tmp_path / "a.pth", tmp_path / name, to_format=kind)
    ckptconv.convert(tmp_path / "b.pth", tmp_path / "2_Dense" / name, to_format=kind)
    with ckptconv.open(tmp_path) as checkpoint:
        assert list(checkpoint) == ["embeddings.weight"]
        told = {finding.code: finding for finding in checkpoint.findings}
        assert told["modules"].message.endswith("'2_Dense'")
    assert list(ckptconv.open(tmp_path / "2_Dense")) == ["linear.weight"]


@pytest.mark.parametrize("name", ["rank{}.safetensors", "model-rank-{}-part-0.safetensors"])
def test_slices_of_processes_are_no_shards(name: str, tmp_path: Path) -> None:
    for rank in range(2):
        save_file({"w": torch.full((2,), float(rank))}, tmp_path / name.format(rank))
    with pytest.raises(UnsupportedError, match="the folder holds the slices of 2 processes"):
        ckptconv.open(tmp_path)
    for rank in range(2):
        with ckptconv.open(tmp_path / name.format(rank)) as checkpoint:
            assert [finding.code for finding in checkpoint.findings] == ["slice"]
    (tmp_path / name.format(1)).unlink()
    assert [finding.code for finding in ckptconv.open(tmp_path).findings] == ["file"]
