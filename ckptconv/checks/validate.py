"""Does a checkpoint fit an architecture, and if not, why not?

The verdict is that of a strict comparison (`ckptconv.arch.check`); `ckptconv.checks.blame` says it in fewer words.
A prefix that a wrapper left on every name is looked through first, so that the params can be solved at all; it stays
an error, because ``load_state_dict(strict=True)`` would refuse the names.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.arch.check import check, fits
from ckptconv.arch.match import compile_patterns, match_names
from ckptconv.arch.solver import solve
from ckptconv.checks.blame import explain
from ckptconv.core.metadata import StateDict, walk
from ckptconv.core.report import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ckptconv.arch.bind import Source
    from ckptconv.arch.spec import ParamValue, Spec
    from ckptconv.arch.table import Table
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.tensor import LazyTensor, TensorInfo


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found, the params that were bound, and where each is from."""

    findings: list[Finding]
    params: Mapping[str, ParamValue] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)

    @property
    def valid(self) -> bool:
        """Whether no finding is an error."""
        return all(finding.severity != "error" for finding in self.findings)


def validate_spec(checkpoint: Checkpoint, spec: Spec, sources: Sequence[Source]) -> Verdict:
    """Bind the spec's params for this checkpoint, and compare. Reads no tensor."""
    prefix = foreign_prefix(spec, {name: tensor.info for name, tensor in checkpoint.items()})
    tensors: dict[str, LazyTensor] = {name.removeprefix(prefix): tensor for name, tensor in checkpoint.items()}
    aliases = {name: tensor.alias for name, tensor in tensors.items()}
    solution = solve(spec, {name: tensor.info for name, tensor in tensors.items()}, sources, aliases=aliases)
    findings = list(solution.findings)
    if solution.table is None:
        problem = solution.problem
        message = problem.message if problem else "the params do not determine a table"
        hint = problem.hint if problem else None
        findings.append(Finding("param-missing", "error", spec.name, message, hint=hint))
    else:
        findings += compare(checkpoint, solution.table)
    return Verdict(findings, solution.params, solution.origins)


def validate_table(checkpoint: Checkpoint, table: Table) -> Verdict:
    """Compare with a table that is known already: another checkpoint's, or a torch module's."""
    return Verdict(compare(checkpoint, table), table.params)


def compare(checkpoint: Checkpoint, table: Table) -> list[Finding]:
    """What does not fit, explained."""
    infos: dict[str, TensorInfo] = {name: tensor.info for name, tensor in checkpoint.items()}
    holes = [node for _, node in walk(checkpoint.root) if isinstance(node, StateDict)]
    symptoms = check(
        table,
        infos,
        aliases={name: tensor.alias for name, tensor in checkpoint.items()},
        recorded_ties=checkpoint.tied_to,
        versions=holes[0].versions if len(holes) == 1 else None,
        plain=[key for hole in holes for _, key, _ in hole.plain if hole.prefix == ""],
    )
    expected = {name: entry.shape for name, entry in table.tensors.items()}
    return explain(symptoms, expected, {name: info.shape for name, info in infos.items()}, fits)


def foreign_prefix(spec: Spec, tensors: Mapping[str, TensorInfo]) -> str:
    """The start that most names have and that the spec lacks, "" where the names match better as they are."""
    patterns = compile_patterns(spec)

    def matched(candidates: Mapping[str, TensorInfo]) -> int:
        return len({name for rule in match_names(patterns, candidates) for name, _, _ in rule.found})

    best, most = "", matched(tensors)
    if most == len(tensors):
        return best
    for prefix in _common_starts(tensors):
        count = matched({name.removeprefix(prefix): info for name, info in tensors.items()})
        if count > most:
            best, most = prefix, count
    return best


def _common_starts(names: Iterable[str]) -> list[str]:
    """Leading components that at least half of the names share, to a depth of three."""
    counts: Counter[str] = Counter()
    total = 0
    for name in names:
        total += 1
        parts = name.split(".")
        counts.update(".".join(parts[:depth]) + "." for depth in range(1, min(4, len(parts))))
    return [start for start, count in counts.items() if 2 * count >= total]
