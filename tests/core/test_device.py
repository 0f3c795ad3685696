"""Tensors on a device: what arrives is what the file holds, and a buffer is never written to while it is fetched."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
import torch

import ckptconv
from ckptconv.core import device as device_module
from ckptconv.core.arrays import TORCH_NAMES
from ckptconv.core.device import Stager, load_tensors, torch_device
from ckptconv.errors import MissingExtraError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool,
          torch.complex64, torch.float8_e4m3fn]  # fmt: skip


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    made = {str(dtype): torch.randint(0, 2, (17, 3)).to(dtype) for dtype in DTYPES}
    made |= {"scalar": torch.tensor(3.5), "empty": torch.zeros(0, 4), "turned": torch.randn(300, 70).T}
    made["large"] = torch.randn(3000, 1000)
    made["tied"] = made["large"]
    return made


@pytest.fixture(params=[".pth", ".safetensors"])
def saved(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    torch.save(state(), tmp_path / "a.pth")
    if request.param == ".safetensors":
        ckptconv.convert(tmp_path / "a.pth", tmp_path / "a.safetensors")
    return tmp_path / f"a{request.param}"


def same(found: dict[str, torch.Tensor], device: str) -> None:
    for name, expected in state().items():
        assert found[name].device.type == device
        assert found[name].dtype is expected.dtype
        assert found[name].shape == expected.shape
        ours, theirs = (t.contiguous().reshape(-1).view(torch.uint8) for t in (found[name].cpu(), expected))
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_a_whole_checkpoint_is_a_state_dict_with_its_ties(saved: Path, device: str) -> None:
    with ckptconv.open(saved) as checkpoint:
        found = checkpoint.to_torch(device)
        assert list(found) == list(checkpoint) == list(state())
        same(found, device)
        assert found["tied"] is found["large"]
        same({name: tensor.to_torch(device) for name, tensor in checkpoint.items()}, device)
    module = torch.nn.Linear(1000, 3000, bias=False, device=device)
    module.load_state_dict({"weight": found["large"]}, strict=True)


class LateQueue:
    """A device that starts each copy as late as it may: when it is waited for, or at the end.

    What a real one reads is then whatever lies in the buffer by that time.
    """

    def __init__(self) -> None:
        self.pending: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.copies = self.most = 0

    def buffer(self, size: int) -> torch.Tensor:
        return torch.full((size,), 0xAB, dtype=torch.uint8)

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> Callable[[], None]:
        self.pending.append((target, source))
        self.copies += 1
        self.most = max(self.most, len(self.pending))
        number = self.copies

        def wait() -> None:
            while self.copies - len(self.pending) < number:
                self.step()

        return wait

    def step(self) -> None:
        target, source = self.pending.pop(0)
        target.copy_(source)

    def finish(self) -> None:
        while self.pending:
            self.step()


@pytest.mark.parametrize("chunk", [16, 1000, 4096, 1 << 20])
def test_no_buffer_is_filled_while_it_is_fetched(saved: Path, chunk: int) -> None:
    queue = LateQueue()
    stager = Stager(queue, chunk)
    with ckptconv.open(saved) as checkpoint:
        names = [name for name in checkpoint if chunk >= 1000 or checkpoint[name].info.nbytes < 10_000]
        found = {name: stager.load(checkpoint[name], torch.device("cpu")) for name in names}
        pieces = sum(-(-checkpoint[name].info.nbytes // chunk) for name in names)
    queue.finish()
    assert queue.copies == pieces
    assert queue.most == 2  # both buffers are on their way at once, and never more
    same({**state(), **found}, "cpu")


def test_a_device_that_is_not_there_is_an_error_with_a_hint(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ckptconv.open(saved) as checkpoint:
        with pytest.raises(UsageError, match="knows no device 'warp'") as caught:
            checkpoint.to_torch("warp")
        assert caught.value.hint
        if not torch.cuda.is_available():
            with pytest.raises(UsageError, match="no CUDA device") as caught:
                checkpoint["scalar"].to_torch("cuda")
            assert "cpu" in (caught.value.hint or "")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        with pytest.raises(UsageError, match="torch sees 1"):
            torch_device("cuda:3")
        monkeypatch.setitem(sys.modules, "torch", None)
        with pytest.raises(MissingExtraError) as missing:
            checkpoint.to_torch()
        assert "ckptconv[verify]" in (missing.value.hint or "")


def test_an_element_type_that_torch_lacks_is_refused_before_anything_is_read(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ckptconv.open(saved) as checkpoint:
        kept = {k: v for k, v in TORCH_NAMES.items() if k is not checkpoint["scalar"].info.dtype}
        monkeypatch.setattr(device_module, "TORCH_NAMES", kept)
        with pytest.raises(UnsupportedError, match="no element type for F32"):
            load_tensors(checkpoint.values())
