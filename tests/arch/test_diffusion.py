"""Models of diffusers in their published sizes: they fit, by their tensors, their names and their config.json."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.numpy import save_file

import ckptconv
from ckptconv.arch.bind import from_config
from ckptconv.arch.check import check
from ckptconv.arch.choose import choose
from ckptconv.arch.load import load_spec
from ckptconv.arch.solver import solve
from ckptconv.core.dtypes import DTYPES
from ckptconv.core.tensor import TensorInfo
from ckptconv.errors import UsageError
from tests.arch.families.diffusion import SMALL, asked

if TYPE_CHECKING:
    from pathlib import Path

np = pytest.importorskip("numpy")

NAMES = [name for name in asked() if name not in SMALL]
PUBLISHED = [name for name in NAMES if not name.startswith("small-")]
GUESSED = {"time_dim", "variant", "prefix"}
"""Params that no configuration states."""

UNSEEN = {"only_cross"}
"""Params of which tensors do not tell all: what the attention of a level without any would be to."""

FIRST_SD = {
    "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.6.0", "act_fn": "silu", "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280], "center_input_sample": False, "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 1, "flip_sin_to_cos": True, "freq_shift": 0, "in_channels": 4, "layers_per_block": 2,
    "mid_block_scale_factor": 1, "norm_eps": 1e-05, "norm_num_groups": 32, "out_channels": 4, "sample_size": 64,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}  # fmt: skip
"""What the first release of Stable Diffusion 1.5 has beside its unet."""


def tensors(name: str) -> dict[str, TensorInfo]:
    return {key: TensorInfo.of(DTYPES["F16"], tuple(shape)) for key, shape in asked()[name]["tensors"].items()}


@pytest.mark.parametrize("name", NAMES)
def test_a_published_model_fits(name: str) -> None:
    model, found = asked()[name], tensors(name)
    spec = load_spec(model["spec"])
    stated = from_config(spec, model["config"])
    for sources in ([], [stated]):
        solution = solve(spec, found, sources)
        assert solution.table is not None
        assert [*solution.findings, *check(solution.table, found)] == []
        told = [key for key in stated.values if key in solution.params and (sources or key not in UNSEEN)]
        assert {key: solution.params[key] for key in told} == {key: stated.values[key] for key in told}


@pytest.mark.parametrize("name", NAMES)
def test_its_configuration_says_all_that_decides_which_tensors_there_are(name: str) -> None:
    """A level whose attention is wholly missing is only seen by what the configuration says."""
    model = asked()[name]
    spec = load_spec(model["spec"])
    said = from_config(spec, model["config"]).values
    unsaid = {"small-unclip": {"down_depths", "up_depths"}, "small-sana": {"ffn"}, "sana-1600m": {"ffn"}}
    silent = unsaid.get(name, set())
    needed = {key for key, param in spec.params.items() if not param.optional} - GUESSED
    assert needed - said.keys() == silent


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_is_known_by_its_names_and_by_its_class(name: str) -> None:
    model, found = asked()[name], tensors(name)
    by_names, by_config = choose(found), choose({}, config=model["config"])
    assert (by_names.spec.name, by_names.evidence, by_names.overlap) == (model["spec"], "names", 1.0)
    assert (by_config.spec.name, by_config.evidence) == (model["spec"], "config.json")


def test_an_old_configuration_lacks_keys_that_mean_what_the_class_says() -> None:
    spec = load_spec("unet")
    said = from_config(spec, FIRST_SD).values
    assert said["down_depths"] == [1, 1, 1, 1, 1, 1, 0, 0]
    assert "mid" not in said
    assert solve(spec, tensors("sd-1.5"), [from_config(spec, FIRST_SD)]).findings == ()


WHOLE: dict[str, dict[str, object]] = {
    "sd1": {"clip": "cond_stage_model.", "openclip": "none", "vae": True},
    "sd2": {"clip": "none", "openclip": "cond_stage_model."},
    "sdxl": {"clip": "conditioner.embedders.0.", "openclip": "conditioner.embedders.1.", "unet.labels": "projection"},
    "refiner": {"clip": "none", "openclip": "conditioner.embedders.0."},
    "unclip": {"clip": "none", "openclip": "none", "unet.linear": True},
    "controlnet": {"prefix": "control_model.", "hint": [4, 6, 10, 12], "depths": [0, 1, 1, 0, 1, 1, 0, 0, 0]},
    "flux": {"guidance": True},
    "flux-vae": {"quant": False},
    "flux-whole": {"vae": True, "t5xxl": True},
    "sd3": {"clip_l": True, "clip_g": True, "transformer.dual_layers": 0},
    "sd35": {"vae": False, "clip_l": False, "transformer.dual_layers": 2},
    "wan": {"image": True, "prefix": ""},
    "wan-vae": {"base": 6, "latent": 5},
    "z-image": {"refiners": 2},
    "flux2": {"guidance": True, "ffn": 72},
    "hunyuan": {"refiners": 1},
    "ltx": {"out_channels": 22},
    "chroma": {"steps": 2},
    "lumina2": {"kv_heads": 2},
}  # fmt: skip
"""By the single file: some of what its names and shapes say."""

SPECS = {
    **dict.fromkeys(["sd1", "sd2", "sdxl", "refiner", "unclip"], "stable_diffusion"),
    "flux": "flux_bfl", "controlnet": "controlnet_ldm",
    "flux-vae": "autoencoder_ldm", "flux-whole": "flux_checkpoint", "sd3": "stable_diffusion_3",
    "sd35": "stable_diffusion_3", "wan": "wan_release", "wan-vae": "autoencoder_wan_release",
    "z-image": "z_image_release", "flux2": "flux2_bfl", "hunyuan": "hunyuan_video_release", "ltx": "ltx_video_release",
    "chroma": "chroma_release", "lumina2": "lumina2_release",
}  # fmt: skip


def in_one_file(name: str) -> dict[str, TensorInfo]:
    shapes = asked("translations")[name]["source"]
    return {key: TensorInfo.of(DTYPES["F16"], tuple(shape)) for key, shape in shapes.items()}


@pytest.mark.parametrize("name", WHOLE)
def test_a_single_file_is_known_by_its_names_and_fits(name: str) -> None:
    found = in_one_file(name)
    choice = choose(found)
    assert (choice.spec.name, choice.overlap) == (SPECS[name], 1.0)
    solution = solve(choice.spec, found)
    assert solution.table is not None
    assert [one for one in check(solution.table, found) if one.severity == "error"] == []
    assert {key: solution.params[key] for key in WHOLE[name]} == WHOLE[name]


@pytest.mark.parametrize("name", ["wan", "z-image", "flux2", "hunyuan", "ltx", "chroma", "lumina2"])
def test_a_transformer_with_comfyuis_prefix_is_known_as_well(name: str) -> None:
    prefix = "model.diffusion_model."
    found = {prefix + key: info for key, info in in_one_file(name).items()}
    choice = choose(found)
    assert (choice.spec.name, choice.overlap) == (SPECS[name], 1.0)
    solution = solve(choice.spec, found)
    assert solution.table is not None
    assert check(solution.table, found) == []
    assert solution.params["prefix"] == prefix


def test_what_a_whole_checkpoint_lacks_is_a_part_or_an_error() -> None:
    whole, spec = in_one_file("sdxl"), load_spec("stable_diffusion")
    without = {name: info for name, info in whole.items() if not name.startswith("first_stage_model.")}
    solution = solve(spec, without)
    assert solution.params["vae"] is False
    assert solution.table is not None
    assert check(solution.table, without) == []

    lost = "first_stage_model.decoder.conv_in.weight"
    broken = {name: info for name, info in whole.items() if name != lost}
    table = solve(spec, broken).table
    assert table is not None
    assert [(one.code, one.where) for one in check(table, broken)] == [("missing-tensor", lost)]


def test_the_copies_of_a_moving_average_and_schedules_are_parts_too() -> None:
    whole, spec = in_one_file("tiny"), load_spec("stable_diffusion")
    copies = {
        "model_ema." + name.removeprefix("model.").replace(".", ""): info
        for name, info in whole.items()
        if name.startswith("model.diffusion_model.")
    }
    more = {"betas": TensorInfo.of(DTYPES["F32"], (1000,)), "model_ema.decay": TensorInfo.of(DTYPES["F32"], ())}
    found = {**whole, **copies, **more}
    solution = solve(spec, found)
    assert (solution.params["ema"], solution.params["timesteps"]) == (True, 1000)
    assert solution.table is not None
    assert check(solution.table, found) == []

    lost = next(iter(copies))
    table = solve(spec, {name: info for name, info in found.items() if name != lost}).table
    assert table is not None
    assert [one.where for one in check(table, {n: i for n, i in found.items() if n != lost})] == [lost]


def folder(path: Path, config: dict[str, Any], shapes: dict[str, list[int]]) -> Path:
    path.mkdir()
    save_file(
        {name: np.zeros(shape, "f2") for name, shape in shapes.items()}, path / "diffusion_pytorch_model.safetensors"
    )
    (path / "config.json").write_text(json.dumps(config))
    return path


def test_a_folder_of_diffusers_is_checked_against_its_configuration(tmp_path: Path) -> None:
    model = asked()["small-sdxl"]
    whole = folder(tmp_path / "unet", model["config"], model["tensors"])
    found = ckptconv.validate(whole)
    assert (found.valid, found.arch, found.evidence) == (True, "unet", "config.json")

    lacking = {name: shape for name, shape in model["tensors"].items() if ".attentions.1." not in name}
    without = ckptconv.validate(folder(tmp_path / "without", model["config"], lacking))
    assert not without.valid


def test_a_vae_with_the_names_of_older_files_fits(tmp_path: Path) -> None:
    model = asked()["small-sd"]
    words = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for name, shape in model["tensors"].items():
        for new, word in words.items():
            name = name.replace(f".{new}.", f".{word}.")
        old[name] = shape
    found = ckptconv.validate(folder(tmp_path / "vae", model["config"], old))
    assert (found.valid, found.params["variant"]) == (True, "older")


def test_without_diffusers_a_class_that_the_library_lacks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    strange = folder(tmp_path / "other", {"_class_name": "HunyuanDiT2DModel"}, {"pos_embed.proj.weight": [2, 2]})
    with pytest.raises(UsageError, match="says 'HunyuanDiT2DModel', which the library does not have") as caught:
        ckptconv.validate(strange)
    assert "pip install 'ckptconv[diffusers]' lets its class be asked" in str(caught.value.hint)
