"""Loads tensors into torch, on any device.

On the CPU, a tensor is read straight into torch's memory. For a GPU, the file is read into one of two buffers of
page-locked memory while the GPU fetches the other, on a stream of its own, so that reading and copying overlap.
``tests/benchmarks/device.py`` measures the gain over torch.load and safetensors, if there is a GPU.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from ckptconv.core.arrays import TORCH_NAMES
from ckptconv.core.dtypes import DType
from ckptconv.errors import MissingExtraError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import torch

    from ckptconv.core.tensor import LazyTensor, TensorInfo

CHUNK = 32 << 20
"""The size of a buffer in bytes. A transfer of that size takes a millisecond, and some 10 µs to start."""

SMALL = 4 << 20
"""Up to this many bytes in all are copied without buffers, as locking these would take longer."""


def torch_device(device: str | torch.device) -> torch.device:
    """The device of that name. Raises MissingExtraError without torch, UsageError if there is no such device."""
    try:
        import torch
    except ModuleNotFoundError as error:
        raise MissingExtraError("torch", "verify") from error
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"torch knows no device {str(device)!r}", hint="cpu, cuda or cuda:0") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        why = "" if torch.version.cuda else f", and torch {torch.__version__} is built without CUDA"
        raise UsageError(f"there is no CUDA device here{why}", hint="--device cpu, or a machine with a GPU")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise UsageError(f"there is no device {str(device)!r}: torch sees {count}", hint="--device cuda:0")
    try:
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"torch cannot use the device {str(device)!r} here", hint="--device cpu") from error
    return found


def load_tensor(tensor: LazyTensor, device: str | torch.device = "cpu") -> torch.Tensor:
    """Load a whole tensor. Raises as `torch_device` does, and UnsupportedError for an element type that torch lacks."""
    return load_tensors([tensor], device)[0]


def load_tensors(tensors: Iterable[LazyTensor], device: str | torch.device = "cpu") -> list[torch.Tensor]:
    """Load tensors; tied ones become the same torch tensor.

    Memory on the CPU: the size of the tensors; for a GPU, two buffers of `CHUNK`. Raises as `load_tensor` does.
    """
    place, listed = torch_device(device), list(tensors)
    for tensor in listed:
        _torch_type(tensor.info)
    total = sum(tensor.info.nbytes for tensor in listed)
    if place.type == "cuda" and total > SMALL:
        with _cuda_stager(place) as stager:
            return _load_distinct(listed, lambda tensor: stager.load(tensor, place))
    return _load_distinct(listed, lambda tensor: _load_on_cpu(tensor).to(place))


def _load_distinct(tensors: list[LazyTensor], load: Callable[[LazyTensor], torch.Tensor]) -> list[torch.Tensor]:
    result: dict[object, torch.Tensor] = {}
    for position, tensor in enumerate(tensors):
        key = tensor.identity(position)
        if key not in result:
            result[key] = load(tensor)
    return [result[tensor.identity(position)] for position, tensor in enumerate(tensors)]


def _load_on_cpu(tensor: LazyTensor) -> torch.Tensor:
    import torch

    flat = torch.empty(tensor.info.nbytes, dtype=torch.uint8)
    if tensor.info.nbytes:
        _fill(tensor, 0, flat.numpy().data)
    return _shaped(flat, tensor.info)


class CopyQueue(Protocol):
    """Copies to a device, which run in order and asynchronously."""

    def buffer(self, size: int) -> torch.Tensor:
        """Allocate host memory that can be copied from."""
        ...

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> Callable[[], None]:
        """Start a copy. Returns a function that waits for it; `source` must not be written to before that returns."""
        ...


class Stager:
    """Copies tensors to a device through two alternating buffers. They are complete once `queue` has finished."""

    def __init__(self, queue: CopyQueue, chunk: int = CHUNK) -> None:
        self._queue = queue
        self._buffers = [queue.buffer(chunk), queue.buffer(chunk)]
        self._waits: list[Callable[[], None] | None] = [None, None]
        self._turn = 0

    def load(self, tensor: LazyTensor, device: torch.device) -> torch.Tensor:
        """Start copying a tensor to the device. It is complete once the queue has finished."""
        import torch

        flat = torch.empty(tensor.info.nbytes, dtype=torch.uint8, device=device)
        for start in range(0, tensor.info.nbytes, len(self._buffers[0])):
            turn, self._turn = self._turn, 1 - self._turn
            if (wait := self._waits[turn]) is not None:
                wait()
            piece = self._buffers[turn][: tensor.info.nbytes - start]
            _fill(tensor, start, piece.numpy().data)
            self._waits[turn] = self._queue.copy(flat[start : start + len(piece)], piece)
        return _shaped(flat, tensor.info)


@contextmanager
def _cuda_stager(device: torch.device) -> Iterator[Stager]:
    """A stager for a GPU. All copies are complete when the context ends, also after an exception."""
    import torch

    with torch.cuda.device(device):
        queue = _CudaQueue(device)
        try:
            yield Stager(queue)
        finally:
            queue.stream.synchronize()  # afterwards, buffers and tensors may be freed or used by other streams


class _CudaQueue:
    def __init__(self, device: torch.device) -> None:
        import torch

        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def buffer(self, size: int) -> torch.Tensor:
        import torch

        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> Callable[[], None]:
        import torch

        # the memory may have belonged to a tensor that work on the default stream still reads
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            target.copy_(source, non_blocking=True)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record(self.stream)
        return done.synchronize


def _fill(tensor: LazyTensor, start: int, view: memoryview) -> None:
    """Fill `view` with the image from `start` on."""
    span = tensor.span
    if span is not None:
        span.file.read_into(view, span.offset + start)
    else:
        view[:] = tensor.read(start, start + len(view))


def _torch_type(info: TensorInfo) -> torch.dtype:
    import torch

    name = TORCH_NAMES.get(info.dtype)
    if name is None:
        hint = "read its bytes with .read()"
        if info.dtype.kind == "block":
            hint = f"convert it with --dtype F32, which makes floats of blocks, or {hint}"
        raise UnsupportedError(f"torch has no element type for {info.dtype}", hint=hint)
    if not hasattr(torch, name):
        raise UnsupportedError(
            f"torch {torch.__version__}, which is installed, has no {name}, as later ones have",
            hint="read its bytes with .read(), or install a later torch",
        )
    found: torch.dtype = getattr(torch, name)
    return found


def _shaped(flat: torch.Tensor, info: TensorInfo) -> torch.Tensor:
    shape = info.shape
    if info.dtype is DType.F4:  # torch counts pairs of elements
        shape = (*shape[:-1], shape[-1] // 2)
    return flat.view(_torch_type(info)).reshape(shape)
