"""mlx-lm's layouts become what transformers' classes save: what mlx-lm made them of (fixtures/mlx)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import ckptconv
from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import TensorInfo
from ckptconv.edits.dialects.mlx import MODELS
from ckptconv.edits.name_rule import NameRule
from ckptconv.edits.translate import changes_in
from ckptconv.errors import EditError, LimitError, UnsupportedError, UsageError

if TYPE_CHECKING:
    Tensors = dict[str, torch.Tensor]

FIXTURE = Path(__file__).parents[3] / "fixtures" / "mlx" / "layouts.safetensors"
NORMS = ("norm.weight",)

with safe_open(FIXTURE, "pt") as _file:
    CASES: dict[str, dict[str, Any]] = {name: json.loads(text) for name, text in sorted(_file.metadata().items())}

TRANSLATED = ckptconv.Edits(names=[NameRule("translate", "mlx")])


def part(name: str) -> Tensors:
    start = f"{name}/"
    return {key.removeprefix(start): t for key, t in load_file(FIXTURE).items() if key.startswith(start)}


def folder_of(folder: Path, tensors: Tensors, config: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", {"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def translated(source: Path, **edits: Any) -> Tensors:
    target = source.with_name("out.safetensors")
    wanted = ckptconv.Edits(names=[NameRule("translate", "mlx")], **edits)
    ckptconv.convert(source, target, edits=wanted, force=True)
    return load_file(target)


@pytest.mark.parametrize("name", CASES)
def test_it_is_what_mlx_lm_made_its_own_of(name: str, tmp_path: Path) -> None:
    source, expected = part(f"{name}/source"), part(f"{name}/expected")
    assert source.keys() != expected.keys() or any(source[key].shape != expected[key].shape for key in source)
    found = translated(folder_of(tmp_path / "m", source, CASES[name]), dequantize="quantization" in CASES[name])
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        if MODELS[CASES[name]["model_type"]].plus_one and key.endswith(NORMS) and "linear_attn" not in key:
            tensor = (tensor + 1) - 1  # what mlx-lm's sum lost is lost
        assert found[key].dtype == tensor.dtype
        assert torch.equal(found[key], tensor), key


def test_diff_compares_it_with_what_it_was_made_of(tmp_path: Path) -> None:
    """Layouts of mlx-lm beside names that are mostly transformers'; quantized ones beside plain ones."""
    for name in CASES:
        if MODELS[CASES[name]["model_type"]].plus_one:
            continue  # what mlx-lm's sum lost is lost
        made = folder_of(tmp_path / name / "mlx", part(f"{name}/source"), CASES[name])
        original = tmp_path / name / "model.safetensors"
        save_file(part(f"{name}/expected"), original)
        found = ckptconv.diff(original, made, bare=True)
        assert found.equal, name
        assert "translated" in [finding.code for finding in found.told]


@pytest.mark.parametrize("name", CASES)
def test_like_one_of_mlx_lms_files_it_is_mlx_lms_again(name: str, tmp_path: Path) -> None:
    source = part(f"{name}/source")
    folder = folder_of(tmp_path / "m", source, CASES[name])
    save_file(part(f"{name}/expected"), tmp_path / "trained.safetensors")
    edits = ckptconv.Edits(names=[NameRule("like", str(folder))])
    again = tmp_path / "again.safetensors"
    if "quantization" in CASES[name] or MODELS[CASES[name]["model_type"]].plus_one:  # neither can be undone
        with pytest.raises((EditError, UsageError), match=r"quantized|cannot be undone"):
            ckptconv.convert(tmp_path / "trained.safetensors", again, edits=edits)
        return
    ckptconv.convert(tmp_path / "trained.safetensors", again, edits=edits)
    found = load_file(again)
    assert found.keys() == source.keys()
    assert all(torch.equal(found[key], source[key]) for key in source)
    with safe_open(again, "pt") as file:
        assert file.metadata()["format"] == "mlx"


@pytest.mark.parametrize("name", ["granitemoehybrid", "mixtral", "qwen3_next"])
def test_twice_is_refused_since_nothing_of_it_is_left(name: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", part(f"{name}/source"), CASES[name])
    again = folder_of(tmp_path / "n", translated(folder), CASES[name])
    with pytest.raises(EditError, match="finds none of its words"):
        translated(again)


def test_what_is_transformers_already_is_reported(tmp_path: Path) -> None:
    tensors = {"model.layers.0.self_attn.q_proj.weight": torch.ones(4, 4), "model.norm.weight": torch.ones(4)}
    with pytest.raises(EditError, match="finds none of its words"):
        translated(folder_of(tmp_path / "m", tensors, {"model_type": "qwen2"}))


def test_one_expert_is_one(tmp_path: Path) -> None:
    tensors = {f"l.switch_mlp.{word}_proj.weight": torch.rand(1, 3, 2) for word in ("gate", "up", "down")}
    found = translated(folder_of(tmp_path / "m", tensors, {"model_type": "qwen3_moe"}))
    assert torch.equal(found["l.experts.0.up_proj.weight"], tensors["l.switch_mlp.up_proj.weight"][0])


def test_braces_in_names_are_letters_like_others(tmp_path: Path) -> None:
    tensors = {f"{{l}}}}.switch_mlp.{word}_proj.weight": torch.rand(2, 3, 2) for word in ("gate", "up")}
    found = translated(folder_of(tmp_path / "m", tensors, {"model_type": "granitemoe"}))
    assert torch.equal(found["{l}}.input_linear.weight"], torch.cat([*tensors.values()], 1))


STACK = {f"l.switch_mlp.{word}_proj.weight": torch.ones(2, 3, 2) for word in ("gate", "up", "down")}


@pytest.mark.parametrize(
    ("tensors", "config", "error", "message"),
    [
        (STACK, {}, EditError, "no model_type says whose names"),
        (STACK, {"model_type": "longcat_flash"}, UnsupportedError, "does not know the model 'longcat_flash'"),
        ({"conv1d.weight": torch.ones(4, 3, 1)}, {"model_type": "falcon_h1"}, UnsupportedError, "multipliers are in"),
        ({"lm_head.weight": torch.ones(4, 3)}, {"model_type": "baichuan_m1"}, UnsupportedError, "is normed"),
        ({"vision_tower.patch_embedding.weight": torch.ones(2, 14, 14, 3)}, {"model_type": "gemma3"}, UnsupportedError,
         "a tower for pictures as mlx-vlm has it"),
        ({"vision_tower.patch_embed.proj.weight": torch.ones(2, 2, 14, 14, 3)}, {"model_type": "qwen3_vl_moe"},
         UnsupportedError, "a tower for pictures as mlx-vlm has it"),
        ({"l.embed_q.weight": torch.ones(2, 3, 4)}, {"model_type": "deepseek_v3"}, EditError, "no 'l.unembed_out.weig"),
        ({"l.embed_q.weight": torch.ones(2, 3), "l.unembed_out.weight": torch.ones(2, 3)},
         {"model_type": "deepseek_v3"}, EditError, "has no matrix per head"),
        ({"l.switch_mlp.gate_proj.weight": torch.ones(2, 3, 2)}, {"model_type": "granitemoe"}, EditError,
         "no 'l.switch_mlp.up_proj.weight'"),
        ({"l.switch_mlp.gate_proj.weight": torch.ones(3)}, {"model_type": "mixtral"}, EditError, "not a stack of"),
        ({"l.switch_mlp.gate_proj.weight": torch.ones(2, 3, 1).to(torch.uint32), "l.switch_mlp.gate_proj.scales":
          torch.ones(2, 3, 1)}, {"model_type": "mixtral"}, EditError, "weights are quantized"),
    ],
)  # fmt: skip
def test_what_it_cannot_do_is_refused_by_name(
    tensors: Tensors, config: object, error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message) as found:
        translated(folder_of(tmp_path / "m", tensors, config))
    assert found.value.hint  # type: ignore[attr-defined]


def test_a_shape_of_very_many_experts_is_refused_before_they_have_names() -> None:
    infos = {"l.switch_mlp.up_proj.weight": TensorInfo.of(DType.F32, (1 << 40, 0, 0))}
    with pytest.raises(LimitError):
        changes_in("mlx", infos, {"model_type": "qwen3_moe"})


@pytest.mark.parametrize("name", ["mamba", "mixtral"])
def test_the_translation_is_hinted_at_if_it_was_not_asked_for(name: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", part(f"{name}/source"), CASES[name])
    done = ckptconv.convert(folder, tmp_path / "out.safetensors")
    assert any("--translate mlx makes transformers'" in finding.message for finding in done.findings)
    done = ckptconv.convert(folder, tmp_path / "again.safetensors", edits=TRANSLATED)
    assert not any(finding.code == "dialect" for finding in done.findings)


def test_layouts_that_nothing_undoes_are_reported(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", {"lm_head.weight": torch.ones(4, 3)}, {"model_type": "baichuan_m1"})
    done = ckptconv.convert(folder, tmp_path / "out.safetensors")
    (told,) = [finding for finding in done.findings if finding.code == "dialect"]
    assert told.severity == "warning"
    assert "its output layer is normed" in told.message


def test_validate_judges_what_it_was_made_of(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "mlx", part("mixtral/source"), CASES["mixtral"])
    save_file(part("mixtral/expected"), tmp_path / "model.safetensors")
    of_mlx, expected = (ckptconv.validate(path, arch="mixtral") for path in (folder, tmp_path / "model.safetensors"))
    first, *others = of_mlx.findings
    assert first.code == "translated"
    assert {(one.code, one.where) for one in others} == {(one.code, one.where) for one in expected.findings}
    assert of_mlx.params == expected.params


def test_validate_names_it_beside_the_quantization(tmp_path: Path) -> None:
    words = {"l.switch_mlp.up_proj.weight": torch.ones(2, 3, 4).to(torch.uint32)}
    config = {"model_type": "mixtral", "quantization": {"group_size": 32, "bits": 4}}
    scales = {"l.switch_mlp.up_proj.scales": torch.ones(2, 3, 1)}  # the biases are missing
    result = ckptconv.validate(folder_of(tmp_path / "m", {**words, **scales}, config), arch="mixtral")
    (found,) = [finding for finding in result.findings if finding.code == "quantized"]
    assert str(found.hint).endswith("plain.safetensors --dequantize --translate mlx")


@pytest.mark.parametrize("dialect", ["to-gguf", "to-mmproj"])
def test_llama_cpps_layouts_are_not_made_of_a_tower_of_mlx_vlms(dialect: str, tmp_path: Path) -> None:
    config = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": {}}
    tensors = {"vision_tower.vision_model.embeddings.patch_embedding.weight": torch.ones(2, 14, 14, 3)}
    with pytest.raises(EditError, match="names or layouts are mlx-lm's"):
        ckptconv.convert(
            folder_of(tmp_path / "m", tensors, config), tmp_path / "m.gguf",
            edits=ckptconv.Edits(names=[NameRule("translate", dialect)]),
        )  # fmt: skip


@pytest.mark.parametrize("name", ["mamba", "mixtral"])
def test_llama_cpps_layouts_are_not_made_of_mlx_lms(name: str, tmp_path: Path) -> None:
    """A convolution that is turned would have another shape, and nothing would say so."""
    config = {**CASES[name], "architectures": [{"mamba": "MambaForCausalLM", "mixtral": "MixtralForCausalLM"}[name]]}
    folder = folder_of(tmp_path / "m", part(f"{name}/source"), config)
    with pytest.raises(EditError, match="names or layouts are mlx-lm's") as found:
        ckptconv.convert(
            folder, tmp_path / "m.gguf", edits=ckptconv.Edits(names=[NameRule("translate", "to-gguf")])
        )  # fmt: skip
    assert "--translate mlx" in str(found.value.hint)
