"""`verify`: no false alarm on clean conversions, no change missed that moves the outputs."""

from __future__ import annotations

import os
import sys
import zipfile
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

import ckptconv
from ckptconv.api.running import memory, side
from ckptconv.arch.samples import InputSpec, parse_input
from ckptconv.checks.rounding import UNIT, bound
from ckptconv.checks.torch_runner import load_weights
from ckptconv.checks.verify import Output, compare_outputs
from ckptconv.core.dtypes import DType
from ckptconv.errors import CkptconvError, MemoryLimitError, MissingExtraError, RunError, UsageError
from fixtures.network import Network, digits

if TYPE_CHECKING:
    from collections.abc import Mapping


class Convolutions(nn.Module):
    """LeNet with torch's names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 5), nn.Conv2d(4, 6, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(96, 20), nn.Linear(20, 12), nn.Linear(12, 10)


def rows() -> nn.Module:
    hidden = [nn.Linear(8, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 12), nn.BatchNorm1d(12), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(12, 4))


FIXTURES = Path(__file__).parents[2] / "fixtures"

SEEDS = 5 if os.environ.get("CKPTCONV_THOROUGH") else 2
"""Networks of each kind that changes are tried on; 5 take two minutes."""

NETWORKS = {"digits": (lambda: Network(16, 5, [12, 12]), "mlp", ()), "rows": (rows, "mlp", ()),
            "lenet": (Convolutions, "lenet", ("x:F32[N,1,28,28]",))}  # fmt: skip


def saved(path: Path, state: Mapping[str, torch.Tensor]) -> Path:
    torch.save(dict(state), path)
    return path


def network(which: str, seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    state = NETWORKS[which][0]().state_dict()
    for name, tensor in state.items():
        if "running_var" in name:
            tensor.uniform_(0.5, 1.5)
    return state


@pytest.mark.parametrize("which", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_clean_conversions_are_equivalent(tmp_path: Path, which: str, dtype: torch.dtype) -> None:
    _, arch, inputs = NETWORKS[which]
    for seed in range(5):
        state = {n: t.to(dtype) if t.is_floating_point() else t for n, t in network(which, seed).items()}
        source = saved(tmp_path / "a.pth", state)
        ckptconv.convert(source, tmp_path / "a.safetensors", force=True)
        ckptconv.convert(source, tmp_path / "a.onnx", arch=arch, force=True)
        same = ckptconv.verify(source, tmp_path / "a.safetensors", arch=arch, inputs=inputs, seed=seed)
        assert same.equivalent
        assert same.outputs[0].bound == 0
        run = ckptconv.verify(source, tmp_path / "a.onnx", arch=arch, inputs=inputs, seed=seed)
        assert run.equivalent, run.outputs
        assert run.outputs[0].bound > 0
        assert run.runtimes == ("torch", "onnxruntime")


@pytest.mark.parametrize("which", NETWORKS)
def test_a_change_that_moves_the_outputs_past_the_bound_is_detected(tmp_path: Path, which: str) -> None:
    _, arch, inputs = NETWORKS[which]
    found = 0
    for seed in range(SEEDS):
        state = network(which, seed)
        source = saved(tmp_path / "a.pth", state)
        ckptconv.convert(source, tmp_path / "a.onnx", arch=arch, force=True)
        clean = ckptconv.verify(source, tmp_path / "a.onnx", arch=arch, inputs=inputs)
        for size in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1):
            name = [n for n, t in state.items() if t.dim() > 1][seed % 3]
            changed = {**state, name: state[name] * (1 + size)}
            other = saved(tmp_path / "b.pth", changed)
            moved = ckptconv.verify(source, other, arch=arch, inputs=inputs, atol=1e30).outputs[0].max_abs
            result = ckptconv.verify(other, tmp_path / "a.onnx", arch=arch, inputs=inputs)
            if moved >= 4 * clean.outputs[0].bound:
                assert not result.equivalent
                assert name in " ".join(f.message for f in result.findings if f.code == "weights-differ")
                found += 1
            elif result.equivalent:
                assert "without-effect" in {f.code for f in result.findings}
    assert found >= 8 * SEEDS / 5


def test_tensors_that_changed_places_are_named_in_every_try(tmp_path: Path) -> None:
    tries = 0
    for which, (_, arch, inputs) in NETWORKS.items():
        for seed in range(9):
            state = network(which, seed)
            source = saved(tmp_path / "a.pth", state)
            names = [n for n, t in state.items() if t.is_floating_point()]
            pairs = [(x, y) for x, y in combinations(names, 2) if state[x].shape == state[y].shape]
            pairs = [(x, y) for x, y in pairs if not torch.equal(state[x], state[y])]
            for x, y in pairs[:5]:
                other = saved(tmp_path / "b.pth", {**state, x: state[y], y: state[x]})
                assert ckptconv.validate(other, arch=arch).valid
                result = ckptconv.verify(source, other, arch=arch, inputs=inputs)
                assert not result.equivalent
                assert {(f.where, f.found) for f in result.findings if f.code == "swapped"} == {(x, y)}
                tries += 1
    assert tries >= 50


def test_the_spread_is_what_rounding_does() -> None:
    """The bound holds F32 runs of a deep network in any order of summation, and is not a worst case."""
    torch.manual_seed(0)
    module = nn.Sequential(*[layer for _ in range(6) for layer in (nn.Linear(64, 64), nn.Tanh())]).eval()
    x = torch.randn(40, 64)
    with torch.inference_mode():
        narrow = module(x)
        order = torch.randperm(64)
        first: Any = module[0]
        other = module[1:](nn.functional.linear(x[:, order], first.weight[:, order], first.bias))
    found = bound(module, {"x": x.numpy()}, UNIT["float32"])
    limits, exact = found.limits["output"], found.outputs["output"]
    for run in (narrow, other):
        assert (np.abs(run.double().numpy() - exact) <= limits).all()
    error = np.abs(narrow.double().numpy() - exact).max()
    assert error < limits.max() < 1000 * error


def test_where_no_layer_has_noise_the_last_rounding_is_still_allowed() -> None:
    """What is computed without weights, and stored rounded: the bound holds every row of it, and is no more."""
    torch.manual_seed(0)
    x = torch.randn(30, 50) * torch.logspace(-8, 8, 30)[:, None]

    class Scaled(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * (1 / 3)

    found = bound(Scaled(), {"x": x.numpy()}, UNIT["bfloat16"])
    rounded = (x.bfloat16() * (1 / 3)).double().numpy()
    error, size = np.abs(rounded - found.outputs["output"]), np.abs(found.outputs["output"]).max(1)
    assert (error <= found.limits["output"]).all()
    assert (found.limits["output"][:, 0] <= 4 * UNIT["bfloat16"] * size).all()


def test_one_network_is_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: WeakSet[nn.Module] = WeakSet()
    counts: list[int] = []

    def counted(*args: Any) -> nn.Module:
        module = load_weights(*args)
        alive.add(module)
        counts.append(len(alive))
        return module

    monkeypatch.setattr(side, "load_weights", counted)
    state = network("digits", 0)
    source = saved(tmp_path / "a.pth", state)
    other = saved(tmp_path / "b.pth", {**state, "output.weight": state["output.weight"] * 2})
    ckptconv.convert(source, tmp_path / "a.onnx", arch="mlp")
    for a, b, equivalent in ((source, source, True), (source, other, False), (tmp_path / "a.onnx", other, False)):
        counts.clear()
        result = ckptconv.verify(a, b, arch="mlp")
        assert result.equivalent is equivalent
        assert equivalent or "first-difference" in {finding.code for finding in result.findings}
        assert set(counts) == {1}, (a, b)
        assert not alive


def test_what_does_not_fit_into_memory_is_an_error_before_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = network("digits", 0)
    source = saved(tmp_path / "a.pth", state)
    other = saved(tmp_path / "b.pth", {**state, "output.bias": state["output.bias"] + 1})
    needed = 4 * sum(tensor.numel() for tensor in state.values())  # F32
    monkeypatch.setattr(memory, "available_memory", lambda: needed - 1)
    with pytest.raises(MemoryLimitError, match=r"\.pth: running it takes .* of memory, for .* parameters"):
        ckptconv.verify(source, other, arch="mlp")
    with pytest.raises(MemoryLimitError):
        ckptconv.convert(source, tmp_path / "c.safetensors", arch="mlp", verify=True)
    assert not (tmp_path / "c.safetensors").exists()
    monkeypatch.setattr(memory, "available_memory", lambda: needed)
    assert ckptconv.verify(source, source, arch="mlp").equivalent
    with pytest.raises(MemoryLimitError, match="the float64 run that gives the bound takes") as caught:
        ckptconv.verify(source, other, arch="mlp")
    assert caught.value.hint is not None and "--rtol" in caught.value.hint
    assert ckptconv.verify(source, other, arch="mlp", atol=9.0).equivalent
    recording = ckptconv.run(source, arch="mlp")
    assert [finding.code for finding in recording.findings if finding.severity == "warning"] == ["no-reference"]
    assert not recording.batches[0].limits


def test_graphs_that_nothing_describes_need_no_memory_for_a_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def graph(name: str, value: float) -> Path:
        weight = helper.make_tensor("w", TensorProto.FLOAT, [4, 3], [value] * 12)
        x, y = (helper.make_tensor_value_info(end, TensorProto.FLOAT, ["N", n]) for end, n in (("x", 4), ("y", 3)))
        made = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weight])
        onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / name)
        return tmp_path / name

    a, b = graph("a.onnx", 1.0), graph("b.onnx", 1.0 + 2**-23)
    monkeypatch.setattr(memory, "available_memory", lambda: 48)  # the graph's own bytes
    assert "a rule of thumb" in ckptconv.verify(a, b).reason


def test_python_runs_beside_its_own_graph(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(
        "import torch\nclass Net(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.embed = torch.nn.Embedding(50, 8)\n        self.out = torch.nn.Linear(8, 3)\n"
        "    def forward(self, ids):\n        return self.out(self.embed(ids).mean(1))\n"
    )
    state = {"embed.weight": torch.randn(50, 8), "out.weight": torch.randn(3, 8), "out.bias": torch.randn(3)}
    source, arch = saved(tmp_path / "a.pth", state), f"{tmp_path / 'models.py'}:Net"
    ckptconv.convert(source, tmp_path / "a.onnx", arch=arch, inputs=["ids:I64[N,T]<50"])
    assert ckptconv.verify(source, tmp_path / "a.onnx", arch=arch).equivalent
    np.savez(tmp_path / "x.npz", ids=np.arange(8).reshape(2, 4))
    given = ckptconv.verify(source, tmp_path / "a.onnx", arch=arch, arrays=tmp_path / "x.npz")
    assert given.equivalent
    assert given.runs == [(2, 4)]
    wrong = saved(tmp_path / "b.pth", {**state, "out.bias": state["out.bias"] + 1})
    assert not ckptconv.verify(wrong, tmp_path / "a.onnx", arch=arch).equivalent
    assert ckptconv.verify(wrong, tmp_path / "a.onnx", arch=arch, atol=1.1).equivalent


def test_graphs_whose_outputs_do_not_correspond_are_not_compared(tmp_path: Path) -> None:
    def graph(name: str, outputs: dict[str, int]) -> Path:
        nodes = [helper.make_node("MatMul", ["x", f"w_{one}"], [one]) for one in outputs]
        weights = [
            helper.make_tensor(f"w_{one}", TensorProto.FLOAT, (4, size), [0.5] * 4 * size)
            for one, size in outputs.items()
        ]
        made = [helper.make_tensor_value_info(one, TensorProto.FLOAT, ["n", size]) for one, size in outputs.items()]
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
        model = helper.make_model(
            helper.make_graph(nodes, "g", [x], made, weights), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
        )
        onnx.save(model, tmp_path / name)
        return tmp_path / name

    one = graph("a.onnx", {"y": 3})
    assert ckptconv.verify(one, graph("b.onnx", {"z": 3})).equivalent
    for other, words in (({"y": 3, "z": 3}, "1 outputs .y. against 2 .y, z."), ({"y": 2}, "the shape .* against")):
        with pytest.raises(UsageError, match=f"the outputs cannot be compared: .*{words}") as refused:
            ckptconv.verify(one, graph("b.onnx", other))
        assert refused.value.hint == "are these the same network?"


@pytest.mark.parametrize("samples", [0, -3])
def test_no_samples_are_refused(tmp_path: Path, samples: int) -> None:
    source = saved(tmp_path / "a.pth", network("digits", 0))
    with pytest.raises(UsageError, match=f"{samples} samples are none") as refused:
        ckptconv.verify(source, source, arch="mlp", samples=samples)
    assert refused.value.hint == "--samples 32"


def test_two_graphs_are_compared_too(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.pth", network("digits", 0))
    for name, opset in (("a.onnx", "17"), ("b.onnx", "20")):
        ckptconv.convert(source, tmp_path / name, arch="mlp", options={"opset": opset}, settings=["activation=gelu"])
    assert ckptconv.verify(tmp_path / "a.onnx", tmp_path / "b.onnx").equivalent
    ckptconv.convert(source, tmp_path / "c.onnx", arch="mlp", settings=["activation=tanh"])
    assert not ckptconv.verify(tmp_path / "a.onnx", tmp_path / "c.onnx").equivalent


@pytest.mark.parametrize(("given", "goes_in"), [("x:F32[N,16]", "[3, 16]"), ("x:F32[16]", "[16]")])
def test_a_graph_whose_sizes_its_exporter_fixed_says_what_it_takes(tmp_path: Path, given: str, goes_in: str) -> None:
    source, target = saved(tmp_path / "a.pth", network("digits", 0)), tmp_path / "a.onnx"
    ckptconv.convert(source, target, arch="mlp")
    model = onnx.load(target)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, target)
    with pytest.raises(RunError) as caught:
        ckptconv.verify(source, target, inputs=[given])
    name = model.graph.input[0].name
    assert caught.value.message == f"a.onnx does not run: its input {name!r} is [1, 16], and {goes_in} goes in"
    assert caught.value.hint == "what the graph takes is described by: --input 'x:F32[1,16]'"
    assert ckptconv.verify(source, target, inputs=["x:F32[1, 16]"]).equivalent
    ckptconv.convert(source, tmp_path / "free.onnx", arch="mlp")
    assert ckptconv.verify(tmp_path / "free.onnx", target).equivalent, "the sizes are those that both take"


def test_the_option_that_describes_an_input_can_be_typed() -> None:
    for spec in (InputSpec("input.1", DType.I64, (1, "batch size", "N")), InputSpec("x", DType.F32, ())):
        option = spec.option(spec.name)
        read = parse_input(option.removeprefix("--input '").removesuffix("'").replace("LIMIT", "9"))
        assert (read.dtype, len(read.dims), read.name) == (spec.dtype, len(spec.dims), "x" if spec.name == "x" else "")
        assert read.limit == (9 if spec.dtype.kind == "int" else 0)


def test_weights_that_a_class_does_not_take_name_the_command_that_says_why(tmp_path: Path) -> None:
    models, path = tmp_path / "models.py", saved(tmp_path / "a.pth", {"module.weight": torch.zeros(2, 2)})
    models.write_text("from torch import nn\ndef net(): return nn.Linear(2, 2)\n")
    with pytest.raises(RunError, match="does not run") as caught:
        ckptconv.verify(path, path, arch=f"{models}:net", inputs=["x:F32[N,2]"])
    assert caught.value.hint == f"ckptconv validate {path} --arch {models}:net says what does not fit"


def test_what_cannot_be_verified_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = saved(tmp_path / "a.pth", network("lenet", 0))
    with pytest.raises(RunError, match="does not run") as caught:
        ckptconv.verify(source, source, arch="lenet", inputs=["x:F32[N,1,9,9]"])
    assert "--input" in (caught.value.hint or "")
    other = saved(tmp_path / "b.pth", network("digits", 0))
    with pytest.raises(CkptconvError):
        ckptconv.verify(source, other, inputs=["x:F32[N,1,28,28]"])
    with pytest.raises(UsageError, match="no CUDA device"):
        ckptconv.verify(source, source, arch="lenet", device="cuda")
    (tmp_path / "x.npz").write_bytes(b"no zip")
    with pytest.raises(UsageError, match=r"not an \.npz"):
        ckptconv.verify(other, other, arch="mlp", arrays=tmp_path / "x.npz")
    ckptconv.convert(other, tmp_path / "b.onnx", arch="mlp")
    for missing in ("onnxruntime", "torch"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, missing, None)
            with pytest.raises(MissingExtraError, match=missing) as absent:
                ckptconv.verify(other, tmp_path / "b.onnx", arch="mlp")
            assert "ckptconv[verify]" in (absent.value.hint or "")


def test_the_digits_network_predicts_the_same_from_every_format(tmp_path: Path) -> None:
    """On all samples, and what torch itself predicts with the raw checkpoint."""
    images = np.concatenate([part.numpy() for part, _ in digits()]).astype(np.float32)
    assert len(images) == 1797
    np.savez(tmp_path / "x.npz", x=images)
    raw, metadata = FIXTURES / "digits-raw.pth", FIXTURES / "digits-metadata.pth"
    ckptconv.convert(metadata, tmp_path / "a.safetensors")
    ckptconv.convert(metadata, tmp_path / "a.onnx", arch="mlp")
    with torch.inference_mode():
        network = Network(64, 10, [64, 32]).eval()
        network.load_state_dict(torch.load(raw, weights_only=True))
        expected = network(torch.from_numpy(images)).argmax(1).numpy()
    for path in (raw, metadata, tmp_path / "a.safetensors", tmp_path / "a.onnx"):
        made = ckptconv.run(path, arch="mlp", arrays=tmp_path / "x.npz", layers=False)
        (batch,) = made.batches
        (output,) = batch.outputs.values()
        assert (output.argmax(1) == expected).all(), path


BLOCKS = [64, 96, 64, 10]


def whole_blocks(path: Path) -> Path:
    """A network whose rows are whole blocks of 32."""
    torch.manual_seed(0)
    state = Network(BLOCKS[0], BLOCKS[-1], BLOCKS[1:-1]).state_dict()
    torch.save({"input_size": 64, "hidden_layers": BLOCKS[1:-1], "output_size": 10, "state_dict": state}, path)
    return path


@pytest.mark.parametrize("dtype", ["Q8_0", "Q4_0"])
def test_blocks_run_as_the_floats_that_the_gguf_package_makes_of_them(dtype: str, tmp_path: Path) -> None:
    from gguf import GGUFReader, quants

    source, target = whole_blocks(tmp_path / "a.pth"), tmp_path / "a.gguf"
    made = ckptconv.convert(source, target, edits=ckptconv.Edits(dtype=[dtype]), verify=True)
    assert made.verification is not None  # the source is run with the tensors that are to be written
    assert (made.verification.equivalent, made.verification.outputs[0].bound) == (True, 0)
    moved = ckptconv.verify(source, target)
    assert not moved.equivalent
    state = {
        tensor.name: torch.tensor(quants.dequantize(tensor.data, tensor.tensor_type)).reshape(*tensor.shape[::-1])
        for tensor in GGUFReader(target).tensors
    }
    theirs = Network(BLOCKS[0], BLOCKS[-1], BLOCKS[1:-1]).eval()
    theirs.load_state_dict(state)
    ours, far = ckptconv.run(source, layers=False), []
    for batch in ours.batches:
        with torch.inference_mode():
            wanted = theirs(torch.from_numpy(batch.inputs["input_0"]))
        far.append(float((wanted - torch.from_numpy(batch.outputs["output"])).abs().max()))
    assert moved.outputs[0].max_abs == pytest.approx(max(far), rel=1e-3)
    assert ckptconv.verify(source, target, rtol=0.5).equivalent
    assert ckptconv.verify(target, target).outputs[0].bound == 0


def test_what_is_quantized_is_reported_alike_whether_it_is_verified(tmp_path: Path) -> None:
    source, edits = whole_blocks(tmp_path / "a.pth"), ckptconv.Edits(dtype=["Q8_0"])
    plain, verified = (
        ckptconv.convert(source, tmp_path / "a.gguf", edits=edits, verify=verify, force=True)
        for verify in (False, True)
    )
    assert (plain.findings, plain.digest) == (verified.findings, verified.digest)


def test_progress_is_reported_while_an_archive_is_inflated(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(whole_blocks(tmp_path / "a.pth"), "a.pth")
    seen: list[tuple[int, int]] = []
    ckptconv.verify(tmp_path / "a.pth", tmp_path / "a.zip", progress=lambda done, total: seen.append((done, total)))
    size = (tmp_path / "a.pth").stat().st_size
    assert seen[:-6][-1] == (size, size)
    assert seen[-6:] == [(done, 6) for done in range(1, 7)]
    seen.clear()
    ckptconv.run(tmp_path / "a.zip", layers=False, progress=lambda done, total: seen.append((done, total)))
    assert (size, size) in seen


MASKED = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 6)

    def forward(self, x):
        return self.fc(x).masked_fill(torch.arange(6) == 5, float("{value}"))
"""


@pytest.mark.parametrize("value", ["-inf", "nan"])
def test_a_value_that_is_masked_hides_no_change_beside_it(tmp_path: Path, value: str) -> None:
    """The limits of a row were those of its largest value, which is infinite or no number there."""
    (tmp_path / "net.py").write_text(MASKED.format(value=value))
    arch = f"{tmp_path / 'net.py'}:Net"
    state = {f"fc.{name}": tensor for name, tensor in nn.Linear(4, 6).state_dict().items()}
    source = saved(tmp_path / "a.pth", state)
    other = saved(tmp_path / "b.pth", {**state, "fc.weight": state["fc.weight"] * 1.5})
    recording = ckptconv.run(source, arch=arch)
    recording.machine = "another"
    for path, equivalent in ((source, True), (other, False)):
        assert ckptconv.verify(source, path, arch=arch, rtol=1e-3).equivalent == equivalent
        found = ckptconv.compare(recording, ckptconv.run(path, arch=arch, like=recording))
        assert found.equivalent == equivalent
        assert np.isfinite([output.bound for output in found.outputs]).all()


def test_complex_outputs_and_texts_are_compared_as_a_whole() -> None:
    found: dict[str, Output] = {}
    a = {"complex": np.array([1 + 1j, 2]), "text": np.array(["a", "b"])}
    b = {"complex": np.array([1 + 2j, 2]), "text": np.array(["a", "c"])}
    compare_outputs(found, a, b, {"complex": np.full(1, 0.5), "text": np.full(1, 0.5)})
    assert [(output.max_abs, output.ok) for output in found.values()] == [(1.0, False), (np.inf, False)]


@pytest.mark.parametrize("bounds", [{"rtol": -1.0}, {"atol": float("nan")}])
def test_an_invalid_bound_is_refused(tmp_path: Path, bounds: dict[str, Any]) -> None:
    source = saved(tmp_path / "a.pth", network("digits", 0))
    with pytest.raises(UsageError, match="must not be negative"):
        ckptconv.verify(source, source, arch="mlp", **bounds)


FUNCTIONS = [
    '["gelu_tanh", "tanh"]', '["silu", "gelu", "silu"]', '["avg_pool1d kernel=4", "adaptive_avg_pool1d size=1"]',
    '["log_softmax axis=1", ["residual", "silu"], "gelu"]', '["sigmoid", "log_softmax"]', '["softmax", "gelu_tanh"]',
]  # fmt: skip


@pytest.mark.parametrize("steps", FUNCTIONS)
def test_functions_without_weights_round_too(tmp_path: Path, steps: str) -> None:
    """Nothing but layers with weights had noise, so that what comes before the first of them was a false alarm."""
    (tmp_path / "net.toml").write_text(
        f'spec = 1\nname = "net"\n[tensors]\n[forward]\ninput = "batch 3 8"\nsteps = {steps}\n'
    )
    arch = str(tmp_path / "net.toml")
    source = saved(tmp_path / "a.pth", {})
    ckptconv.convert(source, tmp_path / "a.onnx", arch=arch)
    for seed in range(5):
        assert ckptconv.verify(source, tmp_path / "a.onnx", arch=arch, seed=seed).equivalent


def test_a_norm_of_nearly_equal_values_rounds_by_what_it_cancels(tmp_path: Path) -> None:
    (tmp_path / "net.toml").write_text(
        'spec = 1\nname = "net"\n[tensors]\n"fc.weight" = "8 8"\n"fc.bias" = "8"\n"norm.weight" = "8"\n[forward]\n'
        'input = "batch 8"\nsteps = ["linear fc", "sigmoid", "layer_norm norm eps=1e-6"]\n'
    )
    arch = str(tmp_path / "net.toml")
    for seed in range(5):
        torch.manual_seed(seed)
        state = {"fc.weight": torch.randn(8, 8) * 0.05, "fc.bias": torch.zeros(8), "norm.weight": torch.ones(8)}
        source = saved(tmp_path / "a.pth", state)
        ckptconv.convert(source, tmp_path / "a.onnx", arch=arch, force=True)
        assert ckptconv.verify(source, tmp_path / "a.onnx", arch=arch, seed=seed).equivalent
        other = saved(tmp_path / "b.pth", {**state, "norm.weight": state["norm.weight"] * 1.1})
        assert not ckptconv.verify(other, tmp_path / "a.onnx", arch=arch, seed=seed).equivalent


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("counted", [False, True])
def test_a_batch_norm_without_parameters_runs(tmp_path: Path, dtype: torch.dtype, counted: bool) -> None:
    """It has buffers alone, and not always the counter among them."""
    state = {"bn.running_mean": torch.randn(3, dtype=dtype), "bn.running_var": torch.rand(3, dtype=dtype) + 0.5}
    rows = '"bn.running_mean" = "3"\n"bn.running_var" = "3"\n'
    if counted:
        state["bn.num_batches_tracked"] = torch.tensor(7)
        rows += '"bn.num_batches_tracked" = { shape = "", dtype = ["I64"] }\n'
    (tmp_path / "net.toml").write_text(
        f'spec = 1\nname = "net"\n[tensors]\n{rows}[forward]\ninput = "batch 3 5"\nsteps = ["batch_norm bn"]\n'
    )
    arch = str(tmp_path / "net.toml")
    source = saved(tmp_path / "a.pth", state)
    ckptconv.convert(source, tmp_path / "a.onnx", arch=arch)
    assert ckptconv.verify(source, tmp_path / "a.onnx", arch=arch).equivalent
    other = saved(tmp_path / "b.pth", {**state, "bn.running_var": state["bn.running_var"] * 1.1})
    assert not ckptconv.verify(other, tmp_path / "a.onnx", arch=arch).equivalent
