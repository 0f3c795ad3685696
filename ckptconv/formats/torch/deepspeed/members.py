"""The model's state_dict: the joined tensors, with the names and in the order of the module's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.report import Finding
from ckptconv.core.text import quoted
from ckptconv.formats.torch.values.stubs import TensorStub

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.formats.torch.deepspeed.reading import Reading
    from ckptconv.formats.torch.deepspeed.states import ModelStates
    from ckptconv.formats.torch.pickle import Value


def members(
    reading: Reading, model: ModelStates, held: Mapping[str, TensorStub], *, whole: bool = True
) -> dict[str, Value]:
    """The state_dict: the tensors that are `held`, in place of the module's own of the same name, and the rest of
    `held` at the end.

    `whole`: the module's own tensors have the same shapes. Raises CorruptFileError if the two contradict each other.
    """
    held = {**held, **_shared(model, held)}
    found: dict[str, Value] = {}
    absent = []
    for key, value in model.module.items():
        if key in held:
            if whole:
                _check_like(model, key, value, held[key])
            found[key] = held[key]
        elif _is_emptied(model, key, value):
            absent.append(key)
        else:
            found[key] = value
    if absent:
        message = f"{quoted(absent, 1)} of the module were emptied, and their values saved nowhere"
        reading.findings.append(Finding("no-values", "warning", absent[0], message))
    return found | {key: value for key, value in held.items() if key not in found}


def _is_emptied(model: ModelStates, key: Value, value: Value) -> bool:
    """Whether a tensor of the module is a parameter that stage 3 has emptied."""
    return model.divided and key not in model.buffers and isinstance(value, TensorStub) and value.shape == (0,)


def _shared(model: ModelStates, held: Mapping[str, TensorStub]) -> dict[str, TensorStub]:
    """Further names of parameters, by ``shared_params``, where all parameters without elements count as one."""
    shared: dict[str, TensorStub] = {}
    for name, stored in model.shared.items():
        stub, own = held.get(stored), held.get(name)
        if stub is None or (own is not None and 0 in own.shape):
            continue
        if own is not None and own.shape != stub.shape:
            raise model.file.error(f"its shared_params say that {name!r} is {stored!r}, and they have other shapes")
        shared[name] = stub
    return shared


def _check_like(model: ModelStates, name: str, value: Value, stub: TensorStub) -> None:
    """Check that the module's own tensor, if it was not emptied, has the shape in param_shapes."""
    if isinstance(value, TensorStub) and not _is_emptied(model, name, value) and value.shape != stub.shape:
        raise model.file.error(
            f"its param_shapes say that {name!r} is {list(stub.shape)}, and its module has {list(value.shape)}"
        )
