"""CTranslate2: the model.bin of faster-whisper, Argos Translate and others; read, not written."""

from ckptconv.formats.base import Format

FORMATS = (
    Format(
        name="ctranslate2",
        summary="CTranslate2's model.bin, as used by faster-whisper and Argos Translate, or its folder",
        suffixes=(),
        magic=tuple((0, bytes([version, 0, 0, 0])) for version in range(2, 7)),
        claims="ckptconv.formats.ctranslate2.read:claims",
        reader="ckptconv.formats.ctranslate2.read:read",
        takes=("file", "folder"),
    ),
)
