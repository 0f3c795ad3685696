"""Storages that stand by themselves, without a tensor to view them: their elements are read, their class is data."""

from __future__ import annotations

import pickle
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

import ckptconv
from ckptconv.core.metadata import Opaque
from ckptconv.errors import CorruptFileError, LossError
from tests.support.craft import FOUR_FLOATS, archive, bare_storage, saved, state_dict, tensor

if TYPE_CHECKING:
    from pathlib import Path

UNTYPED = torch.tensor([1, 2, 250], dtype=torch.uint8).untyped_storage()


def typed(*values: float, dtype: torch.dtype = torch.float32) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would rather have no such storages
        return torch.tensor(values, dtype=dtype).storage()


def elements(path: Path) -> dict[str, list[float]]:
    with ckptconv.open(path) as checkpoint:
        return {name: tensor.numpy().tolist() for name, tensor in checkpoint.all_tensors.items()}


@pytest.mark.parametrize("zipped", [True, False])
def test_beside_a_state_dict_they_are_extras(tmp_path: Path, zipped: bool) -> None:
    value = {"w": torch.ones(2), "bytes": UNTYPED, "more": [typed(1.5, -2.0), typed(7, dtype=torch.int64)]}
    path = tmp_path / "a.pth"
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    assert elements(path) == {"w": [1, 1], "bytes": [1, 2, 250], "more.0": [1.5, -2.0], "more.1": [7]}
    found = ckptconv.inspect(path)
    assert [use.node.name for use in found.opaque] == [
        "torch.storage.UntypedStorage", "torch.FloatStorage", "torch.LongStorage"
    ]  # fmt: skip
    assert found.verdict == "opaque"
    assert list(found.checkpoint) == ["w"]


@pytest.mark.parametrize("root", [UNTYPED, typed(1, 2, 250)])
def test_one_alone_is_the_only_tensor(tmp_path: Path, root: Any) -> None:
    path, target = saved(tmp_path / "a.pth", root), tmp_path / "b.safetensors"
    ckptconv.convert(path, target, bare=True)
    assert load_file(target)["tensor"].tolist() == root.tolist() == [1, 2, 250]


def test_a_pth_of_one_asks_for_consent_and_a_record_keeps_it(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"w": torch.ones(2), "s": typed(3.0)})
    with pytest.raises(LossError) as refused:
        ckptconv.convert(path, tmp_path / "b.pth")
    assert [loss.message for loss in refused.value.losses] == [
        "s is a torch.FloatStorage, which would become a plain dict"
    ]
    ckptconv.convert(path, tmp_path / "b.pth", allow_loss="opaque")
    assert torch.load(tmp_path / "b.pth")["s"]["args"][0].tolist() == [3.0]
    ckptconv.convert(path, tmp_path / "b.safetensors")
    with ckptconv.open(tmp_path / "b.safetensors") as back:
        kept = back.metadata["s"]
        assert isinstance(kept, Opaque)
        assert kept.name == "torch.FloatStorage"
        assert back.extras["s"].numpy().tolist() == [3.0]
    assert ckptconv.diff(path, tmp_path / "b.safetensors").equal


def test_the_storage_of_a_tensor_is_tied_to_it_where_both_are_of_one_type(tmp_path: Path) -> None:
    one, other = torch.tensor([1.0, 2.0]), torch.tensor([1, 256], dtype=torch.uint16)
    path = saved(tmp_path / "a.pth", {"w": one, "f": typed_of(one), "u": other, "b": other.untyped_storage()})
    with ckptconv.open(path) as checkpoint:
        assert checkpoint.ties == [["w", "f"]]
    assert elements(path) == {"w": [1, 2], "u": [1, 256], "f": [1, 2], "b": [1, 0, 0, 1]}
    ckptconv.convert(path, tmp_path / "b.pth", allow_loss="opaque")
    assert elements(tmp_path / "b.pth") == {"w": [1, 2], "u": [1, 256], "f.args.0": [1, 2], "b.args.0": [1, 0, 0, 1]}


def typed_of(tensor: torch.Tensor) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tensor.storage()


def test_in_a_bare_pickle(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"w": torch.ones(1), "s": typed(4.0), "u": UNTYPED}))
    assert elements(path) == {"w": [1], "s": [4], "u": [1, 2, 250]}


def test_a_length_that_is_not_the_records_is_reported(tmp_path: Path) -> None:
    pickled = state_dict(w=tensor(), s=bare_storage("1", 5))
    path = archive(tmp_path / "x.pth", pickled, {"0": FOUR_FLOATS, "1": FOUR_FLOATS})
    with pytest.raises(CorruptFileError, match="tensor 's': its storage has 16 bytes, and the pickle says 20"):
        ckptconv.open(path)
