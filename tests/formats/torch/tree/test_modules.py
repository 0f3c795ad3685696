"""Whole pickled modules and trainers' checkpoints, with none of the classes that made them at hand."""

from __future__ import annotations

import dataclasses
import pickle
import sys
import types
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

import ckptconv
from ckptconv.core.metadata import Opaque
from ckptconv.errors import CkptconvError, LimitError, LossError
from tests.formats.torch.judges import assert_same_tensors
from tests.support.craft import archive, saved, text
from tests.support.nodes import load, same_object

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

SOURCE = '''
import argparse, dataclasses, datetime, enum, pathlib
from collections import OrderedDict
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.line = nn.Linear(3, 3)
        self.register_buffer("steps", torch.tensor(3))
        self.register_buffer("passing", torch.ones(2), persistent=False)
        self.register_buffer("nothing", None)
        self.plain = torch.full((5,), 2.0)
        self.options = Options(3)

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.again = self.blocks[0]
        self.head = nn.Linear(3, 3, bias=False)
        self.head.weight = self.blocks[0].line.weight
        self.scale = nn.Parameter(torch.ones(1), requires_grad=False)
        self.norm = nn.BatchNorm1d(3)
        self.many = nn.ParameterDict({"a": nn.Parameter(torch.arange(3.0))})

@dataclasses.dataclass
class Options:
    width: int
    names: tuple = ("a", "b")

class Kind(enum.Enum):
    TRAIN = "train"

class Config(dict):
    """As OmegaConf's and Lightning's: a dict of a class of its own."""
    def __init__(self, content):
        super().__init__(content)
        self.flags = {"struct": True}

class Callback:
    def __init__(self):
        self.best_score = torch.tensor(0.5)
        self.patience = 3

class Trainer:
    def __init__(self, network):
        self.model = network
        self.history = [torch.ones(2)]
'''


@contextmanager
def package() -> Iterator[Any]:
    """A module that is importable within the block, and gone after it."""
    module = types.ModuleType("gone_package")
    sys.modules["gone_package"] = module
    try:
        exec(SOURCE, vars(module))
        yield module
    finally:
        del sys.modules["gone_package"]


STYLES: dict[str, dict[str, Any]] = {"zip": {}, "stacked": {"_use_new_zipfile_serialization": False}}


@pytest.fixture(params=STYLES)
def style(request: pytest.FixtureRequest) -> dict[str, Any]:
    return STYLES[request.param]


@pytest.mark.parametrize("key", [None, "model", "net", "ema_of_mine", "a list"])
def test_a_pickled_module_has_the_tensors_of_its_state_dict(
    key: str | None, style: dict[str, Any], tmp_path: Path
) -> None:
    with package() as gone:
        network = gone.Network()
        value = network if key is None else [network] if key == "a list" else {"epoch": 3, key: network}
        path = saved(tmp_path / "m.pth", value, **style)
        expected = network.state_dict(keep_vars=True)
    with pytest.raises((ImportError, AttributeError)):
        load(path, weights_only=False)
    with ckptconv.open(path) as checkpoint:
        assert_same_tensors(checkpoint, expected)
        parameters = {name for name, note in checkpoint.notes.tensors.items() if note.parameter}
        assert parameters == {name for name, tensor in expected.items() if isinstance(tensor, nn.Parameter)}
        assert {name.rpartition(".")[2] for name in checkpoint.extras} == {"passing", "plain"}


def test_the_class_of_each_module_is_shown(tmp_path: Path) -> None:
    with package() as gone:
        path = saved(tmp_path / "m.pth", {"model": gone.Network()})
    inspection = ckptconv.inspect(path)
    assert inspection.verdict == "opaque"
    classes = {use.where: use.node.name for use in inspection.opaque}
    assert classes["model"] == "gone_package.Network"
    assert classes["model.state._modules.blocks.state._modules['0']"] == "gone_package.Block"
    assert "torch.nn.modules.linear.Linear" in classes.values()
    metadata = inspection.checkpoint.metadata["model"]
    assert isinstance(metadata, Opaque)
    assert metadata.name == "gone_package.Network"


def test_its_weights_alone_load_into_the_network(style: dict[str, Any], tmp_path: Path) -> None:
    with package() as gone:
        network = gone.Network()
        path = saved(tmp_path / "m.pth", network, **style)
        with pytest.raises(LossError):
            ckptconv.convert(path, tmp_path / "out.pth")
        for name in ("out.pth", "out.safetensors"):
            ckptconv.convert(path, tmp_path / name, bare=True)
        ckptconv.convert(tmp_path / "out.safetensors", tmp_path / "back.pth")
        state = load(tmp_path / "out.pth")
        gone.Network().load_state_dict(state, strict=True)
        gone.Network().load_state_dict(load(tmp_path / "back.pth"), strict=True)
        assert not any(key.endswith("passing") for key in state)


def test_what_an_unknown_class_holds_goes_through_safetensors(tmp_path: Path) -> None:
    with package() as gone:
        path = saved(tmp_path / "m.pth", {"model": gone.Network(), "epoch": 3})
    ckptconv.convert(path, tmp_path / "m.safetensors")
    assert ckptconv.diff(path, tmp_path / "m.safetensors").equal


def test_several_modules_keep_their_paths_and_a_trainers_model_is_found(tmp_path: Path) -> None:
    with package() as gone:
        pair = saved(tmp_path / "pair.pth", {"generator": gone.Block(), "critic": nn.Linear(2, 1)})
        network = gone.Network()
        trainer = saved(tmp_path / "trainer.pth", gone.Trainer(network))
        expected = network.state_dict()
    with ckptconv.open(pair) as checkpoint:
        assert list(checkpoint) == [
            "generator.steps", "generator.line.weight", "generator.line.bias", "critic.weight", "critic.bias",
        ]  # fmt: skip
    with ckptconv.open(trainer) as checkpoint:
        assert_same_tensors(checkpoint, expected)
        assert "state.history.0" in checkpoint.extras


def trainers_checkpoint(gone: Any) -> dict[str, Any]:
    import argparse
    import datetime

    network = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return {
        "epoch": 3,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": OrderedDict((f"net.{key}", value) for key, value in network.state_dict().items()),
        "optimizer_states": [optimizer.state_dict()],
        "hyper_parameters": gone.Config({"lr": 1e-3, "inner": gone.Config({"deep": [1, 2]})}),
        "callbacks": {"EarlyStopping": {"wait_count": 0, "best": torch.tensor(0.25)}, "object": gone.Callback()},
        "args": argparse.Namespace(lr=0.1, out=PurePosixPath("/tmp/out")),
        "kind": gone.Kind.TRAIN,
        "options": gone.Options(7),
        "when": datetime.datetime(2024, 5, 6, 7, 8, 9),
        "took": datetime.timedelta(seconds=5),
    }


def test_a_trainers_checkpoint_gives_its_tensors_and_its_values_as_data(style: dict[str, Any], tmp_path: Path) -> None:
    with package() as gone:
        value = trainers_checkpoint(gone)
        path = saved(tmp_path / "t.ckpt", value, **style)
    with pytest.raises(pickle.UnpicklingError):
        load(path)
    calls = [(use.where, use.node.name) for use in ckptconv.inspect(path).opaque if use.node.how == "called"]
    assert calls == [("kind", "gone_package.Kind")]  # an enum's class is called with the value, as any function may be
    with ckptconv.open(path) as checkpoint:
        assert_same_tensors(checkpoint, value["state_dict"])
        assert {"callbacks.EarlyStopping.best", "callbacks.object.state.best_score"} <= checkpoint.extras.keys()
        data: dict[Any, Any] = checkpoint.metadata
        assert (data["epoch"], data["pytorch-lightning_version"]) == (3, "2.4.0")
        assert dict(data["hyper_parameters"].pairs)["lr"] == 1e-3
        assert dict(dict(data["hyper_parameters"].pairs)["inner"].pairs)["deep"] == [1, 2]
        assert data["hyper_parameters"].state == {"flags": {"struct": True}}
        assert data["callbacks"]["object"].state["patience"] == 3
        assert data["args"].state["lr"] == 0.1
        assert PurePosixPath(*data["args"].state["out"].args) == PurePosixPath("/tmp/out")
        assert data["options"].state == {"width": 7, "names": ("a", "b")}
        assert data["kind"].args[-1] in ("train", "TRAIN")
        assert data["when"].name == "datetime.datetime"
    ckptconv.convert(path, tmp_path / "weights.pth", bare=True)
    assert same_object(load(tmp_path / "weights.pth"), value["state_dict"])
    ckptconv.convert(path, tmp_path / "t.safetensors", allow_loss=["opaque"])
    assert ckptconv.diff(path, tmp_path / "t.safetensors").equal


def test_a_parameter_of_torch_before_0_4_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    @dataclasses.dataclass
    class Old:
        data: torch.Tensor

        def __reduce__(self) -> Any:
            return nn.Parameter, (self.data,), (False, False, OrderedDict())

    path = saved(tmp_path / "m.pth", {"w": Old(torch.arange(3.0)), "b": torch.ones(1)})
    expected: Any = load(path, weights_only=False)
    with ckptconv.open(path) as checkpoint:
        assert_same_tensors(checkpoint, {name: tensor.detach() for name, tensor in expected.items()})
        assert checkpoint.notes.tensors["w"].parameter
        assert checkpoint.notes.tensors["w"].requires_grad is expected["w"].requires_grad is False


def module(state: bytes) -> bytes:
    """A pickled module with these entries in its ``_modules``."""
    start = b"cgone\nM\n)\x81}(" + text("_parameters") + b"}" + text("_buffers") + b"}"
    return start + text("_modules") + state + b"ub"


def pair(i: int) -> bytes:
    """A module that holds the one before it twice."""
    both = b"}(" + text("a") + b"h" + bytes([i]) + text("b") + b"h" + bytes([i]) + b"u"
    return b"q" + bytes([i]) + b"0" + module(both)


BAD = {
    "a cycle": b"cgone\nM\n)\x81q\x00}("
    + text("_parameters")
    + b"}"
    + text("_buffers")
    + b"}"
    + text("_modules")
    + b"}"
    + text("me")
    + b"h\x00sub",
    "modules in modules that share them": module(b"}") + b"".join(map(pair, range(40))),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_modules_without_end_are_refused(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(CkptconvError) as error:
        ckptconv.open(archive(tmp_path / "m.pth", b"\x80\x02" + data + b"."))
    assert isinstance(error.value, LimitError)


def test_a_parameter_that_a_call_makes_is_refused_by_name(tmp_path: Path) -> None:
    class Call:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor = tensor

        def __reduce__(self) -> tuple[Any, ...]:
            return torch.neg, (self.tensor,)

    network = nn.Linear(2, 2)
    network._parameters["bias"] = Call(torch.ones(2))  # type: ignore[assignment]
    with pytest.raises(CkptconvError, match=r"'bias' is made by a call"):
        ckptconv.open(saved(tmp_path / "m.pth", network))


class Buffered(nn.Module):
    """One with all that a module's dicts may hold."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
        self.again = self.first[0]
        self.tied = nn.Linear(3, 2, bias=False)
        self.tied.weight = self.again.get_parameter("weight")
        self.register_buffer("kept", torch.ones(2))
        self.register_buffer("passing", torch.zeros(2), persistent=False)
        self.register_parameter("none", None)
        self.plain = torch.ones(4)


@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: {"model": m, "epoch": 3}], ids=["alone", "in a checkpoint"])
@pytest.mark.parametrize("between", [False, True], ids=["at once", "by way of safetensors"])
def test_a_module_that_is_given_up_becomes_its_state_dict(wrap: Any, between: bool, tmp_path: Path) -> None:
    network = Buffered()
    path = saved(tmp_path / "m.pth", wrap(network))
    if between:
        ckptconv.convert(path, tmp_path / "m.safetensors")
        path = tmp_path / "m.safetensors"
    with pytest.raises(CkptconvError, match="1 loss") as refused:
        ckptconv.convert(path, tmp_path / "out.pth")
    assert refused.value.details[0].endswith("Buffered, which would become its state_dict")
    ckptconv.convert(path, tmp_path / "out.pth", allow_loss=["opaque"])
    loaded = torch.load(tmp_path / "out.pth")
    state = loaded.get("model", loaded)
    assert list(state) == list(network.state_dict())
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert state["tied.weight"].data_ptr() == state["first.0.weight"].data_ptr()
    Buffered().load_state_dict(state)


@pytest.mark.filterwarnings("ignore")
def test_quantized_layers_of_a_pickled_module_are_told_apart_from_its_state_dict(tmp_path: Path) -> None:
    quantization = torch.ao.quantization
    network = nn.Sequential(quantization.QuantStub(), nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2)).eval()
    network.qconfig = quantization.get_default_qconfig("fbgemm")
    prepared = quantization.prepare(network)
    prepared(torch.ones(1, 1, 4, 4))
    converted = quantization.convert(prepared)
    with ckptconv.open(saved(tmp_path / "whole.pth", converted)) as checkpoint:
        (finding,) = checkpoint.findings
    assert (finding.code, finding.severity) == ("quantized-layer", "warning")
    assert "2 quantized layers" in finding.message
    with ckptconv.open(saved(tmp_path / "state.pth", converted.state_dict())) as checkpoint:
        assert not checkpoint.findings
        assert "1.weight" in checkpoint
