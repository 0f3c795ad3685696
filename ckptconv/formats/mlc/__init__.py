"""MLC-LLM and TVM: the folders of their models' parameters; read, not written (`read`)."""

from ckptconv.formats.base import Format

FORMATS = (
    Format(
        name="mlc",
        summary="MLC-LLM's and WebLLM's folder: a tensor-cache.json or ndarray-cache.json, and params_shard_….bin",
        suffixes=("ndarray-cache.json", "tensor-cache.json"),
        claims="ckptconv.formats.mlc.read:claims",
        reader="ckptconv.formats.mlc.read:read",
        takes=("file", "folder"),
    ),
)
