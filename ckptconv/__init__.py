"""ckptconv: any checkpoint in, any checkpoint out, and no line of code from the file is run.

    import ckptconv

    with ckptconv.open("model.pth") as checkpoint:
        checkpoint["layer.weight"].info.shape          # from the header
        checkpoint["layer.weight"].numpy()             # reads the bytes; .to_torch() likewise
        checkpoint.metadata                            # typed

    ckptconv.convert("model.pth", "model.safetensors")
    ckptconv.convert("base/", "merged/", edits=ckptconv.Edits(names=[ckptconv.Lora("adapter/")]))
    ckptconv.inspect("model.pth").verdict              # "plain", "opaque" or "would run code"
    ckptconv.diff("a.pth", "b.safetensors").equal      # and if not, .edits and .findings say what changed
    ckptconv.validate("model.pth").valid               # does it fit its architecture, and if not, why not?
    ckptconv.verify("model.pth", "model.onnx").equivalent    # do both compute the same?
    ckptconv.architecture("mlp").spec.required         # the params that describe a model of an architecture

Arguments that take several values (names, globs, ``"name=value"`` settings) also accept a single string. Results have a
`to_dict`, which is what the program prints with ``--json``.

Every error is a `ckptconv.CkptconvError` with `.path`, `.hint` and `.details`. Nothing is printed.

`progress` is a function that gets two numbers, the bytes done and the bytes in all. They start anew for each stretch of
work; inflating a file first is one. It is called from the threads that do the work, by one at a time. An exception that
it raises ends the work and comes out of the call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptconv.api.architectures import Architecture, Inferred, architecture, architectures, infer_architecture
    from ckptconv.api.convert import convert
    from ckptconv.api.converting.conversion import Conversion
    from ckptconv.api.diff import Difference, diff
    from ckptconv.api.editing.edits import Edits
    from ckptconv.api.editing.lora import Lora
    from ckptconv.api.fitting.compare import Validation
    from ckptconv.api.inspect import Inspection, inspect
    from ckptconv.api.open import open
    from ckptconv.api.running.arrays import read_recording
    from ckptconv.api.running.comparing import Verification, compare
    from ckptconv.api.validate import validate
    from ckptconv.api.verify import Saved, run, save_outputs, verify, verify_outputs
    from ckptconv.checks.recording import Recording
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.tensor import LazyTensor, TensorInfo
    from ckptconv.edits.name_rule import NameRule
    from ckptconv.errors import CkptconvError

__version__ = "0.1.0"

_HOMES = {
    "Architecture": "ckptconv.api.architectures",
    "Checkpoint": "ckptconv.core.checkpoint",
    "CkptconvError": "ckptconv.errors",
    "Conversion": "ckptconv.api.converting.conversion",
    "Difference": "ckptconv.api.diff",
    "Edits": "ckptconv.api.editing.edits",
    "Inferred": "ckptconv.api.architectures",
    "Inspection": "ckptconv.api.inspect",
    "LazyTensor": "ckptconv.core.tensor",
    "Lora": "ckptconv.api.editing.lora",
    "NameRule": "ckptconv.edits.name_rule",
    "Recording": "ckptconv.checks.recording",
    "Saved": "ckptconv.api.verify",
    "TensorInfo": "ckptconv.core.tensor",
    "Validation": "ckptconv.api.fitting.compare",
    "Verification": "ckptconv.api.running.comparing",
    "architecture": "ckptconv.api.architectures",
    "architectures": "ckptconv.api.architectures",
    "compare": "ckptconv.api.running.comparing",
    "convert": "ckptconv.api.convert",
    "diff": "ckptconv.api.diff",
    "infer_architecture": "ckptconv.api.architectures",
    "inspect": "ckptconv.api.inspect",
    "open": "ckptconv.api.open",
    "read_recording": "ckptconv.api.running.arrays",
    "run": "ckptconv.api.verify",
    "save_outputs": "ckptconv.api.verify",
    "validate": "ckptconv.api.validate",
    "verify": "ckptconv.api.verify",
    "verify_outputs": "ckptconv.api.verify",
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
    "Lora",
    "NameRule",
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


def __dir__() -> list[str]:
    """What there is, imported or not: for Tab, and for `help`."""
    return sorted({*globals(), *__all__})
