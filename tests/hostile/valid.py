"""Honest files that `torch.load(weights_only=True)` refuses, and names that are only odd."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import io
import ipaddress
import pathlib
import random
import re
import sys
import types
import uuid
import zoneinfo
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from omegaconf import OmegaConf

from tests.hostile.cases import Case, beside, checkpoint
from tests.support.craft import FOUR_FLOATS, state_dict, tensor, text

if TYPE_CHECKING:
    from collections.abc import Iterator

OK = (0, 0, 0, 0)


class _Package(types.ModuleType):
    """A package that is there while a file is made, and gone when it is read."""


def _home(module: str) -> types.ModuleType:
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        sys.modules.setdefault(".".join(parts[:end]), _Package(".".join(parts[:end])))
    return sys.modules[module]


def _class(module: str, name: str, *bases: type, **members: object) -> type:
    made = type(name, bases, {"__module__": module, **members})
    setattr(_home(module), name, made)
    return made


def _object(module: str, name: str, *bases: type, **state: object) -> object:
    made = _class(module, name, *bases)()
    made.__dict__.update(state)
    return made


def _forget() -> None:
    for name in [name for name, module in sys.modules.items() if isinstance(module, _Package)]:
        del sys.modules[name]


def _by_getattr(self: enum.Enum, protocol: int) -> tuple[object, ...]:
    return getattr, (type(self), self._name_)  # as Python 3.11 does


@cache
def _enum(kind: Any) -> Any:
    name = f"{kind.__name__}Colour"
    made = kind(name, {"RED": 1, "BLUE": 2}, module="someones.colours")
    made.__reduce_ex__ = _by_getattr
    vars(_home("someones.colours"))[name] = made
    return made.RED


def _dataclass(name: str, *, frozen: bool, slots: bool) -> object:
    made = dataclasses.make_dataclass(name, [("width", int), ("name", str)], frozen=frozen, slots=slots)
    made.__module__ = "someones.config"
    vars(_home("someones.config"))[name] = made
    return made(3, "x")


def _namedtuple() -> object:
    Point = collections.namedtuple("Point", "x y", module="someones.points")
    vars(_home("someones.points"))["Point"] = Point
    return Point(1, 2)


def _lightning(weights: dict[str, torch.Tensor]) -> dict[str, object]:
    hyper = _class("lightning.fabric.utilities.data", "AttributeDict", dict)(lr=0.1, path=pathlib.PurePosixPath("/x"))
    progress = {"total": {"ready": 4, "completed": 4}, "current": {"ready": 4, "completed": 4}}
    callbacks = {
        "ModelCheckpoint{'monitor': 'loss'}": {
            "best_model_path": pathlib.PurePosixPath("/runs/best.ckpt"),
            "best_k_models": {},
            "best_model_score": torch.tensor(0.1),
        }
    }
    return {
        "epoch": 3, "global_step": 100, "pytorch-lightning_version": "2.4.0", "state_dict": weights,
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": progress}},
        "callbacks": callbacks, "hyper_parameters": hyper, "datamodule_hyper_parameters": argparse.Namespace(batch=32),
        "optimizer_states": [{"state": {0: {"step": torch.tensor(4.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}],
    }  # fmt: skip


def _omegaconf() -> object:
    return OmegaConf.create({"width": 3, "deep": {"sizes": [1, 2]}})


def plain_values() -> dict[str, object]:
    """What we have types of our own for."""
    return {
        "numpy.float64": np.float64(0.1),
        "numpy.int64": np.int64(7),
        "numpy.bool_": np.bool_(True),
        "a numpy array": np.arange(6.0).reshape(2, 3),
        "a numpy array in Fortran's order": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "a numpy array of text": np.array(["a", "bc"]),
        "numpy's random state": np.random.RandomState(0).get_state(),
        "frozenset": frozenset([1, 2]),
        "defaultdict(list)": collections.defaultdict(list, {"a": [1]}),
        "defaultdict(int)": collections.defaultdict(int, {"a": 1}),
        "defaultdict of None": collections.defaultdict(None, {"a": 1}),
    }


def opaque_values() -> dict[str, object]:
    """What is kept as data."""
    return {
        "pathlib": pathlib.PurePosixPath("/runs/1"),
        "a path of this machine": pathlib.Path("runs"),
        "a Windows path": pathlib.PureWindowsPath("C:/runs"),
        "datetime": datetime.datetime(2020, 1, 2, 3, 4, tzinfo=datetime.UTC),
        "date": datetime.date(2020, 1, 2),
        "timedelta": datetime.timedelta(hours=3),
        "decimal": decimal.Decimal("1.5"),
        "fraction": fractions.Fraction(1, 3),
        "uuid": uuid.UUID(int=5),
        "ipaddress": ipaddress.ip_address("127.0.0.1"),
        "a pattern": re.compile("layers\\.(\\d+)"),
        "range": range(3),
        "slice": slice(1, 2),
        "deque": collections.deque([1, 2], 5),
        "Namespace": argparse.Namespace(lr=0.1, layers=[1, 2]),
        "SimpleNamespace": types.SimpleNamespace(lr=0.1),
        "enum": _enum(enum.Enum),
        "IntEnum": _enum(enum.IntEnum),
        "Flag": _enum(enum.Flag),
        "an enum as a key": {_enum(enum.Enum): 1},
        "dataclass": _dataclass("Config", frozen=False, slots=False),
        "frozen dataclass with slots": _dataclass("Frozen", frozen=True, slots=True),
        "namedtuple": _namedtuple(),
        "a numpy array of objects": np.array([None, {"a": 1}], dtype=object),
        "datetime64": np.array(["2020-01-02"], dtype="datetime64[D]"),
        "a structured array": np.zeros(2, dtype=[("a", "<f4"), ("b", "<i8")]),
        "numpy's generator": np.random.default_rng(0),
        "Python's random": random.Random(0),
        "a callback": _object("someones.callbacks", "EarlyStopping", patience=3, best=float("inf"), seen=set()),
        "a list of someone's": _object("someones.lists", "Window", list, size=3),
        "OmegaConf": _omegaconf(),
        "a whole module": torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU()),
        "a class": collections.UserDict,
        "defaultdict of a class": collections.defaultdict(collections.UserDict),
    }


def _saved(value: object, protocol: int = 2) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, pickle_protocol=protocol)
    return buffer.getvalue()


def _weights() -> dict[str, torch.Tensor]:
    linear = torch.arange(6.0).reshape(2, 3)
    return {"fc.weight": linear, "fc.bias": torch.tensor([1.0, 2.0]), "tied": linear, "t": linear.t()}


def honest() -> Iterator[Case]:
    """Files that torch's safe mode refuses, and which hold nothing bad."""
    for name, value in plain_values().items():
        yield Case(name, "valid", _saved({"state_dict": _weights(), "m": value}), "plain", OK, hostile=False)
    for name, value in opaque_values().items():
        yield Case(name, "valid", _saved({"state_dict": _weights(), "m": value}), "opaque", OK, hostile=False)
    for protocol in (4, 5):
        name = f"a state_dict in protocol {protocol}"
        yield Case(name, "valid", _saved(_weights(), protocol), "plain", OK, hostile=False)
    for protocol in (4, 5):
        values = {"state_dict": _weights(), "at": datetime.datetime(2020, 1, 2), "a": np.arange(3.0)}
        yield Case(f"values in protocol {protocol}", "valid", _saved(values, protocol), "opaque", OK, hostile=False)
    yield Case("Lightning", "valid", _saved(_lightning(_weights())), "opaque", OK, hostile=False, suffix=".ckpt")
    trainer = {
        "model": _weights(),
        "args": argparse.Namespace(lr=0.1),
        "ema": _object("ema", "EMA", decay=0.99),
        "rng": [torch.arange(16, dtype=torch.uint8), random.Random(0).getstate(), np.random.RandomState(0).get_state()],
    }
    yield Case("a trainer's", "valid", _saved(trainer), "opaque", OK, hostile=False, suffix=".pt")


def accepted() -> Iterator[Case]:
    """Files that everyone should pass: plain state_dicts."""
    parameters = {name: torch.nn.Parameter(value) for name, value in _weights().items()}
    training = {"epoch": 3, "state_dict": _weights(), "hidden": (3, 2), "lr": 0.1, "names": ["a", "b"], "none": None}
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3), "step": torch.tensor(4.0)}}, "param_groups": [{"lr": 0.1}]}
    kinds: dict[str, object] = {
        "a state_dict": _weights(),
        "Parameters": parameters,
        "an OrderedDict with _metadata": torch.nn.Linear(2, 3).state_dict(),
        "a metadata .pth": training,
        "an optimizer's state": {"model": _weights(), "optimizer": optimizer},
        "half precision": {"w": torch.ones(3, dtype=torch.bfloat16), "v": torch.ones(3, dtype=torch.float16)},
        "float8": {"w": torch.ones(3).to(torch.float8_e4m3fn)},
        "complex numbers": {"w": torch.ones(3, dtype=torch.complex64).conj()},
        "an OrderedDict of ties": collections.OrderedDict(_weights()),
        "a complex number": {"state_dict": _weights(), "m": 1 + 2j},
        "an empty tensor": {"w": torch.empty(0, 3)},
        "a list of tensors": [torch.ones(2), torch.zeros(2)],
        "dtypes and sizes": {
            "w": torch.ones(1),
            "dtype": torch.float16,
            "size": torch.Size([1, 2]),
            "d": torch.device("cpu"),
        },
    }
    yield Case("protocol 3", "ordinary", _saved(_weights(), 3), "plain", OK, hostile=False)
    for name, value in kinds.items():
        yield Case(name, "ordinary", _saved(value), "plain", OK, hostile=False)


NAMES = {
    "NUL": "a\0b",
    "a line feed": "a\nb",
    "terminal escapes": "\x1b[31m\x1b]0;x\x07",
    "a path that climbs": "../../etc/passwd",
    "an absolute path": "/etc/passwd",
    "an empty name": "",
    "a name of 100,000 letters": "n" * 100_000,
    "a name that safetensors keeps": "__metadata__",
    "our own key": "ckptconv",
    "a name like an extra": "m.x",
    "right-to-left": "\u202eweight",
    "a name like a class": "os.system",
    "quotes": "'\"\\`$(touch pwned)",
    "a format": "%s%n{0}",
}


def names() -> Iterator[Case]:
    """Odd names of tensors, and of metadata."""
    for name, spelled in NAMES.items():
        yield Case(name, "odd names", checkpoint(state_dict(**{"w": tensor(), spelled: tensor()})), "plain", OK)
        value = b"}" + text(spelled) + b"K\x01s"
        yield Case(f"{name}, in the metadata", "odd names", checkpoint(beside(value)), "plain", OK)
    surrogate = b"X\x03\0\0\0\xed\xa0\x80"
    lone = b"\x80\x02}" + surrogate + tensor() + b"s."
    yield Case("a lone surrogate", "odd names", checkpoint(lone), "plain", OK)
    both = b"\x80\x02}(" + text("m") + b"}" + text("x") + tensor() + b"s" + text("m.x") + tensor() + b"u."
    yield Case("two paths that read the same", "odd names", checkpoint(both), "plain", OK)
    twice = b"\x80\x02}(" + text("w") + tensor() + text("w") + tensor() + b"u."
    yield Case("one name twice", "odd names", checkpoint(twice), "plain", OK)
    assert FOUR_FLOATS


def cases() -> list[Case]:
    """All of them."""
    try:
        return [*honest(), *accepted(), *names()]
    finally:
        _forget()


assert zoneinfo
