"""A pipeline of diffusers' on its way into a single file: what its scheduler says, and loaders look for in the tensors.

A model of SDXL that predicts v has empty tensors for it, ``v_pred``, and ``ztsnr`` where the last step has no signal:
ComfyUI (comfy/supported_models.py, `SDXL.model_type`; model_base.py writes them), A1111 and Forge look for their names.
Of Stable Diffusion 1 and 2 no file says so; it is guessed, or said in a configuration.
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


def marked(made: Checkpoint, opened: Checkpoint, source: PathText) -> Checkpoint:
    """The single file with what its pipeline's scheduler says; `opened` is that pipeline, where it is one."""
    if opened.format != DIFFUSERS.name:
        return made
    said, findings = read_json_if_valid(Path(source) / _SCHEDULER)
    marks: list[str] = []
    if said and said.get("prediction_type") == "v_prediction":
        if "unet.add_embedding.linear_1.weight" in opened:
            marks = ["v_pred", *(["ztsnr"] if said.get("rescale_betas_zero_snr") is True else [])]
        else:
            message = "its scheduler predicts v, which no single file of this model says: what loads it has to be told"
            findings = (*findings, Finding("prediction", "warning", str(_SCHEDULER), message))
    empty = TensorInfo.of(DType.F32, (0,))
    tensors = {**made, **{name: in_memory(empty, b"") for name in marks if name not in made}}
    return made.replaced(tensors=tensors, findings=(*made.findings, *findings))
