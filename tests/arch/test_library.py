"""Every library spec against the real classes: the model as it is fits, and with any one tensor changed it does not."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, cached_property
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
evenly, and the models begin at different ones. Each is changed in every second way. The table meets them all."""

THOROUGH = [case for case in ALL if case.thorough]


class Model:
    """What a real model says of itself, asked once: its tensors, its modules' versions, which names share a tensor."""

    def __init__(self, case: Case) -> None:
        module = built(case)
        state = module.state_dict()
        self.spec = load_spec(case.spec)
        self.tensors, self.versions, self.aliases = infos(state), state._metadata, aliases(module)
        self.stated = from_config(self.spec, case.config()) if case.config else from_metadata(self.spec, case.params)

    def solved(self, tensors: dict[str, TensorInfo], sources: list[Source]) -> Solution:
        return solve(self.spec, tensors, sources, aliases=self.shared(tensors))

    def errors(self, solution: Solution, tensors: dict[str, TensorInfo]) -> list[Finding]:
        assert solution.table is not None, solution.problem
        checked = check(solution.table, tensors, aliases=self.shared(tensors), versions=self.versions)
        return [finding for finding in (*solution.findings, *checked) if finding.severity == "error"]

    def shared(self, tensors: dict[str, TensorInfo]) -> dict[str, int]:
        return {name: key for name, key in self.aliases.items() if name in tensors}

    @cached_property
    def noted(self) -> Solution:
        """What a note in the file would say: without one, a change of what a single tensor says is another model."""
        return self.solved(self.tensors, [self.stated])


model_of = cache(Model)


def test_the_library_has_what_the_readme_names() -> None:
    names = [entry.name for entry in library()]
    assert names == sorted({case.spec for case in ALL})
    assert all(entry.summary for entry in library())


@pytest.mark.parametrize("case", ALL, ids=str)
def test_a_real_model_fits_its_spec_from_its_tensors_alone(case: Case) -> None:
    model = model_of(case)
    assert model.errors(model.solved(model.tensors, []), model.tensors) == []


@pytest.mark.parametrize("case", THOROUGH, ids=str)
def test_a_real_model_fits_its_spec_and_what_its_configuration_says(case: Case) -> None:
    model = model_of(case)
    assert model.errors(model.noted, model.tensors) == []
    said = model.stated.values
    assert {name: model.noted.params[name] for name in said} == said


def changed(tensors: dict[str, TensorInfo], name: str) -> Iterator[tuple[str, dict[str, TensorInfo]]]:
    """One tensor removed, renamed, with a dimension more, with one dimension larger."""
    info = tensors[name]
    yield "removed", {key: value for key, value in tensors.items() if key != name}
    yield "renamed", {key if key != name else f"{name}_": value for key, value in tensors.items()}
    yield "rank", {**tensors, name: replace(info, shape=(*info.shape, 2))}
    for axis, size in enumerate(info.shape):
        shape = (*info.shape[:axis], size + 1, *info.shape[axis + 1 :])
        yield f"axis {axis}", {**tensors, name: replace(info, shape=shape)}


def ends(table: Table, tensors: dict[str, TensorInfo]) -> list[str]:
    """The first two and the last tensor of every rule: those between are in further layers, as the second is."""
    names: dict[int, list[str]] = {}
    for name in tensors:
        names.setdefault(id(table.tensors[name].rule), []).append(name)
    return list(dict.fromkeys(name for each in names.values() for name in (*each[:2], each[-1])))


def is_tied(table: Table, name: str) -> bool:
    """Whether a tensor may be absent because another that is there is tied to it."""
    return table.tensors[name].tied_to is not None or any(entry.tied_to == name for entry in table.tensors.values())


@pytest.mark.parametrize("case", THOROUGH, ids=str)
def test_the_table_refuses_any_single_changed_tensor(case: Case) -> None:
    model = model_of(case)
    tensors, table = model.tensors, model.noted.table
    assert table is not None
    for name in ends(table, tensors):
        for how, mutant in changed(tensors, name):
            errors = [one for one in check(table, mutant, versions=model.versions) if one.severity == "error"]
            assert bool(errors) != (how == "removed" and is_tied(table, name)), f"{name}: {how}"


def sampled(case: Case, names: list[str]) -> Iterator[tuple[str, int]]:
    """Names of tensors, and whether they are changed in the ways that are even or odd."""
    kin = [each for each in THOROUGH if each.spec == case.spec]
    at, step = kin.index(case), max(1, len(names) // max(1, SAMPLE // len(kin)))
    for number, name in enumerate(names[at * (step // len(kin) + 1) % step :: step]):
        yield name, (at + number) % 2


@pytest.mark.parametrize("case", THOROUGH, ids=str)
def test_solving_again_refuses_any_single_changed_tensor(case: Case) -> None:
    model = model_of(case)
    tensors, intact = model.tensors, model.noted
    assert intact.table is not None
    for name, odd in sampled(case, ends(intact.table, tensors)):
        for how, mutant in list(changed(tensors, name))[odd::2]:
            found = model.solved(mutant, [Source("arch note", intact.params)])
            assert bool(model.errors(found, mutant)) != (how == "removed" and is_tied(intact.table, name)), (
                f"{name}: {how}"
            )


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
    model = model_of(chosen)
    for given, fits in ((shape, True), ((*shape[:-1], shape[-1] + 1), False)):
        tensors = {**model.tensors, name: TensorInfo.of(DType.F32, given)}
        assert (not model.errors(model.solved(tensors, [model.stated]), tensors)) == fits
