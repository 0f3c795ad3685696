"""An architecture that a checkpoint has to fit, and what a network of it computes."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from ckptconv.api.fitting.compare import compare
from ckptconv.api.fitting.resolve import named_by
from ckptconv.api.stated import config_beside, read_json
from ckptconv.errors import ForeignNamesError, MisfitError, UnknownClassError, UsageError

if TYPE_CHECKING:
    from ckptconv.api.fitting.compare import Validation
    from ckptconv.api.request import Request
    from ckptconv.arch.recipe.program import Program
    from ckptconv.core.checkpoint import Checkpoint


def fitted(request: Request, checkpoint: Checkpoint) -> Validation:
    """The comparison with an architecture. Raises MisfitError where the checkpoint does not fit it."""
    result = compare(request, checkpoint)
    if not result.valid:
        hint = f"{request.validation()} says more"
        if request.words[:1] == ("convert",):
            hint = "; ".join([*_stripped(result), hint])
        raise MisfitError(result.arch, result.findings, path=request.path, hint=hint)
    return result


def _stripped(result: Validation) -> list[str]:
    """The option that takes off a prefix which the architecture does not have, or puts on one that it has."""
    for finding in result.findings:
        if finding.code == "prefixed" and finding.expected == "no prefix":
            return [f"{shlex.join(('--strip-prefix', str(finding.found)))} takes it off"]
        if finding.code == "prefixed" and finding.found == "no prefix":
            return [f"{shlex.join(('--add-prefix', str(finding.expected)))} puts it on"]
    return []


def program_of(request: Request, checkpoint: Checkpoint) -> tuple[Validation, Program]:
    """The architecture that is asked for or evident, and what it computes with this checkpoint's params.

    Raises UsageError where there is none, or where it has no forward recipe, UnknownClassError where a config.json
    names a class all the same; MisfitError where it does not fit.
    """
    from ckptconv.arch.recipe.program import program
    from ckptconv.arch.table import expand

    try:
        result = fitted(request, checkpoint)
    except (MisfitError, ForeignNamesError):
        raise
    except UsageError as error:
        if request.arch is not None:
            raise
        raise _not_known(request, checkpoint, error) from None
    if result.spec is None:
        raise UsageError(
            f"{request.arch!r} has names and shapes alone, and a graph says what is computed",
            hint="--arch takes an architecture with a forward recipe (ckptconv arch list), or FILE.py:CLASS",
        )
    if result.spec.forward is None:
        raise _without_recipe(request, result.spec.name)
    return result, program(expand(result.spec, result.params), checkpoint)


def _not_known(request: Request, checkpoint: Checkpoint, error: UsageError) -> UsageError:
    """The error where nothing says the architecture, and so not what is computed."""
    message = f"what the network computes has to be known, and {error.message}"
    if isinstance(error, UnknownClassError):
        return UnknownClassError(
            message, name=error.name, by=error.by, nearest=error.nearest, path=request.source,
            hint=_of_its_class(request, error.by),
        )  # fmt: skip
    line = f"{request.command('--arch', 'NAME')} (ckptconv arch list; or FILE.py:CLASS)"
    return UsageError(message, path=request.source, hint=or_keep(line, request, checkpoint))


def _without_recipe(request: Request, arch: str) -> UsageError:
    """The error for an architecture that has names and shapes alone, with who else says what is computed."""
    message = f"the architecture {arch!r} has no forward recipe: it says nothing of what is computed"
    config = config_beside(request.path)
    if not config.is_file():
        hint = f"{request.command('--arch', 'FILE.py:CLASS')}, where FILE.py defines the network"
        return UsageError(message, path=request.source, hint=hint)
    named = named_by(read_json(config)[0])
    hint = _of_its_class(request, named.by if named else "transformers")
    if named is None or request.arch is not None:
        return UsageError(message, path=request.source, hint=hint)
    return UnknownClassError(message, name=named.name, by=named.by, path=request.source, hint=hint)


def _of_its_class(request: Request, by: str) -> str:
    return f"{request.command('--arch', os.fspath(config_beside(request.path)))}, which has {by} build the network"


def or_keep(command: str, request: Request, checkpoint: Checkpoint) -> str:
    """A hint, with what there is besides where a graph is at hand."""
    if checkpoint.format != "onnx" or request.words[0] != "convert":
        return command
    return f"{request.command('-O', f'template={os.fspath(request.source)}')} keeps its graph; or {command}"
