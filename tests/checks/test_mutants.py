"""The checkpoint that says what it is: valid as it is, and every damaged copy is invalid, with the culprit named."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

torch = pytest.importorskip("torch", reason="mutants are saved with torch.save")

from ckptconv.api.validate import validate  # noqa: E402
from tests.checks.mutants import NETWORKS, healthy, mutants  # noqa: E402

FIXTURES = Path(__file__).parents[2] / "fixtures"
COUNT = 300
ENOUGH = 0.95


def test_the_metadata_checkpoint_validates_with_no_option() -> None:
    result = validate(FIXTURES / "digits-metadata.pth")
    assert (result.valid, result.arch, result.evidence, result.findings) == (True, "mlp", "metadata", [])
    assert result.params["hidden_layers"] == [64, 32]


@pytest.mark.parametrize("widths", NETWORKS)
def test_networks_of_other_widths_validate_too(widths: tuple[int, list[int], int], tmp_path: Path) -> None:
    torch.save(healthy(*widths), tmp_path / "model.pth")
    result = validate(tmp_path / "model.pth")
    assert result.valid and not result.findings
    assert [result.params[name] for name in ("input_size", "hidden_layers", "output_size")] == list(widths)


def test_the_culprit_of_nearly_every_mutant_is_named_and_no_mutant_is_valid(tmp_path: Path) -> None:
    unnamed = []
    for mutant in mutants(COUNT, Random(1)):
        path = tmp_path / "mutant.pth"
        torch.save(mutant.document, path)
        result = validate(path)  # raises nothing: the answer is 1, not 2
        assert not result.valid, mutant.done
        said = [f"{finding.where} {finding.message}" for finding in result.findings if finding.severity == "error"]
        if not all(any(name in text for name in names for text in said) for names in mutant.culprits):
            unnamed.append((mutant.done, said))
    share = 1 - len(unnamed) / COUNT
    assert share >= ENOUGH, f"the culprits of {share:.1%} of {COUNT} mutants are named; not of {unnamed}"


@pytest.mark.parametrize("seed", [2, 3])
def test_two_faults_at_once_are_reported_in_one_run(seed: int, tmp_path: Path) -> None:
    """Counted over mutants of two faults alone; a field that no tensor speaks of any more cannot be blamed."""
    doubles = [mutant for mutant in mutants(200, Random(seed)) if len(mutant.done) == 2]
    named = 0
    for mutant in doubles:
        torch.save(mutant.document, tmp_path / "mutant.pth")
        said = " ".join(f"{f.where} {f.message}" for f in validate(tmp_path / "mutant.pth").findings)
        named += all(any(name in said for name in names) for names in mutant.culprits)
    assert named >= 0.85 * len(doubles), f"{named} of {len(doubles)}"
