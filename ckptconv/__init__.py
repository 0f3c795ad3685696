"""ckptconv: any checkpoint in, any checkpoint out, and no line of code from the file.

    import ckptconv

    with ckptconv.open("model.pth") as checkpoint:
        checkpoint["layer.weight"].info.shape          # from the header
        checkpoint["layer.weight"].numpy()             # reads the bytes; .to_torch() likewise
        checkpoint.metadata                            # typed

    ckptconv.convert("model.pth", "model.safetensors")
    ckptconv.inspect("model.pth").verdict              # "plain", "opaque" or "would run code"
    ckptconv.diff("a.pth", "b.safetensors").equal      # and if not, .edits and .findings say what changed
    ckptconv.validate("model.pth").valid               # does it fit its architecture, and if not, why not?
    ckptconv.architecture("mlp").spec.required         # what a model of an architecture is described by

Every error is a `ckptconv.CkptconvError` with `.path` and `.hint`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptconv.api import (
        Architecture,
        Conversion,
        Difference,
        Edits,
        Inferred,
        Inspection,
        Recording,
        Saved,
        Validation,
        Verification,
        architecture,
        architectures,
        compare,
        convert,
        diff,
        infer_architecture,
        inspect,
        open,
        read_recording,
        run,
        save_outputs,
        validate,
        verify,
        verify_outputs,
    )
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.tensor import LazyTensor, TensorInfo
    from ckptconv.errors import CkptconvError

__version__ = "0.1.0"

_HOMES = {
    "Architecture": "ckptconv.api",
    "Checkpoint": "ckptconv.core.checkpoint",
    "CkptconvError": "ckptconv.errors",
    "Conversion": "ckptconv.api",
    "Difference": "ckptconv.api",
    "Edits": "ckptconv.api",
    "Inferred": "ckptconv.api",
    "Inspection": "ckptconv.api",
    "LazyTensor": "ckptconv.core.tensor",
    "Recording": "ckptconv.api",
    "Saved": "ckptconv.api",
    "TensorInfo": "ckptconv.core.tensor",
    "Validation": "ckptconv.api",
    "Verification": "ckptconv.api",
    "architecture": "ckptconv.api",
    "architectures": "ckptconv.api",
    "compare": "ckptconv.api",
    "convert": "ckptconv.api",
    "diff": "ckptconv.api",
    "infer_architecture": "ckptconv.api",
    "inspect": "ckptconv.api",
    "open": "ckptconv.api",
    "read_recording": "ckptconv.api",
    "run": "ckptconv.api",
    "save_outputs": "ckptconv.api",
    "validate": "ckptconv.api",
    "verify": "ckptconv.api",
    "verify_outputs": "ckptconv.api",
}

__all__ = [
    "Architecture",
    "Checkpoint",
    "CkptconvError",
    "Conversion",
    "Difference",
    "Edits",
    "Inferred",
    "Inspection",
    "LazyTensor",
    "Recording",
    "Saved",
    "TensorInfo",
    "Validation",
    "Verification",
    "__version__",
    "architecture",
    "architectures",
    "compare",
    "convert",
    "diff",
    "infer_architecture",
    "inspect",
    "open",
    "read_recording",
    "run",
    "save_outputs",
    "validate",
    "verify",
    "verify_outputs",
]


def __getattr__(name: str) -> object:
    """Import what is asked for (PEP 562): ``ckptconv --help`` has to wait for nothing."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'ckptconv' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(home), name)
