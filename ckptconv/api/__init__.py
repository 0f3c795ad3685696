"""What ``import ckptconv`` gives: open, convert, inspect, diff, validate, and what is known of architectures.

Results are data; nothing is printed. A `progress` callback is told the bytes done and the bytes in all.
"""

from ckptconv.api.architectures import Architecture, Inferred, architecture, architectures, infer_architecture
from ckptconv.api.convert import Conversion, convert
from ckptconv.api.diff import Difference, diff
from ckptconv.api.edits import Edits
from ckptconv.api.inspect import Inspection, inspect
from ckptconv.api.open import open
from ckptconv.api.validate import Validation, validate
from ckptconv.api.verify import (
    Recording,
    Saved,
    Verification,
    compare,
    read_recording,
    run,
    save_outputs,
    verify,
    verify_outputs,
)

__all__ = [
    "Architecture",
    "Conversion",
    "Difference",
    "Edits",
    "Inferred",
    "Inspection",
    "Recording",
    "Saved",
    "Validation",
    "Verification",
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
