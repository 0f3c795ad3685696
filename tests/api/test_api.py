"""What `import ckptconv` gives: open, convert, inspect; nothing printed, nothing heavy imported."""

from __future__ import annotations

import copy
import json
import pickle
import pkgutil
import pydoc
import subprocess
import sys
from collections import OrderedDict, defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import ckptconv
from ckptconv.errors import CkptconvError, UsageError
from tests.support.craft import saved
from tests.support.nodes import image, load, plain_text, same_object

if TYPE_CHECKING:
    from pathlib import Path

STATE = OrderedDict([("a.weight", torch.arange(6.0).reshape(2, 3)), ("a.bias", torch.ones(2).bfloat16())])
VALUE = {"epoch": 3, "state_dict": STATE}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return saved(tmp_path / "in.pth", VALUE)


def test_an_open_checkpoint_is_a_mapping_of_lazy_tensors(path: Path) -> None:
    with ckptconv.open(path) as checkpoint:
        assert list(checkpoint) == list(STATE)
        assert len(checkpoint) == 2
        assert "a.weight" in checkpoint
        assert checkpoint["a.weight"].info.shape == (2, 3)
        assert checkpoint.metadata == {"epoch": 3}
        assert np.array_equal(checkpoint["a.weight"].numpy(), STATE["a.weight"].numpy())
        assert checkpoint["a.bias"].numpy().dtype.name == "bfloat16"
        assert torch.equal(checkpoint["a.bias"].to_torch(), STATE["a.bias"])
        assert "b" not in checkpoint
        assert checkpoint.get("b") is None
        with pytest.raises(IndexError):
            checkpoint["a.weight"].read(0, 25)
    checkpoint.close()


def test_a_closed_checkpoint_cannot_be_read(path: Path) -> None:
    with ckptconv.open(path) as checkpoint:
        pass
    with pytest.raises(UsageError, match=r"in\.pth: the checkpoint is closed"):
        checkpoint["a.weight"].read()


def test_a_name_that_is_not_there_is_a_key_error_that_says_what_is(tmp_path: Path) -> None:
    state = {"epoch": 3, "state_dict": STATE, "ema": torch.ones(2)}
    with ckptconv.open(saved(tmp_path / "in.pth", state)) as checkpoint:
        for name, hint in (
            ("a.weigth", "did you mean 'a.weight'?"), ("bias", "did you mean 'a.bias'?"),
            ("ema", "it is outside of the model: checkpoint.extras['ema']"), ("q", "list(checkpoint) has the names"),
        ):  # fmt: skip
            with pytest.raises(KeyError) as caught:
                checkpoint[name]
            assert isinstance(caught.value, CkptconvError)
            assert (str(caught.value), caught.value.hint) == (f"there is no tensor {name!r}", hint)


def test_a_notebook_completes_the_names_behind_a_bracket(path: Path) -> None:
    with ckptconv.open(path) as checkpoint:
        assert checkpoint._ipython_key_completions_() == list(STATE)


def test_looking_whether_a_name_is_there_compares_it_with_no_other(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    monkeypatch.setattr("ckptconv.core.checkpoint.no_tensor", None)
    with ckptconv.open(path) as checkpoint:
        assert "b" not in checkpoint
        assert checkpoint.get("b", 7) == 7


def test_what_is_shown_of_a_tensor_is_one_line(path: Path) -> None:
    with ckptconv.open(path) as checkpoint:
        assert repr(checkpoint["a.weight"]) == "<LazyTensor F32 [2, 3], 24 bytes>"


def test_what_a_prompt_shows_of_a_result_is_a_few_words(path: Path, tmp_path: Path) -> None:
    state = {f"{n}.{part}": torch.ones(shape) for n in (0, 2) for part, shape in (("weight", (4, 4)), ("bias", 4))}
    raw = saved(tmp_path / "raw.pth", state)
    mlp = ckptconv.architecture("mlp", settings=["input_size=4", "hidden_layers=[4]", "output_size=4"])
    wanted = "<Spec mlp: input_size, hidden_layers, output_size>"
    assert repr(mlp) == f"Architecture(spec={wanted}, table=<Table mlp: 4 tensors>)"
    assert repr(ckptconv.diff(path, path)) == f"<Difference {path} → {path}: equal>"
    assert repr(ckptconv.diff(path, raw)) == f"<Difference {path} → {raw}: 7 findings, 2 edits>"
    assert repr(ckptconv.run(raw, arch="mlp")) == f"<Recording {raw}: torch on cpu, 3 batches>"
    for result in (mlp, ckptconv.validate(raw), ckptconv.inspect(path), ckptconv.architectures()):
        assert len(repr(result)) < 150 * (len(result) if isinstance(result, list) else 5)


def test_results_can_be_pickled(tmp_path: Path) -> None:
    state = {f"{n}.{part}": torch.ones(shape) for n in (0, 2) for part, shape in (("weight", (4, 4)), ("bias", 4))}
    raw = saved(tmp_path / "raw.pth", state)
    results: tuple[Any, ...] = (
        ckptconv.validate(raw), ckptconv.diff(raw, raw), ckptconv.convert(raw, tmp_path / "out.safetensors"),
        *ckptconv.architectures(), ckptconv.architecture("vgg", settings="depth=11"),
    )  # fmt: skip
    for result in results:
        again = pickle.loads(pickle.dumps(result))
        assert again == result
        assert again.to_dict() == result.to_dict()


@pytest.mark.parametrize("name", ["in.pth", "m.safetensors", "parts/", "m.onnx"])
def test_an_inspection_is_pickled_and_what_is_open_is_not(tmp_path: Path, name: str) -> None:
    state = {f"{n}.{part}": torch.ones(shape) for n in (0, 2) for part, shape in (("weight", (4, 4)), ("bias", 4))}
    raw = saved(tmp_path / "in.pth", state)
    if name != "in.pth":
        shards = 40 if name == "parts/" else None
        ckptconv.convert(raw, f"{tmp_path}/{name}", arch="mlp" if "onnx" in name else None, shard_size=shards)
    found = ckptconv.inspect(f"{tmp_path}/{name}")
    again = pickle.loads(pickle.dumps(found))
    assert again.to_dict() == found.to_dict()
    with pytest.raises(UsageError, match="the checkpoint is closed"):
        again.checkpoint["0.weight"].read()
    with ckptconv.open(f"{tmp_path}/{name}") as checkpoint:
        for attempt in (pickle.dumps, copy.deepcopy):
            with pytest.raises(TypeError, match=r"open .* again instead|cannot pickle"):
                attempt(checkpoint)
        assert checkpoint["0.weight"].numpy().all()


def test_tab_and_help_know_all_names() -> None:
    assert set(ckptconv.__all__) <= set(dir(ckptconv))
    words = pydoc.render_doc(ckptconv, renderer=vars(pydoc)["plaintext"]).split()
    assert "convert(source:" in " ".join(words).replace("( ", "(")  # Python 3.13 has each parameter on a line


def test_one_text_may_stand_where_several_may(path: Path, tmp_path: Path) -> None:
    edits = ckptconv.Edits(drop="a.bias", dtype="BF16", names=ckptconv.NameRule("add-prefix", "net."))
    assert edits == ckptconv.Edits(drop=["a.bias"], dtype=("BF16",), names=[ckptconv.NameRule("add-prefix", "net.")])
    ckptconv.convert(path, tmp_path / "out.pth", edits=edits)
    with ckptconv.open(tmp_path / "out.pth") as checkpoint:
        assert {name: tensor.info.dtype.name for name, tensor in checkpoint.items()} == {"net.a.weight": "BF16"}
    rules = tmp_path / "rules.toml"
    rules.write_text('[[edits]]\nkind = "drop"\nsources = ["a.bias"]\ntargets = []\n')
    for names in (rules, str(rules)):
        assert ckptconv.Edits(names=names).names == (names,)
    assert ckptconv.architecture("mlp", settings=["input_size=4", "hidden_layers=[3]", "output_size=2"]).table
    for ask in (
        lambda: ckptconv.architecture("mlp", settings="input_size=4"),
        lambda: ckptconv.validate(path, arch="mlp", settings="width=4"),
        lambda: ckptconv.diff(path, path, tolerances="a.weight"),
        lambda: ckptconv.convert(path, tmp_path / "o.onnx", arch="mlp", settings="width=4"),
    ):
        with pytest.raises(UsageError, match=r"'width'|'a\.weight'|needs a value for hidden_layers"):
            ask()


def test_the_source_format_may_be_forced(path: Path) -> None:
    with pytest.raises(CkptconvError):
        ckptconv.open(path, format="safetensors")
    with pytest.raises(UsageError):
        ckptconv.open(path, format="nonsense")


def test_convert_says_what_it_did(path: Path, tmp_path: Path) -> None:
    result = ckptconv.convert(path, tmp_path / "out.safetensors")
    assert (result.source_format, result.target_format, result.tensors) == ("torch", "safetensors", 2)
    assert result.nbytes == (tmp_path / "out.safetensors").stat().st_size
    assert result.digest == ckptconv.inspect(path, digest=True).digest
    assert (result.losses, result.findings) == ([], [])
    assert json.loads(json.dumps(result.to_dict()))["target"] == str(tmp_path / "out.safetensors")


def test_a_dry_run_writes_nothing(path: Path, tmp_path: Path) -> None:
    result = ckptconv.convert(path, tmp_path / "out.safetensors", dry_run=True)
    assert result.nbytes == 28
    assert not (tmp_path / "out.safetensors").exists()


def test_the_target_format_is_what_the_name_or_the_caller_says(path: Path, tmp_path: Path) -> None:
    for name in ("a.pt", "a.bin", "a.ckpt", "a.PTH"):
        assert ckptconv.convert(path, tmp_path / name).target_format == "torch"
    assert ckptconv.convert(path, tmp_path / "a.dat", to_format="safetensors").target_format == "safetensors"
    with pytest.raises(UsageError):
        ckptconv.convert(path, tmp_path / "a.dat2")
    with pytest.raises(UsageError, match="no loss"):
        ckptconv.convert(path, tmp_path / "x.pth", allow_loss=["metdata"])


def test_metadata_can_be_set_on_a_bare_state_dict(tmp_path: Path) -> None:
    path = saved(tmp_path / "bare.pth", STATE)
    ckptconv.convert(path, tmp_path / "out.pth", metadata={"sizes": [1, 2], "name": "x"})
    assert same_object(load(tmp_path / "out.pth"), {"sizes": [1, 2], "name": "x", "state_dict": STATE})
    ckptconv.convert(tmp_path / "out.pth", tmp_path / "two.safetensors", metadata={"name": "y"})
    ckptconv.convert(tmp_path / "two.safetensors", tmp_path / "three.pth")
    assert same_object(load(tmp_path / "three.pth"), {"sizes": [1, 2], "name": "y", "state_dict": STATE})


def test_metadata_set_with_bare_stands_beside_the_models_tensors_alone(path: Path, tmp_path: Path) -> None:
    ckptconv.convert(path, tmp_path / "out.pth", bare=True, metadata={"name": "x"})
    assert same_object(load(tmp_path / "out.pth"), {"name": "x", "state_dict": STATE})


def test_metadata_that_is_no_plain_data_is_refused_by_its_key(path: Path, tmp_path: Path) -> None:
    ring: list[object] = []
    ring.append(ring)
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    for value, said in (
        (np.float32(1), "float32 is not plain data"), ({"deep": [path]}, f"{type(path).__name__} is not plain data"),
        (ring, "it holds itself"), (defaultdict(lambda: 3), "a factory of its own"),
        (deep, "nested too deeply"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=f"metadata 'it': .*{said}"):
            ckptconv.convert(path, tmp_path / "out.pth", metadata={"it": value})
    assert not (tmp_path / "out.pth").exists()


def test_a_bare_conversion_is_what_the_usual_script_writes(path: Path, tmp_path: Path) -> None:
    ckptconv.convert(path, tmp_path / "bare.safetensors", bare=True)
    assert same_object(dict(load_file(tmp_path / "bare.safetensors")), dict(STATE)) or set(
        load_file(tmp_path / "bare.safetensors")
    ) == set(STATE)
    ckptconv.convert(path, tmp_path / "bare.pth", bare=True)
    assert same_object(load(tmp_path / "bare.pth"), STATE)


def test_inspect_reads_headers_alone_and_gives_plain_data(path: Path) -> None:
    found = ckptconv.inspect(path)
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (found.verdict, document["parameters"], document["nbytes"]) == ("plain", 8, path.stat().st_size)
    assert [(entry["name"], entry["dtype"], entry["shape"], entry["tied_to"]) for entry in document["tensors"]] == [
        ("a.weight", "F32", [2, 3], None), ("a.bias", "BF16", [2], None)
    ]  # fmt: skip
    assert document["metadata"] == {"epoch": 3}


def test_the_digest_is_the_same_in_every_format_and_changes_with_every_value(path: Path, tmp_path: Path) -> None:
    digests = {ckptconv.inspect(path, digest=True).digest}
    ckptconv.convert(path, tmp_path / "a.safetensors")
    ckptconv.convert(tmp_path / "a.safetensors", tmp_path / "b.pth")
    digests |= {ckptconv.inspect(tmp_path / name, digest=True).digest for name in ("a.safetensors", "b.pth")}
    assert len(digests) == 1
    others = [
        {**VALUE, "epoch": 4}, {**VALUE, "epoch": 3.0}, {"epoch": 3, "state_dict": {**STATE, "a.bias": torch.ones(2)}},
        {"epoch": 3, "state_dict": {**STATE, "c": torch.ones(1)}}, {"state_dict": STATE},
        {"epoch": 3, "state_dict": {"a.weight": STATE["a.weight"].reshape(3, 2), "a.bias": STATE["a.bias"]}},
    ]  # fmt: skip
    for other in others:
        digests.add(ckptconv.inspect(saved(tmp_path / "o.pth", other), digest=True).digest)
    assert len(digests) == 1 + len(others)


def test_the_digest_does_not_depend_on_order_strides_or_bookkeeping(path: Path, tmp_path: Path) -> None:
    state = {"a.bias": torch.nn.Parameter(STATE["a.bias"]), "a.weight": STATE["a.weight"].t().contiguous().t()}
    other = saved(tmp_path / "o.pth", {"epoch": 3, "state_dict": state})
    assert ckptconv.inspect(other, digest=True).digest == ckptconv.inspect(path, digest=True).digest


def test_statistics_are_torchs_own(tmp_path: Path) -> None:
    value = torch.tensor([1.0, -3.0, 0.0, float("nan"), float("inf"), -float("inf"), 5.0])
    found = ckptconv.inspect(saved(tmp_path / "s.pth", {"w": value, "e": torch.empty(0)}), stats=True)
    assert found.stats is not None
    figures = found.stats["w"].to_dict()  # type: ignore[union-attr]
    assert (figures["nan"], figures["inf"], figures["zeros"]) == (1, 2, 1)
    json.dumps(found.to_dict(), allow_nan=False)


def test_every_error_reads_as_one_line_with_a_hint_and_the_file(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(b"noise" * 10)
    for source in (tmp_path / "x.pth", tmp_path / "missing.pth", tmp_path):
        with pytest.raises(CkptconvError) as error:
            ckptconv.convert(source, tmp_path / "out.pth")
        assert plain_text(error.value)
        assert error.value.hint
        assert error.value.path == source


def test_nothing_is_printed(path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ckptconv.convert(path, tmp_path / "out.safetensors")
    ckptconv.inspect(path, stats=True, digest=True)
    assert capfd.readouterr() == ("", "")


def test_a_tensor_without_a_numpy_type_says_how_to_read_it(tmp_path: Path) -> None:
    value = torch.ones(2, dtype=torch.complex32)
    with ckptconv.open(saved(tmp_path / "h.pth", {"w": value})) as checkpoint:
        with pytest.raises(CkptconvError, match="C32"):
            checkpoint["w"].numpy()
        assert bytes(checkpoint["w"].read()) == image(value)


BARE = """
import importlib, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
for name in {modules}:
    importlib.import_module(name)
print(sorted(name for name in ("torch", "numpy", "ml_dtypes", "onnx", "onnxruntime", "safetensors", "rich")
             if name in sys.modules))
"""


def run_bare(modules: list[str], blocked: set[str]) -> str:
    program = BARE.format(modules=modules, blocked=blocked)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_library_imports_nothing_heavy() -> None:
    heavy = {"torch", "numpy", "ml_dtypes", "onnx", "onnxruntime", "safetensors", "rich"}
    assert run_bare(["ckptconv", "ckptconv.cli.main"], heavy) == "[]\n"


def test_every_module_is_importable_without_torch_numpy_and_pytest() -> None:
    names = [one.name for one in pkgutil.walk_packages(ckptconv.__path__, "ckptconv.") if "__main__" not in one.name]
    assert len(names) > 40
    assert run_bare(names, {"torch", "numpy", "ml_dtypes", "onnx", "onnxruntime", "safetensors", "pytest"}) in (
        "[]\n",
        "['rich']\n",
    )


def test_a_whole_conversion_works_without_torch(path: Path, tmp_path: Path) -> None:
    program = BARE.format(modules=["ckptconv"], blocked={"torch"}) + (
        "import ckptconv; ckptconv.convert(sys.argv[1], sys.argv[2]); ckptconv.convert(sys.argv[2], sys.argv[3]);"
        "print(ckptconv.inspect(sys.argv[3]).verdict)"
    )
    files = [str(path), str(tmp_path / "m.safetensors"), str(tmp_path / "back.pth")]
    done = subprocess.run([sys.executable, "-c", program, *files], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("plain\n")
    assert same_object(load(tmp_path / "back.pth"), VALUE)


def test_one_loss_may_be_agreed_to_by_its_code_alone(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.ones(2)}, "note": (1, 2)}, tmp_path / "a.pth")
    for code in ("all", "metadata"):
        ckptconv.convert(tmp_path / "a.pth", tmp_path / f"{code}.gguf", allow_loss=code)
    with pytest.raises(UsageError, match="there is no loss 'meta'"):
        ckptconv.convert(tmp_path / "a.pth", tmp_path / "b.gguf", allow_loss="meta")
