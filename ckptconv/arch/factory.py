"""The table of a torch module that the user vouches for: ``models.py:Net`` or ``package.module:factory``.

This is the one place where code is run that the user names, and it is never named by a checkpoint. The class or
function is called on torch's meta device, so that nothing is allocated, with the values from metadata and ``--set``
whose names are among its parameters.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import re
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptconv.arch.spec import Spec
from ckptconv.arch.table import Expected, Table
from ckptconv.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import torch

_REFERENCE = re.compile(r"(?P<module>.+\.py|[A-Za-z_][\w.]*):(?P<name>[A-Za-z_][\w.]*)")


def is_reference(text: str) -> bool:
    """Whether `text` names a class or function: ``FILE.py:NAME`` or ``PACKAGE.MODULE:NAME``."""
    return _REFERENCE.fullmatch(text) is not None


def factory_table(reference: str, metadata: Mapping[Any, object], settings: Sequence[str] = ()) -> Table:
    """Build the module on the meta device and list what its `state_dict` holds.

    Raises MissingExtraError without torch, UsageError where the reference does not lead to a module or its factory
    fails; the factory's own exception is the cause.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        raise MissingExtraError("torch", "verify") from error
    factory = _find(reference)
    arguments = _arguments(factory, reference, metadata, settings)
    try:
        with torch.device("meta"):
            module = factory(**arguments)
    except Exception as error:
        called = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        raise UsageError(
            f"{reference}({called}) raises {type(error).__name__}: {error}",
            hint="check its arguments, or --set NAME=VALUE",
        ) from error
    if not isinstance(module, torch.nn.Module):
        raise UsageError(
            f"{reference} makes a {type(module).__name__}, not a torch.nn.Module", hint="name a class or a factory"
        )
    return module_table(module, reference, arguments)


def module_table(module: torch.nn.Module, name: str, params: Mapping[str, Any]) -> Table:
    """What the module's `state_dict` holds: shapes, and which names share a tensor."""
    import torch

    kept: dict[int, str] = {}
    tied: dict[str, str] = {}
    for named in (module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)):
        for key, tensor in named:
            first = kept.setdefault(id(tensor), key)
            if first != key:
                tied[key] = first
    tensors = {
        key: Expected(tuple(value.shape), tied_to=tied.get(key))
        for key, value in module.state_dict().items()
        if isinstance(value, torch.Tensor)
    }
    return Table(Spec(name=name), dict(params), tensors)


def _find(reference: str) -> Callable[..., object]:
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise UsageError(
            f"{reference!r} names no class or function", hint="--arch models.py:Net or --arch pkg.mod:factory"
        )
    path, name = match["module"], match["name"]
    try:
        found: object = _load_file(Path(path)) if path.endswith(".py") else importlib.import_module(path)
        for part in name.split("."):
            found = getattr(found, part)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"{reference} cannot be loaded: {type(error).__name__}: {error}", hint="python -c 'import …' shows why"
        ) from error
    if not callable(found):
        raise UsageError(
            f"{reference} is no class or function", hint="name a torch.nn.Module class or a factory of one"
        )
    return found


def _load_file(path: Path) -> object:
    if not path.is_file():
        raise UsageError(f"there is no file {str(path)!r}", hint="check the path before the colon")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{str(path)!r} is no Python file", hint="name a .py file")
    module = importlib.util.module_from_spec(spec)
    with _importable(path.resolve().parent):
        # dataclasses and pickling look a class's module up by name while it is being defined
        previous = sys.modules.get(spec.name)
        sys.modules[spec.name] = module
        try:
            spec.loader.exec_module(module)
        finally:
            if previous is not None:
                sys.modules[spec.name] = previous
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Lets a file import its neighbours, as running it would."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _arguments(
    factory: Callable[..., object], reference: str, metadata: Mapping[Any, object], settings: Sequence[str]
) -> dict[str, object]:
    """The values whose names the factory knows; ``--set`` comes before metadata."""
    stated = {key: value for key, value in metadata.items() if isinstance(key, str)}
    given = dict(_setting(text) for text in settings)
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return given
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if unknown := [name for name in given if name not in named and not takes_any]:
        raise UsageError(f"{reference} takes no argument {unknown[0]!r}", hint=f"it takes {', '.join(named) or 'none'}")
    arguments = {name: stated[name] for name in named if name in stated} | given
    missing = [name for name, p in named.items() if p.default is p.empty and name not in arguments]
    if missing:
        raise UsageError(
            f"{reference} needs {', '.join(missing)}, which the metadata does not say",
            hint=" ".join(f"--set {name}=VALUE" for name in missing),
        )
    return arguments


def _setting(text: str) -> tuple[str, object]:
    key, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--set {text!r}: expected KEY=VALUE")
    try:
        return key.strip(), json.loads(value)
    except ValueError:
        return key.strip(), value.strip()
