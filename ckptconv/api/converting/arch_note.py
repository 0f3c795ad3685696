"""What `convert` writes about an architecture that the source fits: a note, and with ``--with-params`` its params."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptconv.api.fitting.program import require_fit
from ckptconv.arch.bind import from_metadata
from ckptconv.core.report import Finding
from ckptconv.errors import UnknownClassError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptconv.api.fitting.compare import Validation
    from ckptconv.api.request import Request
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.metadata import MetaNode


@dataclass(frozen=True, slots=True)
class Fitting:
    """What a fitting architecture adds: params for the metadata, the note of the architecture, and findings."""

    params: Mapping[str, MetaNode]
    note: MetaNode
    findings: Sequence[Finding]


def fit(request: Request, checkpoint: Checkpoint, *, params: bool) -> Fitting:
    """Compare with the architecture that the request names, or else the evidence.

    params: the result includes the params that the metadata lacks.

    Raises MisfitError if the checkpoint does not fit, UsageError if there is no architecture, or no params to write.
    """
    try:
        result = require_fit(request, checkpoint)
    except UnknownClassError as error:
        raise _without_params(error) from None
    if not params:
        return Fitting({}, _note(result), result.findings)
    if result.spec is None and not result.params:
        raise UsageError(f"{result.arch!r} has no params to write", hint="name an architecture spec with --arch")
    findings = [*result.findings, *_undetermined_params(result)]
    return Fitting(_unstated_params(result, checkpoint.metadata), _note(result), findings)


def _without_params(error: UnknownClassError) -> UsageError:
    """The error for a class that the library lacks: the values in its config.json are not params of a spec."""
    hint = "--with-files takes the config.json, which says what they are, into DST's folder; leave --with-params out"
    return UsageError(f"{error.message}, and so there are no params to write", path=error.path, hint=hint)


def with_arch_note(checkpoint: Checkpoint, note: MetaNode) -> Checkpoint:
    """The checkpoint with a note of its architecture."""
    return checkpoint.replaced(notes=replace(checkpoint.notes, arch=note))


def _undetermined_params(result: Validation) -> list[Finding]:
    """A warning for each required param that nothing determines."""
    names = result.spec.required if result.spec else []
    return [
        Finding("param-open", "warning", name, f"nothing says {name}, so it is not written", hint=f"--set {name}=VALUE")
        for name in names
        if name not in result.params
    ]


def _unstated_params(result: Validation, metadata: Mapping[object, MetaNode]) -> dict[str, MetaNode]:
    """The required params that the metadata lacks, or states as a string although they are of another type."""
    if result.spec is None:
        return {name: value for name, value in result.params.items() if name not in metadata}
    spec = result.spec
    stated = from_metadata(spec, metadata).values
    as_strings = {name for name in stated if isinstance(metadata.get(name), str) and spec.params[name].type != "str"}
    lacking = [name for name in spec.required if name not in stated or name in as_strings]
    return {name: result.params[name] for name in lacking if name in result.params}


def _note(result: Validation) -> MetaNode:
    """The note for the written file. It leaves out params with default values, since nothing stated them."""
    if result.spec is None:
        return None
    params = {name: value for name, value in result.params.items() if result.origins.get(name) != "default"}
    return {"name": result.spec.name, "params": params, "digest": result.spec.digest}
