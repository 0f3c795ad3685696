"""Every library spec against the real classes: the model as it is fits, and with any one tensor changed it does not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ckptconv.arch.bind import Source, from_config, from_metadata
from ckptconv.arch.check import check
from ckptconv.arch.load import library, load_spec
from ckptconv.arch.solver import solve
from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import TensorInfo
from tests.arch.families import ALL
from tests.arch.real_models import Case, aliases, built, infos

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.arch.solver import Solution
    from ckptconv.arch.table import Table
    from ckptconv.core.report import Finding

SAMPLE = 8
"""Tensors that are changed and solved for again, of all models of a spec together, and one of each at least; spread
evenly, and the models begin at different ones. The table meets them all."""

THOROUGH = [case for case in ALL if case.thorough]


def stated(case: Case) -> list[Source]:
    spec = load_spec(case.spec)
    return [from_config(spec, case.config()) if case.config else from_metadata(spec, case.params)]


class Model:
    """What a real model says of itself, asked once: its tensors, its modules' versions, which names share a tensor."""

    def __init__(self, case: Case) -> None:
        module = built(case)
        state = module.state_dict()
        self.spec = load_spec(case.spec)
        self.tensors, self.versions, self.aliases = infos(state), state._metadata, aliases(module)

    def errors(self, tensors: dict[str, TensorInfo], sources: list[Source]) -> tuple[Solution, list[Finding]]:
        shared = {name: key for name, key in self.aliases.items() if name in tensors}
        solution = solve(self.spec, tensors, sources, aliases=shared)
        assert solution.table is not None, solution.problem
        found = [*solution.findings, *check(solution.table, tensors, aliases=shared, versions=self.versions)]
        return solution, [finding for finding in found if finding.severity == "error"]

    def noted(self, case: Case) -> Solution:
        """What a note in the file would say: without one, a change of what a single tensor says is another model."""
        return solve(self.spec, self.tensors, stated(case), aliases=self.aliases)


def test_the_library_has_what_the_readme_names() -> None:
    names = [entry.name for entry in library()]
    assert names == sorted({case.spec for case in ALL})
    assert all(entry.summary for entry in library())


@pytest.mark.parametrize("case", ALL, ids=str)
def test_a_real_model_fits_its_spec_from_its_tensors_alone(case: Case) -> None:
    model = Model(case)
    _, found = model.errors(model.tensors, [])
    assert found == []


@pytest.mark.parametrize("case", THOROUGH, ids=str)
def test_a_real_model_fits_its_spec_and_what_its_configuration_says(case: Case) -> None:
    model, sources = Model(case), stated(case)
    solution, found = model.errors(model.tensors, sources)
    assert found == []
    assert {name: solution.params[name] for name in sources[0].values} == sources[0].values


def changed(tensors: dict[str, TensorInfo], name: str) -> Iterator[tuple[str, dict[str, TensorInfo]]]:
    """One tensor removed, renamed, with a dimension more, with one dimension larger."""
    info = tensors[name]
    yield "removed", {key: value for key, value in tensors.items() if key != name}
    yield "renamed", {key if key != name else f"{name}_": value for key, value in tensors.items()}
    yield "rank", {**tensors, name: replace(info, shape=(*info.shape, 2))}
    for axis, size in enumerate(info.shape):
        shape = (*info.shape[:axis], size + 1, *info.shape[axis + 1 :])
        yield f"axis {axis}", {**tensors, name: replace(info, shape=shape)}


def is_tied(table: Table, name: str) -> bool:
    """Whether a tensor may be absent because another that is there is tied to it."""
    return table.tensors[name].tied_to is not None or any(entry.tied_to == name for entry in table.tensors.values())


@pytest.mark.parametrize("case", THOROUGH, ids=str)
def test_the_table_refuses_any_single_changed_tensor(case: Case) -> None:
    model = Model(case)
    tensors, table = model.tensors, model.noted(case).table
    assert table is not None
    for name in list(tensors)[:: max(1, len(tensors) // 300)]:
        for how, mutant in changed(tensors, name):
            errors = [one for one in check(table, mutant, versions=model.versions) if one.severity == "error"]
            assert bool(errors) != (how == "removed" and is_tied(table, name)), f"{name}: {how}"


def sampled(case: Case, names: list[str]) -> list[str]:
    kin = [each for each in THOROUGH if each.spec == case.spec]
    step = max(1, len(names) // max(1, SAMPLE // len(kin)))
    return names[kin.index(case) * (step // len(kin) + 1) % step :: step]


@pytest.mark.parametrize("case", THOROUGH, ids=str)
def test_solving_again_refuses_any_single_changed_tensor(case: Case) -> None:
    model = Model(case)
    tensors, intact = model.tensors, model.noted(case)
    assert intact.table is not None
    for name in sampled(case, list(tensors)):
        for how, mutant in changed(tensors, name):
            _, found = model.errors(mutant, [Source("arch note", intact.params)])
            assert bool(found) != (how == "removed" and is_tied(intact.table, name)), f"{name}: {how}"


@pytest.mark.parametrize(
    ("case", "name", "shape"),
    [
        ("nanogpt-plain", "transformer.h.1.attn.bias", (1, 1, 12, 12)),
        ("llama_meta-first", "rope.freqs", (2,)),
        ("llama_meta-wide", "rope.freqs", (3,)),
    ],
)
def test_buffers_that_only_some_versions_save_fit_by_their_shapes(case: str, name: str, shape: tuple[int, ...]) -> None:
    chosen = next(each for each in ALL if str(each) == case)
    model = Model(chosen)
    for given, fits in ((shape, True), ((*shape[:-1], shape[-1] + 1), False)):
        tensors = {**model.tensors, name: TensorInfo.of(DType.F32, given)}
        assert (not model.errors(tensors, stated(chosen))[1]) == fits
