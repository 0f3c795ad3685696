"""``--arch config.json``: the class that it names says what fits, what is computed, and nothing else happens."""

from __future__ import annotations

import importlib
import json
import shutil
import socket
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import ckptconv
from ckptconv.arch.huggingface import ConfigFactory, disk_state, is_config
from ckptconv.errors import CkptconvError, CorruptFileError, LimitError, MisfitError, MissingExtraError, UsageError
from tests.arch.real_models import transformers_module

if TYPE_CHECKING:
    from pathlib import Path

transformers = transformers_module()

TEXT = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
}  # fmt: skip
GROUPED = {**TEXT, "num_key_value_heads": 1, "head_dim": 8}
SEEN = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip

T5 = {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}


def configs() -> dict[str, tuple[str, Any]]:
    """Classes with tied heads, with experts that are stacked in memory and apart on disk, with models inside."""
    t = transformers
    text, seen = t.LlamaConfig(**GROUPED), t.CLIPVisionConfig(**SEEN)
    experts = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
    return {
        "tied": ("LlamaForCausalLM", t.LlamaConfig(**GROUPED, tie_word_embeddings=True)),
        "experts": ("Qwen3MoeForCausalLM", t.Qwen3MoeConfig(**GROUPED, **experts)),
        "nested": ("LlavaForConditionalGeneration", t.LlavaConfig(vision_config=seen, text_config=text)),
        "encoder": ("BertForSequenceClassification", t.BertConfig(**TEXT, num_labels=3)),
        "bare": ("ViTModel", t.ViTConfig(**SEEN)),
        "pair": ("T5ForConditionalGeneration", t.T5Config(**T5)),
    }


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each model as ``save_pretrained`` writes it, and as a .pth of its class's own state_dict beside that."""
    made, root = {}, tmp_path_factory.mktemp("hub")
    for name, (cls, config) in configs().items():
        torch.manual_seed(0)
        model = getattr(transformers, cls)(config)
        made[name] = root / name
        model.save_pretrained(made[name])
        torch.save(model.state_dict(), made[name] / "held.pth")
    return made


MODELS = ["tied", "experts", "nested", "encoder", "bare", "pair"]


@pytest.mark.parametrize("name", MODELS)
def test_what_the_class_saves_and_what_it_holds_both_fit_it(folders: dict[str, Path], name: str) -> None:
    folder = folders[name]
    for path in (folder / "model.safetensors", folder / "held.pth"):
        result = ckptconv.validate(path, arch=str(folder / "config.json"))
        assert result.valid, result.findings
        assert result.arch == f"transformers.{configs()[name][0]}"


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("file", ["model.safetensors", "held.pth"])
def test_a_tensor_too_few_or_of_another_shape_does_not(
    folders: dict[str, Path], name: str, file: str, tmp_path: Path
) -> None:
    with ckptconv.open(folders[name] / file) as found:
        state = dict(found.to_torch())
    tied = ("embed", "head", "shared")
    first = next(key for key, value in state.items() if value.dim() == 2 and not any(word in key for word in tied))
    for changed in ({**state, first: torch.zeros(3, 5)}, {k: v for k, v in state.items() if k != first}):
        torch.save(changed, tmp_path / "changed.pth")
        result = ckptconv.validate(tmp_path / "changed.pth", arch=str(folders[name] / "config.json"))
        assert not result.valid
        assert first in str([finding.to_dict() for finding in result.findings])


def test_names_on_disk_are_those_that_transformers_writes(folders: dict[str, Path]) -> None:
    for name, folder in folders.items():
        with torch.device("meta"):
            module = ConfigFactory(folder / "config.json")()
        with ckptconv.open(folder) as found:
            written = {key: tensor.info.shape for key, tensor in found.items()}
        told = {key: tuple(tensor.shape) for key, tensor in disk_state(module).items()}
        assert told.items() >= written.items()
        assert name in ("tied", "pair") or len(told) == len(written)


def test_experts_from_the_disk_compute_what_the_class_does(folders: dict[str, Path]) -> None:
    """Against the class itself, loaded by from_pretrained; and against what it holds."""
    folder = folders["experts"]
    arch = str(folder / "config.json")
    assert ckptconv.verify(folder, folder / "held.pth", arch=arch, samples=2).equivalent
    recording = ckptconv.run(folder, arch=arch, samples=2, seed=0)
    model = transformers.Qwen3MoeForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    batch = recording.batches[0]
    with torch.no_grad():
        theirs = model(torch.from_numpy(next(iter(batch.inputs.values())))).logits
    torch.testing.assert_close(torch.from_numpy(batch.outputs["logits"]), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "renamed"), [("pair", False), ("bare", True)])
def test_a_folder_becomes_a_graph_that_computes_the_same(
    folders: dict[str, Path], tmp_path: Path, name: str, renamed: bool
) -> None:
    """One whose tied tensors are left out on disk, with a decoder; one that is written under other names. No inputs are
    described: the configuration says that they are tokens, pictures.
    """
    folder, graph = folders[name], tmp_path / "m.onnx"
    arch = str(folder / "config.json")
    made = ckptconv.convert(folder, graph, arch=arch)
    assert ("named" in {finding.code for finding in made.findings}) is renamed
    assert ckptconv.verify(folder, graph, arch=arch, samples=2).equivalent
    held = torch.load(folder / "held.pth")
    with ckptconv.open(graph) as found:
        assert found.keys() <= held.keys()
        assert all(torch.equal(tensor.to_torch(), held[key]) for key, tensor in found.items())


def test_a_graph_of_experts_that_lie_apart_is_refused_and_says_why(folders: dict[str, Path], tmp_path: Path) -> None:
    arch = str(folders["experts"] / "config.json")
    with pytest.raises(UsageError, match="several tensors on disk") as caught:
        ckptconv.convert(folders["experts"], tmp_path / "m.onnx", arch=arch)
    assert "state_dict" in (caught.value.hint or "")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def lacking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a class that the library lacks, whose names are nearly T5's."""
    folder = tmp_path_factory.mktemp("lacking")
    transformers.UdopModel(transformers.UdopConfig(**T5)).save_pretrained(folder)
    return folder


def test_a_class_that_the_library_lacks_is_asked_itself(lacking: Path, tmp_path: Path) -> None:
    result = ckptconv.validate(lacking)
    assert result.valid
    assert (result.arch, result.evidence) == ("transformers.UdopModel", "config.json")
    assert [(one.code, one.severity) for one in result.findings] == [("class", "info")]
    assert "'UdopModel'" in result.findings[0].message
    assert not ckptconv.validate(lacking, arch="t5").valid
    shutil.copytree(lacking, tmp_path, dirs_exist_ok=True)
    altered(tmp_path, lacking, d_ff=25)
    assert {one.code for one in ckptconv.validate(tmp_path).findings} == {"class", "shape-mismatch"}


@pytest.mark.parametrize(
    ("changes", "why", "hint"),
    [
        ({"architectures": ["OursModel"]}, "nor can it be built: transformers .* has no model 'OursModel'", "newer"),
        ({"d_ff": 25, "auto_map": {"AutoModel": "ours.Net"}}, "config.json names code of its own", "models.py:Net"),
        ({"d_ff": "wide"}, "nor can it be built: .*transformers raises", "--debug"),
    ],
)
def test_where_its_class_cannot_be_asked_there_is_no_verdict(
    lacking: Path, tmp_path: Path, changes: dict[str, object], why: str, hint: str
) -> None:
    shutil.copytree(lacking, tmp_path, dirs_exist_ok=True)
    altered(tmp_path, lacking, **changes)
    with pytest.raises(UsageError, match=f"does not have; the nearest, t5, does not fit; {why}") as caught:
        ckptconv.validate(tmp_path)
    assert hint in (caught.value.hint or "")


def test_without_transformers_the_way_to_its_class_is_reported(lacking: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    said = "'UdopModel', which the library does not have; the nearest, t5,"
    with pytest.raises(UsageError, match=said) as caught:
        ckptconv.validate(lacking)
    assert "ckptconv[transformers]" in (caught.value.hint or "")
    assert "--arch t5 says what differs" in (caught.value.hint or "")
    with pytest.raises(UsageError, match=r"what the network computes has to be known, .*'UdopModel'") as caught:
        ckptconv.convert(lacking, lacking / "m.onnx")
    assert "ckptconv[transformers]" in (caught.value.hint or "")


def test_where_no_architecture_is_named_the_class_of_the_configuration_computes(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """Of one that the library knows by names and shapes alone."""
    found = ckptconv.convert(folders["tied"], tmp_path / "m.pth", verify=True).verification
    assert found is not None
    assert found.equivalent
    assert "the class 'LlamaForCausalLM', built by the transformers" in found.findings[0].message


def test_a_graph_is_made_of_a_class_that_the_library_lacks(tmp_path: Path) -> None:
    config = transformers.CTRLConfig(vocab_size=40, n_positions=16, n_embd=16, dff=24, n_layer=1, n_head=2)
    transformers.CTRLModel(config).save_pretrained(tmp_path / "ctrl")
    made = ckptconv.convert(tmp_path / "ctrl", tmp_path / "m.onnx")
    assert {"class", "exported"} <= {one.code for one in made.findings}
    assert ckptconv.verify(tmp_path / "ctrl", tmp_path / "m.onnx", samples=2).equivalent


def test_a_class_that_the_library_lacks_has_no_params_to_write(lacking: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there are no params to write") as caught:
        ckptconv.convert(lacking, tmp_path / "m.pth", with_params=True)
    assert "--with-files" in (caught.value.hint or "")


def test_a_file_that_has_exactly_a_specs_names_fits_it(folders: dict[str, Path], tmp_path: Path) -> None:
    altered(tmp_path, folders["tied"], architectures=["OursForCausalLM"], model_type="ours")
    (tmp_path / "model.safetensors").write_bytes((folders["tied"] / "model.safetensors").read_bytes())
    assert (result := ckptconv.validate(tmp_path)).valid
    assert (result.arch, result.evidence) == ("llama", "names")


def test_floats_that_json_lacks_are_read_as_transformers_writes_them(tmp_path: Path) -> None:
    config = transformers.BambaConfig(
        **GROUPED, mamba_n_heads=4, mamba_d_head=8, mamba_n_groups=1, mamba_d_state=8, attn_layer_indices=[0]
    )
    transformers.BambaForCausalLM(config).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(config.to_json_string(use_diff=False))
    assert "__float__" in (tmp_path / "config.json").read_text()
    assert ckptconv.validate(tmp_path, arch=str(tmp_path / "config.json")).valid


def test_settings_outrank_the_configuration(folders: dict[str, Path]) -> None:
    arch = str(folders["encoder"] / "config.json")
    assert not ckptconv.validate(folders["encoder"], arch=arch, settings=["intermediate_size=25"]).valid
    assert ckptconv.validate(folders["encoder"], arch=arch, settings=["add_cross_attention=false"]).valid
    with pytest.raises(UsageError, match="'intermediate'") as caught:
        ckptconv.validate(folders["encoder"], arch=arch, settings=["intermediate=25"])
    assert "'intermediate_size'" in (caught.value.hint or "")


# Strangers' configurations


def altered(target: Path, source: Path, **changes: object) -> str:
    config = json.loads((source / "config.json").read_text()) | changes
    (target / "config.json").write_text(json.dumps(config))
    return str(target / "config.json")


def changed(folders: dict[str, Path], tmp_path: Path, **changes: object) -> str:
    return altered(tmp_path, folders["tied"], **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"attn_implementation": "kernels-community/x"},
        {"_attn_implementation": "kernels-community/x", "_attn_implementation_internal": "kernels-community/x"},
        {"experts_implementation": "kernels-community/x", "use_kernels": True},
        {"auto_map": {"AutoModelForCausalLM": "canary.Net"}, "_name_or_path": "someone/something"},
    ],
)
def test_code_and_kernels_that_it_names_are_never_asked_for(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
) -> None:
    def refused(*args: object) -> None:
        raise AssertionError("something is fetched")

    monkeypatch.setattr(socket.socket, "connect", refused)
    (tmp_path / "canary.py").write_text("open('ran', 'w')")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert ckptconv.validate(folders["tied"], arch=changed(folders, tmp_path, **changes)).valid
    assert sys.path == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["canary.py", "config.json"]


@pytest.mark.parametrize(
    "name", ["os.system", "AutoModel", "PreTrainedModel", "LlamaConfig", "__name__", "NoSuchClass"]
)
def test_what_is_no_model_of_transformers_is_refused(folders: dict[str, Path], tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError) as caught:
        ckptconv.validate(folders["tied"], arch=changed(folders, tmp_path, architectures=[name]))
    assert caught.value.hint


def test_what_would_fetch_weights_is_left_out_of_inner_configurations_too(tmp_path: Path) -> None:
    inner = {"use_pretrained_backbone": True, "backbone": "b", "auto_map": {"A": "b"}}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "x", "a": [inner]}))
    assert ConfigFactory(tmp_path / "config.json").config == {"model_type": "x", "a": [{"backbone": "b"}]}


@pytest.fixture
def quantized(folders: dict[str, Path], tmp_path: Path) -> Path:
    """The Llama with its linear layers in 8-bit floats, one scale for each, as DeepSeek and Qwen release theirs."""
    state = load_file(folders["tied"] / "model.safetensors")
    for name in [name for name in state if name.endswith("_proj.weight")]:
        scale = state[name].abs().max() / 448
        state[name] = (state[name] / scale).to(torch.float8_e4m3fn)
        state[f"{name}_scale_inv"] = scale.reshape(1, 1)
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    method = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    changed(folders, tmp_path, quantization_config=method)
    return tmp_path


def test_quantized_weights_are_judged_and_run_as_the_plain_ones_that_they_stand_for(quantized: Path) -> None:
    arch = str(quantized / "config.json")
    result = ckptconv.validate(quantized, arch=arch)
    assert result.valid
    assert [finding.code for finding in result.findings] == ["dequantized"]
    assert ckptconv.verify(quantized, quantized, arch=arch).equivalent
    assert ckptconv.verify(quantized, quantized, samples=2).equivalent


def test_quantized_weights_that_are_not_understood_are_said_to_be_that(quantized: Path) -> None:
    file, arch = quantized / "model.safetensors", str(quantized / "config.json")
    state = load_file(file)
    for scale in [name for name in state if name.endswith("_scale_inv")]:
        state[scale] = torch.ones(2, 2)  # of no block that the weight has
    save_file(state, file, {"format": "pt"})
    result = ckptconv.validate(quantized, arch=arch)
    assert not result.valid
    assert result.findings[0].code == "quantized"
    assert "'fp8'" in result.findings[0].message
    assert result.findings[0].hint == f"ckptconv convert {quantized} plain.safetensors --dequantize"
    with pytest.raises(UsageError, match=r"quantized \('fp8'\)"):
        ckptconv.verify(quantized, quantized, arch=arch)


def test_dequantized_ones_fit_the_class_that_their_configuration_names(quantized: Path, tmp_path: Path) -> None:
    target, arch = tmp_path / "plain.safetensors", str(quantized / "config.json")
    ckptconv.convert(quantized, target, edits=ckptconv.Edits(dequantize=True), arch=arch)
    config = transformers.LlamaConfig(**GROUPED, tie_word_embeddings=True)
    module = transformers.LlamaForCausalLM(config)
    found = module.load_state_dict(load_file(target), strict=False)
    assert found.missing_keys == ["lm_head.weight"], "which is tied"
    assert not found.unexpected_keys
    assert ckptconv.validate(target, arch=arch).valid
    with pytest.raises(MisfitError):
        ckptconv.convert(quantized, tmp_path / "same.safetensors", arch=arch)


def test_without_a_class_it_is_the_bare_model_of_its_kind(folders: dict[str, Path], tmp_path: Path) -> None:
    arch = changed(folders, tmp_path, architectures=None)
    assert ckptconv.validate(folders["tied"], arch=arch).arch == "transformers.LlamaModel"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{", CorruptFileError),
        ("[" * 100_000, CorruptFileError),
        ("[1]", CorruptFileError),
        ("{}", CorruptFileError),
        ('{"model_type": "llama", "num_hidden_layers": 1000000000}', LimitError),
        ('{"model_type": "llama", "x": ' + "[" * 800 + "]" * 800 + "}", LimitError),
        ('{"model_type": "x", "text_config": {"encoder_layers": 1000000000}}', LimitError),
        ('{"model_type": "swin", "depths": [2, 1000000000]}', LimitError),
        ('{"model_type": "llama", "hidden_size": "wide"}', UsageError),
        ('{"model_type": "llama", "hidden_size": 4611686018427387904}', UsageError),
        ('{"model_type": "llama", "num_attention_heads": 0}', UsageError),
        ('{"model_type": "no such kind"}', UsageError),
    ],
)
def test_a_configuration_that_makes_no_model_is_refused(
    folders: dict[str, Path], tmp_path: Path, text: str, error: type[CkptconvError]
) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(error) as caught:
        ckptconv.validate(folders["tied"], arch=str(path))
    assert caught.value.hint
    assert "\n" not in caught.value.message


def test_a_class_of_more_tensors_than_any_has_is_not_built_to_its_end(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ckptconv.arch.huggingface.MAX_CALLS", 5)
    with pytest.raises(LimitError, match="more tensors than any model has"):
        ckptconv.validate(folders["tied"], arch=str(folders["tied"] / "config.json"))


def test_the_index_of_shards_is_a_checkpoint_and_no_configuration(folders: dict[str, Path], tmp_path: Path) -> None:
    assert not is_config("model.safetensors.index.json")
    ckptconv.convert(folders["tied"], tmp_path / "parts", shard_size="2KB")
    index = next((tmp_path / "parts").glob("*.index.json"))
    assert ckptconv.validate(folders["tied"], arch=str(index)).valid


def test_without_transformers_it_says_what_to_install(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match="transformers") as caught:
        ckptconv.validate(folders["tied"], arch=str(folders["tied"] / "config.json"))
    assert "ckptconv[transformers]" in (caught.value.hint or "")


def test_an_old_transformers_is_reported_as_such(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("transformers"), "__version__", "4.57.0")
    with pytest.raises(UsageError, match="too old"):
        ckptconv.validate(folders["tied"], arch=str(folders["tied"] / "config.json"))


def test_a_failing_import_is_reported_with_its_first_cause(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        try:
            raise RuntimeError("operator torchvision::nms does not exist")
        except RuntimeError as error:
            raise ModuleNotFoundError("Could not import module 'Net'") from error

    monkeypatch.setattr("ckptconv.arch.huggingface.ConfigFactory.__call__", fails)
    with pytest.raises(UsageError, match="transformers raises RuntimeError: operator torchvision::nms") as caught:
        ckptconv.validate(folders["tied"], arch=str(folders["tied"] / "config.json"))
    assert "does not suit the others" in str(caught.value.hint)


def test_a_network_that_takes_no_float64_is_no_bug_of_ours(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Linear):\n"
        "    def __init__(self): super().__init__(3, 2)\n"
        "    def forward(self, x):\n"
        "        if x.dtype == torch.float64: raise RuntimeError('no float64')\n"
        "        return super().forward(x)\n"
    )
    state = torch.nn.Linear(3, 2).state_dict()
    for name in "ab":
        torch.save(state, tmp_path / f"{name}.pth")
        state["bias"] = state["bias"] + 1e-3
    with pytest.raises(CkptconvError, match="no float64") as caught:
        ckptconv.verify(tmp_path / "a.pth", tmp_path / "b.pth", arch=f"{tmp_path / 'net.py'}:Net")
    assert "--rtol" in (caught.value.hint or "")
