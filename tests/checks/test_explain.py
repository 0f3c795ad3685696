"""Explaining never changes the verdict, whatever the tables; and it is fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ckptconv.arch.check import check, fits
from ckptconv.checks.blame import explain
from ckptconv.checks.validate import compare
from tests.checks.support import checkpoint, errors, table
from tests.support.stopwatch import within

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NAMES = st.builds(
    ".".join,
    st.lists(
        st.sampled_from(["a", "b", "layers", "0", "1", "2", "module", "weight", "bias", "num_batches_tracked"]),
        min_size=1,
        max_size=4,
    ),
)
SIZES = st.sampled_from([1, 2, 3, 4])
SHAPES = st.lists(SIZES, max_size=4).map(tuple)
OPEN = st.lists(SIZES | st.none(), max_size=4).map(tuple)


@st.composite
def pairs_of_tables(draw: st.DrawFn) -> tuple[dict[str, tuple[int | None, ...]], dict[str, tuple[int, ...]]]:
    expected = draw(st.dictionaries(NAMES, OPEN, max_size=8))
    found = draw(st.dictionaries(NAMES, SHAPES, max_size=8))
    same = draw(st.sets(st.sampled_from(sorted(expected)))) if expected else set()
    found |= {name: tuple(n or 5 for n in expected[name])[:: draw(st.sampled_from([1, 1, -1]))] for name in same}
    prefix = draw(st.sampled_from(["", "", "module.", "a."]))
    return expected, {prefix + name: shape for name, shape in found.items()}


@given(pairs_of_tables(), st.lists(NAMES, max_size=2, unique=True))
@settings(max_examples=600)
def test_a_checkpoint_is_valid_after_explaining_if_and_only_if_it_was_before(
    pair: tuple[Any, Any], plain: list[str]
) -> None:
    """And no symptom goes without its name, or its stack's, or its pattern's, being said; warnings are untouched."""
    expected, found = pair
    plain = [name for name in plain if name not in found]
    wanted, there = table(expected), checkpoint(found, plain=plain)
    symptoms = check(wanted, {name: tensor.info for name, tensor in there.items()}, plain=plain)
    shapes = {name: entry.shape for name, entry in wanted.tensors.items()}
    explained = explain(symptoms, shapes, found, fits)
    assert bool(errors(explained)) == bool(errors(symptoms))
    assert bool(errors(compare(there, wanted))) == bool(errors(symptoms))
    assert len(explained) <= len(symptoms) + sum(finding.code == "transposed" for finding in explained)
    grouped = [finding for finding in explained if finding.code in ("layer-count", "renamed")]
    said = " ".join(f"{finding.where} {finding.message}" for finding in explained)
    assert grouped or all(finding.where in said for finding in symptoms)


def big_table(layers: int) -> dict[str, tuple[int, ...]]:
    parts = ("q.weight", "k.weight", "v.weight", "o.weight", "up.weight", "down.weight", "norm.weight", "norm.bias")
    return {
        f"model.layers.{i}.{part}": (64, 64) if "norm" not in part else (64,) for i in range(layers) for part in parts
    }


def changed(
    shapes: Mapping[str, tuple[int, ...]], rename: Callable[[int, str], str], every: int
) -> dict[str, tuple[int, ...]]:
    """The shapes with every n-th name changed."""
    return {rename(i, name) if i % every == 0 else name: shape for i, (name, shape) in enumerate(shapes.items())}


def test_ten_thousand_findings_among_thirty_thousand_tensors_take_no_quadratic_time() -> None:
    expected = big_table(3750)
    items = list(expected.items())
    cases = {
        "renamed": changed(expected, lambda i, name: name.replace("norm.", "ln.").replace(".k.", ".key."), 1),
        "wrong": {name: (63, *shape[1:]) if i % 3 == 0 else shape for i, (name, shape) in enumerate(items)},
        "missing": {name: shape for i, (name, shape) in enumerate(items) if i % 3},
        "layers": dict(items[:20_000]),
        "prefixed": changed(expected, lambda i, name: f"x{i}.{name}", 6),
        "no numbers": changed(expected, lambda i, name: name.replace("layers.", "l_"), 6),
        "scrambled": changed(expected, lambda i, name: f"z.{i * 7919}", 6),
    }
    for what, found in cases.items():
        symptoms = check(table(expected), {name: tensor.info for name, tensor in checkpoint(found).items()})
        assert len(symptoms) >= 9_990
        # Half a second where nothing else runs; comparing every name with every other would take minutes.
        work = lambda symptoms=symptoms, found=found: explain(symptoms, expected, found, fits)  # noqa: E731
        within(5, work, f"{what}: {len(symptoms)} findings")
