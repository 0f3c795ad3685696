"""The arguments for a class or function that makes a network: from a checkpoint's metadata, and ``--set``."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from ckptconv.arch.bind import parse_setting
from ckptconv.core import strict_json
from ckptconv.core.metadata import NumpyArray, NumpyScalar, TorchSize, TorchValue
from ckptconv.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from ckptconv.arch.statements import Statement


def arguments_for(
    factory: Callable[..., object], reference: str, statements: Sequence[Statement], settings: Sequence[str]
) -> dict[str, object]:
    """The values whose names the factory has parameters for.

    ``--set`` goes before the metadata, and the metadata's root before settings below it. Raises UsageError for an
    unknown name in ``--set``, and for a parameter without a value.
    """
    given = dict(_setting(text) for text in settings)
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return given
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if unknown := [name for name in given if name not in named and not takes_any]:
        raise UsageError(f"{reference} takes no argument {unknown[0]!r}", hint=f"it takes {', '.join(named) or 'none'}")
    needed = {name for name, p in named.items() if p.default is p.empty}
    stated = _stated(statements, named, needed - given.keys())
    arguments = {name: _original(value) for name, value in stated.items()} | given
    missing = [name for name in named if name in needed - arguments.keys()]
    if missing:
        raise UsageError(
            f"{reference} needs {', '.join(missing)}, which the metadata does not say",
            hint=" ".join(f"--set {name}=VALUE" for name in missing),
        )
    return arguments


def _stated(statements: Sequence[Statement], named: Collection[str], needed: Collection[str]) -> dict[str, object]:
    """What the root states for these names; if a needed one is not there, also the first settings that have all of
    those.
    """
    if not statements:
        return {}
    root, *below = statements
    stated = {name: root.values[name] for name in named if name in root.values}
    lacking = set(needed) - stated.keys()
    if lacking:
        settings = next((inner.values for inner in below if lacking <= inner.values.keys()), {})
        stated = {name: settings[name] for name in named if name in settings} | stated
    return stated


def _original(value: object) -> object:
    """A value as the code that saved it had it: numbers of numpy, dtypes and sizes of torch."""
    import torch

    match value:
        case NumpyScalar() | NumpyArray():
            return _numpy(value)
        case TorchValue(kind="device", name=name):
            return torch.device(name)
        case TorchValue(name=name):
            return getattr(torch, name, value)
        case TorchSize():
            return torch.Size(value)
        case list():
            return [_original(item) for item in value]
        case tuple():
            return tuple(_original(item) for item in value)
        case dict() if type(value) is dict:
            return {key: _original(item) for key, item in value.items()}
        case _:
            return value


def _numpy(value: NumpyScalar | NumpyArray) -> object:
    import numpy as np

    flat = np.frombuffer(value.data, np.dtype(value.dtype))
    if isinstance(value, NumpyScalar):
        return flat[0]
    return flat.reshape(value.shape, order="F" if value.fortran else "C").copy()


def _setting(text: str) -> tuple[str, object]:
    key, value = parse_setting(text)
    try:
        return key, strict_json.loads(value)
    except ValueError:
        return key, value
