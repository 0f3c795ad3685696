"""The table of a torch module that the user vouches for: ``models.py:Net``, ``package.module:factory``, or the class of
transformers or diffusers that a ``config.json`` names.

This is the only place where code is run that the user names; a checkpoint never names it. The class or function is
called on torch's meta device, so that nothing is allocated, with the values from the metadata and ``--set`` whose names
are among its parameters.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from contextlib import contextmanager, nullcontext, redirect_stdout
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ckptconv.arch.arguments import arguments_for
from ckptconv.arch.huggingface import ConfigFactory, is_config, table_of
from ckptconv.arch.table import state_table
from ckptconv.core.text import cut
from ckptconv.errors import CkptconvError, MissingExtraError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import torch

    from ckptconv.arch.statements import Statement
    from ckptconv.arch.table import Table
    from ckptconv.core.tensor import TensorInfo

_NOTHING: Mapping[str, TensorInfo] = MappingProxyType({})

MOST_TEXT = 60
"""The most characters of an argument's value in a message."""

MOST_MESSAGE = 300
"""The most characters of another library's message."""

_REFERENCE = re.compile(r"(?P<module>.+\.py|[A-Za-z_][\w.]*):(?P<name>[A-Za-z_][\w.]*)")


def is_reference(text: str) -> bool:
    """Whether `text` names a class or function: ``FILE.py:NAME``, ``PACKAGE.MODULE:NAME`` or a ``config.json``."""
    return _REFERENCE.fullmatch(text) is not None or is_config(text)


def factory_table(
    reference: str,
    statements: Sequence[Statement] = (),
    settings: Sequence[str] = (),
    found: Mapping[str, TensorInfo] = _NOTHING,
) -> Table:
    """Build the module on the meta device and list what its `state_dict` holds.

    With the tensors of a file in `found`, it lists what is saved of the module in such a file. What the code prints
    goes to stderr. Raises MissingExtraError without torch, UsageError if the reference does not lead to a module or its
    factory fails; the factory's own exception is the cause.
    """
    with built_module(reference, statements, settings, device="meta") as (module, arguments):
        return table_of(module, found) if is_config(reference) else module_table(module, reference, arguments)


@contextmanager
def built_module(
    reference: str, statements: Sequence[Statement], settings: Sequence[str], *, device: str
) -> Iterator[tuple[torch.nn.Module, Mapping[str, object]]]:
    """A context with the module that the reference makes on `device`, and the arguments that it was called with.

    Inside the context, the module's code can import its neighbours, and what it prints goes to stderr. Raises as
    `factory_table`.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        raise MissingExtraError("torch", "transformers" if is_config(reference) else "verify") from error
    with nullcontext() if is_config(reference) else _importable(_folder(reference)), redirect_stdout(sys.stderr):
        factory = _load_factory(reference)
        arguments = arguments_for(factory, reference, statements, settings)
        try:
            with torch.device(device):
                module = factory(**arguments)
        except CkptconvError:
            raise
        except (Exception, SystemExit) as error:
            raise _factory_error(reference, factory, arguments, error) from error
        if not isinstance(module, torch.nn.Module):
            raise UsageError(
                f"{reference} makes a {type(module).__name__}, not a torch.nn.Module", hint="name a class or a factory"
            )
        yield module, arguments


def _factory_error(
    reference: str, factory: Callable[..., object], arguments: Mapping[str, object], error: BaseException
) -> UsageError:
    """The error for an exception that a factory raised."""
    raised, lacks_a_package = exception_text(_first_cause(error)), isinstance(error, ImportError)
    if isinstance(factory, ConfigFactory):
        hint = "--debug shows where"
        if lacks_a_package:
            hint += "; a package that it needs is missing, or does not suit the others, as torchvision torch"
        return UsageError(f"{reference}: {factory.package} raises {raised}", hint=hint)
    called = ", ".join(f"{name}={_short(value)}" for name, value in arguments.items())
    hint = "check its arguments, or --set NAME=VALUE"
    if lacks_a_package:
        hint = "it needs a package that is not there, or is of another version: import it in Python to see which"
    return UsageError(f"{reference}({called}) raises {raised}", hint=hint)


def _first_cause(error: BaseException) -> BaseException:
    """The exception that a failed import started with; any other exception itself."""
    while isinstance(error, ImportError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def exception_text(error: BaseException) -> str:
    """The class and message of another library's exception, on one line."""
    message = " ".join(str(error).split())[:MOST_MESSAGE]
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _short(value: object) -> str:
    return cut(repr(value), MOST_TEXT)


def module_table(module: torch.nn.Module, name: str, params: Mapping[str, Any]) -> Table:
    """The table of the module's `state_dict`: shapes, and which names share a tensor."""
    import torch

    state = {key: value for key, value in module.state_dict(keep_vars=True).items() if isinstance(value, torch.Tensor)}
    lazy = [key for key, value in state.items() if torch.nn.parameter.is_lazy(value)]
    if lazy:
        raise UsageError(
            f"{name}: {lazy[0]} has no shape before the module has run", hint="name a factory that runs it once"
        )
    return state_table(state, name, params)


def _load_factory(reference: str) -> Callable[..., object]:
    if is_config(reference):
        return ConfigFactory(Path(reference))
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise UsageError(
            f"{reference!r} names no class or function", hint="--arch models.py:Net or --arch pkg.mod:factory"
        )
    path, name = match["module"], match["name"]
    try:
        found: object = _load_file(Path(path)) if path.endswith(".py") else importlib.import_module(path)
        for part in name.split("."):
            found = _member(found, part, path)
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        hint = f"python {path}" if path.endswith(".py") else f"python -c 'import {path}'"
        raise UsageError(f"{reference} cannot be loaded: {exception_text(error)}", hint=f"{hint} shows why") from error
    if not callable(found):
        raise UsageError(
            f"{reference} is not a class or function", hint="name a torch.nn.Module class or a factory of one"
        )
    return found


def _member(holder: object, name: str, path: str) -> object:
    try:
        return getattr(holder, name)
    except AttributeError as error:
        known = [
            key for key, value in getattr(holder, "__dict__", {}).items() if callable(value) and not key.startswith("_")
        ]
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known[:6])}" if known else "check the name"
        raise UsageError(f"there is no {name!r} in {path}", hint=hint) from error


def _load_file(path: Path) -> object:
    if not path.is_file():
        raise UsageError(f"there is no file {str(path)!r}", hint="check the path before the colon")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{str(path)!r} is not a Python file", hint="name a .py file")
    module = importlib.util.module_from_spec(spec)
    # dataclasses and pickling look up a class's module by name, while the class is defined and when it is called
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _folder(reference: str) -> Path:
    """Where the reference's own modules are: a file's folder, or for a package the current folder."""
    path = reference.rpartition(":")[0]
    return Path(path).resolve().parent if path.endswith(".py") else Path.cwd()


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """A context in which a file can import its neighbours, as if it were run, also while its class is called.

    They are forgotten after that, because a file of the same name in another folder has neighbours of its own.
    """
    entry, before = str(folder), dict(sys.modules)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        if entry in sys.path:
            sys.path.remove(entry)
        for name, module in list(sys.modules.items()):
            if module is not before.get(name) and _is_from(module, folder):
                if name in before:
                    sys.modules[name] = before[name]
                else:
                    del sys.modules[name]


def _is_from(module: object, folder: Path) -> bool:
    path = getattr(module, "__file__", None)
    return isinstance(path, str) and Path(path).parent == folder and "." not in getattr(module, "__name__", "")
