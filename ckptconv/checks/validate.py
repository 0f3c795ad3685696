"""Checks whether a checkpoint fits an architecture, and if not, why not.

The verdict is that of a strict comparison (`ckptconv.arch.check`); `ckptconv.checks.blame` finds the few causes behind
its findings. A prefix that a wrapper put on every name, or that was cut off, is undone first, so that the params can be
solved. It remains an error, because ``load_state_dict(strict=True)`` would refuse the names.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from ckptconv.arch.check import check, fits
from ckptconv.arch.match import compile_patterns, match_names
from ckptconv.arch.solver import solve
from ckptconv.checks.blame import explain
from ckptconv.checks.hypotheses import fewest_causes
from ckptconv.checks.prefixes import prefixed, spec_names
from ckptconv.checks.related_architecture import built_differently
from ckptconv.checks.verdict import Verdict
from ckptconv.core.metadata import NOTHING, StateDict, nodes_of, without_model
from ckptconv.core.names import module_of
from ckptconv.core.report import Finding
from ckptconv.core.tensor import infos_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from ckptconv.arch.bind import Source
    from ckptconv.arch.solver import Solution
    from ckptconv.arch.spec import ParamValue, Spec
    from ckptconv.arch.table import Table
    from ckptconv.checks.related_architecture import Differences
    from ckptconv.core.checkpoint import Checkpoint

MAX_PREFIXES = 3
"""The most nested prefixes that are undone."""


def validate_spec(
    checkpoint: Checkpoint, spec: Spec, sources: Sequence[Source], solved: Solution | None = None, wrapper: str = ""
) -> Verdict:
    """Bind the spec's params for this checkpoint, and compare. Reads no tensor.

    sources: what is stated about the params.
    solved:  what the tensors without the prefix `wrapper` say about the params, if that is known already; solving takes
             half of the time.

    If the params contradict what is stated, or much does not fit, other ways to bind them are tried, and the verdict is
    that of the way with the fewest errors.
    """
    names = spec_names(spec, infos_of(checkpoint))
    is_wrapper_only = names == {name: name.removeprefix(wrapper) for name in checkpoint if wrapper}
    infos = {names.get(name, name): tensor.info for name, tensor in checkpoint.items()}
    aliases = {names.get(name, name): tensor.alias for name, tensor in checkpoint.items()}

    def attempt(sources: Sequence[Source], renames: Mapping[str, str]) -> Verdict:
        tensors = {renames.get(name, name): info for name, info in infos.items()}
        renamed_aliases = {renames.get(name, name): alias for name, alias in aliases.items()}
        stated = any(source.values or source.findings for source in sources)
        # `solved` holds only for exactly these tensors, without anything stated
        reusable = None if stated or renames or not is_wrapper_only or checkpoint.tied_to else solved
        solution = reusable or solve(spec, tensors, sources, aliases=renamed_aliases)
        if solution.table is not None:
            findings = [*solution.findings, *compare(checkpoint, solution.table)]
        else:
            problem = solution.problem
            message = problem.message if problem else "the params do not determine a table"
            missing = Finding("param-missing", "error", spec.name, message, hint=problem.hint if problem else None)
            findings = [*solution.findings, missing]
        return Verdict(findings, solution.params, solution.origins, solution.table)

    verdict = fewest_causes(spec, infos, sources, attempt)
    findings = [_with_metadata_hint(finding, verdict.params, sources) for finding in verdict.findings]
    return replace(verdict, findings=findings)


def _with_metadata_hint(finding: Finding, params: Mapping[str, ParamValue], sources: Sequence[Source]) -> Finding:
    """A param conflict with a hint that changes the metadata to agree with the tensors; other findings as they are."""
    if finding.code != "param-conflict" or finding.hint is not None or finding.where not in params:
        return finding
    value = params[finding.where]
    for source in sources:
        place = source.places.get(finding.where)
        if place and source.values.get(finding.where) != value:
            return replace(finding, hint=f"{place} = {value!r}")
    return finding


def validate_table(checkpoint: Checkpoint, table: Table) -> Verdict:
    """Compare with a table that is complete: another checkpoint's, or a torch module's."""
    return Verdict(compare(checkpoint, table), table.params, table=table)


def compare(checkpoint: Checkpoint, table: Table) -> list[Finding]:
    """What does not fit, causes first."""
    comparison = _without_prefixes(checkpoint, table)
    return [*comparison.causes, *_explained(checkpoint, table, comparison)]


def built_otherwise(checkpoint: Checkpoint, table: Table, strays: Collection[str] = ()) -> Differences:
    """How the checkpoint's network is built differently from the architecture; nothing if it may just be damaged.

    strays: names that do not belong to the network.
    """
    comparison = _without_prefixes(checkpoint, table)
    symptoms = [finding for finding in comparison.symptoms if finding.where not in strays]
    comparison = comparison._replace(symptoms=symptoms)
    explained = _explained(checkpoint, table, comparison)
    infos = {comparison.names[name]: tensor.info for name, tensor in checkpoint.items()}
    known = {
        name
        for rule in match_names(compile_patterns(table.spec), infos)
        for name, captures, _ in rule.found
        if all(captures[slot] == table.params.get(param, captures[slot]) for slot, param in rule.pattern.strings)
    }
    return built_differently(symptoms, explained, set(comparison.names.values()), table.tensors.keys(), known)


class _WithoutPrefixes(NamedTuple):
    """A strict comparison after prefixes are undone.

    causes:   the findings about these prefixes.
    names:    for each name in the checkpoint, the name without them.
    symptoms: what does not fit then.
    """

    causes: list[Finding]
    names: dict[str, str]
    symptoms: list[Finding]


def _without_prefixes(checkpoint: Checkpoint, table: Table) -> _WithoutPrefixes:
    state_dicts = list(nodes_of(checkpoint.root, StateDict))
    plain = [
        state_dict.prefix + key
        for state_dict in state_dicts
        for _, key, value in state_dict.plain
        if without_model(value, checkpoint) is not NOTHING  # a dict of the model's tensors is not a plain value
    ]
    versions = _module_versions(state_dicts)
    all_names = [*checkpoint, *plain]
    names = {name: name for name in all_names}
    causes: list[Finding] = []
    while True:
        symptoms = check(
            table,
            {names[name]: tensor.info for name, tensor in checkpoint.items()},
            aliases={names[name]: tensor.alias for name, tensor in checkpoint.items()},
            recorded_ties={
                names[name]: names[other]
                for name, other in checkpoint.tied_to.items()
                if name in names and other in names
            },
            versions=_renamed_versions(versions, names),
            plain=[names[name] for name in plain],
        )
        prefix = prefixed(symptoms, list(names.values())) if len(causes) < MAX_PREFIXES else None
        if prefix is None:
            return _WithoutPrefixes(causes, names, symptoms)
        cause, renames = prefix
        causes.append(cause)
        names = {name: renames.get(current, current) for name, current in names.items()}


def _explained(checkpoint: Checkpoint, table: Table, comparison: _WithoutPrefixes) -> list[Finding]:
    """The symptoms, with causes in place of those that they explain."""
    expected = {name: entry.shape for name, entry in table.tensors.items()}
    shapes = {comparison.names[name]: tensor.info.shape for name, tensor in checkpoint.items()}
    return explain(comparison.symptoms, expected, shapes, fits)


def _module_versions(state_dicts: Sequence[StateDict]) -> dict[str, object]:
    """Module versions by the module's full path."""
    versions: dict[str, object] = {}
    for state_dict in state_dicts:
        entries = state_dict.versions.items() if isinstance(state_dict.versions, dict) else ()
        for path, entry in entries:
            if isinstance(path, str):
                versions[(state_dict.prefix + path).rstrip(".")] = entry
    return versions


def _renamed_versions(versions: dict[str, object], names: Mapping[str, str]) -> dict[str, object]:
    """The versions under the paths of modules after their tensors are renamed."""
    changed = {module_of(old): module_of(new) for old, new in names.items() if old != new}
    return {changed.get(path, path): entry for path, entry in versions.items()}
