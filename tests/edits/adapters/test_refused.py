"""What is not merged is refused by name, and nothing is written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from ckptconv import Lora, inspect
from ckptconv.edits.adapters.targets import find
from ckptconv.errors import CkptconvError, CorruptFileError, EditError, LimitError, UnsupportedError, UsageError
from tests.edits.adapters.lora_cases import CASES, case, merged, part, write_adapter
from tests.support.stopwatch import within

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONFIG = CASES["lora"]["config"]
MODULE = "base_model.model.model.layers.0.q_proj"
FACTORS = part("lora/adapter")


def error_of(folder: Path, adapter: dict[str, torch.Tensor], config: object = CONFIG) -> CkptconvError:
    base, path, _ = case("lora", folder)
    (path / "adapter_config.json").unlink()
    write_adapter(path, adapter, config)
    with pytest.raises(CkptconvError) as caught:
        merged(base, path)
    assert not (folder / "out.safetensors").exists()
    assert str(caught.value.path) == str(path)
    return caught.value


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("PREFIX_TUNING", "change no weight"), ("PROMPT_TUNING", "change no weight"), ("FOURIERFT", "random generator"),
        ("XLORA", "what goes into a layer"), ("OSF", "decomposed"), ("MADE_UP", "not known"),
    ],
)  # fmt: skip
def test_other_types_of_peft_are_named_with_the_reason(kind: str, why: str, tmp_path: Path) -> None:
    error = error_of(tmp_path, FACTORS, CONFIG | {"peft_type": kind})
    assert isinstance(error, UnsupportedError)
    assert kind in str(error)
    assert why in str(error)


@pytest.mark.parametrize("kind", ["VERA", "OFT", "LN_TUNING"])
def test_a_type_that_is_not_that_of_its_tensors_is_reported(kind: str, tmp_path: Path) -> None:
    assert f"it is of LoRA, and the configuration says {kind}" in str(
        error_of(tmp_path, FACTORS, CONFIG | {"peft_type": kind})
    )


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ({"init_lora_weights": "pissa_niter_4"}, "pissa"), ({"init_lora_weights": "olora"}, "olora"),
        ({"alora_invocation_tokens": [1]}, "aLoRA"), ({"use_qalora": True}, "QALoRA"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"), ({"target_parameters": ["w"]}, "target_parameters"),
        ({"arrow_config": {"top_k": 2}}, "Arrow"),
    ],
)  # fmt: skip
def test_settings_with_which_more_than_the_product_counts_are_named(
    said: dict[str, object], word: str, tmp_path: Path
) -> None:
    assert word in str(error_of(tmp_path, FACTORS, CONFIG | said))


@pytest.mark.parametrize(("part", "word"), [("oft_diag", "OFT of before"), ("lambda_layer", "T-LoRA")])
def test_other_kinds_of_kohyas_are_named(part: str, word: str, tmp_path: Path) -> None:
    error = error_of(tmp_path, {f"lora_unet_x.{part}": torch.ones(2, 2), "lora_unet_x.alpha": torch.ones(())}, None)
    assert word in str(error)


def test_modules_that_the_base_lacks_are_listed(tmp_path: Path) -> None:
    error = error_of(tmp_path, {key.replace("layers.1", "layers.7"): tensor for key, tensor in FACTORS.items()})
    assert "2 modules that the base lacks" in str(error)
    assert error.details == tuple(f"base_model.model.model.layers.7.{one}" for one in ("o_proj", "q_proj"))


def test_a_shape_that_does_not_fit_is_reported_with_both(tmp_path: Path) -> None:
    error = error_of(tmp_path, FACTORS | {f"{MODULE}.lora_A.weight": torch.ones(3, 5)})
    assert MODULE in str(error)
    assert "[8, 6]" in str(error)
    assert "[8, 5]" in str(error)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda f: f.pop(f"{MODULE}.lora_B.weight"), "up is missing"),
        (lambda f: f.update({f"{MODULE}.lora_B.weight": torch.ones(8, 2)}), "ranks 2 and 3"),
        (lambda f: f.update({f"{MODULE}.lora_A.weight": torch.ones(6)}), "not a matrix"),
        (lambda f: f.update({f"{MODULE}.lora_A.weight": torch.ones(3, 6, dtype=torch.int8)}), "I8"),
        (lambda f: f.update({f"{MODULE}.lora_magnitude_vector": torch.ones(3)}), "8 elements are due"),
        (lambda f: f.update({f"{MODULE}.lora_B.bias": torch.ones(3)}), "8 elements are due"),
        (lambda f: f.update({f"{MODULE}.hada_w1_a": torch.ones(8, 3)}), "beside"),
        (lambda f: f.update({f"{MODULE}.lora_A.one.weight": torch.ones(3, 6), f"{MODULE}.lora_A.two.weight":
                             torch.ones(3, 6)}), "several"),
        (lambda f: f.update({"base_model.model.lm_head.weight": torch.ones(11, 7)}), "lm_head.weight"),
        (lambda f: f.update({"base_model.model.attn.base_layer.out_proj.lora_A.weight": torch.ones(2, 2)}),
         "MultiheadAttention"),
    ],
)  # fmt: skip
def test_factors_that_do_not_go_together_are_reported(
    change: Callable[[dict[str, torch.Tensor]], object], word: str, tmp_path: Path
) -> None:
    factors = dict(FACTORS)
    change(factors)
    assert word in str(error_of(tmp_path, factors))


def test_a_dora_without_its_magnitudes_is_reported(tmp_path: Path) -> None:
    assert "lora_magnitude_vector is missing" in str(error_of(tmp_path, FACTORS, CONFIG | {"use_dora": True}))


def test_pefts_names_without_a_configuration_have_no_alpha(tmp_path: Path) -> None:
    error = error_of(tmp_path, FACTORS, None)
    assert "alpha" in str(error)
    assert "adapter_config.json" in str(error.hint)


def test_a_model_is_no_adapter(tmp_path: Path) -> None:
    assert "no tensor of an adapter's" in str(error_of(tmp_path, part("Decoder/base"), None))


def test_a_tensor_of_no_kind_among_kohyas_is_named_with_the_way_out(tmp_path: Path) -> None:
    factors = {"lora_unet_x.lora_down.weight": torch.ones(2, 2), "lora_unet_x.lora_up.weight": torch.ones(2, 2)}
    base = tmp_path / "b.safetensors"
    save_file({"unet.x.weight": torch.ones(2, 2)}, base)
    save_file(factors | {"bundle_emb.a": torch.ones(2)}, tmp_path / "a.safetensors")
    with pytest.raises(EditError, match=r"'bundle_emb\.a'") as caught:
        merged(base, tmp_path / "a.safetensors")
    assert "--drop" in str(caught.value.hint)


@pytest.mark.parametrize(
    "said",
    [
        {"r": "8"}, {"r": -1}, {"lora_alpha": "x"}, {"lora_alpha": True}, {"alpha_pattern": [1]},
        {"alpha_pattern": {"q_proj": "much"}}, {"alpha_pattern": {"(": 1}},
        {"alpha_pattern": {"(.*)+(.*)+x": 1}}, {"lora_alpha": 10**400}, {"trainable_token_indices": {"e": ["x"]}},
    ],
)  # fmt: skip
def test_a_configuration_of_no_sense_is_an_error_of_ours(said: dict[str, object], tmp_path: Path) -> None:
    assert isinstance(error_of(tmp_path, FACTORS, CONFIG | said), CorruptFileError | UnsupportedError)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "\ud800", '{"r": NaN}'])
def test_a_configuration_that_is_no_json_is_an_error_of_ours(text: str, tmp_path: Path) -> None:
    base, adapter, _ = case("lora", tmp_path)
    (adapter / "adapter_config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(CkptconvError, match=r"adapter_config|configuration"):
        merged(base, adapter)


def test_a_factor_that_claims_more_than_it_holds_takes_no_memory(tmp_path: Path) -> None:
    """A .pth whose strides are 0 has any shape in a few bytes."""
    rank = 1 << 28
    adapter = {
        "lora_unet_x.lora_down.weight": torch.ones(1).expand(rank, 2),
        "lora_unet_x.lora_up.weight": torch.ones(1).expand(2, rank),
    }
    torch.save(adapter, tmp_path / "a.pth")
    save_file({"unet.x.weight": torch.ones(2, 2)}, tmp_path / "b.safetensors")
    with pytest.raises(LimitError, match="are held"):
        merged(tmp_path / "b.safetensors", tmp_path / "a.pth")


def test_a_pickle_that_would_run_code_is_not_merged(tmp_path: Path) -> None:
    class Call:
        def __reduce__(self) -> tuple[object, ...]:
            return print, ("called",)

    base, adapter, _ = case("lora", tmp_path)
    (adapter / "adapter_model.safetensors").unlink()
    torch.save({**FACTORS, "x": Call()}, adapter / "adapter_model.bin")
    with pytest.raises(CkptconvError, match="would run code"):
        merged(base, adapter)


def test_a_scale_that_is_no_number_is_a_mistake_of_usage(tmp_path: Path) -> None:
    base, adapter, _ = case("lora", tmp_path)
    with pytest.raises(UsageError, match="nan is not a scale"):
        merged(base, Lora(adapter, float("nan")))
    with pytest.raises(UsageError, match="is not a number"):
        Lora.parse("adapter=much")


def test_quantized_bases_ask_for_plain_weights_first(tmp_path: Path) -> None:
    base, adapter, _ = case("lora", tmp_path)
    state = load_file(base)
    key = "model.layers.0.q_proj.weight"
    plain = merged(base, adapter)
    state[key] = state[key].to(torch.float8_e4m3fn)
    state[f"{key}_scale"] = torch.ones(())
    save_file(state, base)
    with pytest.raises(EditError, match=key) as caught:
        merged(base, adapter)
    assert "--dequantize" in str(caught.value.hint)
    found = merged(base, adapter, dequantize=True)
    assert found[key].dtype == torch.float32
    assert f"{key}_scale" not in found
    product = plain[key].double() - load_file(tmp_path / "base.safetensors")[key].double()
    assert product.abs().max() > 0
    assert torch.equal(found["model.layers.1.q_proj.weight"], plain["model.layers.1.q_proj.weight"])


def test_packed_weights_are_said_to_be_quantized(tmp_path: Path) -> None:
    base, adapter, _ = case("lora", tmp_path)
    state = load_file(base)
    state["model.layers.0.q_proj.qweight"] = state.pop("model.layers.0.q_proj.weight").to(torch.int32)
    save_file(state, base)
    with pytest.raises(EditError, match="lacks") as caught:
        merged(base, adapter)
    assert "--dequantize" in str(caught.value.hint)


def test_every_cut_of_an_adapter_is_an_error_of_ours(tmp_path: Path) -> None:
    base, adapter, _ = case("lora-dora", tmp_path)
    path = adapter / "adapter_model.safetensors"
    data = path.read_bytes()
    for length in range(0, len(data), 97):
        path.write_bytes(data[:length])
        with pytest.raises(CkptconvError):
            merged(base, adapter)
    assert json.loads((adapter / "adapter_config.json").read_text())["use_dora"]


def test_factors_of_a_narrow_weight_are_held_by_the_rows_of_a_tile(tmp_path: Path) -> None:
    """Views of one number, as torch saves them, claim any shape in a file of a kilobyte."""
    one, rank = torch.zeros(1), 1 << 20
    save_file({"a.weight": torch.zeros(65536, 1)}, tmp_path / "base.safetensors")
    for parts in (
        {"lora_down.weight": one.expand(rank, 1), "lora_up.weight": one.expand(65536, rank)},
        {"lokr_w1_a": one.expand(65536, rank), "lokr_w1_b": one.expand(rank, 1), "lokr_w2": one.expand(1, 1)},
    ):
        torch.save({f"lora_unet_a.{name}": tensor for name, tensor in parts.items()}, tmp_path / "adapter.pth")
        with pytest.raises(LimitError, match="at most 33,554,432 are held"):
            merged(tmp_path / "base.safetensors", tmp_path / "adapter.pth")


def test_modules_and_places_are_not_all_tried_with_each_other() -> None:
    base = [f"layers.{number}.w.weight" for number in range(4000)]
    modules = ["w", *(f"z{number}" for number in range(4000))]
    within(2, lambda: find(modules, base, lambda module, name: True))


def test_components_in_the_metadata_are_told_apart_in_linear_time(tmp_path: Path) -> None:
    tensors = {f"s{number}.w.lora_{end}.weight": torch.zeros(1, 1) for number in range(2000) for end in "AB"}
    said = json.dumps({f"s{number}.lora_alpha": 1 for number in range(50_000)})
    save_file(tensors, tmp_path / "adapter.safetensors", metadata={"lora_adapter_metadata": said})
    within(4, lambda: inspect(tmp_path / "adapter.safetensors"))
