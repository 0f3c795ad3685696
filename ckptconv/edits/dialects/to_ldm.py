"""Single files of Stable Diffusion, Flux, Wan and other models of diffusers: the reverse of `ldm`.

    unet.*           → model.diffusion_model.*
    transformer.*    → model.diffusion_model.*                                  Flux's alone: without a prefix
    controlnet.*     → control_model.*
    vae.*            → first_stage_model.*, of Flux vae.*                       alone: without a prefix
    text_encoder.*   → cond_stage_model.transformer.*                           Stable Diffusion 1
                       cond_stage_model.model.*, as OpenCLIP                    Stable Diffusion 2: linear projections
                       conditioner.embedders.0.transformer.*                    SDXL: an embedding of sizes
    text_encoder_2.* → conditioner.embedders.1.model.*, as OpenCLIP             its refiner, without a first one: 0
    text_encoder, text_encoder_2, text_encoder_3 → text_encoders.clip_l, clip_g, t5xxl.transformer.*    version 3
    text_encoder, text_encoder_2 → text_encoders.clip_l, t5xxl.transformer.*                            Flux

The source is a pipeline's folder, whose components are recognized by what their names begin with, or a single
component under the names of its class, which gets the prefix under which it is released. A text encoder alone is taken
for OpenCLIP's if its configuration says so (gelu) or, without one, if it has more layers than CLIP's twelve.

Tensors that a release has no place for are refused by name. Before anything is done, the names and shapes that would
result are translated back by `ldm`; whatever differs from the original is refused, since loaders would take it for
something else. What single files hold besides (schedules, logit_scale, OpenCLIP's last layer in version 2) is computed
by loaders, or not needed.

Sources: as of `ldm`; ComfyUI's comfy/supported_models.py, which says what is looked for; diffusers'
scripts/convert_diffusers_to_original_stable_diffusion.py and …_sdxl.py.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import TensorInfo
from ckptconv.core.text import quoted
from ckptconv.edits.dialects import dit, latent_back, ldm, mmdit, openclip
from ckptconv.edits.dialects.change import Change, unchanged
from ckptconv.errors import EditError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    Tensors = Mapping[str, TensorInfo]
    Originals = Callable[[Tensors], dict[str, Change]]
    Place = tuple[str, Originals]
    Shape = tuple[int, ...]


_FLUX, _SD3, _WAN_VAE = "single_transformer_blocks.", "pos_embed.", "decoder.mid_block.attentions.0.to_qkv."
_SIGNS: Mapping[str, tuple[str, Place]] = {
    "controlnet_cond_embedding.": ("controlnet", ("control_model.", latent_back.unet)),
    "distilled_guidance_layer.": ("transformer", ("", mmdit.CHROMA.originals)),
    "double_stream_modulation_img.": ("transformer", ("", mmdit.FLUX2.originals)),
    "context_embedder.token_refiner.": ("transformer", ("", mmdit.HUNYUAN.originals)),
    _FLUX: ("transformer", ("", mmdit.FLUX.originals)),
    _SD3: ("transformer", (ldm.MODEL, mmdit.SD3.originals)),
    "condition_embedder.": ("transformer", ("", dit.WAN.originals)),
    "time_embed.emb.": ("transformer", ("", dit.LTX.originals)),
    "all_x_embedder.": ("transformer", ("", dit.Z_IMAGE.originals)),
    "time_caption_embed.": ("transformer", ("", dit.LUMINA2.originals)),
    "txt_norm.": ("transformer", (ldm.MODEL, unchanged)),
    "time_embedding.": ("unet", (ldm.MODEL, latent_back.unet)),
    _WAN_VAE: ("vae", ("", dit.wan_vae_originals)),
    "decoder.up_blocks.": ("vae", ("", latent_back.vae)),
    "encoder.down_blocks.": ("vae", ("", latent_back.vae)),
    "text_model.": ("text_encoder", ("", unchanged)),
    "embeddings.token_embedding.": ("text_encoder", ("", unchanged)),
}
"""How a component is recognized, by what one of its names begins with: its folder, and its place if it is alone. The
first entry that matches counts.
"""

_CLIP_L, _CLIP_G, _T5 = ((f"text_encoders.{name}.transformer.", unchanged) for name in ("clip_l", "clip_g", "t5xxl"))
_REFINER = "SDXL's refiner"
_TEXTS: Mapping[str, Mapping[str, Place]] = {
    "Stable Diffusion 1": {"text_encoder": ("cond_stage_model.transformer.", unchanged)},
    "Stable Diffusion 2": {"text_encoder": ("cond_stage_model.model.", openclip.originals)},
    "SDXL": {
        "text_encoder": ("conditioner.embedders.0.transformer.", unchanged),
        "text_encoder_2": ("conditioner.embedders.1.model.", openclip.originals),
    },
    _REFINER: {"text_encoder_2": ("conditioner.embedders.0.model.", openclip.originals)},
    "Stable Diffusion 3": {"text_encoder": _CLIP_L, "text_encoder_2": _CLIP_G, "text_encoder_3": _T5},
    "Flux": {"text_encoder": _CLIP_L, "text_encoder_2": _T5},
}
"""The places of each family's text encoders."""

_COMPONENT = re.compile(r"(unet|transformer|controlnet|vae|text_encoder(?:_[23])?)\.(.+)", re.DOTALL)
_OWN = (
    "model.", "model_ema.", "control_model.", "first_stage_model.", "cond_stage_model.", "conditioner.", "denoiser.",
)  # fmt: skip
"""What names of a single file begin with; such tensors may be there without belonging to a component."""

_CLIP = re.compile(r"(?:embeddings|encoder\.layers|final_layer_norm)\..+")
"""Names of CLIP's text encoder as transformers 5 writes them, without ``text_model.`` before them."""

_NETWORKS = ("unet", "transformer")
_KNOWN = (
    "it knows those of Stable Diffusion 1 to 3, SDXL, Flux, Flux.2, Chroma, Wan, HunyuanVideo, LTX-Video, Z-Image and "
    "Lumina 2"
)
_CLIP_LAYERS = 12
_LAYER = re.compile(r"text_model\.encoder\.layers\.([0-9]{1,4})\..+")


@dataclass(frozen=True, slots=True)
class _Component:
    """A component's tensors, by their current names in its class: each one's name in the file, and its header."""

    sources: dict[str, str] = field(default_factory=dict)
    infos: dict[str, TensorInfo] = field(default_factory=dict)

    def add(self, name: str, source: str, info: TensorInfo) -> None:
        """Add a tensor. Raises EditError if it is there already under another name."""
        now = f"text_model.{name}" if _CLIP.fullmatch(name) else latent_back.current(name)
        if now in self.sources:
            raise EditError(
                f"--translate to-ldm: {self.sources[now]!r} and {source!r} are one tensor by their names",
                hint="--drop leaves one of them out",
            )
        self.sources[now], self.infos[now] = source, info

    def sign(self) -> str:
        """The key of `_SIGNS` that the component is recognized by; "" if there is none."""
        return next((sign for sign in _SIGNS if any(name.startswith(sign) for name in self.infos)), "")


def changes(tensors: Tensors, metadata: Mapping[object, object]) -> dict[str, Change]:
    """The change of each tensor. Raises EditError and UnsupportedError, as the module's docstring says."""
    parts, beside = _components(tensors)
    if not parts:
        return unchanged(tensors)
    places = _places(parts, beside, metadata)
    placed: dict[str, Change] = {}
    unplaced = [name for name in beside if "." in name and not name.startswith(_OWN)]
    for part, component in parts.items():
        prefix, originals = places.get(part, ("", lambda _: {}))
        found = originals(component.infos)
        placed |= {component.sources[name]: change.under(prefix) for name, change in found.items()}
        unplaced += [source for name, source in component.sources.items() if name not in found]
    if unplaced:
        message = f"--translate to-ldm: a single file has no place for {_brief(unplaced)}"
        raise EditError(message, hint=_drop_hint(unplaced, placed))
    changed = {name: placed.get(name, Change.to(name)) for name in tensors}
    _check_pieces(changed)
    _check_round_trip(changed, tensors, parts)
    return changed


def _components(tensors: Tensors) -> tuple[dict[str, _Component], list[str]]:
    """The components, by their folders in a pipeline, and the names that belong to none."""
    parts: dict[str, _Component] = defaultdict(_Component)
    beside: list[str] = []
    for name, info in tensors.items():
        if match := _COMPONENT.fullmatch(name):
            parts[match[1]].add(match[2], name, info)
        else:
            beside.append(name)
    if parts or not tensors:
        return parts, beside
    alone = _Component()
    for name, info in tensors.items():
        alone.add(name, name, info)
    return ({_SIGNS[alone.sign()][0]: alone}, []) if alone.sign() else ({}, beside)


def _places(
    parts: Mapping[str, _Component], beside: Sequence[str], metadata: Mapping[object, object]
) -> dict[str, Place]:
    """Where components go in a single file. Raises UnsupportedError for a network that has no known place."""
    signs = {part: component.sign() for part, component in parts.items()}
    for part in ("unet", "transformer", "controlnet", "vae"):
        if part in parts and (not signs[part] or _SIGNS[signs[part]][0] != part):
            raise UnsupportedError(
                f"--translate to-ldm does not know how a single file has this {part}",
                hint="it is in a single file already" if ldm.known(beside) else _KNOWN,
            )
    places = {part: _SIGNS[sign][1] for part, sign in signs.items() if sign and not part.startswith("text_encoder")}
    if len(parts) == 1:
        return places or {
            part: ("", openclip.originals if _is_openclip(component, metadata) else unchanged)
            for part, component in parts.items()
        }
    if family := _family(parts, signs):
        before = "vae." if family == "Flux" else "first_stage_model."
        places |= {part: (before, latent_back.vae) for part in parts if part == "vae"}
        places |= {part: (ldm.MODEL, originals) for part, (_, originals) in places.items() if part in _NETWORKS}
        places |= {part: place for part, place in _TEXTS[family].items() if part in parts}
    return places


def _family(parts: Mapping[str, _Component], signs: Mapping[str, str]) -> str:
    """The family whose single file it is, by the network that makes its pictures; "" if there is none. Raises
    UnsupportedError for a family that is not released as a single file.
    """
    if "transformer" in parts:
        if signs["transformer"] not in (_FLUX, _SD3):
            raise UnsupportedError(
                "--translate to-ldm: the parts of such a pipeline are released as files of their own",
                hint="--select 'transformer.*' makes one of them, --select 'vae.*' another",
            )
        return "Flux" if signs["transformer"] == _FLUX else "Stable Diffusion 3"
    if "unet" not in parts:
        return ""
    unet = parts["unet"].infos
    if any(name.startswith("add_embedding.") for name in unet):
        return _REFINER if _reads_second_alone(parts, unet) else "SDXL"
    linear = any(name.endswith(".proj_in.weight") and len(info.shape) == 2 for name, info in unet.items())
    return f"Stable Diffusion {2 if linear else 1}"


def _reads_second_alone(parts: Mapping[str, _Component], unet: Tensors) -> bool:
    """Whether the UNet attends to nothing but what the second text encoder gives, as SDXL's refiner does."""
    if "text_encoder" in parts or "text_encoder_2" not in parts:
        return False
    norm = parts["text_encoder_2"].infos.get("text_model.final_layer_norm.weight")
    widths = {info.shape[-1] for name, info in unet.items() if name.endswith(".attn2.to_k.weight") and info.shape}
    return norm is not None and widths == {*norm.shape}


def _is_openclip(encoder: _Component, metadata: Mapping[object, object]) -> bool:
    activation = metadata.get("hidden_act")
    if isinstance(activation, str):
        return activation == "gelu"
    return any(int(match[1]) >= _CLIP_LAYERS for name in encoder.infos if (match := _LAYER.fullmatch(name)))


def _brief(names: Sequence[str]) -> str:
    return quoted(names, 2)


def _drop_hint(unplaced: Sequence[str], placed: Iterable[str]) -> str:
    """The hint that leaves these tensors out: by whole components if nothing in them has a place."""
    used = {name.partition(".")[0] for name in placed}
    parts = dict.fromkeys(name.partition(".")[0] for name in unplaced)
    globs = [f"{part}.*" for part in parts if part not in used] or [unplaced[0]]
    line = " ".join(f"--drop '{glob}'" for glob in globs)
    return f"{line} leaves {'it' if len(unplaced) == 1 else 'them'} out"


def _check_pieces(changed: Mapping[str, Change]) -> None:
    """Raise EditError if only some of the pieces of a tensor are there."""
    pieces: dict[str, list[str]] = defaultdict(list)
    for name, change in changed.items():
        if change.into is not None:
            pieces[change.into.target].append(name)
    for change in changed.values():
        if change.into is not None and len(pieces[change.into.target]) < len(change.into.sources):
            target, count = change.into.target, len(change.into.sources)
            raise EditError(
                f"--translate to-ldm: {target!r} is made of {count} tensors, and of those there is only "
                f"{_brief(pieces[target])}", hint="a --select of the whole component takes them all",
            )  # fmt: skip


def _check_round_trip(changed: Mapping[str, Change], tensors: Tensors, parts: Mapping[str, _Component]) -> None:
    """Raise EditError if `ldm` would not give the original names and shapes back."""
    kept = {name: change for name, change in changed.items() if not change.dropped}
    shapes = _names_and_shapes(kept, tensors)
    infos = {name: TensorInfo.of(DType.F32, shape) for name, shape in shapes.items()}
    try:
        back = _names_and_shapes(ldm.changes(infos, {}), infos)
    except EditError as error:
        message = f"--translate to-ldm: no single file has such blocks: {error.message}"
        raise EditError(message, hint=error.hint) from error
    now = {source: (f"{part}." if len(parts) > 1 else "") + name
           for part, component in parts.items() for name, source in component.sources.items()}  # fmt: skip
    wrong = [name for name in kept if back.get(now.get(name, name)) != tensors[name].shape]
    if wrong or len(back) != len(kept):
        raise EditError(
            f"--translate to-ldm: no single file has {_brief(wrong or list(kept))} as this one has: --translate ldm "
            "would not give the same names and shapes again", hint="ckptconv validate says what does not fit",
        )  # fmt: skip


def _names_and_shapes(changed: Mapping[str, Change], tensors: Tensors) -> dict[str, Shape]:
    """The names and shapes that the changes result in."""
    found: dict[str, Shape] = {}
    for name, change in changed.items():
        shape = change.shape or tensors[name].shape
        if change.axes is not None and len(change.axes) == len(shape):
            shape = tuple(shape[axis] for axis in change.axes)
        for new, rows in zip(change.names, change.sizes or shape[:1] or (0,), strict=True):
            found[new] = (rows, *shape[1:]) if shape else ()
    for join in {change.into.target: change.into for change in changed.values() if change.into is not None}.values():
        shapes = [found.pop(part) for part in join.sources]
        found[join.target] = (sum(shape[0] if shape else 0 for shape in shapes), *shapes[0][1:])
    return found
