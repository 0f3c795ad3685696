"""Every form of ``--arch``, through the API: what it is compared with, what is refused, what is imported and read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="checkpoints are saved with torch.save, and Python is asked for")

from ckptconv.api.validate import validate  # noqa: E402
from ckptconv.errors import CkptconvError, UsageError  # noqa: E402
from ckptconv.io.source import Source  # noqa: E402
from tests.checks.support import codes, perceptron  # noqa: E402

ROOT = Path(__file__).parents[3]
FIXTURES = ROOT / "fixtures"
META = FIXTURES / "digits-metadata.pth"
SPEC = """
spec = 1
name = "mine"
[params]
wide = "int"
[tensors]
"a.weight" = "wide 3"
"a.bias" = "wide"
"""


def save(path: Path, shapes: dict[str, tuple[int, ...]], **metadata: Any) -> Path:
    state = {name: torch.ones(shape) for name, shape in shapes.items()}
    torch.save({**metadata, "state_dict": state} if metadata else state, path)
    return path


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return save(tmp_path / "raw.pth", {"a.weight": (5, 3), "a.bias": (5,)})


@pytest.fixture
def network(tmp_path: Path) -> Path:
    return save(tmp_path / "net.pth", perceptron(64, 64, 32, 10), input_size=64, output_size=10, hidden_layers=[64, 32])


def test_a_library_name() -> None:
    result = validate(FIXTURES / "digits-raw.pth", arch="mlp")
    assert result.valid and result.params["hidden_layers"] == [64, 32]
    assert not validate(META, arch="lenet").valid


def test_a_name_that_no_spec_has_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="no architecture 'mlpp'") as caught:
        validate(META, arch="mlpp")
    assert caught.value.hint == "did you mean 'mlp'?"


def test_a_spec_file(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(SPEC)
    result = validate(raw, arch=str(tmp_path / "mine.toml"))
    assert (result.valid, result.params) == (True, {"wide": 5})
    assert (
        codes(validate(raw, arch=str(tmp_path / "mine.toml"), settings=["wide=6"]).findings) == ["shape-mismatch"] * 2
    )


def test_a_spec_file_that_is_not_there_or_broken_is_refused(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_text("spec = 1\n[tensors\n")
    for name in ("none.toml", "broken.toml"):
        with pytest.raises(CkptconvError) as caught:
            validate(raw, arch=str(tmp_path / name))
        assert Path(str(caught.value.path)).name == name


def test_another_checkpoint(raw: Path, tmp_path: Path) -> None:
    other = save(tmp_path / "other.pth", {"a.weight": (5, 4), "a.bias": (5,)})
    assert validate(raw, arch=str(raw)).valid
    assert codes(validate(raw, arch=str(other)).findings) == ["shape-mismatch"]


def test_another_checkpoint_with_ties_lets_a_tied_name_be_absent(tmp_path: Path) -> None:
    weight = torch.ones(4, 3)
    torch.save({"embed.weight": weight, "head.weight": weight}, tmp_path / "tied.pth")
    torch.save({"embed.weight": weight}, tmp_path / "one.pth")
    torch.save({"embed.weight": weight, "head.weight": weight.clone()}, tmp_path / "two.pth")
    tied, one, two = (str(tmp_path / f"{name}.pth") for name in ("tied", "one", "two"))
    assert validate(one, arch=tied).valid
    assert codes(validate(two, arch=tied).findings) == ["tie-broken"]
    assert codes(validate(one, arch=two).findings) == ["missing-tensor"]
    assert codes(validate(two, arch=one).findings) == ["unexpected-tensor"]


NET = """
import torch
from torch import nn
print("importing")

class Net(nn.Module):
    def __init__(self, input_size, output_size, hidden_layers, dropout=0.5):
        super().__init__()
        print("building")
        from widths import all_of
        widths = all_of(input_size, hidden_layers)
        self.hidden_layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:]))
        self.output = nn.Linear(widths[-1], output_size)

class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.LazyLinear(3)

def factory(input_size, output_size, *, hidden_layers, **options):
    assert set(options) <= {"dropout"}, options
    return Net(input_size, output_size, hidden_layers, **options)

def needs_more(input_size, output_size, hidden_layers, depth):
    return Net(input_size, output_size, hidden_layers)

def raises(input_size):
    raise KeyError("no such block")

def exits(input_size):
    raise SystemExit("usage: train.py")

def no_module(input_size):
    return [input_size]

number = 3
typed = None

def with_types(dtype, size, scale, table, output_size):
    assert dtype is torch.float16 and isinstance(size, torch.Size), (dtype, size)
    assert scale == 2.5 and table.tolist() == [[1, 2], [3, 4]]
    assert torch.empty(0).device.type == "meta"
    return nn.Linear(size[0], output_size)
"""


@pytest.fixture
def models(tmp_path: Path) -> str:
    (tmp_path / "models.py").write_text(NET)
    (tmp_path / "widths.py").write_text("def all_of(first, rest):\n    return [first, *rest]\n")
    return str(tmp_path / "models.py")


def test_a_class_in_a_file_is_called_with_the_metadatas_values(models: str, network: Path) -> None:
    result = validate(network, arch=f"{models}:Net")
    assert result.valid
    assert result.params == {"input_size": 64, "output_size": 10, "hidden_layers": [64, 32]}


def test_a_function_is_called_with_those_values_that_it_names(models: str, network: Path) -> None:
    assert validate(network, arch=f"{models}:factory").valid
    assert validate(network, arch=f"{models}:factory", settings=["dropout=0.1"]).valid


def test_set_comes_before_metadata(models: str, network: Path) -> None:
    result = validate(network, arch=f"{models}:Net", settings=["output_size=11", "dropout=0.1"])
    assert codes(result.findings) == ["shape-mismatch"] * 2
    assert result.params["output_size"] == 11


def test_what_the_code_prints_is_kept_off_stdout(
    models: str, network: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    validate(network, arch=f"{models}:Net")
    said = capsys.readouterr()
    assert said.out == ""
    assert "importing" in said.err and "building" in said.err


def test_a_file_leaves_neither_its_folder_nor_its_neighbours_behind(models: str, network: Path) -> None:
    before = list(sys.path)
    validate(network, arch=f"{models}:Net")
    assert sys.path == before
    assert "widths" not in sys.modules and "models" not in sys.modules


def test_neighbours_of_the_same_name_in_two_folders_are_two(models: str, network: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "models.py").write_text(NET)
    (other / "widths.py").write_text("def all_of(first, rest):\n    return [first + 1, *rest]\n")
    assert validate(network, arch=f"{models}:Net").valid
    assert not validate(network, arch=f"{other / 'models.py'}:Net").valid


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("needs_more", "needs depth, which the metadata does not say", "--set depth=VALUE"),
        ("raises", "raises KeyError: 'no such block'", "--set"),
        ("exits", "raises SystemExit: usage: train.py", "--set"),
        ("no_module", "makes a list, not a torch.nn.Module", "name a class"),
        ("number", "is not a class or function", "name a torch.nn.Module class"),
        ("Absent", "there is no 'Absent' in ", "it has "),
        ("Nett", "there is no 'Nett' in ", "did you mean 'Net'?"),
        ("Lazy", "a.weight has no shape before the module has run", "runs it once"),
    ],
)
def test_python_that_makes_no_module_is_refused_with_why(
    models: str, network: Path, name: str, message: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        validate(network, arch=f"{models}:{name}")
    assert message in str(caught.value)
    assert hint in str(caught.value.hint)


def test_a_value_of_the_wrong_type_is_the_callers_error_with_its_arguments(models: str, tmp_path: Path) -> None:
    path = save(tmp_path / "x.pth", perceptron(64, 32, 10), input_size="many", output_size=10, hidden_layers=[32])
    with pytest.raises(UsageError, match=r"input_size='many'.*raises TypeError"):
        validate(path, arch=f"{models}:Net")


def test_an_argument_that_the_class_does_not_take_is_refused(models: str, network: Path) -> None:
    with pytest.raises(UsageError, match="takes no argument 'depth'") as caught:
        validate(network, arch=f"{models}:Net", settings=["depth=3"])
    assert "hidden_layers" in str(caught.value.hint)


def test_metadata_of_torchs_and_numpys_types_arrives_as_such(models: str, tmp_path: Path) -> None:
    import numpy as np

    path = save(
        tmp_path / "typed.pth", {"weight": (2, 3), "bias": (2,)}, dtype=torch.float16, size=torch.Size([3]),
        scale=np.float64(2.5), table=np.array([[1, 2], [3, 4]], order="F"), output_size=np.int64(2),
    )  # fmt: skip
    assert validate(path, arch=f"{models}:with_types").valid


def test_a_file_that_cannot_be_imported_is_refused(network: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def (:\n")
    (tmp_path / "needs.py").write_text("import a_module_that_nobody_has\n")
    for name, why in (("bad.py", "SyntaxError"), ("needs.py", "ModuleNotFoundError"), ("none.py", "there is no file")):
        with pytest.raises(UsageError, match=why):
            validate(network, arch=f"{tmp_path / name}:Net")


def test_a_factory_in_a_module(network: Path) -> None:
    assert validate(network, arch="fixtures.network:Network").valid
    with pytest.raises(UsageError, match="ModuleNotFoundError"):
        validate(network, arch="no.such.package:factory")


def test_a_module_in_the_folder_that_we_are_in_is_found(
    network: Path, tmp_path: Path, models: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models.py").rename(tmp_path / "my_models.py")
    monkeypatch.chdir(tmp_path)
    assert validate(network, arch="my_models:Net").valid


def test_no_byte_of_a_tensor_is_read_in_any_form(models: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of 16 MiB, and a source that counts: headers alone are asked for, beside the archive's directory."""
    path = save(tmp_path / "big.pth", perceptron(4096, 1024, 10), input_size=4096, output_size=10, hidden_layers=[1024])
    read: list[int] = []
    original = {name: getattr(Source, name) for name in ("read_at", "read_into")}

    def read_at(self: Source, offset: int, length: int) -> Any:
        read.append(length)
        return original["read_at"](self, offset, length)

    def read_into(self: Source, buffer: memoryview, offset: int) -> Any:
        read.append(len(buffer))
        return original["read_into"](self, buffer, offset)

    monkeypatch.setattr(Source, "read_at", read_at)
    monkeypatch.setattr(Source, "read_into", read_into)
    for arch in (None, "mlp", str(path), f"{models}:Net"):
        assert validate(path, arch=arch).valid
    assert 0 < sum(read) < 2_000_000


IMPORTED = """
import json, sys
from ckptconv.api.validate import validate
result = validate(sys.argv[1], arch=sys.argv[2] or None)
print(json.dumps([result.valid, sorted({"torch", "numpy", "transformers"} & sys.modules.keys())]))
"""


@pytest.mark.parametrize(
    ("arch", "torch_too"), [("", False), ("mlp", False), (str(META), False), ("fixtures.network:Network", True)]
)
def test_torch_is_imported_only_where_python_is_asked_for(arch: str, torch_too: bool) -> None:
    run = subprocess.run(
        [sys.executable, "-c", IMPORTED, str(META), arch], cwd=ROOT, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    valid, imported = json.loads(run.stdout)
    assert valid
    assert ("torch" in imported) == torch_too
