"""Records the outputs of a network, to compare them later with another's: on another machine, in another runtime.

A recording is an .npz file of plain arrays, without pickles:

    about                    JSON: version, label, runtime, device, machine, seed, unit, weights, reason for the limits
    BATCH/input/NAME         the inputs; BATCH counts from 0
    BATCH/output/NAME        the outputs
    BATCH/reference/NAME     the outputs in float64, if there was a module that could run in it
    BATCH/limit/NAME         how far apart two correct runs may be, for each row of the last axis
    layer/NAME#TURN          the output of each layer for the batch `traced`, each time that the layer is used
    layer-limit/NAME#TURN    the limits for these
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ckptconv.checks.verify import Weight
from ckptconv.core import strict_json
from ckptconv.errors import UPGRADE, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptconv.checks.layers import Layers
    from ckptconv.core.arrays import Array, Arrays
    from ckptconv.core.report import Finding

VERSION = 1


@dataclass(slots=True)
class Batch:
    """One run: inputs and outputs; the float64 reference and the limits, or {} if there are none."""

    inputs: Arrays
    outputs: Arrays
    reference: Arrays = field(default_factory=dict)
    limits: Arrays = field(default_factory=dict)


@dataclass(slots=True)
class Recording:
    """The outputs of one network for some batches.

    label:    the file that was run.
    machine:  what two runs must have in common for their bits to be equal.
    seed:     the seed of random inputs; None if they came from a file.
    unit:     the type that was computed in, a key of `rounding.UNIT`; the limits are for it.
    reason:   where the limits come from; "" if there are none.
    weights:  the tensors that it ran with, by name.
    traced:   the number of the batch whose layers are recorded.
    findings: what was noticed during the run; not stored in the file.
    """

    label: str
    runtime: str
    device: str
    machine: str
    unit: str
    batches: list[Batch]
    seed: int | None = None
    reason: str = ""
    weights: Mapping[str, Weight] = field(default_factory=dict)
    traced: int = 0
    layers: Layers = field(default_factory=dict)
    layer_limits: Layers = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<Recording {self.label}: {self.runtime} on {self.device}, {len(self.batches)} batches>"

    def to_bytes(self) -> bytes:
        """The recording as a file. Equal recordings give equal bytes."""
        import numpy as np

        about = {
            "version": VERSION, "label": self.label, "runtime": self.runtime, "device": self.device,
            "machine": self.machine, "seed": self.seed, "unit": self.unit, "reason": self.reason,
            "weights": {name: list(weight) for name, weight in self.weights.items()}, "traced": self.traced,
        }  # fmt: skip
        arrays: dict[str, Array] = {"about": np.array(json.dumps(about))}
        for number, batch in enumerate(self.batches):
            for role in ("inputs", "outputs", "reference", "limits"):
                word = role.removesuffix("s")
                arrays |= {f"{number}/{word}/{name}": array for name, array in getattr(batch, role).items()}
        for word, layers in (("layer", self.layers), ("layer-limit", self.layer_limits)):
            arrays |= {f"{word}/{name}": array for name, array in layers.items()}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        return buffer.getvalue()


def recording_of(about: str, arrays: Mapping[str, Array]) -> Recording:
    """Read a recording from the text and the arrays of its file.

    Raises UnsupportedError for a newer version, and ValueError, KeyError and the like if they do not fit together.
    """
    document = strict_json.loads(about)
    version = document["version"]
    if version != VERSION:
        raise UnsupportedError(f"it is of version {version}, and this ckptconv reads {VERSION}", hint=UPGRADE)
    return _parse(document, arrays)


def _parse(about: Mapping[str, Any], arrays: Mapping[str, Array]) -> Recording:
    from ckptconv.checks.rounding import UNIT

    batches: list[Batch] = []
    layers: dict[str, Layers] = {"layer": {}, "layer-limit": {}}
    for key, array in arrays.items():
        first, rest = key.split("/", 1)
        if first in layers:
            layers[first][rest] = array
            int(rest.rpartition("#")[2])
            continue
        number, (second, name) = int(first), rest.split("/", 1)
        if number == len(batches):
            batches.append(Batch({}, {}))
        role = {"input": "inputs", "output": "outputs", "limit": "limits"}.get(second, second)
        if not 0 <= number < len(batches) or role not in Batch.__slots__:
            raise ValueError(f"{key!r} is out of order")
        if role != "outputs" and array.dtype.kind == "U":
            raise ValueError(f"{key!r} is text")
        getattr(batches[number], role)[name] = array
    if not batches or about["unit"] not in UNIT:
        raise ValueError("no batch, or an unknown arithmetic")
    label, runtime, device, machine, unit, reason = (
        _text(about[key]) for key in ("label", "runtime", "device", "machine", "unit", "reason")
    )
    return Recording(
        label, runtime, device, machine, unit, batches, reason=reason, seed=about["seed"],
        weights={name: _weight(row) for name, row in about["weights"].items()},
        traced=range(len(batches))[about["traced"]], layers=layers["layer"], layer_limits=layers["layer-limit"],
    )  # fmt: skip


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _weight(row: Sequence[Any]) -> Weight:
    dtype, shape, content = row
    return Weight(_text(dtype), tuple(int(dim) for dim in shape), _text(content))
