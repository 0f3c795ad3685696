"""DTensors as FSDP's and tensor parallelism's processes save them with torch.save."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

import ckptconv
from tests.support.craft import saved
from tests.support.nodes import image, load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

A = torch.arange(6.0).reshape(2, 3)


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[int]:
    """That many processes, of which this is the first and the others do not exist."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=request.param)
    yield request.param
    dist.destroy_process_group()


def distributed(world: int, placement: Any) -> DTensor:
    return DTensor.from_local(A.clone(), init_device_mesh("cpu", (world,)), [placement], run_check=False)


@pytest.mark.parametrize(
    ("world", "placement"), [(1, Shard(0)), (1, Replicate()), (4, Replicate())], indirect=["world"]
)
def test_a_tensor_of_which_the_process_has_all_is_plain(world: int, placement: Any, tmp_path: Path) -> None:
    tensor = distributed(world, placement)
    path = saved(tmp_path / "a.pth", {"w": torch.nn.Parameter(tensor), "b": A[0], "n": 3})
    loaded: Any = load(path, weights_only=False)
    assert loaded["w"].placements == (placement,)
    inspection = ckptconv.inspect(path)
    assert inspection.verdict == "plain"
    assert inspection.checkpoint.findings == ()
    with ckptconv.open(path) as checkpoint:
        assert list(checkpoint) == ["w", "b"]
        assert not checkpoint.extras
        assert bytes(checkpoint["w"].read()) == image(loaded["w"].to_local())
        assert checkpoint.notes.tensors["w"].requires_grad
    for target in ("b.safetensors", "b.pth"):
        ckptconv.convert(path, tmp_path / target)
        assert ckptconv.diff(path, tmp_path / target).equal
    back: Any = load(tmp_path / "b.pth")
    assert torch.equal(back["w"], A)


@pytest.mark.parametrize(("world", "placement"), [(4, Shard(0)), (4, Partial()), (1, Partial())], indirect=["world"])
def test_a_part_goes_by_its_own_name_and_is_reported(world: int, placement: Any, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"w": distributed(world, placement), "b": A[0]})
    inspection = ckptconv.inspect(path)
    assert inspection.verdict == "opaque"
    assert [finding.code for finding in inspection.checkpoint.findings] == ["part"]
    with ckptconv.open(path) as checkpoint:
        assert list(checkpoint) == ["w._local_tensor", "b"]
        assert bytes(checkpoint["w._local_tensor"].read()) == image(A)


@pytest.mark.parametrize("world", [1], indirect=True)
def test_what_fully_shard_makes_of_a_model_is_its_state_dict(world: int, tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    expected = {name: image(tensor) for name, tensor in model.state_dict().items()}
    fully_shard(model)
    state = {"model": model.state_dict(), "optimizer": torch.optim.Adam(model.parameters()).state_dict()}
    with ckptconv.open(saved(tmp_path / "a.pth", state)) as checkpoint:
        assert {name: bytes(tensor.read()) for name, tensor in checkpoint.items()} == expected
    assert ckptconv.inspect(tmp_path / "a.pth").verdict == "plain"


class Called:
    """Makes the pickle call the class itself."""

    def __reduce__(self) -> Any:
        return DeviceMesh, ("cpu", [0])


def test_a_mesh_that_is_called_is_reported(tmp_path: Path) -> None:
    assert b"DeviceMesh" in pickle.dumps(Called())
    assert ckptconv.inspect(saved(tmp_path / "a.pth", {"w": A, "mesh": Called()})).verdict == "would run code"
