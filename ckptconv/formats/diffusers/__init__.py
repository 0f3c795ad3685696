"""diffusers' pipelines: folders with a folder for each model; read, not written."""

from ckptconv.formats.base import Format

DIFFUSERS = Format(
    name="diffusers",
    summary="a diffusers pipeline folder: the models in it as one checkpoint",
    suffixes=(),
    claims="ckptconv.formats.diffusers.read:claims",
    reader="ckptconv.formats.diffusers.read:read",
    takes=("folder",),
    dialect="to-ldm",
)
"""Asked after the formats that claim a folder for a file of weights in it: the hub has such files beside pipelines."""
