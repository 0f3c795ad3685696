"""The memo of our pickle machine beside CPython's: indices in turn, out of turn, far away, put twice, never put."""

from __future__ import annotations

import pickle
import random

import pytest

from ckptconv.errors import CorruptFileError
from ckptconv.formats.torch.pickle import Machine
from ckptconv.formats.torch.values.construct import TorchConstructors


def program(seed: int) -> bytes:
    """A list of small numbers, each put into the memo somewhere, and of some that are fetched again."""
    choose = random.Random(seed)
    most = choose.choice([3, 12, 300])
    code = bytearray(b"\x80\x04]")
    for value in range(choose.randrange(1, 20)):
        index = choose.choice([value, value, choose.randrange(most)])
        code += b"K%c" % value + choose.choice([b"\x94", b"r" + index.to_bytes(4, "little"), b"p%d\n" % index]) + b"a"
        if choose.random() < 0.6:
            index = choose.randrange(value + 2)
            code += choose.choice([b"j" + index.to_bytes(4, "little"), b"g%d\n" % index]) + b"a"
    return bytes(code + b".")


def test_the_memo_is_that_of_cpython() -> None:
    fetched = failed = 0
    for seed in range(3000):
        code = program(seed)
        try:
            expected = pickle.loads(code)
        except pickle.UnpicklingError:
            failed += 1
            with pytest.raises(CorruptFileError):
                Machine(code, TorchConstructors()).run()
        else:
            fetched += 1
            assert Machine(code, TorchConstructors()).run() == expected, code
    assert min(fetched, failed) > 300


@pytest.mark.parametrize("code", [b"K\x01g-1\n0.", b"K\x01q\x00g-1\n0.", b"K\x01q\x00g1\n0.", b"K\x01q\x00h\x01."])
def test_what_is_not_in_the_memo_is_not_fetched(code: bytes) -> None:
    with pytest.raises(CorruptFileError):
        Machine(code, TorchConstructors()).run()


def test_a_huge_index_takes_no_memory() -> None:
    assert Machine(b"K\x01r\xff\xff\xff\xff0j\xff\xff\xff\xff.", TorchConstructors()).run() == 1
