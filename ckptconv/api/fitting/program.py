"""An architecture that a checkpoint has to fit, and what a network of it computes."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from ckptconv.api.fitting.compare import compare
from ckptconv.api.stated import config_beside
from ckptconv.errors import ForeignNamesError, MisfitError, UsageError

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

    Raises UsageError where there is none, or where it has no forward recipe; MisfitError where it does not fit.
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
        raise UsageError(
            f"what the network computes has to be known, and {error.message}", path=request.source,
            hint=or_keep(
                request.command("--arch", "NAME") + " (ckptconv arch list; or FILE.py:CLASS)", request, checkpoint
            ),
        ) from None  # fmt: skip
    if result.spec is None:
        raise UsageError(
            f"{request.arch!r} has names and shapes alone, and a graph says what is computed",
            hint="--arch takes an architecture with a forward recipe (ckptconv arch list), or FILE.py:CLASS",
        )
    if result.spec.forward is None:
        config = config_beside(request.path)
        one, why = ("FILE.py:CLASS", "where FILE.py defines the network")
        if config.is_file():
            one, why = os.fspath(config), "which has transformers build the network"
        raise UsageError(
            f"the architecture {result.spec.name!r} has no forward recipe: it says nothing of what is computed",
            path=request.source,
            hint=f"{request.command('--arch', one)}, {why}",
        )
    return result, program(expand(result.spec, result.params), checkpoint)


def or_keep(command: str, request: Request, checkpoint: Checkpoint) -> str:
    """A hint, with what there is besides where a graph is at hand."""
    if checkpoint.format != "onnx" or request.words[0] != "convert":
        return command
    return f"{request.command('-O', f'template={os.fspath(request.source)}')} keeps its graph; or {command}"
