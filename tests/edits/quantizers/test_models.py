"""Which weights of a model are quantized, experts among them, and what its configuration says of them then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import ckptconv
from ckptconv.edits.quantizers.linear import kept_modules, linear_weights
from ckptconv.edits.quantizers.schemes import SCHEMES
from ckptconv.errors import EditError
from tests.edits.quantizers.test_quantizers import model, ones, quantized, refusal, same

if TYPE_CHECKING:
    from pathlib import Path


def test_experts_are_quantized_where_they_can_be_loaded(tmp_path: Path) -> None:
    names = [f"model.layers.0.{one}.weight" for one in ("q_proj", "mlp.experts.0.w1", "mlp.experts.1.w1")]
    source = model(tmp_path / "a", {name: ones(128, 128) for name in names})
    made, config = quantized(source, "nf4")
    assert [name for name in names if made[name].dtype == torch.uint8] == names[:1]
    assert config["quantization_config"]["llm_int8_skip_modules"] == ["model.layers.0.mlp.experts", "lm_head"]
    for scheme, left, words in (
        ("int8", set(), "does not load experts of this scheme"), ("int8-a16", set(), None),
        ("nf4", set(names[1:]), "stacks"),
        ("int4-asym", set(names[1:]), "takes zero points"),
    ):  # fmt: skip
        edits = ckptconv.Edits(quantize=scheme)
        result = ckptconv.convert(source, tmp_path / "x.safetensors", edits=edits, dry_run=True)
        warned = " ".join(one.message for one in result.findings if one.severity == "warning")
        assert words in warned if words else not warned
        told = [one.found for one in result.findings if one.code == "not-quantized"]
        assert {name for text in told for name in str(text).split(", ")} == left


MODEL = {
    "lm_head.weight": (8, 128),
    "model.embed_tokens.weight": (8, 128),
    "model.norm.weight": (128,),
    "model.layers.0.input_layernorm.weight": (128,),
    "model.layers.0.self_attn.q_proj.weight": (128, 128),
    "model.layers.0.self_attn.q_proj.bias": (128,),
    "model.layers.0.mlp.gate.weight": (4, 128),
    "model.layers.0.mlp.experts.0.gate_proj.weight": (128, 128),
    "model.layers.0.mlp.shared_expert_gate.weight": (1, 128),
    "model.layers.0.mixer.conv1d.weight": (128, 1, 4),
    "model.layers.1.mlp.experts.gate_up_proj": (2, 128, 128),
    "model.visual.blocks.0.attn.qkv.weight": (128, 128),
}
LINEAR = ["model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.experts.0.gate_proj.weight"]
KEPT = [
    "lm_head", "model.embed_tokens", "model.layers.0.mlp.gate", "model.layers.0.mlp.shared_expert_gate",
    "model.layers.1.mlp.experts", "model.visual.blocks.0.attn.qkv",
]  # fmt: skip


@pytest.mark.parametrize("scheme", ["fp8", "fp8-block"])
def test_linear_layers_are_quantized_and_the_configuration_says_so(scheme: str, tmp_path: Path) -> None:
    source = model(tmp_path / "a", {name: ones(*shape) for name, shape in MODEL.items()})
    made, config = quantized(source, scheme)
    end = SCHEMES[scheme].parts[0].end
    assert {name.removesuffix(end) for name in made if name.endswith(end)} == set(LINEAR)
    assert {name for name, tensor in made.items() if tensor.dtype == torch.float8_e4m3fn} == set(LINEAR)
    said = config.pop("quantization_config")
    assert config == {"torch_dtype": "bfloat16"}
    eighth = {"num_bits": 8, "type": "float", "symmetric": True, "group_size": None}
    assert said == {
        "fp8": {
            "quant_method": "compressed-tensors", "version": "0.20.0", "format": "float-quantized",
            "quantization_status": "compressed", "config_groups": {"group_0": {
                "targets": ["Linear"], "format": "float-quantized",
                "weights": {**eighth, "strategy": "channel", "dynamic": False},
                "input_activations": {**eighth, "strategy": "token", "dynamic": True}, "output_activations": None,
            }},
            "ignore": said.get("ignore"), "kv_cache_scheme": None, "global_compression_ratio": None,
        },
        "fp8-block": {
            "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128],
            "modules_to_not_convert": said.get("modules_to_not_convert"),
        },
    }[scheme]  # fmt: skip
    assert sorted(said.get("ignore") or said["modules_to_not_convert"]) == KEPT
    assert ckptconv.inspect(tmp_path / "made").quantized.popitem()[1] == len(LINEAR)


def numbers(bits: int, strategy: str, group: int | None = None, *, symmetric: bool = True) -> dict[str, Any]:
    """As `QuantizationConfig.to_dict` of compressed-tensors 0.20 says it of its presets."""
    return {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": strategy, "group_size": group}


@pytest.mark.parametrize(("scheme", "form", "weights", "inputs"), [
    ("int8", "int-quantized", numbers(8, "channel"), numbers(8, "token")),
    ("int8-a16", "pack-quantized", numbers(8, "group", 128), None),
    ("int4", "pack-quantized", numbers(4, "group", 128), None),
    ("int4-asym", "pack-quantized", numbers(4, "group", 128, symmetric=False), None),
])  # fmt: skip
def test_the_configuration_is_that_of_the_preset(
    scheme: str, form: str, weights: dict[str, Any], inputs: dict[str, Any] | None, tmp_path: Path
) -> None:
    _, config = quantized(model(tmp_path / "a", {"a.weight": ones(8, 128)}), scheme)
    assert config["quantization_config"] == {
        "quant_method": "compressed-tensors", "version": "0.20.0", "format": form, "quantization_status": "compressed",
        "config_groups": {"group_0": {
            "targets": ["Linear"], "format": form, "weights": {**weights, "dynamic": False}, "output_activations": None,
            "input_activations": inputs and {**inputs, "dynamic": True},
        }},
        "ignore": ["lm_head"], "kv_cache_scheme": None, "global_compression_ratio": None,
    }  # fmt: skip


@pytest.mark.parametrize("double", [False, True])
def test_the_configuration_is_that_of_bitsandbytes(double: bool, tmp_path: Path) -> None:
    source = model(tmp_path / "a", {"a.weight": ones(8, 128).half(), "odd.weight": ones(3, 7).half()})
    _, config = quantized(source, "nf4-double" if double else "nf4")
    assert config["quantization_config"] == {
        "quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False,
        "bnb_4bit_compute_dtype": "float16", "bnb_4bit_quant_storage": "uint8", "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": double, "llm_int8_enable_fp32_cpu_offload": False,
        "llm_int8_has_fp16_weight": False, "llm_int8_skip_modules": ["odd", "lm_head"], "llm_int8_threshold": 6.0,
    }  # fmt: skip


@pytest.mark.parametrize("bits", [4, 8])
def test_mlx_has_scales_and_biases_beside_the_weight(bits: int, tmp_path: Path) -> None:
    shapes = {**MODEL, "model.layers.1.mlp.down_proj.weight": (8, 64), "odd.weight": (8, 96)}
    source = model(tmp_path / "a", {name: ones(*shape) for name, shape in shapes.items() if ".experts.0" not in name})
    made, config = quantized(source, f"mlx-{bits}bit")
    said = {"group_size": 64, "bits": bits, "mode": "affine"}
    assert config == {"torch_dtype": "bfloat16", "quantization": said, "quantization_config": said}
    assert sorted(name for name, tensor in made.items() if tensor.dtype == torch.uint32) == [
        "model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"
    ]  # fmt: skip
    assert made["model.layers.1.mlp.down_proj.weight"].shape == (8, 64 * bits // 32)
    assert made["model.layers.1.mlp.down_proj.biases"].shape == (8, 1)
    edits = ckptconv.Edits(dequantize=True)
    ckptconv.convert(tmp_path / "made", f"{tmp_path}/back/", edits=edits, with_files=True)
    assert same(load_file(tmp_path / "back" / "model.safetensors")["model.layers.1.mlp.down_proj.weight"], ones(8, 64))
    assert (tmp_path / "back" / "config.json").read_text() == (source / "config.json").read_text()


def test_models_that_mlx_changes_as_it_loads_them_are_refused(tmp_path: Path) -> None:
    source = model(tmp_path / "a", {name: ones(*shape) for name, shape in MODEL.items()})
    assert "mlx-lm changes weights as 'model.layers.0.mlp.experts.0" in refusal(source, EditError, quantize="mlx-4bit")
    source = model(tmp_path / "b", {"a.weight": ones(8, 64)})
    (source / "config.json").write_text('{"model_type": "falcon_h1"}')
    assert "mlx-lm changes weights of a falcon_h1" in refusal(source, EditError, quantize="mlx-4bit")


def test_stacked_experts_are_split_where_releases_have_them_split(tmp_path: Path) -> None:
    torch.manual_seed(6)
    mlp = "model.language_model.layers.0.mlp"
    stacked = {
        f"{mlp}.experts.gate_up_proj": torch.randn(2, 256, 128).bfloat16(),
        f"{mlp}.experts.down_proj": torch.randn(2, 128, 128).bfloat16(), f"{mlp}.q_proj.weight": ones(8, 128),
    }  # fmt: skip
    plain = {f"{mlp}.q_proj.weight": ones(8, 128)}
    for number in range(2):
        gate, up = stacked[f"{mlp}.experts.gate_up_proj"][number].chunk(2)
        parts = {"gate_proj": gate, "up_proj": up, "down_proj": stacked[f"{mlp}.experts.down_proj"][number]}
        plain |= {f"{mlp}.experts.{number}.{name}.weight": part for name, part in parts.items()}
    sources = [model(tmp_path / name, tensors) for name, tensors in (("a", stacked), ("b", plain))]
    for source in sources:
        (source / "config.json").write_text('{"model_type": "qwen3_5_moe", "torch_dtype": "bfloat16"}')
    (apart, config), (wanted, expected) = (quantized(source, "int4") for source in sources)
    assert config == expected
    assert [name for name in wanted if not same(apart[name], wanted[name])] == []
    for asked in ("nf4", "*.q_proj.*=int4"):  # which experts are not quantized to, or not asked for
        assert quantized(sources[0], asked)[0].keys() > stacked.keys() - plain.keys()
    turned = {name: tensor.mT.contiguous() if tensor.ndim == 3 else tensor for name, tensor in stacked.items()}
    save_file(turned, sources[0] / "model.safetensors")
    assert quantized(sources[0], "int4")[0].keys() > stacked.keys() - plain.keys()


def test_a_glob_is_for_some_of_the_linear_layers_and_a_name_for_any_matrix(tmp_path: Path) -> None:
    source = model(tmp_path / "a", {name: ones(*shape) for name, shape in MODEL.items()})
    made, config = quantized(source, "*.mlp.*=fp8", "model.visual.blocks.0.attn.qkv.weight=fp8")
    assert sorted(name for name in made if name.endswith("_scale")) == [
        "model.layers.0.mlp.experts.0.gate_proj.weight_scale", "model.visual.blocks.0.attn.qkv.weight_scale"
    ]  # fmt: skip
    assert "model.layers.0.self_attn.q_proj" in config["quantization_config"]["ignore"]


def test_layers_that_engines_join_are_quantized_together_or_not_at_all(tmp_path: Path) -> None:
    names = [f"layers.0.self_attn.{one}_proj.weight" for one in "qkvo"]
    shapes = dict(zip(names, [(256, 128), (64, 128), (64, 128), (128, 256)], strict=True))
    source = model(tmp_path / "a", {name: ones(*shape) for name, shape in shapes.items()})
    with ckptconv.open(source) as checkpoint:
        found, unfit = linear_weights(checkpoint, SCHEMES["fp8-block"])
        assert found == names[3:]
        assert unfit[names[0]] == f"is computed together with {names[1]!r}"
        assert linear_weights(checkpoint, SCHEMES["fp8"]) == (sorted(names), {})
        assert sorted(kept_modules(checkpoint, found)) == [
            *(f"layers.0.self_attn.{one}_proj" for one in "kqv"), "lm_head"
        ]  # fmt: skip


def test_what_is_tied_to_the_embedding_stays_tied(tmp_path: Path) -> None:
    table = torch.randn(4, 8)
    torch.save({"wte.weight": table, "head.weight": table, "a.weight": table.clone()}, tmp_path / "a.pth")
    ckptconv.convert(tmp_path / "a.pth", tmp_path / "b.pth", edits=ckptconv.Edits(quantize="fp8"))
    made = torch.load(tmp_path / "b.pth")
    assert list(made) == ["wte.weight", "head.weight", "a.weight", "a.weight_scale"]
    assert made["head.weight"].data_ptr() == made["wte.weight"].data_ptr()
