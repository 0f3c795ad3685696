"""A tensor's opcodes are followed at once exactly as one by one."""

from __future__ import annotations

import re
import zipfile

import pytest
import torch

from ckptconv.errors import CkptconvError
from ckptconv.formats.torch.pickle import Machine, idiom
from ckptconv.formats.torch.values.construct import TorchConstructors

SHAPES = [(), (0,), (7,), (300, 2), (2, 0, 70_000), (2, 3, 4, 5), (1, 2, 1, 2, 1, 2)]


def tensors(count: int) -> dict[str, object]:
    """Tensors of many shapes, of two types, tied, Parameters, views with offsets of one byte, two and four."""
    made: dict[str, object] = {}
    for i in range(count):
        tensor = torch.zeros(SHAPES[i % len(SHAPES)], dtype=[torch.float32, torch.bfloat16][i % 3 == 0])
        made[f"layers.{i}.weight"] = torch.nn.Parameter(tensor, requires_grad=i % 2 == 0) if i % 5 == 0 else tensor
    base = torch.zeros(80_000)
    made |= {f"view.{at}": base[at : at + 3] for at in (1, 255, 256, 65_535, 65_536)}
    made["tied"] = made["layers.2.weight"]
    return made


@pytest.fixture(scope="module")
def pickle(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("idiom") / "m.pth"
    torch.save(tensors(45), path)
    with zipfile.ZipFile(path) as archive:
        return archive.read("m/data.pkl")


def outcome(pickle: bytes) -> tuple[object, ...]:
    """All that a run leaves: its result, memo, storages and names; or its error, but for the byte that it tells."""
    constructors = TorchConstructors()
    machine = Machine(pickle, constructors)
    try:
        result = machine.run()
    except CkptconvError as error:
        return type(error), re.sub(r"at byte \d+", "", error.message)
    return repr(result), repr(machine._memo), repr(constructors.storages), repr(machine.globals), repr(machine.unbuilt)


def both(pickle: bytes) -> tuple[object, object]:
    quick = outcome(pickle)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(idiom, "find", lambda data, pos: None)
        return quick, outcome(pickle)


def places(pickle: bytes) -> list[re.Match[bytes]]:
    found = (idiom.find(pickle, at + 1) for at in range(len(pickle)) if pickle[at : at + 2] == b"((")
    return [match for match in found if match]


def test_it_is_what_torch_writes(pickle: bytes) -> None:
    assert len(places(pickle)) > 15  # the others come before memo indices take four bytes
    quick, slow = both(pickle)
    assert quick == slow
    assert "layers.44.weight" in str(quick[0])  # type: ignore[index]


def test_any_flipped_bit_ends_as_it_does_one_by_one(pickle: bytes) -> None:
    seen = set()
    for match in places(pickle)[9::5]:
        for at in range(match.start() - 1, match.end()):
            for bit in (0, 1, 3, 7):
                damaged = bytearray(pickle)
                damaged[at] ^= 1 << bit
                quick, slow = both(bytes(damaged))
                assert quick == slow, (at - match.start(), bit)
                seen.add(len(quick))  # type: ignore[arg-type]
    assert seen == {2, 5}, "some are refused, some are read"


def test_a_hostile_row_of_ints_is_looked_at_once(pickle: bytes) -> None:
    """A tuple without end, after an idiom's honest start, is left to the machine, however long it is."""
    match = places(pickle)[-1]
    head = pickle[: match.start(10)]
    for body in (b"K\x01" * 200, b"(" + b"K\x01" * 100_000, b"(" + b"J\0\0\0\x01" * 65 + b"t"):
        quick, slow = both(head + body + pickle[match.end(10) :])
        assert quick == slow
