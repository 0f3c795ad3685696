"""`diff`: what differs between two checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ckptconv.api.editing.pairs import Aligned, align_pair
from ckptconv.api.open import open
from ckptconv.api.request import as_tuple
from ckptconv.core.report import Finding, errors_among

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptconv.api.open import PathText
    from ckptconv.checks.compare_metadata import MetadataChange
    from ckptconv.checks.compare_values import Values
    from ckptconv.core.edit import Edit
    from ckptconv.core.progress import Progress
    from ckptconv.core.spelling import Json


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs between two checkpoints, `expected` and `found`.

    findings: first how a file was read, if not as it is; then everything that differs, with severity "info" if a
              tolerance covers it.
    edits:    what would turn `expected` into `found`, step by step: each uses the names that the steps before it leave.
              Added tensors and changed values are only in the findings.
    values:   the figures behind the findings about values and casts.
    metadata: the values behind the findings about metadata.
    partners: for each name in `expected`, in its order, the name of the tensor that it is compared with, or None.
    extras:   names of tensors that are not the model's on either side, such as an optimizer's.
    tensors:  the number of tensors on each side.
    nbytes:   the size of the tensors of `expected`, in bytes.
    headers:  whether only headers were compared.
    bare:     whether only the model's tensors were compared.
    """

    expected: Path
    found: Path
    findings: list[Finding]
    edits: list[Edit]
    values: Mapping[Finding, Values] = field(repr=False)
    metadata: list[MetadataChange] = field(repr=False)
    tensors: tuple[int, int] = (0, 0)
    nbytes: int = 0
    headers: bool = False
    bare: bool = False
    partners: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    extras: frozenset[str] = field(default=frozenset(), repr=False)

    def __repr__(self) -> str:
        result = "equal" if self.equal else f"{len(errors_among(self.findings))} findings, {len(self.edits)} edits"
        return f"<Difference {self.expected} → {self.found}: {result}>"

    @property
    def equal(self) -> bool:
        """Whether nothing differs beyond the tolerances."""
        return not errors_among(self.findings)

    @property
    def told(self) -> list[Finding]:
        """The findings that are not differences: how a file was read, if not as it is."""
        return [finding for finding in self.findings if finding.severity != "error" and finding not in self.values]

    def to_dict(self) -> dict[str, Json]:
        """The difference as ``diff --json`` prints it."""
        return {
            "expected": str(self.expected),
            "found": str(self.found),
            "equal": self.equal,
            "headers": self.headers,
            "bare": self.bare,
            "findings": [self._finding(finding) for finding in self.findings],
            "edits": [edit.to_dict() for edit in self.edits],
        }

    def _finding(self, finding: Finding) -> dict[str, Json]:
        values = self.values.get(finding)
        return finding.to_dict() if values is None else {**finding.to_dict(), "values": values.to_dict()}


def diff(
    expected: PathText,
    found: PathText,
    *,
    headers: bool = False,
    bare: bool = False,
    translate: bool = True,
    rtol: float = 0.0,
    atol: float = 0.0,
    ulp: int = 0,
    tolerances: Sequence[str] = (),
    histograms: bool = False,
    expected_format: str | None = None,
    found_format: str | None = None,
    progress: Progress | None = None,
) -> Difference:
    """Compare two checkpoints in any formats: names, shapes, element types, bits, ties and typed metadata.

    headers:         read no tensor bytes; values are not compared.
    bare:            compare only the model's tensors, without metadata and extras.
    translate:       compare like with like: if the two follow the naming schemes of different frameworks, and
                     ``--translate`` gives both the same names, they are read under these, a GGUF with its blocks as
                     floats; quantized weights compared with plain ones are read as ``--dequantize`` makes them, and
                     batch norms that only one has folded are folded in the other. False: read both as they are.
    rtol, atol, ulp: values may differ by ``|b - a| <= atol + rtol * |a|`` (NaN is close to NaN), or by `ulp`
                     representable steps. If all are 0, bits must be equal, so -0.0 is not 0.0.
    tolerances:      ``"GLOB=rtol:1e-3,atol:1e-5,ulp:4"``, instead, for the tensors that match; the last match counts.
    histograms:      also count each tensor's relative changes by size (`Values.bins`).
    expected_format, found_format: override what the bytes say.

    Raises CkptconvError, which names the file, if one of them cannot be read.
    """
    from ckptconv.checks.diff import compare
    from ckptconv.checks.tolerance import Tolerance, Tolerances, parse_tolerances

    allowed = Tolerances(Tolerance(rtol, atol, ulp), parse_tolerances(as_tuple(tolerances)))
    with (
        open(expected, format=expected_format, progress=progress) as a,
        open(found, format=found_format, progress=progress) as b,
    ):
        aligned = Aligned(a, b, [], [])
        if translate:
            aligned = align_pair(a, b, (Path(expected), Path(found)), values=not headers)
        left, right, translated, edits = aligned
        if bare:
            left, right = left.bare(), right.bare()
        differences = compare(left, right, allowed, headers=headers, histograms=histograms, progress=progress)
        for checkpoint in (a, b):
            checkpoint.check_unchanged()
        return Difference(
            expected=Path(expected),
            found=Path(found),
            findings=[*translated, *differences.findings],
            edits=[*edits, *differences.edits],
            extras=frozenset({*left.extras, *right.extras} - {*left, *right}),
            values=differences.values,
            metadata=differences.metadata,
            tensors=(len(left.all_tensors), len(right.all_tensors)),
            nbytes=sum(tensor.info.nbytes for tensor in (a if bare else a.all_tensors).values()),
            headers=headers,
            bare=bare,
            partners=differences.partners,
        )
