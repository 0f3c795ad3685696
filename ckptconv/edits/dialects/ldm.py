"""Translates single files of Stable Diffusion, Flux, Wan and other diffusion models to diffusers' names.

    model.diffusion_model.*                          the UNet, or the transformer     → unet.*, transformer.*
    control_model.*                                  a ControlNet                     → controlnet.*
    first_stage_model.*, vae.*                       the VAE                          → vae.*
    cond_stage_model.*, conditioner.embedders.N.*    the text encoders                → text_encoder.*, text_encoder_2.*
    text_encoders.clip_l.*, clip_g.*, t5xxl.*        those of Flux and version 3      → … and text_encoder_3.*

Each component is a folder of that name in diffusers. If there is only one component, whether chosen by ``--select`` or
alone in its file, with its prefix or without, its names become those of the class: ``conv_in.weight``. What belongs to
no component (schedules, EMA copies, a discriminator) keeps its name. The modules `latent`, `mmdit`, `dit` and
`openclip` describe how each component is translated.

Sources: CompVis/stable-diffusion and Stability-AI/generative-models (ldm, sgm); black-forest-labs/flux, model.py;
Stability-AI/sd3-ref, mmdit.py; diffusers' loaders/single_file_utils.py, which does the same.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.edits.dialects import dit, latent, mmdit, openclip
from ckptconv.edits.dialects.change import Change, unchanged
from ckptconv.errors import EditError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ckptconv.core.tensor import TensorInfo

    Tensors = Mapping[str, TensorInfo]
    Translator = Callable[[Tensors], dict[str, Change]]


_DIFFUSION: Mapping[tuple[str, ...], tuple[str, Translator]] = {
    ("input_blocks.",): ("unet", latent.unet),
    ("double_blocks.", "distilled_guidance_layer."): ("transformer", mmdit.CHROMA.translated),
    ("double_blocks.", "double_stream_modulation_img."): ("transformer", mmdit.FLUX2.translated),
    ("double_blocks.", "txt_in.individual_token_refiner."): ("transformer", mmdit.HUNYUAN.translated),
    ("double_blocks.",): ("transformer", mmdit.FLUX.translated),
    ("joint_blocks.",): ("transformer", mmdit.SD3.translated),
    ("blocks.", "head.modulation"): ("transformer", dit.WAN.translated),
    ("transformer_blocks.", "patchify_proj."): ("transformer", dit.LTX.translated),
    ("layers.", "cap_pad_token", "final_layer."): ("transformer", dit.Z_IMAGE.translated),
    ("layers.", "cap_embedder.", "final_layer."): ("transformer", dit.LUMINA2.translated),
}
"""How a network is recognized, by what its names begin with, bare or after ``model.diffusion_model.``: its folder and
its translation. The first entry counts whose prefixes all occur.
"""

_BARE: Mapping[tuple[str, ...], tuple[str, Translator]] = {
    ("input_hint_block.",): ("controlnet", latent.controlnet),
    **_DIFFUSION,
    ("encoder.down.",): ("vae", latent.vae),
    ("decoder.up.",): ("vae", latent.vae),
    ("decoder.upsamples.",): ("vae", dit.wan_vae),
    ("transformer.resblocks.",): ("text_encoder", openclip.text),
}
"""The same for a file of one component."""

_PREFIXES: Mapping[str, tuple[str, Translator]] = {
    "control_model.": ("controlnet", latent.controlnet),
    "first_stage_model.": ("vae", latent.vae),
    "vae.": ("vae", latent.vae),
    "cond_stage_model.transformer.": ("text_encoder", unchanged),
    "cond_stage_model.model.": ("text_encoder", openclip.text),
    "conditioner.embedders.0.transformer.": ("text_encoder", unchanged),
    "conditioner.embedders.0.model.": ("text_encoder_2", openclip.text),
    "conditioner.embedders.1.model.": ("text_encoder_2", openclip.text),
    "text_encoders.clip_l.transformer.": ("text_encoder", unchanged),
    "text_encoders.clip_g.transformer.": ("text_encoder_2", unchanged),
    "text_encoders.t5xxl.transformer.": ("text_encoder_3", unchanged),
}
MODEL = "model.diffusion_model."


@dataclass(slots=True)
class _Component:
    prefix: str
    translate: Translator
    tensors: dict[str, TensorInfo] = field(default_factory=dict)


def changes(tensors: Tensors, metadata: Mapping[object, object]) -> dict[str, Change]:
    """The change of each tensor. Raises EditError if a part is missing that is needed to count others, UnsupportedError
    for a network that only resembles a known one.
    """
    parts = _components(tensors)
    changed: dict[str, Change] = {}
    for name, component in parts.items():
        before = f"{name}." if len(parts) > 1 else ""
        for inner, change in component.translate(component.tensors).items():
            changed[component.prefix + inner] = change.under(before)
    return {name: changed.get(name, Change.to(name)) for name in tensors}


def known(names: Iterable[str]) -> bool:
    """Whether these are names of a single file. ``vae.`` alone says nothing: diffusers' folders use it as well."""
    words = (MODEL, *(prefix for prefix in _PREFIXES if prefix != "vae."))
    names = list(names)
    return any(name.startswith(words) for name in names) or _first_kind(_BARE, names) is not None


def _components(tensors: Tensors) -> dict[str, _Component]:
    grouped: dict[str, dict[str, TensorInfo]] = defaultdict(dict)
    for name, info in tensors.items():
        prefix = next((each for each in (MODEL, *_PREFIXES) if name.startswith(each)), "")
        grouped[prefix][name[len(prefix) :]] = info
    found: dict[str, _Component] = {}
    for prefix, inside in grouped.items():
        kind = _kind(prefix, inside)
        if kind is None:
            continue
        if kind[0] in found:
            other = found[kind[0]].prefix
            raise EditError(
                f"--translate ldm: {other!r} and {prefix!r} are both a {kind[0]}",
                hint=f"--drop '{prefix}*' or '{other}*'",
            )
        found[kind[0]] = _Component(prefix, kind[1], inside)
    if "text_encoder_3" in found and "text_encoder_2" not in found:  # Flux has no second CLIP
        found["text_encoder_2"] = found.pop("text_encoder_3")
    return found


def _kind(prefix: str, inside: Tensors) -> tuple[str, Translator] | None:
    if prefix == "vae." and any(name.startswith("per_channel_statistics.") for name in inside):
        raise UnsupportedError(
            "--translate ldm does not take the VAE of LTX-Video apart",
            hint=f"--select '{MODEL}*' takes the transformer",
        )
    if prefix in _PREFIXES:
        return _PREFIXES[prefix]
    kinds = _DIFFUSION if prefix else _BARE
    found = _first_kind(kinds, inside)
    # Qwen-Image's transformer has diffusers' names, whatever stands before them
    return ("transformer", unchanged) if found is None and prefix and "txt_norm.weight" in inside else found


def _first_kind(
    kinds: Mapping[tuple[str, ...], tuple[str, Translator]], names: Iterable[str]
) -> tuple[str, Translator] | None:
    """The first kind all of whose words are there."""
    words = {word for kind in kinds for word in kind}
    there = {word for name in names for word in words if name.startswith(word)}
    return next((kind for sign, kind in kinds.items() if there.issuperset(sign)), None)
