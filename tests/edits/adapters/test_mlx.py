"""mlx-lm's adapters: what is merged is what its fuse() computes, rounded once. It was asked in F64 (fixtures/mlx)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import ckptconv
from ckptconv import Lora
from ckptconv.edits.adapters import merged as merging
from ckptconv.errors import CkptconvError, CorruptFileError, EditError, UnsupportedError
from tests.edits.adapters.lora_cases import merged
from tests.edits.adapters.test_lora import ULP, units

if TYPE_CHECKING:
    Tensors = dict[str, torch.Tensor]

FIXTURE = Path(__file__).parents[3] / "fixtures" / "mlx" / "adapters.safetensors"

with safe_open(FIXTURE, "pt") as _file:
    CASES: dict[str, dict[str, Any]] = {name: json.loads(text) for name, text in sorted(_file.metadata().items())}


def part(name: str) -> Tensors:
    start = f"{name}/"
    return {key.removeprefix(start): t for key, t in load_file(FIXTURE).items() if key.startswith(start)}


def base_in(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    path = folder / "base.safetensors"
    save_file({key: tensor.to(dtype) for key, tensor in part("base").items()}, path)
    return path


def adapter_in(folder: Path, tensors: Tensors, config: object) -> Path:
    """As mlx-lm leaves it: the last beside those of earlier steps."""
    made = folder / "adapters"
    made.mkdir(exist_ok=True)
    save_file(tensors, made / "adapters.safetensors")
    save_file({key: tensor * 2 for key, tensor in tensors.items()}, made / "0000100_adapters.safetensors")
    if config is not None:
        (made / "adapter_config.json").write_text(json.dumps(config))
    return made


@pytest.mark.parametrize("name", CASES)
def test_the_values_are_those_of_fuse(name: str, tmp_path: Path) -> None:
    base = base_in(tmp_path)
    before, expected = load_file(base), part(f"{name}/expected")
    found = merged(base, adapter_in(tmp_path, part(f"{name}/adapter"), CASES[name]))
    assert found.keys() == before.keys()
    assert expected
    for key, tensor in found.items():
        if key in expected:
            assert units(tensor, expected[key]) <= ULP, key
        else:
            assert torch.equal(tensor, before[key]), "what is not a target stays as it is"


def test_a_scale_multiplies_the_change(tmp_path: Path) -> None:
    base = base_in(tmp_path)
    before, expected = load_file(base), part("lora/expected")
    adapter = adapter_in(tmp_path, part("lora/adapter"), CASES["lora"])
    found = merged(base, Lora(adapter, 0.5))
    for key, exact in expected.items():
        assert units(found[key], before[key] + (exact - before[key].double()) / 2) <= ULP


def test_the_file_of_an_earlier_step_is_merged_by_its_name(tmp_path: Path) -> None:
    base = base_in(tmp_path)
    adapter = adapter_in(tmp_path, part("lora/adapter"), CASES["lora"])
    twice = merged(base, adapter / "0000100_adapters.safetensors")
    four = merged(base, Lora(adapter, 4.0))
    assert all(torch.equal(twice[key], four[key]) for key in four), "both factors of it are twice as large"


@pytest.mark.parametrize("tile", [7, 64])
def test_experts_are_read_in_any_tiles(tmp_path: Path, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    base = base_in(tmp_path)
    adapter = adapter_in(tmp_path, part("lora/adapter"), CASES["lora"])
    whole = merged(base, adapter)
    monkeypatch.setattr(merging, "TILE", tile)
    assert all(torch.equal(tensor, whole[key]) for key, tensor in merged(base, adapter).items())


def test_what_was_trained_whole_takes_the_place_of_the_bases(tmp_path: Path) -> None:
    base = base_in(tmp_path, torch.bfloat16)
    trained = {key: tensor + 1 for key, tensor in part("base").items() if "k_proj" in key or "embed" in key}
    found = merged(base, adapter_in(tmp_path, trained, {"fine_tune_type": "full", "num_layers": 1}))
    for key, tensor in load_file(base).items():
        assert torch.equal(found[key], trained[key].bfloat16() if key in trained else tensor)


def test_inspect_says_what_it_is(tmp_path: Path) -> None:
    adapter = adapter_in(tmp_path, part("dora/adapter"), {**CASES["dora"], "model": "mlx-community/x"})
    found = ckptconv.inspect(adapter).adapter
    assert found is not None
    assert (found.maker, dict(found.kinds), found.dora, found.base) == ("mlx-lm", {"LoRA": 3}, True, "mlx-community/x")
    assert (dict(found.ranks), dict(found.scales), found.obstacle) == ({2: 3}, {3.7: 3}, "")
    assert found.changes == 6 * 6 + 4 * 6 + 9 * 6


def test_experts_are_counted_once(tmp_path: Path) -> None:
    found = ckptconv.inspect(adapter_in(tmp_path, part("lora/adapter"), CASES["lora"])).adapter
    assert found is not None
    assert found.changes == 6 * 6 + 4 * 6 + 9 * 6 + 3 * 5 * 6


PARAMETERS = CASES["lora"]["lora_parameters"]


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (None, EditError, "nothing says its scale"),
        ({"fine_tune_type": "lora", "lora_parameters": {"rank": 2}}, EditError, "nothing says its scale"),
        ({"lora_parameters": {"scale": "much"}}, CorruptFileError, "scale is not a number"),
        ({"lora_parameters": {"scale": float("inf")}}, CorruptFileError, "scale is not a number"),
        ({"fine_tune_type": "vera", "lora_parameters": PARAMETERS}, UnsupportedError, "type 'vera' are not merged"),
        ({"fine_tune_type": "dora", "lora_parameters": PARAMETERS}, EditError, "m is missing"),
    ],
)
def test_a_configuration_that_does_not_do_is_refused(
    config: object, error: type[CkptconvError], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message) as found:
        merged(base_in(tmp_path), adapter_in(tmp_path, part("lora/adapter"), config))
    assert found.value.hint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers.0.self_attn.k_proj.lora_a": None}, "there is lora_b alone"),
        ({"layers.0.self_attn.k_proj.lora_b": None}, "lora_b is missing beside lora_a"),
        ({"layers.0.self_attn.k_proj.lora_a": torch.ones(5, 2)}, r"of shape \[4, 6\], and the adapter has factors"),
        ({"layers.0.self_attn.k_proj.lora_a": torch.ones(6, 3)}, r"of shape \[4, 6\], and the adapter has factors"),
        ({"layers.0.mlp.switch_mlp.up_proj.lora_a": torch.ones(2, 2, 6)}, r"of shape \[3, 5, 6\]"),
        ({"layers.0.mlp.switch_mlp.up_proj.lora_a": torch.ones(3, 0, 6)}, r"of shape \[3, 5, 6\]"),
        ({"layers.0.self_attn.k_proj.lora_a": torch.ones(6, 2).int()}, "not of floats"),
        ({"layers.7.self_attn.k_proj.lora_a": torch.ones(6, 2), "layers.7.self_attn.k_proj.lora_b": torch.ones(2, 4)},
         "a module that the base lacks"),
        ({"layers.0.self_attn.k_proj.other": torch.ones(6)}, "of no known kind"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_are_refused(
    change: dict[str, torch.Tensor | None], message: str, tmp_path: Path
) -> None:
    tensors = {key: t for key, t in {**part("lora/adapter"), **change}.items() if t is not None}
    with pytest.raises(CkptconvError, match=message):
        merged(base_in(tmp_path), adapter_in(tmp_path, tensors, CASES["lora"]))


def test_other_libraries_names_are_not_taken_for_mlx_lms(tmp_path: Path) -> None:
    """torchtune's end in weight, and lie as torch's layers do."""
    tensors = {f"{key}.weight": tensor for key, tensor in part("lora/adapter").items()}
    with pytest.raises(CkptconvError):
        merged(base_in(tmp_path), adapter_in(tmp_path, tensors, CASES["lora"]))


def test_experts_of_a_base_with_transformers_names_get_a_hint_where_they_go(tmp_path: Path) -> None:
    base = {key: tensor for key, tensor in part("base").items() if "switch_mlp" not in key}
    save_file({**base, "layers.0.mlp.experts.0.up_proj.weight": torch.ones(5, 6)}, tmp_path / "base.safetensors")
    with pytest.raises(EditError) as found:
        merged(tmp_path / "base.safetensors", adapter_in(tmp_path, part("lora/adapter"), CASES["lora"]))
    assert "--translate mlx after it" in str(found.value.hint)


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (0, 3, 4), (2, 0, 4), (3, 4, 0)])
def test_inspect_reads_factors_of_any_shape(shape: tuple[int, ...], tmp_path: Path) -> None:
    save_file({"q.lora_a": torch.ones(shape), "q.lora_b": torch.ones(shape)}, tmp_path / "adapters.safetensors")
    found = ckptconv.inspect(tmp_path / "adapters.safetensors").adapter
    assert found is not None
    assert found.kinds == {"LoRA": 1}
