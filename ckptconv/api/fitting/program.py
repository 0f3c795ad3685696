"""Requires that a checkpoint fits its architecture, and gives what the network computes."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from ckptconv.api.evidence import config_beside, read_json_if_valid
from ckptconv.api.fitting.compare import compare
from ckptconv.api.fitting.resolve import named_by
from ckptconv.errors import ForeignNamesError, MisfitError, UnknownClassError, UsageError

if TYPE_CHECKING:
    from ckptconv.api.fitting.compare import Validation
    from ckptconv.api.request import Request
    from ckptconv.arch.recipe.program import Program
    from ckptconv.arch.spec import Spec
    from ckptconv.core.checkpoint import Checkpoint


def require_fit(request: Request, checkpoint: Checkpoint) -> Validation:
    """Compare with the architecture. Raises MisfitError if the checkpoint does not fit it."""
    result = compare(request, checkpoint)
    if not result.valid:
        hint = f"{request.validate_command()} says more"
        if request.words[:1] == ("convert",):
            hint = "; ".join([*_prefix_hints(result), hint])
        raise MisfitError(result.arch, result.findings, path=request.path, hint=hint)
    return result


def _prefix_hints(result: Validation) -> list[str]:
    """The option that removes a prefix that the architecture lacks, or adds one that it has; at most one."""
    for finding in result.findings:
        if finding.code == "prefixed" and finding.expected == "no prefix":
            return [f"{shlex.join(('--strip-prefix', str(finding.found)))} takes it off"]
        if finding.code == "prefixed" and finding.found == "no prefix":
            return [f"{shlex.join(('--add-prefix', str(finding.expected)))} puts it on"]
    return []


def program_of(request: Request, checkpoint: Checkpoint) -> tuple[Validation, Program]:
    """The architecture that is asked for or evident, and what it computes with this checkpoint's params.

    Raises UsageError if there is none, or if it has no forward recipe (UnknownClassError if a config.json names a class
    that may compute it); MisfitError if the checkpoint does not fit.
    """
    from ckptconv.arch.recipe.expand import expand_recipe, says_what_is_computed
    from ckptconv.arch.table import expand

    try:
        result = require_fit(request, checkpoint)
    except (MisfitError, ForeignNamesError):
        raise
    except UsageError as error:
        if request.arch is not None:
            raise
        raise _unknown_architecture_error(request, checkpoint, error) from None
    if result.spec is None:
        raise UsageError(
            f"{request.arch!r} has names and shapes alone, and a graph says what is computed",
            hint="--arch takes an architecture with a forward recipe (ckptconv arch list), or FILE.py:CLASS",
        )
    if not says_what_is_computed(result.spec, result.params):
        raise _no_recipe_error(request, result.spec)
    try:
        return result, expand_recipe(expand(result.spec, result.params), checkpoint)
    except UsageError as error:
        if request.arch is not None or not (error.hint or "").startswith("--set"):
            raise
        # convert takes --set only beside --arch
        raise UsageError(error.message, path=request.path, hint=f"--arch {result.spec.name} {error.hint}") from None


def _unknown_architecture_error(request: Request, checkpoint: Checkpoint, error: UsageError) -> UsageError:
    """The error if nothing says which architecture it is, and so what it computes."""
    message = f"what the network computes has to be known, and {error.message}"
    if isinstance(error, UnknownClassError):
        return UnknownClassError(
            message, name=error.name, by=error.by, nearest=error.nearest, path=request.source,
            hint=_installed_class_hint(request, error.by),
        )  # fmt: skip
    line = f"{request.command('--arch', 'NAME')} (ckptconv arch list; or FILE.py:CLASS)"
    return UsageError(message, path=request.source, hint=or_keep_graph(line, request, checkpoint))


def _no_recipe_error(request: Request, arch: Spec) -> UsageError:
    """The error for an architecture that has names and shapes alone; its hint says what else may define the network."""
    message = f"the architecture {arch.name!r} has no forward recipe: it says nothing of what is computed"
    config = config_beside(request.path)
    if not config.is_file():
        hint = f"{request.command('--arch', 'FILE.py:CLASS')}, where FILE.py defines the network"
        if arch.config.architectures:
            hint += "; or --arch config.json, the model's configuration, from which its library builds it"
        return UsageError(message, path=request.source, hint=hint)
    named = named_by(read_json_if_valid(config)[0])
    hint = _installed_class_hint(request, named.by if named else "transformers")
    if named is None or request.arch is not None:
        return UsageError(message, path=request.source, hint=hint)
    return UnknownClassError(message, name=named.name, by=named.by, path=request.source, hint=hint)


def _installed_class_hint(request: Request, by: str) -> str:
    return f"{request.command('--arch', os.fspath(config_beside(request.path)))}, which has {by} build the network"


def or_keep_graph(command: str, request: Request, checkpoint: Checkpoint) -> str:
    """The command as a hint; for converting an ONNX file, also the command that keeps its graph."""
    if checkpoint.format != "onnx" or request.words[0] != "convert":
        return command
    return f"{request.command('-O', f'template={os.fspath(request.source)}')} keeps its graph; or {command}"
