"""MXNet: the .params of its models; read, not written (`read`)."""

from ckptconv.formats.base import Format

FORMATS = (
    Format(
        name="mxnet",
        summary="MXNet's .params: named arrays, as used by Gluon and insightface",
        suffixes=(".params",),
        magic=((0, b"\x12\x01\0\0\0\0\0\0"),),
        claims="ckptconv.formats.mxnet.read:claims",
        reader="ckptconv.formats.mxnet.read:read",
    ),
)
