"""Pipelines of diffusers: a folder for each model."""

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
"""Asked after those that claim a folder for a file of weights in it, as snapshots of the hub have beside a pipeline."""
