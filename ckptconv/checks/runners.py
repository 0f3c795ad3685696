"""The interface of runners: `torch_runner` runs weights in a module, `onnx_runner` a graph in onnxruntime.

A runner takes arrays by input name and returns arrays by output name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptconv.arch.samples import InputSpec
    from ckptconv.checks.layers import Layers
    from ckptconv.core.arrays import Array, Arrays


class Runner(Protocol):
    """Something that computes outputs.

    unit: the type that it computes in, a key of `rounding.UNIT`.
    """

    label: str
    runtime: str

    @property
    def unit(self) -> str: ...

    @property
    def inputs(self) -> Sequence[InputSpec]:
        """Its inputs, in order."""
        ...

    def run(self, feeds: Mapping[str, Array]) -> Arrays:
        """Compute the outputs, by name. `feeds` has the inputs in order; their names need not be this runner's."""
        ...

    def trace(self, feeds: Mapping[str, Array]) -> Layers:
        """Compute the output of every layer. All of them are in memory together."""
        ...


def check_device(device: str) -> None:
    """Raise MissingExtraError without torch, UsageError if the device does not exist."""
    from ckptconv.core.device import torch_device

    torch_device(device)


def machine(device: str, runtime: str) -> str:
    """What two runs must have in common for their bits to be equal."""
    import torch

    if runtime != "torch":
        import onnxruntime

        return f"onnxruntime {onnxruntime.__version__}"
    if device != "cpu":
        return f"torch {torch.__version__}, {torch.cuda.get_device_name(device)}"
    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
