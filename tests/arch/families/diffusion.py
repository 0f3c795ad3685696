"""Classes of diffusers, as fixtures/diffusers/make.py has asked them: diffusers itself is not installed here."""

from __future__ import annotations

import gzip
import json
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.arch.real_models import Case, torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LISTS = Path(__file__).parents[3] / "fixtures" / "diffusers"

SMALL = (
    "small-lcm", "small-controlnet-xl", "small-flux", "small-plain", "small-dev", "small-sd35", "small-wan",
    "small-qwen", "small-z", "small-flux2", "small-hunyuan", "small-ltx", "small-chroma", "small-lumina",
    "small-wan2.2-vae", "small-pixart", "small-sana-plain", "small-cog", "small-aura",
    "small-cogview4", "small-hunyuan-vae", "small-hunyuan-plain",
)  # fmt: skip
SINGLE = [
    ("unet_ldm", "refiner", "model.diffusion_model."),
    ("autoencoder_ldm", "sd1", "first_stage_model."),
    ("controlnet_ldm", "controlnet", "control_model."),
    ("openclip_text", "sdxl", "conditioner.embedders.1.model."),
    ("stable_diffusion", "tiny", ""),
    ("flux_bfl", "flux", ""),
    ("flux_checkpoint", "flux-whole", ""),
    ("mmdit_sd3", "sd35", "model.diffusion_model."),
    ("stable_diffusion_3", "sd35", ""),
    ("wan_release", "wan", ""),
    ("autoencoder_wan_release", "wan-vae", ""),
    ("z_image_release", "z-image", ""),
    ("flux2_bfl", "flux2", ""),
    ("hunyuan_video_release", "hunyuan", ""),
    ("ltx_video_release", "ltx", ""),
    ("chroma_release", "chroma", ""),
    ("lumina2_release", "lumina2", ""),
]
"""The spec, the single file, and the prefix of what is taken of it."""


@cache
def asked(name: str = "classes") -> dict[str, Any]:
    """What diffusers answered, by model."""
    found: dict[str, Any] = json.loads(gzip.decompress((LISTS / f"{name}.json.gz").read_bytes()))
    return found


def diffusion() -> list[Case]:
    """One of each kind; all others are in `test_diffusion`."""
    return [
        *(
            Case(model["spec"], name, partial(holding, model["tensors"]), partial(dict, model["config"]))
            for name, model in asked().items()
            if name in SMALL
        ),
        *(Case(spec, name, partial(holding, part_of(name, prefix))) for spec, name, prefix in SINGLE),
    ]


def part_of(name: str, prefix: str) -> dict[str, Sequence[int]]:
    """The tensors of a single file that have this prefix, without it."""
    shapes = asked("translations")[name]["source"]
    return {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}


def holding(shapes: Mapping[str, Sequence[int]]) -> Any:
    """A module whose state_dict has these names and shapes."""
    root = torch.nn.Module()
    for name, shape in shapes.items():
        *path, leaf = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, torch.nn.Module())
            module = module._modules[part]
        module.register_parameter(leaf, torch.nn.Parameter(torch.empty(shape)))
    return root
