"""Reader of NVIDIA NeMo's ``.nemo``: a tar archive, compressed with gzip before NeMo 1.7.

    ./model_config.yaml     the model's configuration, by OmegaConf
    ./model_weights.ckpt    torch.save of its state_dict; for Megatron's models, instead, a folder model_weights/ of
                            torch.distributed.checkpoint, or mp_rank_XX/model_weights.ckpt for each rank
    ./…                     tokenizers, vocabularies and the like, which the configuration names

The configuration is not parsed; `nemo_config` searches it for what NeMo would run.

Source: NeMo, nemo/core/connectors/save_restore_connector.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.errors import CkptconvError, CorruptFileError, UnsupportedError, first_of
from ckptconv.formats.archive.nemo_config import CONFIG, NAME, programs_in
from ckptconv.formats.archive.read import open_file, open_folder
from ckptconv.formats.detect import detect
from ckptconv.io.archive import Archive
from ckptconv.io.limits import MAX_CONFIG

if TYPE_CHECKING:
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.io.source import Source

WEIGHTS, FOLDER = "model_weights.ckpt", "model_weights"


def claims(source: Source) -> bool:
    """Whether this is a tar archive with NeMo's configuration and weights. Inflates a compressed one."""
    try:
        archive = Archive.of(source)
    except CkptconvError:
        return False
    return CONFIG in archive.members and bool(_weights(archive) or archive.level(FOLDER))


def _weights(archive: Archive) -> list[str]:
    return [path for path in archive.members if path.rpartition("/")[2] == WEIGHTS]


def read(source: Source) -> Checkpoint:
    """Open the archive: read its directory and its configuration, and open the weights with their format's reader.

    Raises CorruptFileError, LimitError, UnsupportedError for weights in slices, and what the weights' reader raises.
    """
    archive = Archive.of(source)
    weights = _weights(archive)
    programs = tuple(programs_in(archive.text(CONFIG, MAX_CONFIG).decode("utf-8-sig", "replace")))
    if weights == [WEIGHTS]:
        return open_file(archive, WEIGHTS, NAME, programs)
    if weights:
        home = archive.source.path
        raise UnsupportedError(
            f"its weights are cut into slices for {len(weights)} ranks, which are not joined here", path=home,
            hint=f"a slice can be named: {home / weights[0]}", details=first_of(weights, 6),
        )  # fmt: skip
    if archive.level(FOLDER) is None:
        raise CorruptFileError(f"the archive has no {WEIGHTS!r}")
    folder = archive.folder(FOLDER)
    return open_folder(archive, folder, detect(folder), NAME, programs)
