"""Reader of NVIDIA NeMo's ``.nemo``: a tar archive, since NeMo 1.7 not compressed, with gzip before.

    ./model_config.yaml     the model's configuration, by OmegaConf
    ./model_weights.ckpt    torch.save of its state_dict; of Megatron's models a folder model_weights/ of
                            torch.distributed.checkpoint instead, or mp_rank_XX/model_weights.ckpt for each rank
    ./…                     tokenizers, vocabularies and the like, which the configuration names

The configuration is a text here. For NeMo it is a program: every ``_target_`` in it is imported and called with what
stands beside it (by Hydra), and so is the class that the model's ``target`` names. Classes of NeMo's own and of torch's
layers are what such a file is made of; any other is told, and so is what these modules have of others.

Sources: NeMo, nemo/core/connectors/save_restore_connector.py; nemo/core/classes/common.py (`from_config_dict`).
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from ckptconv.core.metadata import Opaque
from ckptconv.core.notes import Program
from ckptconv.errors import CkptconvError, CorruptFileError, UnsupportedError, first_of
from ckptconv.formats import registry
from ckptconv.formats.archive.read import opened_file, opened_folder
from ckptconv.formats.yaml_escapes import undisguised
from ckptconv.io.archive import Archive
from ckptconv.io.limits import MAX_CONFIG

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.io.source import Source

NAME = "nemo"
CONFIG, WEIGHTS, FOLDER = "model_config.yaml", "model_weights.ckpt", "model_weights"

_OWN = (
    "nemo.collections.",
    "nemo.core.",
    "nemo.lightning.",
    "torch.nn.",
    "torch.optim.",
    "torchaudio.",
    "torchmetrics.",
)
_FUNCTIONS = ("torch.nn.functional.", "torch.nn.init.")
"""Modules of which functions are layers."""

_FOREIGN = sys.stdlib_module_names | {"np", "numpy", "nemo", "pl", "pytorch_lightning", "torch"}
"""What NeMo's and torch's modules import: a path through one of them leads elsewhere, ``torch.nn.x.os.system``."""

_TARGET = re.compile(r"""_target_(?:["']?\s*:\s*["']?([^\s"'#,}\]]+))?""")
_CLASS = re.compile(r"""^(?:\?\s*)?["']?target["']?\s*:\s*["']?([^\s"'#]+)""", re.MULTILINE)
_CLASS_IN_BRACES = re.compile(r"""[{,]\s*["']?target["']?\s*:\s*["']?([^\s"'#,}]+)""")
_BRACES = re.compile(r"(?:---)?\s*\{")


def claims(source: Source) -> bool:
    """Whether this is a tar archive with NeMo's configuration and weights. One that is compressed is inflated."""
    try:
        archive = Archive.of(source)
    except CkptconvError:
        return False
    return CONFIG in archive.members and bool(_weights(archive) or archive.level(FOLDER))


def _weights(archive: Archive) -> list[str]:
    return [path for path in archive.members if path.rpartition("/")[2] == WEIGHTS]


def read(source: Source) -> Checkpoint:
    """Open the archive: its directory, its texts, and the weights as their own format does.

    Raises CorruptFileError, LimitError, UnsupportedError (weights in slices), and what the weights' reader raises.
    """
    archive = Archive.of(source)
    weights = _weights(archive)
    programs = tuple(programs_in(archive.text(CONFIG, MAX_CONFIG).decode("utf-8-sig", "replace")))
    if weights == [WEIGHTS]:
        return opened_file(archive, WEIGHTS, NAME, programs)
    if weights:
        home = archive.source.path
        raise UnsupportedError(
            f"its weights are cut into slices for {len(weights)} ranks, which are not joined here", path=home,
            hint=f"a slice can be named: {home / weights[0]}", details=first_of(weights, 6),
        )  # fmt: skip
    if archive.level(FOLDER) is None:
        raise CorruptFileError(f"the archive has no {WEIGHTS!r}")
    folder = archive.folder(FOLDER)
    return opened_folder(archive, folder, registry.detect(folder), NAME, programs)


def programs_in(config: str) -> Iterator[Program]:
    """What NeMo would import and call of a configuration, beside what is NeMo's own."""
    text = undisguised(config)
    for found in _TARGET.finditer(text):
        name = found[1] or "an unknown target"
        if not _is_own(name):
            line = text.count("\n", 0, found.start()) + 1
            yield Program(f"{CONFIG}: _target_ in line {line:,}", Opaque(name, "called"), "NeMo")
    for found in (_CLASS_IN_BRACES if _BRACES.match(text) else _CLASS).finditer(text):
        if not _is_own(found[1]):
            yield Program(f"{CONFIG}: target", Opaque(found[1], "called"), "NeMo")


def _is_own(target: str) -> bool:
    """Whether it is a class of NeMo's, or one of torch's layers."""
    home = next((one for one in _OWN if target.startswith(one)), None)
    if home is None:
        return False
    *modules, name = target.removeprefix(home).removeprefix("tts.torch.").split(".")
    if not _FOREIGN.isdisjoint(modules):
        return False
    return name[:1].isupper() or target.rpartition(".")[0] + "." in _FUNCTIONS
