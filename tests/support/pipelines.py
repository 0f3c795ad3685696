"""Folders as diffusers' ``save_pretrained`` writes them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from safetensors.numpy import save_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np

CLASSES = {
    "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
    "transformer": ["diffusers", "FluxTransformer2DModel"], "controlnet": ["diffusers", "ControlNetModel"],
}  # fmt: skip


def save_pipeline(
    folder: Path, parts: Mapping[str, Mapping[str, np.ndarray[Any, Any]]], scheduler: Mapping[str, object] | None = None
) -> Path:
    """Write a pipeline of these components, with a scheduler, a tokenizer, and a component that is left out."""
    for part, arrays in parts.items():
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text("{}")
        whole = "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"
        save_file(dict(arrays), folder / part / f"{whole}.safetensors")
    for name, file, said in (("scheduler", "scheduler_config", scheduler or {}), ("tokenizer", "vocab", {"a": 0})):
        (folder / name).mkdir()
        (folder / name / f"{file}.json").write_text(json.dumps(said))
    index = {
        "_class_name": "APipeline", "_diffusers_version": "0.42.1", "requires_safety_checker": False,
        "scheduler": ["diffusers", "DDIMScheduler"], "tokenizer": ["transformers", "CLIPTokenizer"],
        "safety_checker": [None, None],
        **{part: CLASSES.get(part, ["transformers", "CLIPTextModel"]) for part in parts},
    }  # fmt: skip
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder
