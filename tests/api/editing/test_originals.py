"""Files beside the models that they were made from: under torch's names, with quantized weights as plain ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import ckptconv
from ckptconv.errors import UsageError
from tests.arch.real_models import transformers_module
from tests.edits.dialects.test_of_gguf import Case

FIXTURES = Path(__file__).parents[3] / "fixtures"
SIZES = {
    "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 48, "max_position_embeddings": 64,
}  # fmt: skip
ROPE = {
    "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
"""What llama.cpp has a tensor of, rope_freqs.weight."""
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


def folder_of(path: Path, seed: int = 0, **more: object) -> Path:
    """A small Llama as save_pretrained writes it."""
    transformers = transformers_module()
    torch.manual_seed(seed)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, **more)).save_pretrained(path)
    return path


def gguf_of(source: Path, target: Path, *dtype: str) -> Path:
    edits = ckptconv.Edits(names=[ckptconv.NameRule("translate", "to-gguf")], dtype=dtype)
    ckptconv.convert(source, target, edits=edits, metadata={"tokenizer.ggml.model": "none"})
    return target


def codes(found: ckptconv.Difference) -> set[str]:
    return {finding.code for finding in found.findings}


def test_the_model_that_it_was_made_from_differs_only_in_metadata(tmp_path: Path) -> None:
    """The heads of Llama's are in another order in the file."""
    model = folder_of(tmp_path / "llama")
    made = gguf_of(model, tmp_path / "llama.gguf", "F32")
    for one, other in ((model, made), (made, model)):
        found = ckptconv.diff(one, other)
        assert codes(found) == {"translated", "metadata-changed"}
        assert found.partners[Q_PROJ] == Q_PROJ
    headers = ckptconv.diff(model, made, headers=True)
    assert codes(headers) == {"translated", "metadata-changed"}


def test_of_blocks_it_says_how_far_the_floats_are_off(tmp_path: Path) -> None:
    quants = pytest.importorskip("gguf").quants
    model = folder_of(tmp_path / "llama")
    made = gguf_of(model, tmp_path / "llama.gguf", "Q8_0")
    found = ckptconv.diff(model, made)
    figures = {finding.where: values for finding, values in found.values.items()}
    with ckptconv.open(model) as checkpoint:
        name = "model.layers.0.mlp.down_proj.weight"
        before = checkpoint[name].numpy().astype(np.float64)
    kind = pytest.importorskip("gguf").GGMLQuantizationType.Q8_0
    after = quants.dequantize(quants.quantize(before.astype(np.float32), kind), kind).astype(np.float64)
    assert figures[name].change == pytest.approx(np.linalg.norm(after - before) / np.linalg.norm(before), rel=1e-5)
    assert Q_PROJ in figures
    assert [finding.code for finding in found.told] == ["translated", "unpacked"]
    assert "Q8_0" in {finding.found for finding in ckptconv.diff(model, made, headers=True).findings}


def test_two_files_of_llama_cpps_and_other_models_are_compared_as_they_are(tmp_path: Path) -> None:
    model = folder_of(tmp_path / "llama")
    made = gguf_of(model, tmp_path / "llama.gguf", "F32")
    save_file({"fc.weight": torch.ones(3, 2)}, tmp_path / "other.safetensors")
    assert ckptconv.diff(made, made).equal
    assert "translated" not in codes(ckptconv.diff(made, tmp_path / "other.safetensors"))


def test_verify_runs_it_in_the_class_that_a_configuration_names(tmp_path: Path) -> None:
    model = folder_of(tmp_path / "llama", rope_parameters=ROPE)
    config = str(model / "config.json")
    same = ckptconv.verify(model, gguf_of(model, tmp_path / "same.gguf", "F32"), arch=config, samples=3)
    assert same.equivalent
    assert [finding.code for finding in same.findings] == ["translated", "left-out"]
    other = gguf_of(folder_of(tmp_path / "other", seed=1), tmp_path / "other.gguf", "F32")
    assert not ckptconv.verify(model, other, arch=config, samples=3).equivalent


def test_the_tensors_alone_are_equal_and_as_they_are_they_are_not(tmp_path: Path) -> None:
    model = folder_of(tmp_path / "llama")
    made = gguf_of(model, tmp_path / "llama.gguf", "F32")
    assert ckptconv.diff(model, made, bare=True).equal
    found = ckptconv.diff(model, made, bare=True, translate=False)
    assert not found.equal
    assert not found.told
    assert found.partners[Q_PROJ] != Q_PROJ


def test_what_transformers_computes_is_left_out_and_what_else_is_reported_of_a_file_stays(tmp_path: Path) -> None:
    """A part of a block that is not known, and factors of rotary embeddings; of blocks as well."""
    model = folder_of(tmp_path / "llama", rope_parameters=ROPE)
    gguf_of(model, tmp_path / "a.gguf", "Q8_0")
    unknown = ckptconv.Edits(names=[ckptconv.NameRule("rename", "attn_norm=attn_hum")])
    ckptconv.convert(tmp_path / "a.gguf", tmp_path / "b.gguf", edits=unknown)
    with ckptconv.open(tmp_path / "b.gguf") as checkpoint:
        assert "rope_freqs.weight" in checkpoint
    found = ckptconv.diff(model, tmp_path / "b.gguf", bare=True)
    told = {finding.code: finding.message for finding in found.told}
    assert list(told) == ["translated", "left-out", "left-alone", "unpacked"]
    assert told["left-out"].startswith("rope_freqs.weight")
    assert "no attn_hum is known" in told["left-alone"]
    assert not any("rope" in finding.message for finding in found.findings if finding not in found.told)


def test_validate_judges_it_by_transformers_names(tmp_path: Path) -> None:
    """By the library and by the class that a configuration names; the values of blocks are those of floats."""
    model = folder_of(tmp_path / "llama")
    made = gguf_of(model, tmp_path / "llama.gguf", "Q8_0")
    found = ckptconv.validate(made)
    assert (found.valid, found.arch, found.params["layers"]) == (True, "llama", 2)
    assert [finding.code for finding in found.findings] == ["translated"]
    assert ckptconv.validate(made, arch=str(model / "config.json")).valid
    edits = ckptconv.Edits(drop=["blk.1.attn_q.weight"])
    ckptconv.convert(made, tmp_path / "less.gguf", edits=edits)
    missing = [one.where for one in ckptconv.validate(tmp_path / "less.gguf").findings if one.severity == "error"]
    assert missing == [Q_PROJ]


def test_validate_reads_the_floats_that_blocks_stand_for(tmp_path: Path) -> None:
    model = folder_of(tmp_path / "llama")
    made = gguf_of(model, tmp_path / "llama.gguf", "Q8_0")
    with ckptconv.open(made) as checkpoint:
        span = checkpoint["blk.1.attn_q.weight"].span
    assert span is not None
    with made.open("r+b") as file:  # a scale that is infinite
        file.seek(span.offset)
        file.write(b"\x00\x7c")
    assert ckptconv.validate(made).valid
    assert [one.where for one in ckptconv.validate(made, values=True).findings if one.severity == "error"] == [Q_PROJ]


def test_an_architecture_of_llama_cpps_own_names_is_compared_with_these(tmp_path: Path) -> None:
    """Another GGUF as the architecture, and a spec that was made of one."""
    model = folder_of(tmp_path / "llama")
    made = gguf_of(model, tmp_path / "llama.gguf", "Q8_0")
    assert not ckptconv.validate(made, arch=str(made)).findings
    ckptconv.infer_architecture([made], target=tmp_path / "own.toml")
    assert not ckptconv.validate(made, arch=str(tmp_path / "own.toml")).findings
    ckptconv.convert(made, tmp_path / "less.gguf", edits=ckptconv.Edits(drop=["output.weight"]))
    found = ckptconv.validate(tmp_path / "less.gguf", arch=str(made)).findings
    assert [(one.code, one.where) for one in found] == [("missing-tensor", "output.weight")]
    found = ckptconv.validate(made, arch=str(model)).findings
    assert [finding.code for finding in found] == ["translated"]


def test_an_architecture_that_the_library_lacks_is_no_damaged_one_of_another(tmp_path: Path) -> None:
    """EXAONE MoE's names are nearly GLM's."""
    made = Case("exaone-moe").write(tmp_path / "a.gguf")
    with pytest.raises(UsageError, match=r"general\.architecture says 'exaone-moe', which the library does not have; "):
        ckptconv.validate(made)
    assert not ckptconv.validate(made, arch="glm4_moe").valid


def test_a_gguf_without_its_tower_is_judged_as_the_text_model(tmp_path: Path) -> None:
    for kind, spec in (("qwen3vl", "qwen3_vl"), ("qwen35moe", "qwen3_5")):
        result = ckptconv.validate(Case(kind).write(tmp_path / "a.gguf"))
        assert (result.valid, result.arch, result.params["tower"]) == (True, spec, False)


def test_json_and_the_page_say_it(tmp_path: Path) -> None:
    from ckptconv.cli.text.diff import page

    model = folder_of(tmp_path / "llama")
    found = ckptconv.diff(model, gguf_of(model, tmp_path / "llama.gguf", "F32"))
    assert any(line.startswith("info: ") and "--translate gguf" in line for line in page(found))
    assert json.loads(json.dumps(found.to_dict()))["findings"][0]["code"] == "translated"


def test_quantized_weights_beside_plain_ones_are_read_as_plain(tmp_path: Path) -> None:
    model, quantized = folder_of(tmp_path / "llama"), tmp_path / "fp8"
    quantized.mkdir()
    edits = ckptconv.Edits(quantize=["fp8"])
    ckptconv.convert(model, quantized / "model.safetensors", edits=edits, with_files=True)
    plain = load_file(quantized / "model.safetensors")
    weight = plain[Q_PROJ].float() * plain[f"{Q_PROJ}_scale"].float()
    before = load_file(model / "model.safetensors")[Q_PROJ]
    found = ckptconv.diff(model, quantized, bare=True)
    assert codes(found) == {"dequantized", "value-changed"}
    (off,) = (values.max_abs for finding, values in found.values.items() if finding.where == Q_PROJ)
    assert off == pytest.approx((weight - before).abs().max().item(), rel=1e-6)
    assert ckptconv.diff(model, quantized, bare=True, headers=True).equal
    assert "added" in codes(ckptconv.diff(model, quantized, bare=True, translate=False))
    assert codes(ckptconv.diff(quantized, quantized)) == set()


def test_validate_judges_quantized_weights_as_plain_ones_or_by_another_quantized_file(tmp_path: Path) -> None:
    model, quantized = folder_of(tmp_path / "llama"), tmp_path / "fp8"
    quantized.mkdir()
    edits = ckptconv.Edits(quantize=["fp8-block"])
    ckptconv.convert(model, quantized / "model.safetensors", edits=edits, with_files=True)
    judged = ckptconv.validate(quantized)
    assert (judged.valid, judged.arch, [one.code for one in judged.findings]) == (True, "llama", ["dequantized"])
    assert ckptconv.validate(quantized, arch=str(quantized)).findings == []
    state = load_file(quantized / "model.safetensors")
    del state["model.norm.weight"]
    save_file(state, quantized / "model.safetensors")
    damaged = ckptconv.validate(quantized)
    assert [(one.code, one.where) for one in damaged.findings if one.severity == "error"] == [
        ("missing-tensor", "model.norm.weight")
    ]


def test_verify_runs_quantized_weights_as_plain_ones_also_by_a_recipe(tmp_path: Path) -> None:
    source, quantized, plain = FIXTURES / "digits-raw.pth", tmp_path / "q.safetensors", tmp_path / "plain.pth"
    ckptconv.convert(source, quantized, edits=ckptconv.Edits(quantize=["int8"]))
    ckptconv.convert(quantized, plain, edits=ckptconv.Edits(dequantize=True))
    for arch in (None, "mlp"):
        found = ckptconv.verify(quantized, plain, arch=arch)
        assert found.equivalent
        assert "dequantized" in [finding.code for finding in found.findings]
        assert not ckptconv.verify(source, quantized, arch=arch).equivalent


def test_verify_runs_a_quantized_model_as_the_class_of_its_configuration(tmp_path: Path) -> None:
    model, quantized = folder_of(tmp_path / "llama"), tmp_path / "int8"
    edits = ckptconv.Edits(quantize=["int8"])
    ckptconv.convert(model, f"{quantized}/", edits=edits, with_files=True)
    assert not ckptconv.verify(quantized, model, samples=3).equivalent
    assert ckptconv.verify(quantized, model, samples=3, rtol=0.1).equivalent


OF_TORCH = {
    "flax-bert.msgpack": "torch-of-flax-bert.pth", "flax-gpt2.msgpack": "torch-of-flax-gpt2.pth",
    "flax-vit.msgpack": "torch-of-flax-vit.pth", "keras-bert.h5": "torch-of-keras-bert.pth",
    "keras-gpt2.h5": "torch-of-keras-gpt2.pth", "keras-vit.h5": "torch-of-keras-vit.pth",
}  # fmt: skip
"""What transformers wrote, and what it made of that in torch."""


@pytest.mark.parametrize(("name", "name_in_torch"), OF_TORCH.items())
def test_flax_and_keras_are_read_as_the_torch_model_that_transformers_makes_of_them(
    name: str, name_in_torch: str, tmp_path: Path
) -> None:
    """They lack what torch ties: a head that has the embedding's weight, and a bias of its own."""
    path, in_torch = FIXTURES / "others" / name, FIXTURES / "others" / name_in_torch
    judged, expected = ckptconv.validate(path), ckptconv.validate(in_torch)
    assert judged.valid
    assert (judged.arch, judged.params) == (expected.arch, expected.params)
    assert [finding.code for finding in judged.findings] == ["translated"]
    for found in (ckptconv.diff(in_torch, path, bare=True), ckptconv.diff(path, in_torch, bare=True)):
        assert codes(found) - {"added", "removed", "tie-made"} == {"translated"}
    missing = [one for one in ckptconv.diff(in_torch, path, bare=True).findings if one.code == "removed"]
    assert all("it shared the tensor of" in one.message for one in missing)


def test_files_of_two_frameworks_are_both_read_under_torchs_names() -> None:
    others = FIXTURES / "others"
    found = ckptconv.diff(others / "flax-bert.msgpack", others / "keras-bert.h5", bare=True, headers=True)
    assert found.equal
    assert [finding.code for finding in found.told] == ["translated", "translated"]


def test_an_architecture_of_the_frameworks_own_names_is_compared_with_these() -> None:
    path, in_torch = (str(FIXTURES / "others" / name) for name in ("flax-vit.msgpack", "torch-of-flax-vit.pth"))
    assert not ckptconv.validate(path, arch=path).findings
    assert [finding.code for finding in ckptconv.validate(path, arch=in_torch).findings] == ["translated"]


NETWORK = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = torch.nn.Linear(5, 4), torch.nn.Linear(4, 3)

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x)))
"""


def test_verify_runs_the_weights_of_flax_in_a_class_of_torch(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(NETWORK)
    arch, inputs = f"{tmp_path}/models.py:Net", ["x:F32[N,5]"]
    torch.manual_seed(0)
    state = {"fc1.weight": torch.randn(4, 5), "fc1.bias": torch.randn(4), "fc2.weight": torch.randn(3, 4)}
    state["fc2.bias"] = torch.randn(3)
    torch.save(state, tmp_path / "a.pth")
    of_flax: dict[str, Any] = {name.replace("weight", "kernel"): tensor.numpy().T for name, tensor in state.items()}
    np.savez(tmp_path / "flax.npz", **of_flax)
    ckptconv.convert(tmp_path / "flax.npz", tmp_path / "flax.msgpack")
    same = ckptconv.verify(tmp_path / "a.pth", tmp_path / "flax.msgpack", arch=arch, inputs=inputs)
    assert same.equivalent
    assert "translated" in [finding.code for finding in same.findings]


def test_metas_names_are_compared_as_transformers_but_have_an_architecture_of_their_own(tmp_path: Path) -> None:
    path, as_transformers = tmp_path / "consolidated.00.pth", tmp_path / "llama.safetensors"
    path.write_bytes((FIXTURES / "others" / "llama-2-whole.pth").read_bytes())
    (tmp_path / "params.json").write_text('{"n_heads": 2, "n_kv_heads": 1}')
    ckptconv.convert(path, as_transformers, edits=ckptconv.Edits(names=[ckptconv.NameRule("translate", "meta")]))
    found = ckptconv.diff(path, as_transformers, bare=True)
    assert found.equal
    assert [finding.code for finding in found.told][:1] == ["translated"]
    assert ckptconv.validate(path).arch == "llama_meta"


def test_what_is_too_much_to_translate_is_compared_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "consolidated.00.pth"
    path.write_bytes((FIXTURES / "others" / "llama-2-whole.pth").read_bytes())
    (tmp_path / "params.json").write_text('{"n_heads": 2, "n_kv_heads": 1}')
    edits = ckptconv.Edits(names=[ckptconv.NameRule("translate", "meta")])
    ckptconv.convert(path, tmp_path / "llama.safetensors", edits=edits)
    monkeypatch.setattr("ckptconv.edits.dialects.change.MOST_PARTS", -1)
    found = ckptconv.diff(path, tmp_path / "llama.safetensors", bare=True)
    assert not found.equal
    assert not found.told
