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
from ckptconv.api.verify import Verification, verify

__all__ = [
    "Architecture",
    "Conversion",
    "Difference",
    "Edits",
    "Inferred",
    "Inspection",
    "Validation",
    "Verification",
    "architecture",
    "architectures",
    "convert",
    "diff",
    "infer_architecture",
    "inspect",
    "open",
    "validate",
    "verify",
]
