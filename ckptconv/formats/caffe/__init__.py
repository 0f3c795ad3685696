"""Caffe: the .caffemodel of its networks; read, not written (`read`)."""

from ckptconv.formats.base import Format

FORMATS = (
    Format(
        name="caffe",
        summary="Caffe's .caffemodel: the blobs of a network's layers",
        suffixes=(".caffemodel",),
        magic=((0, b"\n"), (0, b"\x12"), (0, b"\xa2\x06")),
        claims="ckptconv.formats.caffe.read:claims",
        reader="ckptconv.formats.caffe.read:read",
    ),
)
