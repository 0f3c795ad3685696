"""Nets of skorch's: the module that was fitted is the model, which their pickle has in bytes of its own."""

from __future__ import annotations

import io
import os
import pickle
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import ckptconv
from ckptconv.errors import CkptconvError, CorruptFileError
from ckptconv.formats.torch.containers.embedded import KEY
from tests.support.nodes import image

if TYPE_CHECKING:
    from collections.abc import Callable

NETS = Path(__file__).parents[4] / "fixtures" / "others" / "skorch"
FILES = ["net.pkl", "net.pth", "pipeline.pkl"]


def read_by_skorch(file: str) -> dict[str, np.ndarray]:
    with np.load(NETS / "read.npz") as read:
        return {name.partition("|")[2]: read[name] for name in read if name.startswith(f"{file}|")}


@pytest.mark.parametrize("file", FILES)
def test_the_model_is_what_the_fitted_module_holds(file: str, tmp_path: Path) -> None:
    expected = read_by_skorch(file)
    with ckptconv.open(NETS / file) as checkpoint:
        assert list(checkpoint) == list(expected)
        for name, array in expected.items():
            found = checkpoint[name].numpy()
            assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())
    assert ckptconv.inspect(NETS / file).verdict == "opaque"
    for target in ("x.safetensors", "x.pth"):
        ckptconv.convert(NETS / file, tmp_path / target, bare=True)
        assert ckptconv.open(tmp_path / target).keys() == expected.keys()


def test_the_optimizer_s_tensors_are_extras() -> None:
    with ckptconv.open(NETS / "net.pkl") as checkpoint:
        momenta = [name for name in checkpoint.extras if name.endswith(".momentum_buffer")]
        assert len(momenta) == 6
        assert checkpoint.tied_to["state.optimizer_.state.param_groups.0.params.0"] == "hidden.weight"


def test_long_runs_of_bytes_stay_in_the_file() -> None:
    with ckptconv.open(NETS / "net.pkl") as checkpoint:
        span: Any = checkpoint["hidden.weight"].span
        assert span is not None
        assert span.file is checkpoint.file


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], bytes]:
    """A pickle of what stands for skorch's class, with these bytes in it."""
    module = types.ModuleType("skorch.net")
    kind = type("NeuralNet", (), {"__module__": "skorch.net"})
    module.NeuralNet = kind  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "skorch", types.ModuleType("skorch"))
    monkeypatch.setitem(sys.modules, "skorch.net", module)

    def made(data: bytes) -> bytes:
        one = kind()
        one.__dict__.update({"module": None, KEY: data})
        return pickle.dumps(one)

    return made


def by_torch(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


LINEAR = torch.nn.Linear(30, 20)


@pytest.mark.parametrize("wrap", [pickle.dumps, by_torch], ids=["pickle", "torch.save"])
@pytest.mark.parametrize("save", [bytes, lambda data: by_torch(pickle.loads(data))], ids=["pickle", "torch.save"])
def test_either_form_of_the_bytes_is_read_in_either_container(
    wrap: Callable[[object], bytes], save: Callable[[bytes], bytes], net: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(save(net(wrap({"module_": LINEAR, "epoch_": 3}))))
    with ckptconv.open(tmp_path / "a") as checkpoint:
        assert {name: bytes(tensor.read()) for name, tensor in checkpoint.items()} == {
            name: image(tensor) for name, tensor in LINEAR.state_dict().items()
        }
    ckptconv.convert(tmp_path / "a", tmp_path / "b.safetensors", bare=True)


class Called:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


@pytest.mark.parametrize("wrap", [pickle.dumps, by_torch], ids=["pickle", "torch.save"])
def test_calls_in_the_bytes_are_reported(
    wrap: Callable[[object], bytes], net: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(net(wrap({"module_": LINEAR, "criterion_": Called()})))
    inspection = ckptconv.inspect(tmp_path / "a")
    assert inspection.verdict == "would run code"
    assert any(
        use.name == f"{os.system.__module__}.system" and use.called for use in inspection.checkpoint.notes.globals
    )


@pytest.mark.parametrize("data", [b"", b"nothing of this", pickle.dumps([1, 2]), by_torch({1: 2})])
def test_other_bytes_stay_bytes(data: bytes, net: Callable[[bytes], bytes], tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(net(data))
    with ckptconv.open(tmp_path / "a") as checkpoint:
        assert not checkpoint
        root: Any = checkpoint.root
        assert root.state[KEY] == data


@pytest.mark.parametrize("wrap", [pickle.dumps, by_torch], ids=["pickle", "torch.save"])
def test_bytes_that_are_cut_or_changed_are_refused_or_reported(
    wrap: Callable[[object], bytes], net: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    data = wrap({"module_": torch.nn.Linear(2, 1)})
    for size in range(5, len(data) - 1, 7):
        (tmp_path / "a").write_bytes(net(data[:size]))
        with pytest.raises(CorruptFileError):
            ckptconv.open(tmp_path / "a")
    for at in range(0, len(data), 5):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        (tmp_path / "a").write_bytes(net(bytes(changed)))
        try:
            with ckptconv.open(tmp_path / "a") as checkpoint:
                for tensor in checkpoint.all_tensors.values():
                    assert len(tensor.read()) == tensor.info.nbytes
        except CkptconvError:
            continue
