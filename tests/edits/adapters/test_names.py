"""Adapters find their modules: kohya's names with underscores, diffusers' old and new, those of other releases."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import ckptconv
from ckptconv import Lora, NameRule
from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import TensorInfo
from ckptconv.edits.adapters.sgm import released_names
from ckptconv.edits.dialects import latent
from ckptconv.errors import EditError, UsageError
from tests.arch.families.diffusion import asked

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Any

    Arrays = dict[str, np.ndarray[Any, Any]]

RNG = np.random.default_rng(0)
ALPHA = 1.5
TRANSLATE = NameRule("translate", "ldm")


def randoms(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.standard_normal(shape).astype(np.float32)


def factors(shape: tuple[int, ...], rank: int = 2) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    outputs, inputs, *kernel = shape
    return randoms(rank, inputs, *kernel), randoms(outputs, rank, *(1 for _ in kernel))


def merge(
    base: Arrays, adapter: Arrays, folder: Path, metadata: Mapping[str, str] | None = None, *first: Any
) -> Arrays:
    save_file(base, folder / "base.safetensors")
    save_file(adapter, folder / "adapter.safetensors", metadata=dict(metadata or {}))
    edits = ckptconv.Edits(names=[*first, Lora(folder / "adapter.safetensors")])
    ckptconv.convert(folder / "base.safetensors", folder / "out.safetensors", edits=edits, force=True)
    return load_file(folder / "out.safetensors")


def product(down: np.ndarray[Any, Any], up: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    flat = up.reshape(len(up), -1).astype(np.float64) @ down.reshape(len(down), -1).astype(np.float64)
    return flat.reshape(len(up), *down.shape[1:])


BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
CLIP = "text_model.encoder.layers.0.mlp.fc1"
SHAPES = {f"unet.{BLOCK}.to_q": (6, 4), f"unet.{BLOCK}.to_out.0": (6, 6), "unet.conv_in": (6, 4, 3, 3),
          f"text_encoder.{CLIP}": (7, 5), f"text_encoder_2.{CLIP}": (9, 8)}  # fmt: skip
BASE = {f"{module}.weight": randoms(*shape) for module, shape in SHAPES.items()}
KOHYA = {"unet.": "lora_unet_", "text_encoder.": "lora_te1_", "text_encoder_2.": "lora_te2_"}


def kohya(module: str) -> str:
    start = next(start for start in KOHYA if module.startswith(start))
    return KOHYA[start] + module.removeprefix(start).replace(".", "_")


def old(module: str) -> str:
    outer, _, last = module.removesuffix(".0").rpartition(".")
    return f"{outer}.processor.{last}_lora" if "attn1" in module else f"{module}.lora"


SPELLINGS: dict[str, tuple[Callable[[str], str], str, str]] = {
    "kohya": (kohya, "lora_down.weight", "lora_up.weight"),
    "diffusers, new": (str, "lora_A.weight", "lora_B.weight"),
    "diffusers, with an adapter's name": (str, "lora_A.default.weight", "lora_B.default.weight"),
    "diffusers, older": (str, "lora.down.weight", "lora.up.weight"),
    "diffusers, old": (old, "down.weight", "up.weight"),
    "diffusers, of text encoders": (str, "lora_linear_layer.down.weight", "lora_linear_layer.up.weight"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_a_module_is_the_same_module(spelling: str, tmp_path: Path) -> None:
    called, down, up = SPELLINGS[spelling]
    adapter: dict[str, Any] = {}
    exact = {}
    for module, shape in SHAPES.items():
        one, two = factors(shape)
        adapter |= {f"{called(module)}.{down}": one, f"{called(module)}.{up}": two}
        scale = 1.0
        if spelling == "kohya":
            adapter[f"{called(module)}.alpha"] = np.array(ALPHA, np.float16)
            scale = ALPHA / 2
        exact[f"{module}.weight"] = BASE[f"{module}.weight"] + scale * product(one, two)
    found = merge(BASE, adapter, tmp_path)
    for name, values in exact.items():
        np.testing.assert_allclose(found[name], values, rtol=6e-8, atol=1e-9)


def test_what_diffusers_says_in_the_metadata_scales_each_component(tmp_path: Path) -> None:
    adapter: Arrays = {}
    for module, shape in SHAPES.items():
        one, two = factors(shape)
        adapter |= {f"{module}.lora_A.weight": one, f"{module}.lora_B.weight": two}
    said = {"unet.r": 2, "unet.lora_alpha": 3, "unet.alpha_pattern": {"conv_in": 8}, "text_encoder.r": 2,
            "text_encoder.lora_alpha": 5, "text_encoder_2.r": 2, "text_encoder_2.use_rslora": True,
            "text_encoder_2.lora_alpha": 5}  # fmt: skip
    scales = [1.5, 1.5, 4.0, 2.5, 5 / np.sqrt(2)]
    found = merge(BASE, adapter, tmp_path, {"lora_adapter_metadata": json.dumps(said)})
    for module, scale in zip(SHAPES, scales, strict=True):
        one, two = adapter[f"{module}.lora_A.weight"], adapter[f"{module}.lora_B.weight"]
        exact = BASE[f"{module}.weight"] + scale * product(one, two)
        np.testing.assert_allclose(found[f"{module}.weight"], exact, rtol=6e-8, atol=1e-9)


@pytest.mark.parametrize("component", ["unet.", "text_encoder.", "text_encoder_2."])
def test_the_folder_of_one_component_takes_its_part_and_tells_of_the_others(component: str, tmp_path: Path) -> None:
    adapter: Arrays = {}
    for module, shape in SHAPES.items():
        one, two = factors(shape)
        adapter |= {f"{kohya(module)}.lora_down.weight": one, f"{kohya(module)}.lora_up.weight": two}
    alone = {name.removeprefix(component): array for name, array in BASE.items() if name.startswith(component)}
    whole = merge(BASE, adapter, tmp_path)
    found = merge(alone, adapter, tmp_path)
    assert all(np.array_equal(array, whole[component + name]) for name, array in found.items())
    wanted = ckptconv.Edits(names=[Lora(tmp_path / "adapter.safetensors")])
    told = ckptconv.convert(tmp_path / "base.safetensors", tmp_path / "o.safetensors", edits=wanted).findings
    assert [one.severity for one in told if one.code == "not-merged"] == ["warning", "warning"]


@pytest.mark.parametrize("case", ["sd1", "sd2", "sdxl", "refiner"])
def test_the_names_of_the_release_are_those_that_translating_it_took_away(case: str) -> None:
    start = "model.diffusion_model."
    shapes = {
        name.removeprefix(start): TensorInfo.of(DType.F32, tuple(shape))
        for name, shape in asked("translations")[case]["source"].items()
        if name.startswith(start)
    }
    given = {name: change.names[0] for name, change in latent.unet(shapes).items() if name.endswith(".weight")}
    back = released_names(given.values())
    assert {f"{old}.weight": new for old, new in back.items()} == given


@pytest.mark.parametrize("case", ["sd1", "sdxl", "flux-whole", "sd3"])
def test_a_single_file_keeps_its_names_and_becomes_what_its_translation_would(case: str, tmp_path: Path) -> None:
    """Where the adapter has diffusers' names: fused matrices, halves that changed places and all."""
    base = {name: randoms(*shape) for name, shape in asked("translations")[case]["source"].items()}
    save_file(base, tmp_path / "base.safetensors")
    ckptconv.convert(tmp_path / "base.safetensors", tmp_path / "t.safetensors", edits=ckptconv.Edits(names=[TRANSLATE]))
    starts = {"unet": "lora_unet_", "transformer": "lora_unet_", "text_encoder": "lora_te1_"}
    if case == "sdxl":
        starts["text_encoder_2"] = "lora_te2_"
    adapter: Arrays = {}
    for name, array in load_file(tmp_path / "t.safetensors").items():
        component, _, module = name.removesuffix(".weight").partition(".")
        if component in starts and name.endswith(".weight") and array.ndim in (2, 4) and "embedding." not in name:
            flat = starts[component] + module.replace(".", "_")
            one, two = factors(array.shape)
            adapter |= {f"{flat}.lora_down.weight": one, f"{flat}.lora_up.weight": two}
    after = merge(base, adapter, tmp_path, None, TRANSLATE)
    before = merge(base, adapter, tmp_path)
    assert before.keys() == base.keys()
    edits = ckptconv.Edits(names=[TRANSLATE])
    ckptconv.convert(tmp_path / "out.safetensors", tmp_path / "again.safetensors", edits=edits)
    again = load_file(tmp_path / "again.safetensors")
    assert again.keys() == after.keys()
    assert all(np.array_equal(again[name], array) for name, array in after.items())
    assert sum(not np.array_equal(array, base[name]) for name, array in before.items()) > len(adapter) // 6


@pytest.mark.parametrize(
    "words",
    [
        ("lora_down.weight", "lora_up.weight", "alpha"), ("lora_A.weight", "lora_B.weight"),
        ("lora.down.weight", "lora.up.weight"), ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "alpha"),
    ],
)  # fmt: skip
def test_validate_tells_that_an_adapter_is_one(words: tuple[str, ...], tmp_path: Path) -> None:
    module = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    save_file({f"{module}.{word}": randoms(4, 8) for word in words}, tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match="this is an adapter"):
        ckptconv.validate(tmp_path / "a.safetensors")


def test_validate_tells_of_what_type_an_adapter_without_factors_is(tmp_path: Path) -> None:
    save_file({"prompt_embeddings": randoms(5, 8)}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "PROMPT_TUNING"}')
    for path in (tmp_path, tmp_path / "adapter_model.safetensors"):
        with pytest.raises(UsageError, match=r"this is an adapter \(PEFT's type PROMPT_TUNING\)"):
            ckptconv.validate(path)


NEWER = ["flux", "flux2", "chroma", "wan", "z-image", "hunyuan", "ltx", "lumina2"]


def adapters_of(base: Arrays, start: str) -> dict[str, dict[str, Any]]:
    """One adapter for all matrices of blocks, as ComfyUI and diffusers spell it, and as kohya's scripts do."""
    found: dict[str, dict[str, Any]] = {"dots": {}, "kohya": {}}
    for name, array in base.items():
        module = name.removesuffix(".weight")
        if module == name or array.ndim != 2 or not any(word in module for word in ("blocks.", "layers.", "refiner.")):
            continue
        down, up = factors(array.shape)
        flat = f"lora_unet_{module.replace('.', '_')}"
        found["dots"] |= {f"{start}{module}.lora_A.weight": down, f"{start}{module}.lora_B.weight": up}
        found["kohya"] |= {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up}
        found["kohya"][f"{flat}.alpha"] = np.array(2, np.float16)
    return found


@pytest.mark.parametrize("case", NEWER)
def test_names_of_the_release_and_diffusers_go_into_either_base(case: str, tmp_path: Path) -> None:
    """What is merged under the base's own names says what has to come out under the other's."""
    release = {name: randoms(*shape) for name, shape in asked("translations")[case]["source"].items()}

    def translated(arrays: Arrays) -> Arrays:
        save_file(arrays, tmp_path / "r.safetensors")
        edits = ckptconv.Edits(names=[TRANSLATE])
        ckptconv.convert(tmp_path / "r.safetensors", tmp_path / "t.safetensors", edits=edits, force=True)
        return load_file(tmp_path / "t.safetensors")

    theirs = translated(release)
    for own, adapters in (
        (True, adapters_of(release, "diffusion_model.")),
        (False, adapters_of(theirs, "transformer.")),
    ):
        first, second = (release, theirs) if own else (theirs, release)
        for adapter in adapters.values():
            inside, across = merge(first, adapter, tmp_path), merge(second, adapter, tmp_path)
            changed = {name for name in first if not np.array_equal(inside[name], first[name])}
            assert len(changed) * 2 == sum(".lora_" in name for name in adapter)
            wanted, found = (translated(inside), across) if own else (inside, translated(across))
            assert found.keys() == wanted.keys()
            assert all(np.array_equal(found[name], array) for name, array in wanted.items())


def test_modules_that_neither_names_have_are_reported_under_the_bases_own(tmp_path: Path) -> None:
    base = {name: randoms(*shape) for name, shape in asked()["small-wan"]["tensors"].items()}
    module = "diffusion_model.blocks.7.self_attn.q"
    down, up = factors((24, 24))
    with pytest.raises(EditError, match="a module that the base lacks") as caught:
        merge(base, {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}, tmp_path)
    assert module in caught.value.details[0]
