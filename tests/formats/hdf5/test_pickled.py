"""tianshou's replay buffers: HDF5 with pickles in it, which loading unpickles."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import ckptconv
from ckptconv.formats.hdf5 import pickled


class Call:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("/nowhere/file"),)


def buffer(path: Path, value: object, kind: str = "RandomState") -> Path:
    """A file as ReplayBuffer.save_hdf5 writes it, with a value that is no array."""
    with h5py.File(path, "w") as file:
        file.attrs["maxsize"] = 3
        file.create_dataset("rew", data=np.arange(3.0)).attrs["__data_type__"] = "ndarray"
        file.create_dataset("other", data=value).attrs["__data_type__"] = kind
    return path


def as_bytes(data: bytes) -> np.ndarray[Any, Any]:
    return np.frombuffer(data, np.int8)


def test_a_pickle_is_bytes_and_what_it_makes_is_shown(tmp_path: Path) -> None:
    path = buffer(tmp_path / "a.hdf5", as_bytes(pickle.dumps(np.random.RandomState(0))))
    with ckptconv.open(path) as checkpoint:
        assert list(checkpoint) == ["rew"]
        assert checkpoint.metadata["other_"] == pickle.dumps(np.random.RandomState(0))
    found = ckptconv.inspect(path)
    assert found.verdict == "opaque"
    assert "numpy.random._pickle.__randomstate_ctor" in {use.name for use in found.globals}
    for name in ("b.h5", "b.safetensors"):
        ckptconv.convert(path, tmp_path / name)
        assert ckptconv.diff(path, tmp_path / name).equal


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("as_text", [False, True])
def test_code_in_it_would_run(protocol: int, *, as_text: bool, tmp_path: Path) -> None:
    data = pickle.dumps(Call(), protocol)
    value = data.decode("ascii") if as_text and not protocol else as_bytes(data)
    assert ckptconv.inspect(buffer(tmp_path / "a.hdf5", value)).verdict == "would run code"


def test_an_array_is_one_whatever_it_holds(tmp_path: Path) -> None:
    with ckptconv.open(buffer(tmp_path / "a.hdf5", as_bytes(pickle.dumps(1)), "ndarray")) as checkpoint:
        assert list(checkpoint) == ["other", "rew"]


def test_pickles_beyond_the_limit_are_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = buffer(tmp_path / "a.hdf5", as_bytes(pickle.dumps(list(range(100)))))
    assert ckptconv.inspect(path).verdict == "plain"
    monkeypatch.setattr(pickled, "MOST", 100)
    assert ckptconv.inspect(path).verdict == "would run code"
