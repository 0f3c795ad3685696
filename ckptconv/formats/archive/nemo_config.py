"""What NVIDIA NeMo would run because a model's configuration names it.

To NeMo, ``model_config.yaml`` is a program: every ``_target_`` in it is imported and called with the entries beside it
(by Hydra), and so is the class that the model's ``target`` names. NeMo's own classes and torch's layers are expected
there; anything else is reported, and so is what can be reached through their modules, such as ``os``.

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
"""Modules whose functions are allowed, not only their classes."""

_FOREIGN = sys.stdlib_module_names | {"np", "numpy", "nemo", "pl", "pytorch_lightning", "torch"}
"""Modules that NeMo's and torch's modules import: a path through one leads elsewhere, as in ``torch.nn.x.os.system``.
"""

_TARGET = re.compile(r"""_target_(?:["']?\s*:\s*["']?([^\s"'#,}\]]+))?""")
_CLASS = re.compile(r"""^(?:\?\s*)?["']?target["']?\s*:\s*["']?([^\s"'#]+)""", re.MULTILINE)
_CLASS_IN_BRACES = re.compile(r"""[{,]\s*["']?target["']?\s*:\s*["']?([^\s"'#,}]+)""")
_BRACES = re.compile(r"(?:---)?\s*\{")


def programs_in(config: str) -> Iterator[Program]:
    """What NeMo would import and call because of this text, except its own classes and torch's layers."""
    text = undisguised(config)
    for match in _TARGET.finditer(text):
        name = match[1] or "an unknown target"
        if not _is_expected(name):
            line = text.count("\n", 0, match.start()) + 1
            yield Program(f"{CONFIG}: _target_ in line {line:,}", Opaque(name, "called"), "NeMo")
    class_pattern = _CLASS_IN_BRACES if _BRACES.match(text) else _CLASS
    for match in class_pattern.finditer(text):
        if not _is_expected(match[1]):
            yield Program(f"{CONFIG}: target", Opaque(match[1], "called"), "NeMo")


def _is_expected(target: str) -> bool:
    """Whether it is a class of NeMo, or a layer of torch."""
    package = next((prefix for prefix in _OWN if target.startswith(prefix)), None)
    if package is None:
        return False
    *modules, name = target.removeprefix(package).removeprefix("tts.torch.").split(".")
    if not _FOREIGN.isdisjoint(modules):
        return False
    return name[:1].isupper() or target.rpartition(".")[0] + "." in _FUNCTIONS
