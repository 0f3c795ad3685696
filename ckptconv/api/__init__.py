"""What ``import ckptconv`` gives: open, convert, inspect, validate.

Results are data; nothing is printed. A `progress` callback is told the bytes done and the bytes in all.
"""

from ckptconv.api.convert import Conversion, convert
from ckptconv.api.inspect import Inspection, inspect
from ckptconv.api.open import open
from ckptconv.api.validate import Validation, validate

__all__ = ["Conversion", "Inspection", "Validation", "convert", "inspect", "open", "validate"]
