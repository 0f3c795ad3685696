"""A format as someone else would add one: JSON and raw bytes, no metadata, no ties, no extras."""

from ckptconv.core.dtypes import DTYPES
from ckptconv.formats.base import Format, Holds

FORMAT = Format(
    name="jsonraw",
    summary="a JSON header and raw bytes, for tests",
    suffixes=(".jsonraw",),
    magic=((0, b"JSONRAW1"),),
    claims="ckptconv_jsonraw.files:claims",
    reader="ckptconv_jsonraw.files:read",
    writer="ckptconv_jsonraw.files:write",
    holds=Holds(dtypes=tuple(dtype for dtype in DTYPES.values() if dtype.bits >= 8 and dtype.name != "C128")),
)
