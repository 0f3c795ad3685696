"""ONNX files that we write, as onnx checks them and onnxruntime runs them."""

from __future__ import annotations

import shlex
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

import ckptconv
from ckptconv.arch.load import load_spec
from ckptconv.arch.table import expand
from ckptconv.cli.main import program
from ckptconv.errors import CkptconvError, LossError, TargetExistsError, TemplateError, UsageError
from ckptconv.formats.onnx import layout, write
from fixtures.network import Network, digits
from tests.arch.real_models import torchvision_operators

if TYPE_CHECKING:
    from collections.abc import Mapping

FIXTURES = Path(__file__).parents[3] / "fixtures"
METADATA = FIXTURES / "digits-metadata.pth"


def session(path: Path) -> onnxruntime.InferenceSession:
    onnx.checker.check_model(path, full_check=True)
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run(path: Path, **inputs: np.ndarray) -> np.ndarray:
    (found,) = session(path).run(None, inputs)
    return np.asarray(found)


def saved(tmp_path: Path, state: Mapping[str, object], name: str = "a.pth", **metadata: object) -> Path:
    torch.save({**metadata, "state_dict": state} if metadata else state, tmp_path / name)
    return tmp_path / name


def same(one: Path, other: Path) -> None:
    found = ckptconv.diff(one, other)
    assert found.equal, found.findings


def test_metadata_comes_back_through_safetensors_and_onnx(tmp_path: Path) -> None:
    path = METADATA
    for name in ("a.safetensors", "b.onnx", "c.safetensors", "d.pth"):
        ckptconv.convert(path, tmp_path / name, arch="mlp" if name == "b.onnx" else None)
        path = tmp_path / name
    first = torch.load(METADATA, weights_only=True)
    last = torch.load(path, weights_only=True)
    assert {key: value for key, value in last.items() if key != "state_dict"} == {
        key: value for key, value in first.items() if key != "state_dict"
    }
    assert [type(value) for value in last.values()] == [type(value) for value in first.values()]
    assert list(last["state_dict"]) == list(first["state_dict"])
    assert all(torch.equal(last["state_dict"][name], tensor) for name, tensor in first["state_dict"].items())
    same(METADATA, path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_digits_network_runs_as_in_torch(tmp_path: Path, dtype: torch.dtype) -> None:
    network = Network(64, 10, [64, 32])
    network.load_state_dict(torch.load(FIXTURES / "digits-raw.pth", weights_only=True))
    network = network.to(dtype).eval()
    source = saved(tmp_path, network.state_dict())
    ckptconv.convert(source, tmp_path / "a.onnx", arch="mlp")
    same(source, tmp_path / "a.onnx")
    _, images = digits()
    unit = {torch.float32: 2.0**-23, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}[dtype]
    for batch in (1, 256, len(images.labels)):
        x = images.pixels[:batch].to(dtype)
        with torch.inference_mode():
            expected = network(x).double().numpy()
        fed = x.numpy() if dtype is not torch.bfloat16 else x.float().numpy()
        found = run(tmp_path / "a.onnx", input=fed).astype(np.float64)
        largest = np.abs(expected).max(axis=1, keepdims=True)
        ulps = np.abs(found - expected) / (2.0 ** np.floor(np.log2(largest)) * unit)
        assert ulps.max() <= 4
    assert (found.argmax(1) == images.labels.numpy()).mean() == (expected.argmax(1) == images.labels.numpy()).mean()


def test_a_network_with_batch_norm_keeps_its_counters(tmp_path: Path) -> None:
    network = torch.nn.Sequential(
        torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6), torch.nn.ReLU(), torch.nn.Linear(6, 3)
    )
    network(torch.randn(9, 4))
    source = saved(tmp_path, network.eval().state_dict())
    ckptconv.convert(source, tmp_path / "a.onnx", arch="mlp", settings=["head=none"])
    same(source, tmp_path / "a.onnx")
    ckptconv.convert(tmp_path / "a.onnx", tmp_path / "b.pth")
    state = torch.load(tmp_path / "b.pth", weights_only=True)
    assert list(state) == list(network.state_dict())
    assert state["1.num_batches_tracked"] == 1
    x = torch.randn(5, 4)
    np.testing.assert_allclose(run(tmp_path / "a.onnx", input=x.numpy()), network(x).detach().numpy(), atol=1e-6)
    assert len(onnx.load(tmp_path / "a.onnx").graph.initializer) == 8


def test_nothing_is_assumed_in_silence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="activation and head") as caught:
        ckptconv.convert(METADATA, tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()
    words = shlex.split(caught.value.hint or "")
    assert words[:2] == ["ckptconv", "convert"]
    outcome = CliRunner().invoke(program, words[1:])
    assert outcome.exit_code == 0, outcome.output
    assert " is assumed" not in outcome.output
    made = ckptconv.convert(METADATA, tmp_path / "b.onnx", arch="mlp")
    assert [f.where for f in made.findings if f.code == "assumed"] == ["activation", "head"]


def test_what_was_assumed_is_noted_and_holds_for_the_next_conversion(tmp_path: Path) -> None:
    ckptconv.convert(METADATA, tmp_path / "a.onnx", arch="mlp", settings=["activation=gelu"])
    with ckptconv.open(tmp_path / "a.onnx") as checkpoint:
        note = checkpoint.notes.arch
    assert isinstance(note, dict)
    assert note["params"] | {"activation": "gelu", "head": "log_softmax"} == note["params"]
    ckptconv.convert(tmp_path / "a.onnx", tmp_path / "b.onnx")  # the note says it all
    assert "Erf" in {node.op_type for node in onnx.load(tmp_path / "b.onnx").graph.node}


def test_metadata_that_states_the_params_is_enough(tmp_path: Path) -> None:
    stated = {"activation": "tanh", "head": "none"}
    ckptconv.convert(METADATA, tmp_path / "a.onnx", metadata=stated)
    assert [node.op_type for node in onnx.load(tmp_path / "a.onnx").graph.node].count("Tanh") == 2


@pytest.mark.parametrize(
    ("arch", "words"), [(None, "--arch"), ("digits", "no architecture"), (str(METADATA), "recipe")]
)
def test_no_graph_without_an_architecture_that_computes(tmp_path: Path, arch: str | None, words: str) -> None:
    source = saved(tmp_path, {"a": torch.ones(2), "b": torch.ones(3)}) if arch is None else METADATA
    with pytest.raises(CkptconvError) as caught:
        ckptconv.convert(source, tmp_path / "a.onnx", arch=arch)
    assert words in f"{caught.value.message} {caught.value.hint}"


def test_an_architecture_without_a_recipe_points_to_python(tmp_path: Path) -> None:
    spec = tmp_path / "plain.toml"
    spec.write_text('spec = 1\nname = "plain"\n[tensors]\n"w" = "4"\n')
    source = saved(tmp_path, {"w": torch.ones(4)})
    with pytest.raises(UsageError, match="no forward recipe") as caught:
        ckptconv.convert(source, tmp_path / "a.onnx", arch=str(spec))
    assert "FILE.py:CLASS" in (caught.value.hint or "")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="no forward recipe") as caught:
        ckptconv.convert(source, tmp_path / "a.onnx", arch=str(spec))
    assert f"--arch {tmp_path / 'config.json'}, which has transformers" in (caught.value.hint or "")


def test_a_param_that_no_tensor_tells_is_asked_for_with_its_architecture(tmp_path: Path) -> None:
    table = expand(load_spec("nanogpt"), {"vocab_size": 9, "block_size": 4, "n_layer": 1, "n_embd": 8, "bias": False})
    needed = {name: entry.shape for name, entry in table.tensors.items() if not entry.optional}
    tensors = {name: torch.ones([size or 1 for size in shape]) for name, shape in needed.items()}
    source = saved(tmp_path, tensors)
    with pytest.raises(UsageError, match="'nanogpt' needs a value for n_head") as caught:
        ckptconv.convert(source, tmp_path / "a.onnx")
    assert caught.value.hint == "--arch nanogpt --set n_head=…"
    ckptconv.convert(source, tmp_path / "a.onnx", arch="nanogpt", settings=["n_head=2"])


def test_the_same_bytes_twice_and_another_file_is_not_replaced(tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        ckptconv.convert(METADATA, tmp_path / name, arch="mlp")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    with pytest.raises(TargetExistsError):
        ckptconv.convert(METADATA, tmp_path / "a.onnx", arch="mlp")


def test_bare_leaves_no_record(tmp_path: Path) -> None:
    ckptconv.convert(METADATA, tmp_path / "a.onnx", arch="mlp", bare=True)
    assert not onnx.load(tmp_path / "a.onnx").metadata_props
    with ckptconv.open(tmp_path / "a.onnx") as checkpoint:
        assert list(checkpoint) == list(torch.load(FIXTURES / "digits-raw.pth", weights_only=True))


def test_extras_are_a_loss_that_needs_consent(tmp_path: Path) -> None:
    with pytest.raises(LossError, match="1 loss"):
        ckptconv.convert(FIXTURES / "digits-training.pth", tmp_path / "a.onnx", arch="mlp")
    ckptconv.convert(FIXTURES / "digits-training.pth", tmp_path / "a.onnx", arch="mlp", bare=True)


@pytest.mark.parametrize("external", ["", "a.data", "a.safetensors"])
def test_what_is_agreed_to_be_lost_is_gone_and_the_tree_around_it_stays(tmp_path: Path, external: str) -> None:
    options = {"external-data": external} if external else {}
    ckptconv.convert(
        FIXTURES / "digits-training.pth", tmp_path / "a.onnx", arch="mlp", allow_loss="extras", options=options
    )
    session(tmp_path / "a.onnx")
    ckptconv.convert(tmp_path / "a.onnx", tmp_path / "b.pth")
    whole = torch.load(FIXTURES / "digits-training.pth", weights_only=False)
    left = torch.load(tmp_path / "b.pth", weights_only=False)
    assert list(left) == list(whole)
    state = left["optimizer_state_dict"]
    assert state["param_groups"] == whole["optimizer_state_dict"]["param_groups"]
    assert list(state["state"]) == list(whole["optimizer_state_dict"]["state"])
    assert not any(isinstance(value, torch.Tensor) for row in state["state"].values() for value in row.values())
    with ckptconv.open(tmp_path / "a.onnx") as checkpoint:
        assert not checkpoint.extras
    assert ckptconv.inspect(tmp_path / "a.onnx", digest=True).digest_holds


def test_the_opset_can_be_chosen(tmp_path: Path) -> None:
    ckptconv.convert(METADATA, tmp_path / "a.onnx", arch="mlp", options={"opset": "20"})
    assert onnx.load(tmp_path / "a.onnx").opset_import[0].version == 20
    session(tmp_path / "a.onnx")
    for value, words in (("9", "17 to"), ("x", "number")):
        with pytest.raises(UsageError) as caught:
            ckptconv.convert(METADATA, tmp_path / "b.onnx", arch="mlp", options={"opset": value})
        assert words in f"{caught.value.message} {caught.value.hint}"
    with pytest.raises(UsageError, match="'opsett'") as caught:
        ckptconv.convert(METADATA, tmp_path / "b.onnx", arch="mlp", options={"opsett": "20"})
    assert "opset" in (caught.value.hint or "")


# external data


def test_the_tensors_can_lie_beside_the_graph(tmp_path: Path) -> None:
    made = ckptconv.convert(METADATA, tmp_path / "a.onnx", arch="mlp", options={"external-data": "a.bin"})
    assert made.nbytes == sum((tmp_path / name).stat().st_size for name in ("a.onnx", "a.bin"))
    assert (tmp_path / "a.onnx").stat().st_size < 4000
    same(METADATA, tmp_path / "a.onnx")
    ckptconv.convert(METADATA, tmp_path / "b.onnx", arch="mlp")
    x = np.random.default_rng(0).random((3, 64), np.float32)
    assert np.array_equal(run(tmp_path / "a.onnx", input=x), run(tmp_path / "b.onnx", input=x))


def test_past_two_gigabytes_the_tensors_go_beside_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "MAX_MESSAGE", write.METADATA_ROOM + 10_000)
    ckptconv.convert(METADATA, tmp_path / "a.onnx", arch="mlp")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "a.onnx.data"]
    before = (tmp_path / "a.onnx.data").read_bytes()
    ckptconv.convert(METADATA, tmp_path / "a.onnx", arch="mlp", force=True)
    # the old graph finds its old data until the new one is in its place
    assert (tmp_path / "a.onnx.data").read_bytes() == before
    assert (tmp_path / "a.onnx.2.data").read_bytes() == before
    same(METADATA, tmp_path / "a.onnx")
    session(tmp_path / "a.onnx")


def test_the_graph_points_into_a_safetensors_file(tmp_path: Path) -> None:
    ckptconv.convert(METADATA, tmp_path / "a.onnx", arch="mlp", options={"external-data": "w.safetensors"})
    state = torch.load(FIXTURES / "digits-raw.pth", weights_only=True)
    loaded = load_file(tmp_path / "w.safetensors")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    assert (tmp_path / "a.onnx").stat().st_size < 4000
    same(tmp_path / "a.onnx", tmp_path / "w.safetensors")
    network = Network(64, 10, [64, 32]).eval()
    network.load_state_dict(state)
    x = torch.rand(3, 64)
    np.testing.assert_allclose(run(tmp_path / "a.onnx", input=x.numpy()), network(x).detach().numpy(), atol=1e-5)


def test_the_graph_points_into_its_own_source(tmp_path: Path) -> None:
    source = tmp_path / "w.safetensors"
    source.write_bytes((FIXTURES / "digits.safetensors").read_bytes())
    before, data = source.stat(), source.read_bytes()
    ckptconv.convert(source, tmp_path / "a.onnx", arch="mlp", options={"external-data": "w.safetensors"})
    after = source.stat()  # but for the time of the last access, which reading changes
    assert (after.st_ino, after.st_mode, after.st_mtime_ns) == (before.st_ino, before.st_mode, before.st_mtime_ns)
    assert source.read_bytes() == data
    assert (tmp_path / "a.onnx").stat().st_size < 4000
    same(tmp_path / "a.onnx", source)
    session(tmp_path / "a.onnx")


@pytest.mark.parametrize("place", ["../a.bin", "/tmp/a.bin", "a.onnx"])
def test_data_outside_of_the_models_folder_is_refused(tmp_path: Path, place: str) -> None:
    with pytest.raises(UsageError):
        ckptconv.convert(METADATA, tmp_path / "a.onnx", arch="mlp", options={"external-data": place})
    assert not list(tmp_path.iterdir())


def test_an_existing_data_file_is_not_replaced_without_force(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"mine")
    with pytest.raises(TargetExistsError):
        ckptconv.convert(METADATA, tmp_path / "a.onnx", arch="mlp", options={"external-data": "a.bin"})
    assert (tmp_path / "a.bin").read_bytes() == b"mine"
    assert not (tmp_path / "a.onnx").exists()


def test_a_graph_that_cannot_be_placed_takes_its_data_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        (tmp_path / "a.onnx").write_bytes(b"someone was faster")

    monkeypatch.setattr(write, "_check_with_onnx", fail)
    with pytest.raises(TargetExistsError):
        ckptconv.convert(METADATA, tmp_path / "a.onnx", arch="mlp", options={"external-data": "a.bin"})
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]


# templates


def test_a_template_gets_new_weights_in_its_own_layout(tmp_path: Path) -> None:
    torch.manual_seed(0)

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = torch.nn.Linear(6, 8), torch.nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(torch.tanh(self.first(x)))

    old, new = Block().eval(), Block().eval()
    x = torch.randn(2, 5, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the older exporter, which renames weights, says it is old
        torch.onnx.export(old, (x,), tmp_path / "old.onnx", dynamo=False)
    assert any(i.name.startswith("onnx::MatMul") for i in onnx.load(tmp_path / "old.onnx").graph.initializer)
    source = saved(tmp_path, new.state_dict())
    made = ckptconv.convert(source, tmp_path / "new.onnx", options={"template": str(tmp_path / "old.onnx")})
    assert "4 of its tensors" in next(f.message for f in made.findings if f.code == "template")
    (feed,) = session(tmp_path / "new.onnx").get_inputs()
    found = run(tmp_path / "new.onnx", **{feed.name: x.numpy()})
    np.testing.assert_allclose(found, new(x).detach().numpy(), atol=1e-6)
    same(source, tmp_path / "new.onnx")


def test_a_template_that_does_not_fit_says_what_is_left_over(tmp_path: Path) -> None:
    ckptconv.convert(METADATA, tmp_path / "old.onnx", arch="mlp")
    state = torch.load(FIXTURES / "digits-raw.pth", weights_only=True)
    state["output.weight"] = torch.ones(10, 31)
    state["output.bias"] = state["output.bias"].half()
    state["more"] = torch.ones(3)
    del state["hidden_layers.0.bias"]
    source = saved(tmp_path, state)
    with pytest.raises(TemplateError, match="4 tensors") as caught:
        ckptconv.convert(source, tmp_path / "new.onnx", options={"template": str(tmp_path / "old.onnx")})
    lines = "\n".join(caught.value.details)
    for words in ("'output.weight' is [10, 31]", "is F16", "'more' [3] has no place", "'hidden_layers.0.bias' [64]"):
        assert words in lines
    with pytest.raises(CkptconvError, match="no such file"):
        ckptconv.convert(METADATA, tmp_path / "new.onnx", options={"template": "nothing.onnx"})


# Python


def test_python_is_exported_with_its_ties(tmp_path: Path) -> None:
    source = FIXTURES / "tied.pth"
    reference = f"{FIXTURES / 'network.py'}:TiedLanguageModel"
    ckptconv.convert(source, tmp_path / "a.onnx", arch=reference)
    same(source, tmp_path / "a.onnx")
    assert [i.name for i in onnx.load(tmp_path / "a.onnx").graph.initializer].count("head.weight") == 0
    from fixtures.network import TiedLanguageModel

    network = TiedLanguageModel().eval()
    network.load_state_dict(torch.load(source, weights_only=True))
    for shape in ((1, 3), (4, 9)):
        tokens = torch.randint(0, 96, shape)
        (feed,) = session(tmp_path / "a.onnx").get_inputs()
        found = run(tmp_path / "a.onnx", **{feed.name: tokens.numpy()})
        np.testing.assert_allclose(found, network(tokens).detach().numpy(), atol=1e-5)


MODELS = """import torch
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

SIZES = dict(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)


def llama():
    return LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2, tie_word_embeddings=True, use_cache=False))


def bert():
    return BertModel(BertConfig(**SIZES))


class Silent(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(3))

    def forward(self, x):
        return x * self.scale
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torchvision_operators()
    path = tmp_path_factory.mktemp("models") / "models.py"
    path.write_text(MODELS)
    return path


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_transformers_models_run_in_onnxruntime(tmp_path: Path, models: Path, name: str) -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("models_under_test", models)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    network = getattr(module, name)().eval()
    source = saved(tmp_path, network.state_dict())
    ckptconv.convert(source, tmp_path / "a.onnx", arch=f"{models}:{name}", inputs=["input_ids:I64[N,T]<96"])
    same(source, tmp_path / "a.onnx")
    (feed,) = session(tmp_path / "a.onnx").get_inputs()
    assert (feed.name, feed.shape) == ("input_ids", ["N", "T"])
    for shape in ((1, 4), (3, 11)):
        tokens = torch.randint(0, 96, shape)
        with torch.inference_mode():
            expected = network(tokens)[0].numpy()
        found = session(tmp_path / "a.onnx").run(None, {"input_ids": tokens.numpy()})[0]
        largest = np.abs(expected).max(axis=-1, keepdims=True)
        assert (np.abs(found - expected) / np.spacing(largest)).max() <= 16
    text = (tmp_path / "a.onnx").read_bytes()
    assert str(tmp_path).encode() not in text
    assert b"site-packages" not in text


def test_inputs_that_nothing_says_are_asked_for(tmp_path: Path, models: Path) -> None:
    source = saved(tmp_path, {"scale": torch.ones(3)})
    with pytest.raises(UsageError, match="takes as input") as caught:
        ckptconv.convert(source, tmp_path / "a.onnx", arch=f"{models}:Silent")
    assert "--input" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="does not run"):
        ckptconv.convert(source, tmp_path / "a.onnx", arch=f"{models}:Silent", inputs=["x:F32[N,4]"])
    with pytest.raises(UsageError, match="describes no input"):
        ckptconv.convert(source, tmp_path / "a.onnx", arch=f"{models}:Silent", inputs=["F32"])
    ckptconv.convert(source, tmp_path / "a.onnx", arch=f"{models}:Silent", inputs=["x:F32[N,3]"])
    assert run(tmp_path / "a.onnx", x=np.ones((7, 3), np.float32)).shape == (7, 3)


def test_the_layout_is_the_one_that_protobuf_parses() -> None:
    """Lengths on both sides of every varint's width."""
    for size in (1, 100, 127, 128, 16_000, 16_384, 3_000_000):
        hole = onnx.TensorProto(name="w", dims=[size], data_type=onnx.TensorProto.UINT8)
        graph = onnx.helper.make_graph([], "g", [], [], [hole])
        model = onnx.helper.make_model(graph)
        laid = layout.plan_layout(model, {"w": size}, {})
        data = bytearray(laid.size)
        for at, piece in laid.pieces:
            data[at : at + len(piece)] = piece
        image = bytes(i % 251 for i in range(size))
        data[laid.offsets["w"] : laid.offsets["w"] + size] = image
        parsed = onnx.ModelProto.FromString(bytes(data))
        assert parsed.graph.initializer[0].raw_data == image
