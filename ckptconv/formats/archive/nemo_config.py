"""What the configuration of NVIDIA NeMo's models would have it run.

For NeMo ``model_config.yaml`` is a program: every ``_target_`` in it is imported and called with what stands beside it
(by Hydra), and so is the class that the model's ``target`` names. Classes of NeMo's own and of torch's layers are what
such a file is made of; any other is told, and so is what these modules have of others.

Source: NeMo, nemo/core/classes/common.py (`from_config_dict`).
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from ckptconv.core.metadata import Opaque
from ckptconv.core.notes import Program
from ckptconv.formats.code.yaml_escapes import undisguised

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "nemo"
CONFIG = "model_config.yaml"

_OWN = (
    "nemo.collections.", "nemo.core.", "nemo.lightning.", "torch.nn.", "torch.optim.", "torchaudio.", "torchmetrics.",
)  # fmt: skip
_FUNCTIONS = ("torch.nn.functional.", "torch.nn.init.")
"""Modules of which functions are layers."""

_FOREIGN = sys.stdlib_module_names | {"np", "numpy", "nemo", "pl", "pytorch_lightning", "torch"}
"""What NeMo's and torch's modules import: a path through one of them leads elsewhere, ``torch.nn.x.os.system``."""

_TARGET = re.compile(r"""_target_(?:["']?\s*:\s*["']?([^\s"'#,}\]]+))?""")
_CLASS = re.compile(r"""^(?:\?\s*)?["']?target["']?\s*:\s*["']?([^\s"'#]+)""", re.MULTILINE)
_CLASS_IN_BRACES = re.compile(r"""[{,]\s*["']?target["']?\s*:\s*["']?([^\s"'#,}]+)""")
_BRACES = re.compile(r"(?:---)?\s*\{")


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
