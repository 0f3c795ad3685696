"""Flax's msgpack: the trees of arrays that ``flax.serialization`` writes."""

from ckptconv.formats.base import Format

_MAPS = (*range(0x81, 0x90), 0xDE, 0xDF)
_EXTENSIONS = (0xC7, 0xC8, 0xC9, 0xD8)

FORMATS = (
    Format(
        name="flax",
        summary="flax.serialization's msgpack: flax_model.msgpack, a TrainState",
        suffixes=(".msgpack",),
        magic=tuple((0, bytes([head])) for head in (*_MAPS, *_EXTENSIONS)),
        claims="ckptconv.formats.flax.read:claims",
        dialect="flax",
        reader="ckptconv.formats.flax.read:read",
    ),
)
