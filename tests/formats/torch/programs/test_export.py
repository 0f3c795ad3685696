"""torch.export archives: the state_dict and the constants of the loaded program, of both layouts."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import warnings
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

import ckptconv
from ckptconv.errors import CkptconvError, CorruptFileError, UnsupportedError
from ckptconv.formats.torch.programs import graph_code
from ckptconv.io.source import Source
from ckptconv.testing import Reading
from tests.formats.test_conformance import seen
from tests.formats.torch.judges import (
    assert_damage_is_noticed,
    assert_detected_whatever_its_name,
    assert_same_tensors,
)
from tests.support.nodes import image, load, same_object

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning", "ignore::ResourceWarning"
)


class Network(nn.Module):
    part: torch.Tensor
    whole: torch.Tensor
    passing: torch.Tensor
    small: torch.Tensor
    flag: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 3)
        self.tied = self.line.weight
        self.turned = nn.Parameter(torch.arange(9.0).reshape(3, 3).t())
        self.norm = nn.BatchNorm1d(3)
        whole = torch.arange(12.0)
        self.register_buffer("part", whole[3:6])
        self.register_buffer("whole", whole)
        self.register_buffer("passing", torch.ones(3), persistent=False)
        self.register_buffer("small", torch.ones(3).bfloat16())
        self.register_buffer("flag", torch.tensor([True, False, True]))
        self.plain = torch.full((3,), 2.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.line(x) @ self.turned) + self.part + self.whole[:3] + self.passing + self.plain
        return x * self.small * self.flag + torch.tensor([1.0, 2.0, 3.0])


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.arange(3.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.w


def program(module: nn.Module) -> Any:
    return torch.export.export(module.eval(), (torch.ones(2, 3),))


def new_layout(path: Path, module: nn.Module) -> Path:
    torch.export.save(program(module), path)
    return path


def old_layout(path: Path, module: nn.Module, suffix: str = "pt") -> Path:
    """As torch before 2.8 wrote it, from the parts that torch serializes still."""
    from torch._export.serde.schema import SCHEMA_VERSION
    from torch._export.serde.serialize import serialize

    parts = serialize(program(module))
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("version", ".".join(map(str, SCHEMA_VERSION)))
        file.writestr("serialized_exported_program.json", parts.exported_program)
        file.writestr(f"serialized_state_dict.{suffix}", parts.state_dict)
        file.writestr(f"serialized_constants.{suffix}", parts.constants)
        file.writestr("serialized_example_inputs.pt", parts.example_inputs)
    return path


LAYOUTS: dict[str, Callable[..., Path]] = {"new": new_layout, "old": old_layout}


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> Callable[..., Path]:
    return LAYOUTS[request.param]


def loaded(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.load(path)


@pytest.mark.parametrize("make", [Network, Small])
def test_weights_and_constants_are_those_of_the_loaded_program(
    make: Callable[[], nn.Module], layout: Callable[..., Path], tmp_path: Path
) -> None:
    path = layout(tmp_path / "m.pt2", make())
    expected = loaded(path)
    with ckptconv.open(path) as checkpoint:
        assert checkpoint.format == "torch-export"
        assert_same_tensors(checkpoint, expected.state_dict)
        constants = {f"constants.{name}": image(tensor) for name, tensor in expected.constants.items()}
        assert {name: bytes(tensor.read()) for name, tensor in checkpoint.extras.items()} == constants
        parameters = [name for name, note in checkpoint.notes.tensors.items() if note.parameter]
        assert parameters == [name for name, value in expected.state_dict.items() if isinstance(value, nn.Parameter)]


def test_it_is_detected_whatever_its_name(layout: Callable[..., Path], tmp_path: Path) -> None:
    assert_detected_whatever_its_name(layout(tmp_path / "m.pt2", Small()), "torch-export")


def test_the_first_releases_called_the_weights_json(tmp_path: Path) -> None:
    path = old_layout(tmp_path / "m.pt2", Small(), "json")
    with ckptconv.open(path) as checkpoint:
        assert_same_tensors(checkpoint, loaded(path).state_dict)


def test_it_becomes_a_state_dict_without_consent(layout: Callable[..., Path], tmp_path: Path) -> None:
    network = Small()
    path = layout(tmp_path / "m.pt2", network)
    assert ckptconv.inspect(path).verdict == "plain"
    result = ckptconv.convert(path, tmp_path / "out.pth")
    assert "graph" in {finding.code for finding in result.findings}
    Small().load_state_dict(load(tmp_path / "out.pth"))
    ckptconv.convert(path, tmp_path / "out.safetensors")
    ckptconv.convert(tmp_path / "out.safetensors", tmp_path / "back.pth")
    assert same_object(load(tmp_path / "back.pth"), load(tmp_path / "out.pth"))


def test_opening_reads_no_tensor_byte(layout: Callable[..., Path], tmp_path: Path) -> None:
    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(3, 400_000))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.w

    path = layout(tmp_path / "m.pt2", Large())
    with ckptconv.open(path) as checkpoint:
        source = checkpoint.file
        assert isinstance(source, Source)
        assert source.bytes_read < 256 << 10
        assert bytes(checkpoint["w"].read(0, 4)) == b"\0\0\x80?"


def of_export(path: Path) -> Reading:
    """What torch reads of the weights and constants, without the graph."""
    from torch.export.pt2_archive._package import PT2ArchiveReader, _load_constants, _load_state_dict

    with PT2ArchiveReader(str(path)) as reader:
        weights, constants = _load_state_dict(reader, "model"), _load_constants(reader, "model")
    assert isinstance(weights, dict)
    assert isinstance(constants, dict)
    named = {f"constants.{name}": seen(tensor) for name, tensor in constants.items()}
    return Reading({name: seen(tensor) for name, tensor in weights.items()} | named)


def changed(source: Path, target: Path, changes: dict[str, bytes | None]) -> Path:
    """The archive packed again with some entries replaced, added, or left out (None); names without the folder."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        names = {name.partition("/")[2] if "/" in name else name: name for name in old.namelist()}
        folder = next(iter(names.values())).partition("/")[0]
        for short, name in names.items():
            if short not in changes:
                new.writestr(name, old.read(name))
        for short, data in changes.items():
            if data is not None:
                new.writestr(f"{folder}/{short}", data)
    return target


def test_damage_is_refused_or_read_as_torch_reads_it(tmp_path: Path) -> None:
    path = new_layout(tmp_path / "whole.pt2", Small())
    graph = json.dumps({"graph_module": {"graph": {"nodes": []}}, "torch_version": "2"}).encode()
    unread = dict.fromkeys(("data/sample_inputs/model.pt", ".data/serialization_id", ".data/version"))
    small = changed(path, tmp_path / "m.pt2", {"models/model.json": graph, "version": b"3", **unread})
    assert_same_tensors(ckptconv.open(small), dict(Small().named_parameters()))
    assert_damage_is_noticed(small, "torch-export", of_export, every=3)


CONFIG = "data/weights/model_weights_config.json"


def meta(**values: Any) -> dict[str, Any]:
    whole = {
        "dtype": 7, "sizes": [{"as_int": 3}], "requires_grad": True, "device": {"type": "cpu", "index": None},
        "strides": [{"as_int": 1}], "storage_offset": {"as_int": 0}, "layout": 7,
    }  # fmt: skip
    return {**whole, **values}


def config(path_name: Any = "weight_0", use_pickle: Any = False, **values: Any) -> bytes:
    payload = {"path_name": path_name, "is_param": True, "use_pickle": use_pickle, "tensor_meta": meta(**values)}
    return json.dumps({"config": {"w": payload}}).encode()


BAD: dict[str, dict[str, bytes | None]] = {
    "a size that is too large": {CONFIG: config(sizes=[{"as_int": 4}])},
    "a negative size": {CONFIG: config(sizes=[{"as_int": -1}])},
    "a size that is a float": {CONFIG: config(sizes=[{"as_int": 3.0}])},
    "a symbolic size": {CONFIG: config(sizes=[{"as_expr": {"expr_str": "s0"}}])},
    "a huge stride": {CONFIG: config(strides=[{"as_int": 1 << 62}])},
    "an offset past the end": {CONFIG: config(storage_offset={"as_int": 1})},
    "more sizes than strides": {CONFIG: config(sizes=[{"as_int": 1}] * 2)},
    "an unknown element type": {CONFIG: config(dtype=99)},
    "a sparse layout": {CONFIG: config(layout=1)},
    "an entry that is not there": {CONFIG: config("weight_9")},
    "an entry outside": {CONFIG: config("../../models/model.json")},
    "an entry that is not a name": {CONFIG: config(3)},
    "a flag that is a string": {CONFIG: config(use_pickle="no")},
    "a pickle that is none": {CONFIG: config(use_pickle=True)},
    "no configuration": {CONFIG: None},
    "another version": {"archive_version": b"1"},
    "an empty configuration": {CONFIG: b"{}"},
    "a configuration that is a list": {CONFIG: b"[]"},
    "deep nesting": {CONFIG: b"[" * 100_000},
    "a name twice": {CONFIG: b'{"config": {}, "config": {}}'},
    "bytes that are no text": {CONFIG: b"\xff\xfe\xfd"},
    "a storage of odd length": {"data/weights/weight_0": b"12345"},
    "an object that is said to be a tensor": {
        CONFIG: config("opaque_obj_0"),
        "data/weights/opaque_obj_0": pickle.dumps([1, 2, 3]),
    },
    "no model": {"models/model.json": None},
    "a graph that is none": {"models/model.json": b"{}"},
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new_layout(tmp_path_factory.mktemp("export") / "small.pt2", Small())


@pytest.mark.parametrize("changes", BAD.values(), ids=BAD)
def test_an_archive_that_contradicts_itself_is_refused(
    changes: dict[str, bytes | None], small: Path, tmp_path: Path
) -> None:
    with pytest.raises(CkptconvError) as error:
        ckptconv.open(changed(small, tmp_path / "m.pt2", changes))
    assert isinstance(error.value, CorruptFileError | UnsupportedError)
    assert error.value.hint


def test_several_models_have_their_names_before_their_tensors(small: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(small) as file:
        graph = file.read("small/models/model.json")
        constants = file.read("small/data/constants/model_constants_config.json")
    changes: dict[str, bytes | None] = {
        "models/other.json": graph, "data/weights/other_weights_config.json": config("weight_1"),
        "data/weights/weight_1": bytes(12), "data/constants/other_constants_config.json": constants,
    }  # fmt: skip
    with ckptconv.open(changed(small, tmp_path / "m.pt2", changes)) as checkpoint:
        assert list(checkpoint) == ["model.w", "other.w"]
        assert checkpoint["other.w"].to_torch().tolist() == [0, 0, 0]


def saved_bytes(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_a_tensor_that_is_saved_as_a_pickle_is_read(small: Path, tmp_path: Path) -> None:
    weight = nn.Parameter(torch.arange(6.0).reshape(2, 3).t())
    changes: dict[str, bytes | None] = {
        CONFIG: config("weight_0", use_pickle=True),
        "data/weights/weight_0": saved_bytes(weight),
    }
    with ckptconv.open(changed(small, tmp_path / "m.pt2", changes)) as checkpoint:
        assert_same_tensors(checkpoint, {"w": weight.detach()})


def test_an_archive_of_two_layouts_is_refused(small: Path, tmp_path: Path) -> None:
    path = changed(small, tmp_path / "m.pt2", {})
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("serialized_exported_program.json", "{}")
    with pytest.raises(CorruptFileError, match="two layouts"):
        ckptconv.open(path)


def test_compiled_code_beside_the_weights_is_reported(small: Path, tmp_path: Path) -> None:
    path = changed(
        small, tmp_path / "m.pt2", {f"data/aotinductor/model/{name}": b"\x7fELF" for name in ("a.so", "b.so")}
    )
    (use,) = (found := ckptconv.inspect(path)).opaque
    assert found.verdict == "would run code"
    assert (use.node.name, use.node.args) == ("torch._C._aoti.AOTIModelPackageLoader", ("model",))


@pytest.mark.parametrize("entry", ["data/sample_inputs/model.pt", "opaque object"])
def test_what_loading_it_would_run_is_shown_and_not_run(entry: str, small: Path, tmp_path: Path) -> None:
    class Call:
        def __reduce__(self) -> tuple[Any, ...]:
            return open, (str(tmp_path / "canary"), "w")

    changes: dict[str, bytes | None] = {entry: saved_bytes(((Call(),), {}))}
    if entry == "opaque object":
        payload = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
        listed = json.dumps({"config": {"o": payload}}).encode()
        changes = {
            "data/constants/opaque_obj_0": pickle.dumps(Call()),
            "data/constants/model_constants_config.json": listed,
        }
    path = changed(small, tmp_path / "m.pt2", changes)
    assert ckptconv.inspect(path).verdict == "would run code"
    ckptconv.convert(path, tmp_path / "out.pth", bare=True)
    assert not (tmp_path / "canary").exists()


class Sized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        both = torch.cat([x, y])[: x.shape[0] // 2].reshape(-1) * max(x.shape[0], 3)
        return both * self.w.sum() * x.shape[0] * 0.5 + x.size(0) / y.size(0)


def sized(path: Path) -> Path:
    dims = {"x": {0: torch.export.Dim.AUTO}, "y": {0: torch.export.Dim.AUTO}}
    program = torch.export.export(Sized(), (torch.ones(4, 3), torch.ones(6, 3)), dynamic_shapes=dims)
    torch.export.save(program, path)
    return path


def with_graph(source: Path, target: Path, change: Callable[[Any], object]) -> Path:
    """The archive with another graph."""
    with zipfile.ZipFile(source) as file, zipfile.ZipFile(target, "w") as made:
        for name in file.namelist():
            data = file.read(name)
            if "/models/" in name:
                graph = json.loads(data)
                change(graph)
                data = json.dumps(graph).encode()
            made.writestr(name, data)
    return target


def evaluated(graph: Any) -> None:
    values = graph["graph_module"]["graph"]["tensor_values"].values()
    for value in values:
        value["sizes"][:1] = [{"as_expr": {"expr_str": "open('pwned', 'w')", "hint": {"as_int": 1}}}]


def guarded(graph: Any) -> None:
    graph["guards_code"] = ["open('pwned', 'w')"]


def test_the_sizes_and_guards_that_torch_writes_are_arithmetic(tmp_path: Path) -> None:
    path = sized(tmp_path / "a.pt2")
    with zipfile.ZipFile(path) as file:
        graph = file.read(next(name for name in file.namelist() if "/models/" in name))
    assert json.loads(graph)["guards_code"]
    assert b"Symbol(" in graph
    assert ckptconv.inspect(path).verdict == "plain"


@pytest.mark.parametrize(("change", "name"), [(evaluated, "sympy.sympify"), (guarded, "builtins.exec")])
def test_python_in_a_graph_is_run_by_torch_and_reported_here(
    change: Callable[[Any], object], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = with_graph(sized(tmp_path / "a.pt2"), tmp_path / "b.pt2", change)
    found = ckptconv.inspect(path)
    assert found.verdict == "would run code"
    assert {use.node.name for use in found.opaque} == {name}
    monkeypatch.chdir(tmp_path)
    assert not (tmp_path / "pwned").exists()
    with contextlib.suppress(Exception):  # it is not a size
        torch.export.load(path).module()(torch.ones(4, 3), torch.ones(6, 3))
    assert (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')", "eval(chr(49))", "s0.__class__", "[1]", "(lambda: 1)()", "print", "f'{s0}'", "s0; s1",
        "x" * 70_000,
        "L['x'].__class__.size()", "'a\"b' == L['x']", "torch.load(1)", "math.__loader__", "(" * 300 + "1" + ")" * 300,
        "-" * 500 + "1", "Max(open(1), 2)", "torch.hub", "{1: 2}", "1 if open(1) else 2", "a := 1", "*s0", "`s0`",
    ],
)  # fmt: skip
def test_what_is_no_arithmetic_is_reported(text: str) -> None:
    found = [one.node.args for one in graph_code.programs_in({"a": [{"expr_str": text}], "guards_code": [text]}, "e")]
    assert found == ([] if text == "print" else [(text,), (text,)])


@pytest.mark.parametrize(
    "text",
    [
        "s0", "Symbol('s77', positive=True, integer=True)", "Mul(Float('0.5', precision=53), ToFloat(Symbol('s53')))",
        "Max(1, s0*s1 + 2)", "FloorDiv(s0, 2) - 3", "L['x'].size()[0] <= 16",
        "1 < max(1, (-3 + L['a']['b'].size()[2]) // 2)",
        "L['args'][0].stride()[1] == 4", "math.trunc(2.0) == u0", "torch.sym_max(s0, 1) != 2",
        "not (u0 >= 0 and u1 < 4)",
        "Eq(s0, 1)", "True", "x.shape[0] % 8 == 0",
    ],
)  # fmt: skip
def test_arithmetic_is_not(text: str) -> None:
    assert [*graph_code.programs_in({"expr_str": text, "guards_code": [text]}, "e")] == []


def test_what_a_nesting_of_inputs_imports_is_named() -> None:
    factory = {"default_factory_module": "os", "default_factory_name": "system", "dict_context": []}
    leaf: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
    fqns = ("mine:Color", "ctypes:cdll")  # of which the second loads a library where it is asked for a member
    keys = json.dumps([{"__enum__": True, "fqn": fqn, "name": "RED"} for fqn in fqns])
    spec = {"type": "collections.defaultdict", "context": factory, "children_spec": [leaf]}
    found = graph_code.programs_in(
        {
            "in_spec": json.dumps([1, spec]),
            "out_spec": json.dumps([1, {**leaf, "type": "builtins.dict", "context": keys}]),
        },
        "e",
    )
    hows = {one.node.name: one.node.how for one in found}
    assert hows == {"os.system": "called", "mine.Color": "object", "ctypes.cdll": "called"}


def test_an_operator_that_opens_files_is_reported() -> None:
    found = graph_code.programs_in({"nodes": [{"target": "torch.ops.aten.from_file.default"}]}, "e")
    assert [one.node.name for one in found] == ["torch.ops.aten.from_file.default"]
    assert not [*graph_code.programs_in({"nodes": [{"target": "torch.ops.aten.linear.default"}]}, "e")]


def test_a_graph_that_is_too_large_to_be_looked_at_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckptconv.formats.torch.programs.payloads.MAX_JSON_BYTES", 2000)
    found = ckptconv.inspect(sized(tmp_path / "a.pt2"))
    assert found.verdict == "would run code"
    assert "too many to be looked at" in str(found.opaque[0].node.args[0])
