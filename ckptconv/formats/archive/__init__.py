"""Archives with a checkpoint inside: NVIDIA NeMo's, and zip and tar files of any other origin.

Begin with `read`, which finds the checkpoint in an archive.

    read                the reader of archives, and what `nemo` shares with it
    torchserve          TorchServe's manifest
    nemo  nemo_config   NeMo's archive, and what its configuration would run
"""

from ckptconv.formats.base import Format

_ARCHIVES = ((0, b"PK\x03\x04"), (0, b"\x1f\x8b\x08"), (257, b"ustar"))

NEMO = Format(
    name="nemo",
    summary="NVIDIA NeMo's archive: weights, and the model's configuration",
    suffixes=(".nemo",),
    magic=_ARCHIVES[1:],
    claims="ckptconv.formats.archive.nemo:claims",
    reader="ckptconv.formats.archive.nemo:read",
)

ARCHIVE = Format(
    name="archive",
    summary="a zip or tar archive with one checkpoint of any other format; .mar, MediaPipe's .task, a llamafile",
    suffixes=(".zip", ".tar", ".tar.gz", ".tgz", ".gz", ".mar", ".task", ".llamafile"),
    magic=(*_ARCHIVES, (0, b"MZqFpD=")),
    claims="ckptconv.io.archive_kinds:is_archive",
    reader="ckptconv.formats.archive.read:read",
)
"""Asked last, since other formats are archives themselves."""
