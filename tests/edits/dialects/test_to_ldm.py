"""Diffusers' models come out as the single files that they were made of, bit for bit.

fixtures/diffusers has single files, and what diffusers' own functions make of them: those values go back.
"""

from __future__ import annotations

import random
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import ckptconv
from ckptconv.api.editing.apply import apply_edits
from ckptconv.api.fitting.compare import compare
from ckptconv.api.request import Request
from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.dtypes import DTYPES
from ckptconv.core.tensor import TensorInfo, in_memory
from ckptconv.edits.name_rule import NameRule
from ckptconv.edits.translate import changes_in
from ckptconv.errors import CkptconvError, EditError, UnsupportedError
from tests.arch.families.diffusion import asked
from tests.edits.dialects.test_of_ldm import counted, single, summed, translated
from tests.support.pipelines import save_pipeline

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.edits.dialects.test_of_ldm import Arrays

F32 = DTYPES["F32"]
CASES = [case for case in asked("translations") if case != "tiny"]  # a first UNet with the text encoder of a refiner
ALONE = [case for case in CASES if len(asked("translations")[case]["components"]) == 1]
ARCHITECTURES = {
    "sd1": "stable_diffusion", "sd2": "stable_diffusion", "sdxl": "stable_diffusion", "refiner": "stable_diffusion",
    "sd3": "stable_diffusion_3", "flux-whole": "flux_checkpoint",
}  # fmt: skip


def back(source: Path, target: Path, *, drop: Sequence[str] = ()) -> Arrays:
    edits = ckptconv.Edits(drop=drop, names=[NameRule("translate", "to-ldm")])
    ckptconv.convert(source, target, edits=edits, force=True)
    return load_file(target)


def of_diffusers(case: str, folder: Path) -> dict[str, Arrays]:
    """What diffusers made of a single file, by the component."""
    made = asked("translations")[case]["components"]
    arrays = translated(single(case, folder / "original.safetensors"), folder / "diffusers.safetensors")
    parts = {
        part: {name: arrays[f"{part}.{name}" if len(made) > 1 else name] for name in rows}
        for part, rows in made.items()
    }
    assert {part: summed(found) for part, found in parts.items()} == made
    return parts


def assert_same(found: Mapping[str, object], wanted: Arrays) -> None:
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)  # type: ignore[arg-type]


def whole_file(case: str) -> Arrays:
    return counted(asked("translations")[case]["source"])


@pytest.mark.parametrize("case", ["sd2", "unclip", "sd3", "flux-whole", *ALONE])
def test_what_diffusers_made_of_a_single_file_becomes_that_file_again(case: str, tmp_path: Path) -> None:
    of_diffusers(case, tmp_path)
    assert_same(back(tmp_path / "diffusers.safetensors", tmp_path / "again.safetensors"), whole_file(case))


@pytest.mark.parametrize("case", ["sd1", "refiner", "sdxl"])
def test_a_pipelines_folder_becomes_one_file_that_fits(case: str, tmp_path: Path) -> None:
    parts = of_diffusers(case, tmp_path)
    if "text_encoder" in parts:  # as transformers has saved it since version 5
        encoder = parts["text_encoder"]
        parts["text_encoder"] = {name.removeprefix("text_model."): array for name, array in encoder.items()}
    pipeline = save_pipeline(tmp_path / "pipeline", parts)
    assert_same(back(pipeline, tmp_path / "one.safetensors"), whole_file(case))
    found = ckptconv.validate(tmp_path / "one.safetensors")
    assert (found.valid, found.arch) == (True, ARCHITECTURES[case])


@pytest.mark.parametrize("case", ["sd1", "sdxl", "sd3"])
def test_a_component_alone_gets_the_prefix_that_it_is_released_under(case: str, tmp_path: Path) -> None:
    prefixes = {
        "unet": "model.diffusion_model.", "transformer": "model.diffusion_model.", "vae": "first_stage_model.",
        "text_encoder_2": "conditioner.embedders.1.model.",
    }  # fmt: skip
    for part, arrays in of_diffusers(case, tmp_path).items():
        if part not in prefixes or (case == "sd3" and part == "text_encoder_2"):
            continue
        save_file(arrays, tmp_path / "part.safetensors")
        if part == "text_encoder_2":
            (tmp_path / "config.json").write_text('{"hidden_act": "gelu"}')
        prefix = prefixes[part]
        wanted = {
            name if "diffusion_model" in prefix else name.removeprefix(prefix): array
            for name, array in whole_file(case).items()
            if name.startswith(prefix)
        }
        assert_same(back(tmp_path / "part.safetensors", tmp_path / "out.safetensors"), wanted)


def test_sdxl_without_its_first_text_encoder_is_not_its_refiner(tmp_path: Path) -> None:
    pipeline = save_pipeline(tmp_path / "pipeline", of_diffusers("sdxl", tmp_path))
    wanted = {name: array for name, array in whole_file("sdxl").items() if "embedders.0" not in name}
    assert_same(back(pipeline, tmp_path / "one.safetensors", drop=["text_encoder.*"]), wanted)


def infos(shapes: Mapping[str, Sequence[int]]) -> dict[str, TensorInfo]:
    return {name: TensorInfo.of(F32, tuple(shape)) for name, shape in shapes.items()}


def model(name: str) -> dict[str, TensorInfo]:
    return infos(asked()[name]["tensors"])


def parts(case: str) -> dict[str, TensorInfo]:
    made = asked("translations")[case]["components"]
    return infos({f"{part}.{name}": row[0] for part, rows in made.items() for name, row in rows.items()})


@pytest.mark.parametrize(
    ("name", "arch"),
    [
        ("sdxl", "stable_diffusion"), ("ssd-1b", "stable_diffusion"), ("sd-2.1", "stable_diffusion"),
        ("controlnet-xl", "controlnet_ldm"), ("sd-vae", "autoencoder_ldm"), ("flux-dev", "flux_bfl"),
        ("sd3.5-large", "stable_diffusion_3"),
    ],
)  # fmt: skip
def test_the_models_that_are_published_fit_as_single_files(name: str, arch: str) -> None:
    tensors = {key: in_memory(info, b"", alias=key) for key, info in model(name).items()}
    made, _ = apply_edits(Checkpoint(tensors), ckptconv.Edits(names=[NameRule("translate", "to-ldm")]))
    found = compare(Request("one.safetensors"), made)
    assert (found.valid, found.arch) == (True, arch)


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("small-lcm", "time_embedding.cond_proj.weight"),
        ("small-unclip", "encoder_hid_proj.weight"),
    ],
)
def test_what_no_release_has_is_refused_by_name(name: str, where: str) -> None:
    with pytest.raises(EditError, match=f"no place for '{where}'") as caught:
        changes_in("to-ldm", model(name), {})
    assert "--drop" in str(caught.value.hint)


def test_a_model_beside_the_others_is_refused_with_what_leaves_it_out(tmp_path: Path) -> None:
    made = of_diffusers("sd1", tmp_path)
    pipeline = save_pipeline(tmp_path / "p", {**made, "safety_checker": {"a.weight": np.ones(3), "b": np.ones(2)}})
    with pytest.raises(EditError, match=r"no place for 'safety_checker.a.weight', 'safety_checker.b'") as caught:
        back(pipeline, tmp_path / "one.safetensors")
    assert caught.value.hint == "--drop 'safety_checker.*' leaves them out"
    assert_same(back(pipeline, tmp_path / "one.safetensors", drop=["safety_checker.*"]), whole_file("sd1"))


@pytest.mark.parametrize(
    ("case", "gone", "said"),
    [
        ("sd1", "unet.down_blocks.0.downsamplers.", "no single file has"),
        ("sd1", "unet.up_blocks.1.", "no single file has"),
        ("sd1", "vae.decoder.conv_in.", "a part of the decoder is missing"),
        ("sd1", "vae.decoder.up_blocks.1.", "a part of the decoder is missing"),
        ("sd2", "text_encoder.text_model.encoder.layers.0.self_attn.k_proj.weight", "made of 3 tensors"),
        ("flux-whole", "transformer.single_transformer_blocks.0.proj_mlp.bias", "made of 4 tensors"),
        ("flux-whole", "transformer.transformer_blocks.0.attn.to_q.", "made of 3 tensors"),
    ],
)
def test_what_is_not_all_there_is_refused(case: str, gone: str, said: str) -> None:
    left = {name: info for name, info in parts(case).items() if not name.startswith(gone)}
    assert len(left) < len(parts(case))
    with pytest.raises(EditError, match=said):
        changes_in("to-ldm", left, {})


@pytest.mark.parametrize(
    ("case", "name", "shape"),
    [
        ("flux-whole", "transformer.norm_out.linear.weight", (5, 16)),
        ("flux-whole", "transformer.transformer_blocks.0.attn.to_k.weight", (7, 16)),
        ("sd3", "transformer.transformer_blocks.2.norm1_context.linear.bias", ()),
        ("sd2", "text_encoder.text_model.encoder.layers.0.self_attn.v_proj.bias", (5,)),
        ("sdxl", "text_encoder_2.text_projection.weight", (5,)),
    ],
)
def test_tensors_of_other_shapes_than_their_names_say_are_refused(
    case: str, name: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    arrays = {old: np.zeros(info.shape, "f4") for old, info in parts(case).items()}
    assert name in arrays
    save_file({**arrays, name: np.zeros(shape, "f4")}, tmp_path / "a.safetensors")
    with pytest.raises(CkptconvError):
        back(tmp_path / "a.safetensors", tmp_path / "b.safetensors")


def test_a_text_encoder_without_what_makes_pictures_has_no_place() -> None:
    left = {name: info for name, info in parts("sd1").items() if not name.startswith("unet.")}
    with pytest.raises(EditError, match="no place for 'text_encoder"):
        changes_in("to-ldm", left, {})


@pytest.mark.parametrize("names", [["unet.blocks.0.weight"], ["transformer.patch_embed.proj.weight", "vae.a.b"]])
def test_networks_that_are_not_known_are_refused_by_their_folder(names: list[str]) -> None:
    with pytest.raises(UnsupportedError, match=f"has this {names[0].partition('.')[0]}"):
        changes_in("to-ldm", infos({name: [2] for name in names}), {})


def test_projections_of_the_vae_may_have_their_first_names(tmp_path: Path) -> None:
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    arrays = of_diffusers("sd1", tmp_path)["vae"]
    for new, name in old.items():
        arrays = {key.replace(f".{new}.", f".{name}."): array for key, array in arrays.items()}
    save_file(arrays, tmp_path / "vae.safetensors")
    prefix = "first_stage_model."
    wanted = {n.removeprefix(prefix): array for n, array in whole_file("sd1").items() if n.startswith(prefix)}
    assert_same(back(tmp_path / "vae.safetensors", tmp_path / "out.safetensors"), wanted)


@pytest.mark.parametrize(
    ("name", "again"),
    [
        ("vae.encoder.mid_block.attentions.0.to_q.bias", "vae.encoder.mid_block.attentions.0.query.bias"),
        ("text_encoder.text_model.final_layer_norm.bias", "text_encoder.final_layer_norm.bias"),
    ],
)
def test_a_tensor_that_is_there_under_two_names_is_refused(name: str, again: str) -> None:
    found = parts("sd1")
    with pytest.raises(EditError, match=f"'{name}' and '{again}' are one tensor"):
        changes_in("to-ldm", {**found, again: found[name]}, {})


def test_positions_stay_with_clip_and_leave_openclip() -> None:
    ids = TensorInfo.of(DTYPES["I64"], (1, 7))
    positions = "text_model.embeddings.position_ids"
    both = {f"{part}.{positions}": ids for part in ("text_encoder", "text_encoder_2")}
    found = changes_in("to-ldm", {**parts("sdxl"), **both}, {})
    assert found[f"text_encoder.{positions}"].names == (f"conditioner.embedders.0.transformer.{positions}",)
    assert found[f"text_encoder_2.{positions}"].dropped


@pytest.mark.parametrize(("said", "layers", "openclip"), [({"hidden_act": "quick_gelu"}, 23, False), ({}, 23, True),
                                                          ({"hidden_act": "gelu"}, 2, True)])  # fmt: skip
def test_whose_text_encoder_it_is_its_configuration_says_or_its_depth(
    said: dict[object, object], layers: int, openclip: bool
) -> None:
    names = [f"text_model.encoder.layers.{i}.layer_norm1.weight" for i in range(layers)]
    tensors = infos({**{name: [4] for name in names}, "text_model.embeddings.token_embedding.weight": [9, 4]})
    if not openclip:
        with pytest.raises(EditError, match="none of its words"):
            changes_in("to-ldm", tensors, said)
        return
    assert changes_in("to-ldm", tensors, said)[names[0]].names == ("transformer.resblocks.0.ln_1.weight",)


def test_what_a_single_file_has_besides_keeps_its_name(tmp_path: Path) -> None:
    strays = {"betas": np.ones(9), "model_ema.decay": np.ones(()), "first_stage_model.loss.logvar": np.zeros(1)}
    translated(single("sd1", tmp_path / "a.safetensors", strays), tmp_path / "b.safetensors")
    assert_same(back(tmp_path / "b.safetensors", tmp_path / "c.safetensors"), {**whole_file("sd1"), **strays})


@pytest.mark.parametrize(
    ("scheduler", "marks"),
    [
        ({"prediction_type": "epsilon", "rescale_betas_zero_snr": True}, []),
        ({"prediction_type": "v_prediction"}, ["v_pred"]),
        ({"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}, ["v_pred", "ztsnr"]),
    ],
)
def test_a_scheduler_that_predicts_v_is_reported_by_empty_tensors_in_sdxl(
    scheduler: dict[str, object], marks: list[str], tmp_path: Path
) -> None:
    whole = {name: np.zeros(info.shape, "f2") for name, info in parts("sdxl").items()}
    split = {
        part: {name.removeprefix(f"{part}."): array for name, array in whole.items() if name.startswith(f"{part}.")}
        for part in ("unet", "text_encoder_2")
    }
    pipeline = save_pipeline(tmp_path / "p", split, scheduler)
    found = back(pipeline, tmp_path / "one.safetensors")
    assert sorted(name for name in found if "." not in name) == marks
    assert all(found[name].shape == (0,) for name in marks)
    assert ckptconv.validate(tmp_path / "one.safetensors").valid


def test_a_scheduler_that_predicts_v_is_reported_where_no_file_can_say_it(tmp_path: Path) -> None:
    pipeline = save_pipeline(tmp_path / "p", of_diffusers("unclip", tmp_path), {"prediction_type": "v_prediction"})
    edits = ckptconv.Edits(names=[NameRule("translate", "to-ldm")])
    found = ckptconv.convert(pipeline, tmp_path / "one.safetensors", edits=edits).findings
    assert [finding.code for finding in found] == ["prediction"]


def test_a_pipeline_that_becomes_one_file_without_it_gets_a_hint(tmp_path: Path) -> None:
    pipeline = save_pipeline(tmp_path / "p", of_diffusers("unclip", tmp_path))
    found = ckptconv.convert(pipeline, tmp_path / "plain.safetensors").findings
    assert [finding.hint for finding in found] == ["--translate to-ldm"]


def test_a_single_file_has_nothing_left_to_translate() -> None:
    with pytest.raises(EditError, match="none of its words"):
        changes_in("to-ldm", infos(asked("translations")["sdxl"]["source"]), {})
    with pytest.raises(UnsupportedError) as caught:  # its VAE is called so as well
        changes_in("to-ldm", infos(asked("translations")["flux-whole"]["source"]), {})
    assert caught.value.hint == "it is in a single file already"


@pytest.mark.parametrize("case", ["sd1", "sd3", "flux-whole", "controlnet"])
def test_odd_names_are_refused_or_come_back_and_never_crash(case: str) -> None:
    chance = random.Random(case)
    odd = ["", ".", "0", "٣", "-1", "9" * 5000, "9999", "unet", "weight", "resnets", "\n", "up_blocks", "k_proj"]
    names = list(parts(case))
    for _ in range(12):
        found = parts(case)
        for name in chance.sample(names, 3):
            words = name.split(".")
            words[chance.randrange(len(words))] = chance.choice(odd)
            own = found[name].shape if name in found else (2,)
            found[".".join(words)] = TensorInfo.of(F32, chance.choice([(), (1,), (0, 3), (3, 2, 1, 1), own]))
            if chance.random() < 0.5:
                found.pop(name, None)
        with suppress(CkptconvError):
            assert changes_in("to-ldm", found, {}).keys() == found.keys()
