"""A merged weight is what peft and LyCORIS compute with, rounded once.

They were asked in F64 (fixtures/lora); so each element is at most half a unit in the last place of its type from
theirs, and a ten-thousandth of one for what F64 itself rounds.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import ckptconv
from ckptconv import Lora
from ckptconv.edits.adapters import merged as merging
from tests.edits.adapters.lora_cases import CASES, case, merged, part, write_adapter
from tests.support.archive_files import zipped

if TYPE_CHECKING:
    from pathlib import Path

ULP = 0.5001
IN_F32 = {"vblora-topk": 64}
"""peft keeps logarithms of the weights that were saved, in F32."""
FRACTION = {torch.float64: 53, torch.float32: 24, torch.bfloat16: 8, torch.float16: 11}


def units(found: torch.Tensor, exact: torch.Tensor) -> float:
    """The largest distance, in units of the last place that the exact value has in the type of what was found."""
    size = np.frexp(np.abs(exact.double().numpy()))[1] - FRACTION[found.dtype]
    away = np.abs(found.double().numpy() - exact.double().numpy())
    return float(np.max(away / np.ldexp(1.0, size), initial=0.0))


@pytest.mark.parametrize("name", CASES)
def test_the_values_are_those_of_the_library_that_trained_it(name: str, tmp_path: Path) -> None:
    base, adapter, expected = case(name, tmp_path)
    before, found = load_file(base), merged(base, adapter)
    assert found.keys() == before.keys() | expected.keys()
    for key, tensor in found.items():
        if key in expected:
            assert units(tensor, expected[key]) <= IN_F32.get(name, ULP), key
            assert not torch.equal(tensor, before[key])
        else:
            assert torch.equal(tensor, before[key]), "what is not a target stays as it is"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_base_of_another_type_is_rounded_once_to_it(dtype: torch.dtype, tmp_path: Path) -> None:
    base, adapter, expected = case("lora", tmp_path, dtype)
    factors, before = part("lora/adapter"), load_file(base)
    for key, tensor in merged(base, adapter).items():
        exact = before[key].double()
        if key in expected:
            module = f"base_model.model.{key.removesuffix('.weight')}"
            up, down = factors[f"{module}.lora_B.weight"].double(), factors[f"{module}.lora_A.weight"].double()
            exact = exact + up @ down * (8 / 3)
        assert tensor.dtype == dtype
        assert units(tensor, exact) <= (3 if dtype == torch.float64 else ULP), key


def test_it_is_nearer_than_what_is_added_in_the_bases_type(tmp_path: Path) -> None:
    """peft rounds the product to the weight's type, and then their sum."""
    base, adapter, _ = case("lora", tmp_path, torch.bfloat16)
    factors, before, found = part("lora/adapter"), load_file(base), merged(base, adapter)
    key, module = "model.layers.0.q_proj.weight", "base_model.model.model.layers.0.q_proj"
    product = factors[f"{module}.lora_B.weight"].double() @ factors[f"{module}.lora_A.weight"].double() * (8 / 3)
    exact = before[key].double() + product
    twice = before[key] + product.to(torch.bfloat16)
    ours, theirs = ((one.double() - exact).abs() for one in (found[key], twice))
    assert (ours <= theirs).all()
    assert (ours < theirs).any()


def test_a_cast_rounds_the_sum_and_not_what_the_bases_type_left_of_it(tmp_path: Path) -> None:
    base, adapter, _ = case("lora", tmp_path, torch.bfloat16)
    key = "model.layers.0.q_proj.weight"
    wide = merged(base, adapter, dtype=["F32"])[key]
    assert not torch.equal(wide, merged(base, adapter)[key].float())
    assert torch.equal(wide.to(torch.bfloat16), merged(base, adapter)[key])


def test_several_adapters_are_added_before_it_is_rounded(tmp_path: Path) -> None:
    base, adapter, expected = case("lora", tmp_path)
    key = "model.layers.0.q_proj.weight"
    before = load_file(base)[key].double()
    both = merged(base, Lora(adapter, 0.5), Lora(adapter, 1.25))[key]
    assert units(both, before + 1.75 * (expected[key] - before)) <= ULP
    back = merged(base, Lora(adapter, 1.0), Lora(adapter, -1.0))[key]
    assert torch.equal(back, load_file(base)[key]), "in F64 what is added is taken away again"


def test_any_range_of_a_merged_tensor_is_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ckptconv.api.editing.apply import apply_edits
    from ckptconv.api.editing.step_files import StepFiles

    monkeypatch.setattr(merging, "TILE", 20)
    rng = random.Random(1)
    for name in ("lora", "lora-dora", "lora-turned-dora", "lora-convolutions", "loha", "lokr", "ia3-convolutions",
                 "vera", "gralora-hybrid", "miss", "shira", "c3a", "hira", "oft", "boft-butterfly", "hra", "miss-bat",
                 "road", "kohya-oft", "kohya-boft", "kohya-glora"):  # fmt: skip
        folder = tmp_path / name
        folder.mkdir()
        base, adapter, _ = case(name, folder, torch.bfloat16)
        loras = [Lora(adapter)]
        wanted = ckptconv.Edits(names=loras)
        with ckptconv.open(base) as checkpoint, StepFiles(loras) as adapters:
            for tensor in apply_edits(checkpoint, wanted, adapters)[0].values():
                whole = bytes(tensor.read())
                for _ in range(20):
                    start, stop = sorted(rng.choices(range(len(whole) + 1), k=2))
                    assert tensor.read(start, stop) == whole[start:stop]


def test_rows_longer_than_a_tile_give_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lora-dora", "lora-turned-dora", "kohya-dora-inputs", "lora-tokens", "vera", "gralora-hybrid", "miss",
                 "shira", "c3a", "hira", "oft", "boft-butterfly", "hra", "miss-bat", "road", "kohya-oft",
                 "kohya-oft-constrained", "kohya-boft", "kohya-glora", "kohya-ia3-inputs"):  # fmt: skip
        folder = tmp_path / name
        folder.mkdir()
        base, adapter, expected = case(name, folder)
        monkeypatch.setattr(merging, "TILE", 4)
        for key, tensor in merged(base, adapter).items():
            assert key not in expected or units(tensor, expected[key]) <= ULP
        monkeypatch.undo()


def test_a_tied_weight_that_one_name_changes_is_untied_and_reported(tmp_path: Path) -> None:
    _, adapter, expected = case("lora", tmp_path)
    state = part("Decoder/base")
    state["shared.weight"] = state["model.layers.0.o_proj.weight"]
    torch.save(state, tmp_path / "base.pth")
    wanted = ckptconv.Edits(names=[Lora(adapter)])
    result = ckptconv.convert(tmp_path / "base.pth", tmp_path / "out.pth", edits=wanted)
    assert [finding.code for finding in result.findings] == ["merged", "tie-broken"]
    found = torch.load(tmp_path / "out.pth")
    assert torch.equal(found["shared.weight"], state["shared.weight"])
    key = "model.layers.0.o_proj.weight"
    assert units(found[key], expected[key]) <= ULP


def test_an_embedding_with_more_rows_takes_the_place_of_the_bases(tmp_path: Path) -> None:
    base, adapter, _ = case("lora-saved", tmp_path)
    factors = part("lora-saved/adapter")
    key = "base_model.model.lm_head.weight"
    factors[key] = torch.cat([factors[key], torch.ones(2, 6)])
    write_adapter(adapter, factors)
    found = ckptconv.convert(base, tmp_path / "o.safetensors", edits=ckptconv.Edits(names=[Lora(adapter)])).findings
    assert [one.message for one in found if one.code == "resized"] == [
        "lm_head.weight has other rows now, 11 → 13: vocab_size in the config.json has to follow"
    ]
    assert torch.equal(load_file(tmp_path / "o.safetensors")["lm_head.weight"], factors[key])


def test_a_module_that_only_the_adapter_has_is_added(tmp_path: Path) -> None:
    base, adapter, expected = case("lora-saved", tmp_path)
    state = load_file(base)
    del state["lm_head.weight"]
    save_file(state, base)
    assert torch.equal(merged(base, adapter)["lm_head.weight"].double(), expected["lm_head.weight"])


@pytest.mark.parametrize(("before", "after"), [("bert.", ""), ("", "wrapped.")])
def test_names_with_another_prefix_are_found(before: str, after: str, tmp_path: Path) -> None:
    """An adapter of the network with its head, a base without it; and the other way round."""
    base, adapter, expected = case("lora-biases", tmp_path)
    factors = {
        key.replace("base_model.model.", f"base_model.model.{before}"): tensor
        for key, tensor in part("lora-biases/adapter").items()
    }
    write_adapter(adapter, factors)
    save_file({after + key: tensor for key, tensor in load_file(base).items()}, base)
    found = merged(base, adapter)
    assert all(units(found[after + key], tensor) <= ULP for key, tensor in expected.items())


def test_a_pth_of_torchs_with_the_adapters_name_in_it_is_the_same(tmp_path: Path) -> None:
    base, adapter, _ = case("lora", tmp_path)
    named = {key.replace(".weight", ".other.weight"): tensor for key, tensor in part("lora/adapter").items()}
    whole = merged(base, adapter)
    (adapter / "adapter_model.safetensors").unlink()
    torch.save(named, adapter / "adapter_model.bin")
    again = merged(base, adapter)
    assert all(torch.equal(tensor, again[key]) for key, tensor in whole.items())


def test_a_damaged_adapter_is_reported(tmp_path: Path) -> None:
    base, adapter, _ = case("lora", tmp_path)
    torch.save(part("lora/adapter"), adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    data = bytearray((adapter / "adapter_model.bin").read_bytes())
    with ckptconv.open(adapter / "adapter_model.bin") as checkpoint:
        span = next(iter(checkpoint.values())).depends[0]
    data[span.offset] ^= 1
    (adapter / "adapter_model.bin").write_bytes(data)
    with pytest.raises(ckptconv.CkptconvError, match="damaged"):
        merged(base, adapter)
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("inside", ["", "peft/"])
@pytest.mark.parametrize("named", [False, True])
def test_an_adapter_in_an_archive_has_its_configuration_there(inside: str, named: bool, tmp_path: Path) -> None:
    base, path, _ = case("lora", tmp_path)
    expected = merged(base, path)
    packed = zipped(tmp_path / "x.zip", {f"{inside}{one.name}": one.read_bytes() for one in path.iterdir()})
    made = merged(base, packed / inside / "adapter_model.safetensors" if named else packed)
    assert all(torch.equal(made[name], tensor) for name, tensor in expected.items())
