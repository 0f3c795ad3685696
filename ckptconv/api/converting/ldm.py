"""Marks in a diffusion model's single file for what a diffusers pipeline's scheduler says.

An SDXL model that predicts v is marked by an empty tensor ``v_pred``, and by ``ztsnr`` if its last step has no signal.
ComfyUI (comfy/supported_models.py, `SDXL.model_type`; model_base.py writes them), A1111 and Forge look for these names.
Single files of Stable Diffusion 1 and 2 have no such mark; their loaders guess, or read a configuration.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ckptconv.api.evidence import read_json_if_valid
from ckptconv.core.dtypes import DType
from ckptconv.core.report import Finding
from ckptconv.core.tensor import TensorInfo, in_memory
from ckptconv.formats.diffusers import DIFFUSERS

if TYPE_CHECKING:
    from ckptconv.api.open import PathText
    from ckptconv.core.checkpoint import Checkpoint

_SCHEDULER = Path("scheduler", "scheduler_config.json")


def add_scheduler_marks(made: Checkpoint, opened: Checkpoint, source: PathText) -> Checkpoint:
    """Add the marks, or a warning if this kind of model has none. Changes nothing if the source is not a pipeline.

    made:   the checkpoint of the single file.
    opened: the source, whose path is `source`.
    """
    if opened.format != DIFFUSERS.name:
        return made
    config, findings = read_json_if_valid(Path(source) / _SCHEDULER)
    marks: list[str] = []
    if config and config.get("prediction_type") == "v_prediction":
        if "unet.add_embedding.linear_1.weight" in opened:  # SDXL
            marks.append("v_pred")
            if config.get("rescale_betas_zero_snr") is True:
                marks.append("ztsnr")
        else:
            message = "its scheduler predicts v, which no single file of this model says: what loads it has to be told"
            findings = (*findings, Finding("prediction", "warning", str(_SCHEDULER), message))
    empty = TensorInfo.of(DType.F32, (0,))
    tensors = {**made, **{name: in_memory(empty, b"") for name in marks if name not in made}}
    return made.replaced(tensors=tensors, findings=(*made.findings, *findings))
