"""Does a checkpoint fit an architecture, and if not, why not?

The verdict is that of a strict comparison (`ckptconv.arch.check`); `ckptconv.checks.blame` says it in fewer words.
A prefix that a wrapper left on every name, or that was cut off, is looked through first, so that the params can be
solved at all; it stays an error, because ``load_state_dict(strict=True)`` would refuse the names.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from ckptconv.arch.check import check, fits
from ckptconv.arch.match import compile_patterns, match_names
from ckptconv.arch.solver import solve
from ckptconv.checks.blame import explain
from ckptconv.checks.hypotheses import fewest_causes
from ckptconv.checks.kin import differences
from ckptconv.checks.prefixes import prefixed, spec_names
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
    from ckptconv.checks.kin import Differences
    from ckptconv.core.checkpoint import Checkpoint

MAX_PREFIXES = 3
"""Prefixes that are looked through, one inside the other."""


def validate_spec(
    checkpoint: Checkpoint, spec: Spec, sources: Sequence[Source], solved: Solution | None = None, wrapper: str = ""
) -> Verdict:
    """Bind the spec's params for this checkpoint, and compare. Reads no tensor.

    solved: what the tensors alone say, without the prefix `wrapper`, where that is known already: solving takes half of
            the time.

    Where the params contradict what is stated, or much does not fit, other ways to bind them are tried, and the one
    that leaves fewest errors is told.
    """
    names = spec_names(spec, infos_of(checkpoint))
    same = names == {name: name.removeprefix(wrapper) for name in checkpoint if wrapper}
    infos = {names.get(name, name): tensor.info for name, tensor in checkpoint.items()}
    aliases = {names.get(name, name): tensor.alias for name, tensor in checkpoint.items()}

    def attempt(sources: Sequence[Source], more: Mapping[str, str]) -> Verdict:
        tensors = {more.get(name, name): info for name, info in infos.items()}
        shared = {more.get(name, name): alias for name, alias in aliases.items()}
        stated = any(source.values or source.findings for source in sources)
        known = None if stated or more or not same or checkpoint.tied_to else solved
        solution = known or solve(spec, tensors, sources, aliases=shared)
        if solution.table is not None:
            findings = [*solution.findings, *compare(checkpoint, solution.table)]
        else:
            problem = solution.problem
            message = problem.message if problem else "the params do not determine a table"
            missing = Finding("param-missing", "error", spec.name, message, hint=problem.hint if problem else None)
            findings = [*solution.findings, missing]
        return Verdict(findings, solution.params, solution.origins, solution.table)

    verdict = fewest_causes(spec, infos, sources, attempt)
    mended = [_mended(finding, verdict.params, sources) for finding in verdict.findings]
    return replace(verdict, findings=mended)


def _mended(finding: Finding, params: Mapping[str, ParamValue], sources: Sequence[Source]) -> Finding:
    """A conflict with how the metadata would agree with the tensors."""
    if finding.code != "param-conflict" or finding.hint is not None or finding.where not in params:
        return finding
    value = params[finding.where]
    wrong = (
        source.places[finding.where]
        for source in sources
        if source.places.get(finding.where) and source.values.get(finding.where) != value
    )
    place = next(wrong, None)
    return finding if place is None else replace(finding, hint=f"{place} = {value!r}")


def validate_table(checkpoint: Checkpoint, table: Table) -> Verdict:
    """Compare with a table that is known already: another checkpoint's, or a torch module's."""
    return Verdict(compare(checkpoint, table), table.params, table=table)


def compare(checkpoint: Checkpoint, table: Table) -> list[Finding]:
    """What does not fit, explained."""
    seen = _through_prefixes(checkpoint, table)
    return [*seen.causes, *_explained(checkpoint, table, seen)]


def built_otherwise(checkpoint: Checkpoint, table: Table, strays: Collection[str] = ()) -> Differences:
    """How the checkpoint's network is built otherwise than the architecture, where what does not fit is no damage.

    strays: names that are beside the network, and say nothing of it.
    """
    seen = _through_prefixes(checkpoint, table)
    seen = seen._replace(symptoms=[finding for finding in seen.symptoms if finding.where not in strays])
    explained = _explained(checkpoint, table, seen)
    infos = {seen.names[name]: tensor.info for name, tensor in checkpoint.items()}
    known = {
        name
        for rule in match_names(compile_patterns(table.spec), infos)
        for name, captures, _ in rule.found
        if all(captures[slot] == table.params.get(param, captures[slot]) for slot, param in rule.pattern.strings)
    }
    return differences(seen.symptoms, explained, set(seen.names.values()), table.tensors.keys(), known)


class _Seen(NamedTuple):
    """A comparison once prefixes are looked through: these, the architecture's name of each, what does not fit."""

    causes: list[Finding]
    names: dict[str, str]
    symptoms: list[Finding]


def _through_prefixes(checkpoint: Checkpoint, table: Table) -> _Seen:
    holes = list(nodes_of(checkpoint.root, StateDict))
    plain = [
        hole.prefix + key
        for hole in holes
        for _, key, value in hole.plain
        if without_model(value, checkpoint) is not NOTHING  # a dict of more of the model's tensors is not a value
    ]
    versions = _versions(holes)
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
            versions=_respelled(versions, names),
            plain=[names[name] for name in plain],
        )
        found = prefixed(symptoms, list(names.values())) if len(causes) < MAX_PREFIXES else None
        if found is None:
            return _Seen(causes, names, symptoms)
        causes.append(found[0])
        names = {name: found[1].get(now, now) for name, now in names.items()}


def _explained(checkpoint: Checkpoint, table: Table, seen: _Seen) -> list[Finding]:
    expected = {name: entry.shape for name, entry in table.tensors.items()}
    shapes = {seen.names[name]: tensor.info.shape for name, tensor in checkpoint.items()}
    return explain(seen.symptoms, expected, shapes, fits)


def _versions(holes: Sequence[StateDict]) -> dict[str, object]:
    """Module versions by the module's full path."""
    versions: dict[str, object] = {}
    for hole in holes:
        if isinstance(hole.versions, dict):
            versions.update(
                {
                    (hole.prefix + path).rstrip("."): entry
                    for path, entry in hole.versions.items()
                    if isinstance(path, str)
                }
            )
    return versions


def _respelled(versions: dict[str, object], names: Mapping[str, str]) -> dict[str, object]:
    """The versions under the paths that modules have once their tensors are renamed."""
    changed = {module_of(old): module_of(new) for old, new in names.items() if old != new}
    return {changed.get(path, path): entry for path, entry in versions.items()}
