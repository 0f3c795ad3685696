"""The opcodes of a tensor followed as one do what they do one by one, also where they were tampered with."""

from __future__ import annotations

import random
import re
import zipfile
from typing import TYPE_CHECKING

import pytest
import torch

from ckptconv.errors import CkptconvError
from ckptconv.formats.torch.construct import TorchConstructors
from ckptconv.formats.torch.pickle import Machine, machine
from ckptconv.formats.torch.pickle.tensors import tensor_at

if TYPE_CHECKING:
    from pathlib import Path

    from ckptconv.formats.torch.pickle.tensors import Said

SHAPES = [(3,), (2, 3), (70_000, 1), (2, 300, 4), (0,), (1, 2, 3, 4), (1, 1, 2, 1, 2), (1,) * 30]
DTYPES = [torch.float32, torch.bfloat16, torch.int64, torch.bool]
TRIES = 2000


@pytest.fixture(scope="module")
def pickled(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The pickle of enough tensors that most are memoised beyond the first 256 places; some are views, some trainable.
    Each takes eight places; views of one storage take its key from the memo, and a scalar has no sizes.
    """
    path: Path = tmp_path_factory.mktemp("opcodes") / "a.pth"
    whole = torch.zeros(40, 30)
    state = {f"layer.{i}.weight": torch.zeros(SHAPES[i % 8], dtype=DTYPES[i % 3]) for i in range(60)}
    state |= {f"view.{i}": whole[i:, 2:].t() for i in range(3)}
    state |= {f"trained.{i}": torch.ones(2, i, requires_grad=True) for i in range(5)} | {"scalar": torch.tensor(1.0)}
    torch.save(state, path)
    with zipfile.ZipFile(path) as archive:
        return archive.read("a/data.pkl")


def follow(data: bytes) -> str:
    """All that a machine makes of a pickle, as text; byte positions of errors left out."""
    run = Machine(data, TorchConstructors())
    try:
        value = run.run()
    except CkptconvError as error:
        return re.sub(r"byte \d+", "byte N", f"{type(error).__name__}: {error.message}")
    return repr((value, run._memo, run.globals, run.things))


class Counted:
    """`tensor_at`, which counts how often it recognises a tensor; or one that never does."""

    def __init__(self, *, blind: bool = False) -> None:
        self.blind, self.count = blind, 0

    def __call__(self, data: bytes, pos: int) -> Said | None:
        found = None if self.blind else tensor_at(data, pos)
        self.count += found is not None
        return found


def both(data: bytes, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str, int]:
    counted = Counted()
    monkeypatch.setattr(machine, "tensor_at", counted)
    at_once = follow(data)
    monkeypatch.setattr(machine, "tensor_at", Counted(blind=True))
    return at_once, follow(data), counted.count


def test_every_tensor_beyond_the_first_memo_places_is_recognised(
    pickled: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once, one_by_one, count = both(pickled, monkeypatch)
    assert at_once == one_by_one
    assert count >= 60 + 1 + 5 - 256 // 8


def test_what_was_tampered_with_is_followed_the_same(pickled: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    dice, recognised, readable = random.Random(5), 0, 0
    for _ in range(TRIES):
        data = bytearray(pickled)
        for _ in range(dice.randint(1, 3)):
            at = dice.randrange(len(data))
            if dice.random() < 0.5:
                data[at] = dice.choice(pickled)
            else:  # a piece from elsewhere, so that whole opcodes change places
                start, length = dice.randrange(len(data)), dice.randint(1, 40)
                data[at : at + length] = pickled[start : start + length]
        at_once, one_by_one, count = both(bytes(data), monkeypatch)
        assert at_once == one_by_one
        recognised += count
        readable += "Error" not in one_by_one[:40]
    assert recognised > TRIES * 10
    assert readable > TRIES / 100


def test_an_index_that_is_put_and_taken_in_one_tensor_is_not_recognised(
    pickled: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device of one tensor is then the key that its own opcodes have just put into the memo."""
    key = re.compile(rb"X.\0{3}[0-9]{2}r(.{4})h(.)", re.DOTALL).search(pickled)
    assert key is not None
    data = pickled[: key.start(2) - 1] + b"j" + key[1] + pickled[key.end(2) :]
    at_once, one_by_one, count = both(data, monkeypatch)
    assert at_once == one_by_one
    assert f"device='{key[0][5:7].decode()}'" in one_by_one
    assert count == both(pickled, monkeypatch)[2] - 1
