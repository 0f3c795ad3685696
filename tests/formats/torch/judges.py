"""What the tests of torch's read-only containers share: torch's own view of a file, and ties as torch has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ckptconv
from ckptconv.formats import registry
from ckptconv.testing.damage import Judge, Reading
from tests.support.nodes import image

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import torch

    from ckptconv.core.checkpoint import Checkpoint


def assert_same_tensors(checkpoint: Checkpoint, expected: Mapping[str, torch.Tensor]) -> None:
    """Names in their order, element types, shapes, bits, and which names share one tensor."""
    assert list(checkpoint) == list(expected)
    for name, tensor in expected.items():
        found = checkpoint[name].to_torch()
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape), name
        assert bytes(checkpoint[name].read()) == image(tensor), name
    assert [names for names in checkpoint.ties if set(names) <= set(checkpoint)] == ties(expected)


def ties(tensors: Mapping[str, torch.Tensor]) -> list[list[str]]:
    groups: dict[object, list[str]] = {}
    for name, tensor in tensors.items():
        if tensor.numel():
            place = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
            groups.setdefault((place, tensor.is_conj(), tensor.is_neg()), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def assert_damage_is_noticed(
    path: Path, format: str, reference: Callable[[Path], Reading | None], *, every: int = 1
) -> None:
    """Every truncation, and each bit of headers flipped (of every `every`-th byte): refused, or read as torch does.

    Zeros that fill up a block or a record are left as they are.
    """
    whole = path.read_bytes()
    judge = Judge(registry.by_name(format), path, reference)
    judge.truncations()
    judge.bit_flips([at for at in judge.header_bytes(path) if whole[at]][::every])
    assert not judge.verdicts.failures, judge.verdicts.text()
    assert judge.verdicts.refused


def assert_detected_whatever_its_name(path: Path, format: str) -> None:
    for name in ("x.safetensors", "x.onnx", "x"):
        copy = path.with_name(name)
        copy.write_bytes(path.read_bytes())
        with ckptconv.open(copy) as checkpoint:
            assert checkpoint.format == format
