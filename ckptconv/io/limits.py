"""Bounds that every number from a file meets before it is used. Each is far past what an honest checkpoint needs."""

from __future__ import annotations

MAX_PICKLE_BYTES = 1 << 30
"""One ``data.pkl``: a checkpoint of 1,000,000 tensors takes 0.2 GB."""

MAX_INFLATED_RATIO = 1032
"""What deflate can reach at most (zlib's documentation): a member that claims more is lying."""

MAX_TENSORS = 1_000_000

MAX_DEPTH = 200
"""Nesting of metadata; Python's own recursion limit is 1,000 frames."""

MAX_NODES = 5_000_000
"""Nodes of a metadata tree once shared parts are written out (a billion-laughs pickle has 10^9 of them)."""

MAX_RANK = 64
"""Dimensions of a tensor, as in torch."""

MAX_DIM = (1 << 63) - 1

MAX_ZIP_ENTRIES = 4_000_000

MAX_INT_DIGITS = 4300
"""Decimal digits of an int, Python's own limit: parsing is quadratic."""

MAX_SAFETENSORS_HEADER = 100_000_000
"""The reference reader's own cap."""
