"""By names alone: models as their libraries make them are valid, and damaged ones are invalid."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import TYPE_CHECKING

from ckptconv.api.fitting.compare import compare
from ckptconv.api.request import Request
from ckptconv.arch.load import load_spec
from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.tensor import LazyTensor, TensorInfo
from ckptconv.errors import UsageError
from tests.arch.families import ALL
from tests.arch.real_models import aliases, built, infos
from tests.checks.support import unread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.arch.real_models import Case

    Infos = dict[str, TensorInfo]

EVERY = 24
"""Of the models, every twenty-fourth is damaged, several times."""

BY_SHAPES = "nanogpt-biases"
"""Has gpt2's names with every matrix turned."""

NOT_VALID, INVALID = 0.95, 0.92
"""Least shares of the damaged ones. Some damage makes another sound model: a head that is gone with its only tensor, a
vocabulary of another size; and what is left without a partner may be of a network that is not known."""


def lost(tensors: Infos, random: Random) -> None:
    del tensors[random.choice(list(tensors))]


def renamed(tensors: Infos, random: Random) -> None:
    name = random.choice(list(tensors))
    module, _, last = name.rpartition(".")
    new = random.choice([f"{name}_orig", f"{module}.linear.{last}", f"{module}.{last[:-1]}"])
    tensors[new.lstrip(".")] = tensors.pop(name)


def resized(tensors: Infos, random: Random) -> None:
    name = random.choice([name for name, info in tensors.items() if info.shape])
    shape = list(tensors[name].shape)
    axis = random.randrange(len(shape))
    shape[axis] += random.choice([1, 7, shape[axis] or 1])
    tensors[name] = TensorInfo.of(tensors[name].dtype, tuple(shape))


def transposed(tensors: Infos, random: Random) -> None:
    matrices = [name for name, info in tensors.items() if len(info.shape) == 2 and len(set(info.shape)) == 2]
    name = random.choice(matrices or list(tensors))
    shape = tensors[name].shape[::-1] if matrices else (*tensors[name].shape, 3)
    tensors[name] = TensorInfo.of(tensors[name].dtype, shape)


def swapped(tensors: Infos, random: Random) -> None:
    a = random.choice(list(tensors))
    b = random.choice([name for name, info in tensors.items() if info.shape != tensors[a].shape])
    tensors[a], tensors[b] = tensors[b], tensors[a]


DAMAGES: tuple[Callable[[Infos, Random], None], ...] = (lost, renamed, resized, transposed, swapped)


def verdict(tensors: Infos, tied: dict[str, int]) -> str:
    """What `validate` says of these headers, with no other evidence: "" where it cannot say."""
    shared = Counter(tied.get(name) for name in tensors)
    made = {
        name: LazyTensor(info, unread, alias=tied[name] if shared[tied.get(name)] > 1 and name in tied else name)
        for name, info in tensors.items()
    }
    try:
        return "valid" if compare(Request("nowhere/model"), Checkpoint(made)).valid else "invalid"
    except UsageError:
        return ""


def free(tensors: Infos, tied: dict[str, int]) -> Infos:
    """Those that may not be absent: neither tied nor a count of batches."""
    shared = Counter(tied.values())
    return {n: i for n, i in tensors.items() if shared[tied[n]] == 1 and not n.endswith("num_batches_tracked")}


def damaged(case: Case, random: Random) -> Iterator[tuple[str, Infos, dict[str, int]]]:
    tensors, tied = infos(built(case).state_dict()), aliases(built(case))
    for damage in DAMAGES:
        part = free(tensors, tied)
        rest = {name: info for name, info in tensors.items() if name not in part}
        damage(part, random)
        yield f"{case} {damage.__name__}", {**rest, **part}, tied


def test_models_are_valid_and_damaged_ones_are_not() -> None:
    random = Random(5)
    cases = [case for case in ALL if not load_spec(case.spec).mistaken_for][::EVERY]
    sound = {str(case): verdict(infos(built(case).state_dict()), aliases(built(case))) for case in cases}
    assert set(sound.values()) == {"valid"}, sound
    told = {what: verdict(tensors, tied) for case in cases for what, tensors, tied in damaged(case, random)}
    shares = {said: sum(one == said for one in told.values()) / len(told) for said in ("valid", "invalid")}
    others = {what: said for what, said in told.items() if said != "invalid"}
    assert shares["valid"] <= 1 - NOT_VALID and shares["invalid"] >= INVALID, (shares, others)


def test_no_other_network_is_what_damage_leaves() -> None:
    """SwinIR adds to what came in, each level of a SegResNet has blocks, and a package has encoders of some sizes."""
    stages = {
        "segmentation_models-Unet-resnet18": "encoder.layer2.1.",
        "segmentation_models-MAnet-mit_b0": "encoder.block4.1.",
    }
    cases = {str(case): built(case) for case in ALL if str(case) in ("swinir-none", "segresnet-four", *stages)}
    restorer, segmenter = (infos(cases[name].state_dict()) for name in ("swinir-none", "segresnet-four"))
    assert verdict(restorer, {}) == verdict(segmenter, {}) == "valid"
    first = restorer["conv_first.weight"]
    wider = TensorInfo.of(first.dtype, (first.shape[0], 2 * first.shape[1], *first.shape[2:]))
    assert verdict(restorer | {"conv_first.weight": wider}, {}) == "invalid"
    parts = [(segmenter, "down_layers.0."), (segmenter, "up_layers.0.")]
    for whole, part in [*parts, *((infos(cases[name].state_dict()), block) for name, block in stages.items())]:
        left = {name: info for name, info in whole.items() if not name.startswith(part)}
        assert len(left) < len(whole) and verdict(left, {}) == "invalid"


def test_of_two_specs_with_the_same_names_the_one_that_has_the_shapes_is_chosen() -> None:
    [case] = [case for case in ALL if str(case) == BY_SHAPES]
    tensors = infos(built(case).state_dict())
    assert verdict(tensors, aliases(built(case))) == "valid"
