"""MLX's quantized weights become what mx.dequantize makes of them, bit for bit; what is said of them has to agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import ckptconv
from ckptconv.api.editing.apply import apply_edits
from ckptconv.edits.quantized import elements, matrix
from ckptconv.errors import CkptconvError, EditError, UnsupportedError
from tests.edits.test_functions import same_bits
from tests.support.reads import expect_any_range

if TYPE_CHECKING:
    from collections.abc import Mapping

FIXTURE = Path(__file__).parents[3] / "fixtures" / "mlx" / "quantized.safetensors"

with safe_open(FIXTURE, "pt") as _file:
    CASES: dict[str, dict[str, Any]] = {name: json.loads(text) for name, text in sorted(_file.metadata().items())}

Tensors = dict[str, torch.Tensor]


def named(start: str) -> str:
    return start if start in CASES else next(name for name in CASES if name.startswith(f"{start}-"))


def case(start: str) -> tuple[Tensors, Tensors]:
    """What MLX quantized, and what it dequantizes it to: the case whose name begins so."""
    everything, name = load_file(FIXTURE), named(start)
    starts = (f"{name}/source/", f"{name}/expected/")
    first, second = (
        {key.removeprefix(start): t for key, t in everything.items() if key.startswith(start)} for start in starts
    )
    return first, second


def folder_of(folder: Path, tensors: Mapping[str, torch.Tensor], quantization: object = None, **more: object) -> Path:
    """A model as mlx-lm writes it, with an index of its one file."""
    folder.mkdir(exist_ok=True)
    save_file(dict(tensors), folder / "model.safetensors", {"format": "mlx"})
    index = {"metadata": {}, "weight_map": dict.fromkeys(sorted(tensors), "model.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    said = {} if quantization is None else {"quantization": quantization, "quantization_config": quantization}
    (folder / "config.json").write_text(json.dumps({**said, **more}))
    return folder


def plain(source: Path, **edits: Any) -> Tensors:
    target = source.with_name("plain.safetensors")
    ckptconv.convert(source, target, edits=ckptconv.Edits(dequantize=True, **edits), force=True)
    return load_file(target)


@pytest.mark.parametrize("name", CASES)
def test_the_values_are_those_of_mx_dequantize(tmp_path: Path, name: str) -> None:
    """In the type of the scales, whatever the configuration's; of modes without one, in that."""
    source, expected = case(name)
    dtype = "bfloat16" if expected["m.weight"].dtype is torch.bfloat16 else "float32"
    said = dtype if "m.biases" not in source else "float16" if dtype == "bfloat16" else "bfloat16"
    found = plain(folder_of(tmp_path / "m", source, CASES[name], torch_dtype=said))
    assert found.keys() == {"m.weight"}
    assert found["m.weight"].dtype == expected["m.weight"].dtype
    assert found["m.weight"].shape == expected["m.weight"].shape
    assert same_bits(found["m.weight"], expected["m.weight"]).all()


@pytest.mark.parametrize("name", ["mxfp4", "mxfp8", "nvfp4", "affine-3-32", "affine-8-128"])
def test_what_shapes_prove_needs_no_configuration(tmp_path: Path, name: str) -> None:
    source, expected = case(name)
    dtype = str(expected["m.weight"].dtype).removeprefix("torch.")
    found = plain(folder_of(tmp_path / "m", source, torch_dtype=dtype))
    assert same_bits(found["m.weight"], expected["m.weight"]).all()


def test_what_shapes_do_not_prove_is_refused(tmp_path: Path) -> None:
    source, _ = case("affine-4-64")
    with pytest.raises(EditError) as error:
        plain(folder_of(tmp_path / "m", source))
    assert "2 bits in groups of 128 or 4 bits in groups of 64 or 8 bits in groups of 32" in str(error.value)
    assert "config.json" in str(error.value.hint)


def test_a_module_may_be_packed_in_a_way_of_its_own(tmp_path: Path) -> None:
    """An entry of its own counts; one without a mode is affine, whatever the others are."""
    names = {"a": "mxfp4", "b": "affine-8-32", "c": "affine-2-128", "d": "affine-4-32"}
    tensors: dict[str, torch.Tensor] = {}
    expected = {}
    for module, name in names.items():
        source, made = case(name)
        tensors |= {key.replace("m.", f"{module}.", 1): tensor for key, tensor in source.items()}
        expected[module] = made["m.weight"]
    said = {
        "group_size": 32, "bits": 4, "mode": "mxfp4", "b": {"group_size": 32, "bits": 8},
        "c": {"group_size": 128, "bits": 2}, "d": {"group_size": 32}, "norm": False,
    }  # fmt: skip
    found = plain(folder_of(tmp_path / "m", {**tensors, "norm.weight": torch.ones(3)}, said, dtype="bfloat16"))
    assert found.keys() == {"norm.weight", *(f"{module}.weight" for module in names)}
    for module, tensor in expected.items():
        assert same_bits(found[f"{module}.weight"], tensor).all(), module


def test_what_was_said_before_mlx_does_not_count(tmp_path: Path) -> None:
    """Older versions of mlx-lm left the quantization_config of the model that they converted."""
    source, expected = case("mxfp8")
    path = folder_of(tmp_path / "m", source, CASES["mxfp8"], dtype="bfloat16")
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    (path / "config.json").write_text(json.dumps(config))
    assert same_bits(plain(path)["m.weight"], expected["m.weight"]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 7}, "7 bits and groups of 32 are not dequantized here"),
        ({"mode": "fp2"}, "MLX's mode 'fp2' is not dequantized here"),
        ({"mode": "mxfp4", "bits": 8}, "mode 'mxfp4', 8 bits"),
        ({"m": {"bits": 3, "group_size": 64}}, "says that 'm' is 3 bits in groups of 64, and its shapes"),
        ({"m": False}, "says that 'm' is not quantized"),
        ({"m": {"mode": 4}}, "MLX's mode '4'"),
    ],
)
def test_a_configuration_that_does_not_agree_is_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    source, _ = case("affine-4-32")
    said = {"group_size": 32, "bits": 4, "mode": "affine", **change}
    with pytest.raises((EditError, UnsupportedError)) as error:
        plain(folder_of(tmp_path / "m", source, said))
    assert message in str(error.value)
    assert error.value.hint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"m.scales": None}, "'m.weight' is there, and 'm.scales' is not"),
        ({"m.weight": None}, "'m.scales' is there, and 'm.weight' is not"),
        ({"m.scales": torch.ones(3, 5)}, "is not an MLX weight"),
        ({"m.scales": torch.ones(2, 4)}, "is not an MLX weight"),
        ({"m.biases": torch.ones(3, 3)}, "and not as the scales are"),
        ({"m.biases": torch.ones(3, 4).double()}, "and not as the scales are"),
        ({"m.scales": torch.ones(3, 4).double(), "m.biases": torch.ones(3, 4).double()}, "scales is F64"),
        ({"m.global_scale": torch.ones(())}, "goes with nvfp4 alone"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    tmp_path: Path, change: dict[str, torch.Tensor | None], message: str
) -> None:
    source, _ = case("affine-4-32")
    tensors = {key: tensor for key, tensor in {**source, **change}.items() if tensor is not None}
    with pytest.raises(CkptconvError) as error:
        plain(folder_of(tmp_path / "m", tensors, {"group_size": 32, "bits": 4}))
    assert message in str(error.value)


def test_biases_belong_to_affine_alone(tmp_path: Path) -> None:
    source, _ = case("mxfp4")
    with pytest.raises(EditError, match="and its shapes 1 bits in groups of 128 or 2 bits"):
        plain(folder_of(tmp_path / "m", {**source, "m.biases": source["m.scales"].clone()}, CASES["mxfp4"]))


@pytest.mark.parametrize("name", ["affine-5-32", "affine-6-64", "affine-4-128", "affine-experts", "nvfp4-global"])
@pytest.mark.parametrize("tile", [7, 1 << 20])
def test_any_range_is_what_it_is_in_the_whole(
    tmp_path: Path, name: str, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, _ = case(name)
    with ckptconv.open(folder_of(tmp_path / "m", source, CASES[named(name)])) as checkpoint:
        tensor = apply_edits(checkpoint, ckptconv.Edits(dequantize=True, dtype=["F32"]))[0]["m.weight"]
        whole = bytes(tensor.read())
        assert len(whole) == tensor.info.nbytes
        monkeypatch.setattr(matrix, "TILE", tile)
        monkeypatch.setattr(elements, "FEW", tile % 8)
        assert bytes(tensor.read()) == whole
        expect_any_range(tensor, whole)


def test_the_packing_is_reported_and_the_result_does_not_claim_it(tmp_path: Path) -> None:
    source, _ = case("affine-experts")
    said = {"quantization": {"group_size": 32, "bits": 3}, "hidden": 3}
    torch.save({"state_dict": source, "config": said, "text": json.dumps(said)}, tmp_path / "a.pth")
    done = ckptconv.convert(tmp_path / "a.pth", tmp_path / "b.pth", edits=ckptconv.Edits(dequantize=True))
    (told,) = [finding.message for finding in done.findings if finding.code == "dequantized"]
    assert "MLX's of 3 bits in groups of 32" in told
    assert "rounded to the scales' type" in told
    assert any(finding.code == "quantization-config" for finding in done.findings)
    loaded = torch.load(tmp_path / "b.pth")
    assert loaded["config"] == {"hidden": 3}
    assert json.loads(loaded["text"]) == {"hidden": 3}


def test_another_quantization_is_left_in_the_metadata(tmp_path: Path) -> None:
    """The word is not a word of MLX's alone."""
    source, _ = case("mxfp4")
    torch.save({"state_dict": source, "quantization": {"algorithm": "x"}}, tmp_path / "a.pth")
    ckptconv.convert(tmp_path / "a.pth", tmp_path / "b.pth", edits=ckptconv.Edits(dequantize=True))
    assert torch.load(tmp_path / "b.pth")["quantization"] == {"algorithm": "x"}


def test_words_of_another_name_stay_as_they_are(tmp_path: Path) -> None:
    source, _ = case("mxfp4")
    words = torch.ones(3, dtype=torch.uint32)
    assert torch.equal(plain(folder_of(tmp_path / "m", {**source, "seed": words}, CASES["mxfp4"]))["seed"], words)


def test_entries_that_are_no_modules_are_skipped(tmp_path: Path) -> None:
    source, expected = case("affine-4-32")
    said = {"group_size": 32, "bits": 4, "skip_vision": True, "calibration": {"mode": "dwq", "bits": 99}}
    assert same_bits(plain(folder_of(tmp_path / "m", source, said))["m.weight"], expected["m.weight"]).all()


def test_rules_say_it_too(tmp_path: Path) -> None:
    source, expected = case("affine-6-64")
    save_file(source, tmp_path / "a.safetensors")
    rules = tmp_path / "rules.toml"
    rules.write_text(
        '[[edits]]\nkind = "dequantize"\nscheme = "mlx"\nbits = 6\ngroup_size = 64\n'
        'sources = ["{*}.weight", "{*}.scales", "{*}.biases"]\ntargets = ["{*}.weight"]\n'
    )
    ckptconv.convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", edits=ckptconv.Edits(names=[rules]))
    assert torch.equal(load_file(tmp_path / "b.safetensors")["m.weight"], expected["m.weight"].float())
    rules.write_text(rules.read_text().replace("bits = 6", "bits = 5"))
    with pytest.raises(EditError, match="are not of 5 bits in groups of 64"):
        ckptconv.convert(tmp_path / "a.safetensors", tmp_path / "c.safetensors", edits=ckptconv.Edits(names=[rules]))


@pytest.mark.parametrize("name", ["affine-3-64", "affine-experts", "mxfp8", "nvfp4-global"])
def test_inspect_says_so(tmp_path: Path, name: str) -> None:
    found = ckptconv.inspect(folder_of(tmp_path / "m", {**case(name)[0], "norm.weight": torch.ones(3)}))
    assert found.quantized == {"MLX's": 1}
    assert found.to_dict()["quantized"] == {"MLX's": 1}


def test_validate_judges_what_the_weights_stand_for(tmp_path: Path) -> None:
    source, _ = case("mxfp4")
    tensors = {key.replace("m.", "hidden_layers.0.", 1): tensor for key, tensor in source.items()}
    path = folder_of(tmp_path / "m", {**tensors, "output.weight": torch.ones(2, 8)}, CASES["mxfp4"])
    result = ckptconv.validate(path, arch="mlp")
    assert result.findings[0].code == "dequantized"
    assert not {"hidden_layers.0.scales", "hidden_layers.0.biases"} & {finding.where for finding in result.findings}
    assert "quantized" not in {finding.code for finding in result.findings}
