"""TorchScript archives: the tensors that state_dict() of the loaded module has, and none of the code."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

import ckptconv
from ckptconv.errors import CkptconvError, CorruptFileError, LimitError, UnsupportedError
from ckptconv.io.source import Source
from ckptconv.testing import Reading
from tests.formats.test_conformance import seen
from tests.formats.torch.judges import (
    assert_damage_is_noticed,
    assert_detected_whatever_its_name,
    assert_same_tensors,
)
from tests.support.craft import FOUR_FLOATS, records_of, repacked, tensor, text
from tests.support.nodes import image, load, same_object

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning"
)


class Inner(nn.Module):
    steps: torch.Tensor
    passing: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(6.0).reshape(2, 3))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.register_buffer("steps", torch.tensor(3))
        self.register_buffer("passing", torch.ones(2), persistent=False)
        self.register_buffer("maybe", torch.ones(7))
        self.plain = torch.full((5,), 2.0)
        self.number = 3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight.t() + self.plain.sum() + self.steps + self.passing


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()
        self.line = nn.Linear(3, 2)
        self.tied = self.line.weight
        self.turned = nn.Parameter(torch.arange(6.0).reshape(3, 2).t())
        self.norm = nn.BatchNorm1d(2)
        self.layers = nn.ModuleList([nn.Linear(2, 2), nn.Sequential(nn.ReLU(), nn.Linear(2, 2))])
        self.again = self.layers[0]
        self.register_parameter("nothing", None)
        self.table = {"a": torch.ones(1)}
        self.sizes = [1, 2]
        self.pair = (1, "x", 1j)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.inner(x) + self.line(x)) * 2 + self.again(x[:, :2]) + torch.tensor([1.0, 2.0])


Inner.__annotations__ = {"maybe": torch.Tensor | None}  # values: TorchScript reads no strings
Outer.__annotations__ = {"table": dict[str, torch.Tensor]}


class Half(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.h = nn.Parameter(torch.arange(4.0).half())
        self.register_buffer("b", torch.tensor([True, False]))
        self.register_buffer("c", torch.tensor([1 + 2j]).conj())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def script(module: nn.Module, path: Path) -> Path:
    torch.jit.script(module.eval()).save(str(path))
    return path


def trace(module: nn.Module, path: Path) -> Path:
    torch.jit.trace(module.eval(), torch.ones(2, 3)).save(str(path))
    return path


def freeze(module: nn.Module, path: Path) -> Path:
    torch.jit.freeze(torch.jit.script(module.eval())).save(str(path))
    return path


def lite(module: nn.Module, path: Path) -> Path:
    torch.jit.script(module.eval())._save_for_lite_interpreter(str(path))
    return path


MAKERS: dict[str, Callable[[nn.Module, Path], Path]] = {
    "script": script, "trace": trace, "freeze": freeze, "lite interpreter": lite
}  # fmt: skip
MODULES: dict[str, Callable[[], nn.Module]] = {"nested": Outer, "small": Inner, "element types": Half, "empty": nn.ReLU}


def state_of(path: Path) -> dict[str, torch.Tensor]:
    return dict(torch.jit.load(path).state_dict())


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_it_has_the_tensors_of_the_loaded_modules_state_dict(
    make: Callable[[], nn.Module], maker: Callable[[nn.Module, Path], Path], tmp_path: Path
) -> None:
    path = maker(make(), tmp_path / "m.pt")
    with ckptconv.open(path) as checkpoint:
        assert checkpoint.format == "torchscript"
        expected = state_of(path)
        if maker is freeze:
            assert not expected
            assert {name.partition(".")[0] for name in checkpoint} <= {"constants"}
        else:
            assert_same_tensors(checkpoint, expected)


def test_it_is_detected_whatever_its_name(tmp_path: Path) -> None:
    assert_detected_whatever_its_name(script(Inner(), tmp_path / "m.pt"), "torchscript")


def test_other_tensors_are_extras_and_plain_attributes_stay_with_the_graph(tmp_path: Path) -> None:
    path = script(Outer(), tmp_path / "m.pt")
    with ckptconv.open(path) as checkpoint:
        assert {name: tuple(tensor.info.shape) for name, tensor in checkpoint.extras.items()} == {
            "attributes.inner.maybe": (7,), "attributes.inner.plain": (5,), "attributes.table.a": (1,),
        }  # fmt: skip
        graph = checkpoint.notes.graph
        assert isinstance(graph, dict)
        attributes, classes = graph["attributes"], graph["classes"]
        assert (attributes["inner.number"], attributes["sizes"], attributes["pair"]) == (3, [1, 2], (1, "x", 1j))
        assert classes["inner"].endswith(".Inner")
        assert classes["layers.1.1"].endswith(".Linear")
        assert {name for name, note in checkpoint.notes.tensors.items() if note.requires_grad} == {
            name for name, parameter in torch.jit.load(path).named_parameters(remove_duplicate=False)
            if parameter.requires_grad
        }  # fmt: skip


def constants_of(path: Path) -> set[bytes]:
    """The tensors that the code of the loaded module refers to."""
    graph = torch.jit.load(path).inlined_graph
    nodes = graph.findAllNodes("prim::Constant")
    return {image(node.t("value")) for node in nodes if node.hasAttribute("value") and node.kindOf("value") == "t"}


def test_the_constants_of_a_frozen_module_are_the_model(tmp_path: Path) -> None:
    path = freeze(Inner(), tmp_path / "m.pt")
    with ckptconv.open(path) as checkpoint:
        assert not checkpoint.extras
        assert {bytes(tensor.read()) for tensor in checkpoint.values()} == constants_of(path)
        assert image(torch.arange(6.0).reshape(2, 3).t()) in constants_of(path)  # freezing transposed it
        assert {finding.code for finding in checkpoint.findings} == {"graph", "frozen"}


@pytest.mark.parametrize("target", ["out.pth", "out.safetensors", "out.npz"])
@pytest.mark.parametrize("bare", [False, True])
def test_the_constants_of_a_frozen_module_stay_the_model_in_other_formats(
    target: str, bare: bool, tmp_path: Path
) -> None:
    path = freeze(Inner(), tmp_path / "m.pt")
    ckptconv.convert(path, tmp_path / target, bare=bare)
    assert ckptconv.diff(path, tmp_path / target).equal
    with ckptconv.open(tmp_path / target) as checkpoint:
        assert {bytes(tensor.read()) for tensor in checkpoint.values()} == constants_of(path)


def test_it_becomes_a_state_dict_without_consent(tmp_path: Path) -> None:
    class Net(nn.Sequential):
        pass

    network = Net(nn.Linear(3, 2), nn.BatchNorm1d(2))
    path = script(network, tmp_path / "m.pt")
    assert ckptconv.inspect(path).verdict == "plain"
    for name in ("out.pth", "out.safetensors"):
        result = ckptconv.convert(path, tmp_path / name)
        assert "graph" in {finding.code for finding in result.findings}
    state = load(tmp_path / "out.pth")
    nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).load_state_dict(state)
    assert {key: value.tolist() for key, value in state.items()} == {
        key: value.tolist() for key, value in network.state_dict().items()
    }


def test_opening_reads_no_tensor_byte(tmp_path: Path) -> None:
    path = script(nn.Linear(1000, 1000), tmp_path / "m.pt")
    with ckptconv.open(path) as checkpoint:
        source = checkpoint.file
        assert isinstance(source, Source)
        assert source.bytes_read < 256 << 10
        assert path.stat().st_size > 4_000_000


def of_jit(path: Path) -> Reading | None:
    """torch's view; None where the code is damaged, which only torch needs: we guess, and say so."""
    try:
        return Reading({name: seen(value) for name, value in state_of(path).items()})
    except RuntimeError as error:
        if "Unknown type name" in str(error):
            return None
        raise


def test_damage_is_refused_or_read_as_torch_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    whole = script(Half(), tmp_path / "whole.pt")
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            if not name.endswith((".debug_pkl", "/serialization_id")):  # which we do not look at
                new.writestr(name, old.read(name))
    assert_same_tensors(ckptconv.open(path), state_of(path))
    assert_damage_is_noticed(path, "torchscript", of_jit, every=5)


CODE = "code/__torch__/tests/formats/torch/programs/test_script.py"


def changed(path: Path, target: Path, **records: bytes) -> Path:
    spelled: dict[str, Any] = {name.replace("code_py", CODE): data for name, data in records.items()}
    return repacked(path, target, **spelled)


def test_code_that_says_nothing_is_guessed_and_reported(tmp_path: Path) -> None:
    path = script(Half(), tmp_path / "m.pt")
    code = records_of(path)[CODE]
    lines = code.replace(b'  __buffers__ = ["b", "c", ]\n', b"")
    assert lines != code
    for name, text_ in {"old": lines, "none": b"raise SystemExit\n", "garbage": b"\xff\0class Half(Module):"}.items():
        with ckptconv.open(changed(path, tmp_path / f"{name}.pt", code_py=text_)) as checkpoint:
            assert list(checkpoint) == ["h", "b", "c"], name
            assert "guessed" in {finding.code for finding in checkpoint.findings}, name


def module(state: bytes, name: str = "M") -> bytes:
    return f"c__torch__\n{name}\n)\x81".encode("latin-1") + b"}(" + state + b"ub"


def crafted(path: Path, data_pkl: bytes, code: bytes = b"", **extra: bytes) -> Path:
    records = {
        "data.pkl": b"\x80\x02" + data_pkl + b".", "constants.pkl": b"\x80\x02).", "version": b"3\n",
        "data/0": FOUR_FLOATS, "code/__torch__.py": code, **extra,
    }  # fmt: skip
    with zipfile.ZipFile(path, "w") as file:
        for name, data in records.items():
            file.writestr(f"m/{name}", data)
    return path


DECLARED = 'class M(Module):\n  __parameters__ = ["w", "é", ]\n  __buffers__ = []\n  w : Tensor\n'.encode()


def test_a_hand_made_archive_is_read(tmp_path: Path) -> None:
    with ckptconv.open(crafted(tmp_path / "m.pt", module(text("w") + tensor()), DECLARED)) as checkpoint:
        assert checkpoint["w"].to_torch().tolist() == [1, 2, 3, 4]
        assert [finding.code for finding in checkpoint.findings] == ["graph"]


def nested(depth: int) -> bytes:
    inner = module(b"")
    for _ in range(depth):
        inner = module(text("m") + inner)
    return inner


BAD: dict[str, bytes] = {
    "a cycle": b"c__torch__\nM\n)\x81q\x00}(" + text("me") + b"h\x00ub",
    "a great depth": nested(100),
    "colliding names": module(text("a.w") + tensor() + text("a") + module(text("w") + tensor())),
    "a name that is a number": module(b"K\x01" + tensor()),
    "no module": b"}",
    "a missing storage": module(text("w") + tensor("7")),
    "a storage that is too small": module(text("w") + tensor(size=b"K\x09\x85")),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_archives_that_contradict_themselves_are_refused(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(CkptconvError) as error:
        ckptconv.open(crafted(tmp_path / "m.pt", data))
    assert isinstance(error.value, CorruptFileError | LimitError | UnsupportedError)
    assert error.value.hint


def test_many_modules_that_share_their_modules_come_to_an_end(tmp_path: Path) -> None:
    laughs = module(b"")
    for i in range(40):
        laughs = (
            laughs + b"q" + bytes([i]) + b"0" + module(text("a") + b"h" + bytes([i]) + text("b") + b"h" + bytes([i]))
        )
    with pytest.raises(LimitError):
        ckptconv.open(crafted(tmp_path / "m.pt", laughs, b"class M(Module):\n"))


def test_a_call_in_it_is_shown_and_not_made(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    call = b"cbuiltins\nopen\n(" + text(str(canary)) + text("w") + b"tR"
    path = crafted(tmp_path / "m.pt", module(text("w") + tensor() + text("evil") + call), DECLARED)
    assert ckptconv.inspect(path).verdict == "would run code"
    ckptconv.convert(path, tmp_path / "out.pth", bare=True)
    assert same_object(list(load(tmp_path / "out.pth")), ["w"])
    assert not canary.exists()


def test_an_archive_of_torch_before_1_4_is_called_by_its_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as file:
        file.writestr("m/model.json", "{}")
        file.writestr("m/version", "1")
    with pytest.raises(UnsupportedError, match=r"TorchScript archive of torch before 1\.4"):
        ckptconv.open(tmp_path / "m.pt")
