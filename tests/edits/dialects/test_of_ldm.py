"""Single files of Stable Diffusion and Flux come out as diffusers' own functions have them, value for value.

What those made is kept in fixtures/diffusers: see its make.py.
"""

from __future__ import annotations

import random
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import ckptconv
from ckptconv.core.dtypes import DTYPES
from ckptconv.core.tensor import TensorInfo
from ckptconv.edits.name_rule import NameRule
from ckptconv.edits.translate import changes_in
from ckptconv.errors import CkptconvError, EditError
from tests.arch.families.diffusion import asked

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    Arrays = dict[str, np.ndarray[Any, Any]]

F32 = DTYPES["F32"]
CASES = list(asked("translations"))
PREFIXES = {
    "sd1": {"unet": "model.diffusion_model.*", "vae": "first_stage_model.*", "text_encoder": "cond_stage_model.*"},
    "sdxl": {
        "unet": "model.diffusion_model.*", "vae": "first_stage_model.*", "text_encoder": "conditioner.embedders.0.*",
        "text_encoder_2": "conditioner.embedders.1.*",
    },
    "sd3": {"transformer": "model.diffusion_model.*", "text_encoder_3": "text_encoders.t5xxl.*"},
}  # fmt: skip
"""By the case and the component: what selects it."""


def counted(shapes: Mapping[str, Sequence[int]]) -> Arrays:
    """The n-th value of the file is n, as in make.py."""
    found, at = {}, 0
    for name, shape in shapes.items():
        count = int(np.prod(shape))
        found[name] = np.arange(at, at + count, dtype="f4").reshape(shape)
        at += count
    return found


def single(case: str, path: Path, more: Mapping[str, Any] | None = None) -> Path:
    save_file({**counted(asked("translations")[case]["source"]), **(more or {})}, path)
    return path


def translated(source: Path, target: Path, *, select: Sequence[str] = ()) -> Arrays:
    edits = ckptconv.Edits(select=select, names=[NameRule("translate", "ldm")])
    ckptconv.convert(source, target, edits=edits, force=True)
    return load_file(target)


def summed(arrays: Arrays) -> dict[str, list[Any]]:
    return {name: [list(array.shape), zlib.crc32(array.tobytes())] for name, array in arrays.items()}


@pytest.mark.parametrize("case", CASES)
def test_every_component_is_what_diffusers_makes_of_it(case: str, tmp_path: Path) -> None:
    parts = asked("translations")[case]["components"]
    found = summed(translated(single(case, tmp_path / "a.safetensors"), tmp_path / "b.safetensors"))
    many = len(parts) > 1
    assert found == {
        f"{part}.{name}" if many else name: row for part, rows in parts.items() for name, row in rows.items()
    }


@pytest.mark.parametrize(("case", "part"), [(case, part) for case, parts in PREFIXES.items() for part in parts])
def test_a_component_alone_has_the_names_of_its_class(case: str, part: str, tmp_path: Path) -> None:
    source = single(case, tmp_path / "a.safetensors")
    found = translated(source, tmp_path / "b.safetensors", select=[PREFIXES[case][part]])
    assert summed(found) == asked("translations")[case]["components"][part]


@pytest.mark.parametrize("case", ["sd2", "flux"])
def test_diff_compares_a_single_file_with_the_same_models_of_diffusers(case: str, tmp_path: Path) -> None:
    source = single(case, tmp_path / "a.safetensors")
    translated(source, tmp_path / "b.safetensors")
    found = ckptconv.diff(tmp_path / "b.safetensors", source, bare=True)
    assert found.equal
    assert [finding.code for finding in found.told] == ["translated"]


@pytest.mark.parametrize(("case", "part"), [("sd1", "unet"), ("sd1", "vae"), ("sdxl", "text_encoder_2")])
def test_diff_compares_a_single_file_with_one_component_of_diffusers(case: str, part: str, tmp_path: Path) -> None:
    source, folder = single(case, tmp_path / "a.safetensors"), tmp_path / part
    whole = translated(source, tmp_path / "b.safetensors")
    component = {name.removeprefix(f"{part}."): array for name, array in whole.items() if name.startswith(f"{part}.")}
    folder.mkdir()
    save_file(component, folder / "model.safetensors")
    for pair in ((folder, source), (source, folder)):
        found = ckptconv.diff(*pair, bare=True)
        assert found.equal
        assert found.tensors == (len(component), len(component))
        told = {finding.code: finding.message for finding in found.told}
        assert told.keys() == {"translated", "component"}
        assert told["component"].startswith(f"{source}: its {part} is compared, and not ")
    name = next(iter(component))
    save_file({**component, name: component[name] + 1}, folder / "model.safetensors")
    (changed,) = [
        finding for finding in ckptconv.diff(folder, source, bare=True).findings if finding.severity == "error"
    ]
    assert changed.where == name


@pytest.mark.parametrize("case", ["sd1", "sdxl", "flux-whole", "sd3", "wan-vae"])
def test_like_a_single_file_it_is_that_again(case: str, tmp_path: Path) -> None:
    source = single(case, tmp_path / "a.safetensors")
    translated(source, tmp_path / "b.safetensors")
    edits = ckptconv.Edits(names=[NameRule("like", str(source))])
    ckptconv.convert(tmp_path / "b.safetensors", tmp_path / "c.safetensors", edits=edits)
    assert summed(load_file(tmp_path / "c.safetensors")) == summed(load_file(source))


@pytest.mark.parametrize("case", ["sd1", "flux-whole"])
def test_a_network_without_its_prefix_is_known_too(case: str, tmp_path: Path) -> None:
    prefix = "model.diffusion_model."
    shapes = asked("translations")[case]["source"]
    arrays = {name.removeprefix(prefix): array for name, array in counted(shapes).items() if name.startswith(prefix)}
    save_file(arrays, tmp_path / "a.safetensors")
    part = next(iter(asked("translations")[case]["components"].values()))
    assert summed(translated(tmp_path / "a.safetensors", tmp_path / "b.safetensors")) == part


def test_what_belongs_to_no_component_keeps_its_name(tmp_path: Path) -> None:
    strays = {"betas": np.ones(9), "model_ema.decay": np.ones(()), "first_stage_model.loss.logvar": np.zeros(1)}
    found = translated(single("sd1", tmp_path / "a.safetensors", strays), tmp_path / "b.safetensors")
    assert {name for name in found if not name.startswith(("unet.", "vae.", "text_encoder."))} == strays.keys()


def test_the_projection_that_stable_diffusion_2_does_without_is_translated_as_well(tmp_path: Path) -> None:
    projection = {"cond_stage_model.model.text_projection": np.arange(96, dtype="f4").reshape(12, 8)}
    found = translated(single("sd2", tmp_path / "a.safetensors", projection), tmp_path / "b.safetensors")
    assert np.array_equal(found["text_encoder.text_projection.weight"], np.arange(96, dtype="f4").reshape(12, 8).T)


def infos(case: str) -> dict[str, TensorInfo]:
    shapes = asked("translations")[case]["source"]
    return {name: TensorInfo.of(DTYPES["F32"], tuple(shape)) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("case", "gone", "said"),
    [
        ("sd1", "model.diffusion_model.input_blocks.4.", r"input_blocks\.4 is missing"),
        ("sd1", "model.diffusion_model.output_blocks.0.", r"output_blocks\.0 is missing"),
        ("sd1", "first_stage_model.decoder.up.1.", "a part of the decoder is missing"),
        ("flux", "single_blocks.0.linear1.weight", "without a matrix"),
    ],
)
def test_blocks_whose_level_cannot_be_counted_are_refused(case: str, gone: str, said: str) -> None:
    left = {name: info for name, info in infos(case).items() if not name.startswith(gone)}
    with pytest.raises(EditError, match=said):
        changes_in("ldm", left, {})


@pytest.mark.parametrize(
    ("case", "name", "shape"),
    [
        ("flux", "double_blocks.0.img_attn.qkv.weight", (7, 1)),
        ("flux", "single_blocks.0.linear1.weight", (9, 24)),
        ("flux", "final_layer.adaLN_modulation.1.weight", (5, 24)),
        ("flux", "final_layer.adaLN_modulation.1.bias", ()),
        ("sd2", "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_bias", (5,)),
        ("sd2", "cond_stage_model.model.text_projection", (5,)),
    ],
)
def test_tensors_of_other_shapes_than_their_names_say_are_refused(
    case: str, name: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    arrays = {**counted(asked("translations")[case]["source"]), name: np.zeros(shape, "f4")}
    save_file(arrays, tmp_path / "a.safetensors")
    with pytest.raises(CkptconvError):
        translated(tmp_path / "a.safetensors", tmp_path / "b.safetensors")


@pytest.mark.parametrize("case", CASES)
def test_odd_names_are_refused_or_kept_and_never_crash(case: str) -> None:
    rng = random.Random(case)
    odd = ["", ".", "0", "٣", "-1", "9" * 5000, "input_blocks", "weight", "attn", "\n", "joint_blocks.0"]
    names = list(infos(case))
    for _ in range(6):
        found = infos(case)
        for name in rng.sample(names, 3):
            parts = name.split(".")
            parts[rng.randrange(len(parts))] = rng.choice(odd)
            shape = tuple(rng.choice([(), (1,), (0, 3), (3, 2, 1, 1), found.get(name, TensorInfo.of(F32, ())).shape]))
            found[".".join(parts)] = TensorInfo.of(F32, shape)
            if rng.random() < 0.5:
                found.pop(name, None)
        with suppress(CkptconvError):
            assert changes_in("ldm", found, {}).keys() == found.keys()


def test_what_has_been_translated_has_nothing_left_to_translate(tmp_path: Path) -> None:
    first, again = tmp_path / "b.safetensors", tmp_path / "c.safetensors"
    translated(single("sdxl", tmp_path / "a.safetensors"), first)
    with pytest.raises(EditError, match="none of its words"):
        translated(first, again)


def test_a_check_against_diffusers_class_names_the_dialect(tmp_path: Path) -> None:
    source = single("sd1", tmp_path / "a.safetensors")
    found = ckptconv.validate(source, arch="unet")
    assert found.findings[0].code == "dialect"
    assert "--translate ldm" in str(found.findings[0].hint)
    own = ckptconv.validate(source, arch="stable_diffusion", settings=["vae=false"])
    assert not own.valid
    assert all(finding.code != "dialect" for finding in own.findings)


def test_names_of_diffusers_are_not_taken_for_a_single_files() -> None:
    unet = {
        name: TensorInfo.of(DTYPES["F32"], tuple(shape)) for name, shape in asked()["small-sdxl"]["tensors"].items()
    }
    with pytest.raises(EditError, match="none of its words"):
        changes_in("ldm", unet, {})


def test_a_component_that_is_there_under_two_prefixes_is_refused(tmp_path: Path) -> None:
    again = {
        name.replace("first_stage_model.", "vae."): np.zeros(shape, "f4")
        for name, shape in asked("translations")["sd1"]["source"].items() if name.startswith("first_stage_model.")
    }  # fmt: skip
    with pytest.raises(EditError, match="are both a vae") as caught:
        translated(single("sd1", tmp_path / "sd.safetensors", again), tmp_path / "out.safetensors")
    assert "--drop" in str(caught.value.hint)
