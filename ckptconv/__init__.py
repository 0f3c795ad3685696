"""ckptconv: any checkpoint in, any checkpoint out, and no line of code from the file.

    import ckptconv

    with ckptconv.open("model.pth") as checkpoint:
        checkpoint["layer.weight"].info.shape          # from the header
        checkpoint["layer.weight"].numpy()             # reads the bytes; .to_torch() likewise
        checkpoint.metadata                            # typed

    ckptconv.convert("model.pth", "model.safetensors")
    ckptconv.inspect("model.pth").verdict              # "plain", "opaque" or "would run code"

Every error is a `ckptconv.CkptconvError` with `.path` and `.hint`.
"""

from ckptconv.api import Conversion, Inspection, convert, inspect, open
from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.tensor import LazyTensor, TensorInfo
from ckptconv.errors import CkptconvError

__version__ = "0.1.0"

__all__ = [
    "Checkpoint",
    "CkptconvError",
    "Conversion",
    "Inspection",
    "LazyTensor",
    "TensorInfo",
    "__version__",
    "convert",
    "inspect",
    "open",
]
