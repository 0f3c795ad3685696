"""A Hugging Face config.json beside a checkpoint is used; one that is broken is passed over, and said so."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch", reason="checkpoints are saved with torch.save")

from ckptconv.api.architectures import infer_architecture  # noqa: E402
from ckptconv.api.validate import validate  # noqa: E402
from ckptconv.errors import UsageError  # noqa: E402
from tests.checks.support import codes  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16, "intermediate_size": 24,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 40,
    "tie_word_embeddings": False, "rms_norm_eps": 1e-6,
}  # fmt: skip


def llama(layers: int = 2) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (40, 16)}
    for i in range(layers):
        block = f"model.layers.{i}"
        shapes |= {f"{block}.self_attn.{x}_proj.weight": (16, 16) for x in "qo"}
        shapes |= {f"{block}.self_attn.{x}_proj.weight": (8, 16) for x in "kv"}
        shapes |= {f"{block}.mlp.gate_proj.weight": (24, 16), f"{block}.mlp.up_proj.weight": (24, 16)}
        shapes |= {f"{block}.mlp.down_proj.weight": (16, 24), f"{block}.input_layernorm.weight": (16,)}
        shapes |= {f"{block}.post_attention_layernorm.weight": (16,)}
    return shapes | {"model.norm.weight": (16,), "lm_head.weight": (40, 16)}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.save({name: torch.ones(shape) for name, shape in llama().items()}, tmp_path / "model.pth")
    return tmp_path / "model.pth"


def configure(model: Path, document: Any) -> None:
    text = document if isinstance(document, str) else json.dumps(document)
    (model.parent / "config.json").write_text(text)


def test_a_config_beside_the_file_names_the_architecture_and_its_params(model: Path) -> None:
    configure(model, CONFIG)
    result = validate(model)
    assert (result.valid, result.arch, result.evidence, codes(result.findings)) == (True, "llama", "config.json", [])
    assert (result.params["heads"], result.params["head_dim"]) == (4, 4)  # the tensors say no more than the product


def test_what_a_quantizer_stores_is_said_to_be_its_doing(model: Path) -> None:
    configure(model, {**CONFIG, "quantization_config": {"quant_method": "gptq", "bits": 4}})
    assert validate(model).valid, "what fits fits, whatever the config says"
    state = torch.load(model)
    for name in [name for name in state if "_proj" in name]:
        del state[name]
        stem = name.removesuffix("weight")
        state |= {stem + "qweight": torch.ones(2, 16, dtype=torch.int32), stem + "scales": torch.ones(1, 16)}
    torch.save(state, model)
    result = validate(model)
    assert not result.valid
    assert codes(result.findings)[0] == "quantized"
    assert "'gptq'" in result.findings[0].message


def test_a_quantizers_own_file_says_it_as_well(model: Path) -> None:
    configure(model, CONFIG)
    (model.parent / "quantize_config.json").write_text('{"bits": 4, "group_size": 128, "desc_act": false}')
    assert validate(model).valid
    state = torch.load(model)
    state["model.layers.0.mlp.up_proj.qweight"] = state.pop("model.layers.0.mlp.up_proj.weight")
    torch.save(state, model)
    first = validate(model).findings[0]
    assert (first.code, first.found) == ("quantized", "gptq")


def test_a_config_that_the_tensors_contradict_is_a_param_conflict(model: Path) -> None:
    configure(model, {**CONFIG, "intermediate_size": 25})
    result = validate(model)
    assert not result.valid
    assert [(finding.code, finding.where) for finding in result.findings] == [("param-conflict", "intermediate")]


def test_a_config_of_more_layers_than_there_are_is_reported_as_such(model: Path) -> None:
    configure(model, {**CONFIG, "num_hidden_layers": 3})
    result = validate(model)
    assert not result.valid
    (found,) = result.findings
    assert "layers" in found.where
    assert "2" in found.message and "3" in found.message


TWICE = '{"model_type": "llama", "model_type": "gpt2"}'


@pytest.mark.parametrize("text", ["{", "[]", "3", "", '{"model_type": ', "\x00", "[" * 100_000, TWICE])
def test_a_broken_config_is_skipped_with_a_warning(model: Path, text: str) -> None:
    configure(model, text)
    result = validate(model)
    assert (result.valid, result.arch, result.evidence) == (True, "llama", "names")
    (found,) = result.findings
    assert (found.code, found.severity) == ("config", "warning")
    assert "config.json beside the file is passed over" in found.message


def test_a_config_that_is_no_text_or_no_file_is_skipped(model: Path) -> None:
    (model.parent / "config.json").write_bytes(b"\xff\xfe\x00{")
    assert codes(validate(model).findings) == ["config"]
    (model.parent / "config.json").unlink()
    (model.parent / "config.json").mkdir()
    assert validate(model).valid


@pytest.mark.parametrize("kind", ["never-heard-of", ["llama"], {"a": 1}, None, 3], ids=repr)
def test_a_config_of_an_unknown_model_leaves_the_choice_to_the_names(model: Path, kind: object) -> None:
    configure(model, {"model_type": kind, "architectures": [None, 3]})
    result = validate(model)
    assert (result.valid, result.evidence) == (True, "names")


def test_a_config_with_values_of_wrong_types_is_a_conflict_and_no_crash(model: Path) -> None:
    configure(model, {**CONFIG, "hidden_size": "wide", "num_hidden_layers": -3, "vocab_size": None})
    result = validate(model)
    assert not result.valid
    assert {finding.code for finding in result.findings if finding.severity == "error"} == {"param-conflict"}


def test_nothing_to_go_by_is_a_refusal_with_a_hint(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2), "b": torch.ones(3)}, tmp_path / "x.pth")
    with pytest.raises(UsageError, match="nothing says which architecture") as caught:
        validate(tmp_path / "x.pth")
    assert "--arch" in str(caught.value.hint)


def test_another_architectures_tensors_are_reported_first(model: Path) -> None:
    configure(model, CONFIG | {"architectures": ["BertModel"], "model_type": "bert"})
    for result in (validate(model, arch="gpt2"), validate(model)):
        first = result.findings[0]
        assert (first.code, first.severity, first.found) == ("architecture", "error", "llama")
        assert first.hint == f"ckptconv validate {model} --arch llama"


def test_a_model_that_lacks_some_tensors_is_not_taken_for_another_architecture(model: Path) -> None:
    torch.save({name: torch.ones(shape) for name, shape in list(llama().items())[:5]}, model)
    assert "architecture" not in codes(validate(model, arch="llama").findings)


@pytest.mark.parametrize("kept", ["beside a config.json", "alone", "in a list"])
def test_the_state_of_an_optimizer_is_no_model(model: Path, kept: str) -> None:
    if kept == "beside a config.json":
        configure(model, CONFIG)
    network = torch.nn.Linear(16, 24)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(16)).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    torch.save([state, state] if kept == "in a list" else state, model)
    with pytest.raises(UsageError, match="the state of an optimizer"):
        infer_architecture([model])
    with pytest.raises(UsageError, match="the state of an optimizer"):
        validate(model)
