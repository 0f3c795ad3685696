"""safetensors: a JSON header and the tensors' bytes."""

from ckptconv.core.dtypes import DTYPES
from ckptconv.formats.base import Format, Holds

FORMATS = (
    Format(
        name="safetensors",
        summary="safetensors, one file",
        suffixes=(".safetensors",),
        claims="ckptconv.formats.safetensors.layout:claims",
        reader="ckptconv.formats.safetensors.read:read",
        writer="ckptconv.formats.safetensors.write:write",
        holds=Holds(
            dtypes=tuple(DTYPES.values()), metadata="record", extras=True, ties=True, opaque=True, composites=True
        ),
    ),
)
