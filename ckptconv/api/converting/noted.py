"""What `convert` writes down of an architecture that the source fits."""

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
    """A checkpoint that fits: the params that its metadata lacks, its architecture as a note, what else to know."""

    params: Mapping[str, MetaNode]
    note: MetaNode
    findings: Sequence[Finding]
    result: Validation


def fit(request: Request, checkpoint: Checkpoint, *, params: bool) -> Fitting:
    """Compare with the architecture that the request, or else the evidence, names; with `params`, to write those down.

    Raises MisfitError where it does not fit, UsageError where there is nothing to compare with or to write.
    """
    try:
        result = require_fit(request, checkpoint)
    except UnknownClassError as error:
        raise _without_params(error) from None
    if not params:
        return Fitting({}, _note(result), result.findings, result)
    if result.spec is None and not result.params:
        raise UsageError(f"{result.arch!r} has no params to write", hint="name an architecture spec with --arch")
    findings = [*result.findings, *_open(result)]
    return Fitting(_missing(result, checkpoint.metadata), _note(result), findings, result)


def _without_params(error: UnknownClassError) -> UsageError:
    """The error for a class that the library lacks: what a config.json says of it are no params of ours."""
    hint = "--with-files takes the config.json, which says what they are, into DST's folder; leave --with-params out"
    return UsageError(f"{error.message}, and so there are no params to write", path=error.path, hint=hint)


def noted(checkpoint: Checkpoint, note: MetaNode) -> Checkpoint:
    """The same checkpoint with a note of its architecture."""
    return checkpoint.replaced(notes=replace(checkpoint.notes, arch=note))


def _open(result: Validation) -> list[Finding]:
    """A warning for each param that a model cannot be described without and that nothing determines."""
    names = result.spec.required if result.spec else []
    return [
        Finding("param-open", "warning", name, f"nothing says {name}, so it is not written", hint=f"--set {name}=VALUE")
        for name in names
        if name not in result.params
    ]


def _missing(result: Validation, metadata: Mapping[object, MetaNode]) -> dict[str, MetaNode]:
    """The required params that the metadata does not state yet; a string that says one gives way to its value."""
    if result.spec is None:
        return {name: value for name, value in result.params.items() if name not in metadata}
    spec = result.spec
    stated = from_metadata(spec, metadata).values
    texts = {name for name in stated if isinstance(metadata.get(name), str) and spec.params[name].type != "str"}
    wanted = [name for name in spec.required if name in result.params and (name not in stated or name in texts)]
    return {name: result.params[name] for name in wanted}


def _note(result: Validation) -> MetaNode:
    """What the written file remembers; params that are mere defaults are not in it, for nothing stated them."""
    if result.spec is None:
        return None
    params = {name: value for name, value in result.params.items() if result.origins.get(name) != "default"}
    return {"name": result.spec.name, "params": params, "digest": result.spec.digest}
