"""Builds the class of diffusers that a ``config.json`` names, with the installed diffusers.

The configuration is data, possibly from a stranger: it chooses one of diffusers' own models and gives its arguments. No
code that it names is looked for, and nothing is loaded or fetched.

Source: diffusers/configuration_utils.py (``from_config``), models/modeling_utils.py; 0.35 and later.
"""

from __future__ import annotations

import importlib
import inspect
import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from ckptconv.arch.statements import CLASS_NAME
from ckptconv.errors import LimitError, MissingExtraError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

PACKAGE = "diffusers"

OLDEST = (0, 35)
"""The first version whose classes have the attention that later ones have."""

MOST = 10_000
"""The largest count of layers, or width of a block."""

_COUNTS = re.compile(r"(?!sample_|patch_)\w*(layer|block|depth|resnet|stage)\w*")
"""Keys whose numbers say how many modules there are."""


def is_diffusers_module(module: torch.nn.Module) -> bool:
    """Whether a module's class is diffusers'."""
    return type(module).__module__.partition(".")[0] == PACKAGE


def build(config: Mapping[str, Any], changes: Mapping[str, object]) -> torch.nn.Module:
    """The module, on torch's current device.

    Raises MissingExtraError, UsageError, LimitError, and what diffusers raises.
    """
    _check_counts({**config, **changes})
    try:
        diffusers: Any = importlib.import_module(PACKAGE)
    except ModuleNotFoundError as error:
        raise MissingExtraError(PACKAGE, PACKAGE) from error
    if tuple(int(part) for part in re.findall(r"\d+", diffusers.__version__)[:2]) < OLDEST:
        least = ".".join(map(str, OLDEST))
        raise UsageError(f"diffusers {diffusers.__version__} is too old", hint=f"pip install 'diffusers>={least}'")
    diffusers.utils.logging.set_verbosity_error()
    cls = _class_of(diffusers, config.get(CLASS_NAME))
    _check_changes(cls, config, changes)
    module: torch.nn.Module = cls.from_config({**config, **changes})
    return module


def _class_of(diffusers: Any, name: object) -> Any:
    """One of diffusers' own model classes. Raises UsageError."""
    cls = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not (isinstance(cls, type) and issubclass(cls, diffusers.ModelMixin) and hasattr(cls, "from_config")):
        raise UsageError(
            f"diffusers {diffusers.__version__} has no model {name!r}",
            hint="a newer one may have it; code of the model's own is --arch models.py:Net",
        )
    return cls


def _check_changes(cls: Any, config: Mapping[str, Any], changes: Mapping[str, object]) -> None:
    known = {*config, *inspect.signature(cls.__init__).parameters} - {"self"}
    for name in changes.keys() - known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "its keys are those of the config.json"
        raise UsageError(f"{cls.__name__} has no {name!r} to set", hint=hint)


def _check_counts(config: Mapping[str, Any]) -> None:
    """Raise LimitError if building the class would take forever."""
    for key, value in config.items():
        inner = [value]
        while inner and _COUNTS.fullmatch(key):
            item = inner.pop()
            if isinstance(item, list | tuple):
                inner += item
            elif isinstance(item, int) and item > MOST:
                raise LimitError(f"it asks for {item:,} of {key}")
