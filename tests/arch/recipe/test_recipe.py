"""Forward recipes: the torch module and the ONNX graph that are built from them, against the networks themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from ckptconv.arch.load import load_spec, parse_text
from ckptconv.arch.recipe.expand import expand_recipe
from ckptconv.arch.recipe.graph import build_graph
from ckptconv.arch.recipe.module import build_module
from ckptconv.arch.table import expand
from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import TensorInfo
from ckptconv.errors import CkptconvError
from fixtures.network import Network
from tests.arch.real_models import torchvision_models

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.arch.recipe.program import Program

DTYPES = {torch.float64: DType.F64, torch.float32: DType.F32, torch.float16: DType.F16, torch.bfloat16: DType.BF16,
          torch.int64: DType.I64}  # fmt: skip


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def shuffled(module: nn.Module) -> nn.Module:
    """The module with statistics and scales that are not what they start as."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            tensor.normal_(0, 0.3) if "var" not in name else tensor.uniform_(0.5, 1.5)
    return module.eval()


def run_of(spec: str, params: Mapping[str, object]) -> Program:
    table = expand(load_spec(spec), params)  # type: ignore[arg-type]
    assert not table.findings
    return expand_recipe(table)


def session(run: Program, state: Mapping[str, torch.Tensor], opset: int = 18) -> onnxruntime.InferenceSession:
    """The graph with the state_dict in it, as the onnx package checks it and onnxruntime runs it."""
    infos = {name: TensorInfo.of(DTYPES[value.dtype], tuple(value.shape)) for name, value in state.items()}
    model, _ = build_graph(run, infos, opset=opset)
    for tensor in model.graph.initializer:
        tensor.raw_data = state[tensor.name].contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def close(run: Program, module: nn.Module, x: torch.Tensor, ulps: float = 8, opset: int = 18) -> None:
    """The built module gives the very bits, onnxruntime gives at most so many ULP of the largest magnitude."""
    state = module.state_dict()
    built = build_module(run, dtype=next(module.parameters()).dtype if list(module.parameters()) else None)
    assert set(built.state_dict()) == set(state)
    built.load_state_dict(state, strict=True)
    with torch.inference_mode():
        expected = module(x)
        assert torch.equal(built(x), expected)
    runner = session(run, state, opset)
    (feed,) = runner.get_inputs()
    (found,) = runner.run(None, {feed.name: x.numpy()})
    largest = expected.abs().max().item()
    unit = np.spacing(np.float32(largest)) if expected.dtype is torch.float32 else np.spacing(np.float16(largest))
    assert found.shape == tuple(expected.shape)
    assert np.abs(found.astype(np.float64) - expected.double().numpy()).max() <= ulps * unit


def test_the_fixtures_network_is_built_from_its_spec() -> None:
    run = run_of("mlp", {"input_size": 64, "hidden_layers": [64, 32], "output_size": 10})
    network = shuffled(Network(64, 10, [64, 32]))
    for batch in (1, 256):
        close(run, network, torch.rand(batch, 64))


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
@pytest.mark.parametrize("activation", ["gelu", "Tanh", "swish", "sigmoid", "gelu_tanh"])
def test_a_numbered_row_is_built_with_its_norm_and_activation(norm: str, activation: str) -> None:
    layers = {"gelu": nn.GELU(), "Tanh": nn.Tanh(), "swish": nn.SiLU(), "sigmoid": nn.Sigmoid(),
              "gelu_tanh": nn.GELU(approximate="tanh")}  # fmt: skip
    norms: dict[str, list[nn.Module]] = {"none": [], "batch": [nn.BatchNorm1d(6)], "layer": [nn.LayerNorm(6)]}
    network = nn.Sequential(nn.Linear(4, 6), *norms[norm], layers[activation], nn.Linear(6, 3), nn.Softmax(dim=1))
    params = {
        "variant": "numbered", "input_size": 4, "hidden_layers": [6], "output_size": 3, "norm": norm,
        "stride": 2 + bool(norms[norm]), "activation": activation, "head": "softmax",
    }  # fmt: skip
    for opset in (17, 18, 20):
        close(run_of("mlp", params), shuffled(network), torch.randn(5, 4), opset=opset)


class LeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in (self.conv1, self.conv2):
            x = nn.functional.max_pool2d(torch.relu(conv(x)), 2)
        x = torch.relu(self.fc1(x.flatten(1)))
        return self.fc3(torch.relu(self.fc2(x)))


def test_lenet_is_built_from_its_spec() -> None:
    run = run_of("lenet", {"in_channels": 3, "features": 400, "num_classes": 10})
    close(run, shuffled(LeNet()), torch.randn(2, 3, 32, 32), ulps=8)


RESNETS = {
    "resnet18": {"depths": [2, 2, 2, 2], "bottleneck": False},
    "resnet50": {"depths": [3, 4, 6, 3], "bottleneck": True},
    "resnext50_32x4d": {"depths": [3, 4, 6, 3], "bottleneck": True, "groups": 32, "width_per_group": 4},
    "wide_resnet50_2": {"depths": [3, 4, 6, 3], "bottleneck": True, "width_per_group": 128},
}


@pytest.mark.parametrize("name", RESNETS)
def test_torchvisions_resnets_are_built_bit_for_bit(name: str) -> None:
    run = run_of("resnet", {"widths": [64, 128, 256, 512], **RESNETS[name]})
    network = getattr(torchvision_models(), name)().eval()
    built = build_module(run, device="meta")
    built.load_state_dict(network.state_dict(), strict=True, assign=True)
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(built(x), network(x))
        if name == "resnet18":
            (found,) = session(run, network.state_dict()).run(None, {"input": x.numpy()})
            np.testing.assert_allclose(found, network(x).numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "depth", "norm"), [("vgg11", 11, False), ("vgg13_bn", 13, True), ("vgg19", 19, False)]
)
def test_torchvisions_vggs_are_built_bit_for_bit(name: str, depth: int, norm: bool) -> None:
    params = {"depth": depth, "batch_norm": norm, "image": 32, "num_classes": 10}
    with torch.device("meta"):
        network = getattr(torchvision_models(), name)(num_classes=10).eval()
    run = run_of("vgg", params)
    assert set(build_module(run, device="meta").state_dict()) == set(network.state_dict())
    # the small classifier keeps the memory of the test small
    small = run_of("vgg", {**params, "classifier": 8})
    network.classifier[0], network.classifier[3] = nn.Linear(25088, 8), nn.Linear(8, 8)
    network.classifier[6] = nn.Linear(8, 10)
    real = shuffled(network.to_empty(device="cpu"))
    built = build_module(small, device="meta")
    built.load_state_dict(real.state_dict(), strict=True, assign=True)
    x = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(built(x), real(x))


def test_torchvisions_alexnet_is_built_bit_for_bit() -> None:
    run = run_of("alexnet", {"classifier": 8, "num_classes": 10})
    with torch.device("meta"):
        network = torchvision_models().alexnet(num_classes=10).eval()
    network.classifier[1], network.classifier[4] = nn.Linear(9216, 8), nn.Linear(8, 8)
    network.classifier[6] = nn.Linear(8, 10)
    real = shuffled(network.to_empty(device="cpu"))
    built = build_module(run, device="meta")
    built.load_state_dict(real.state_dict(), strict=True, assign=True)
    x = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        assert torch.equal(built(x), real(x))
        (found,) = session(run, real.state_dict()).run(None, {"input": x.numpy()})
        np.testing.assert_allclose(found, real(x).numpy(), rtol=1e-4, atol=1e-4)


HEAD = """spec = 1
name = "one"
[params]
n = "int"
[tensors]
"""

OPERATIONS: dict[str, tuple[str, str, str, nn.Module, tuple[int, ...]]] = {
    "conv1d": (
        '"m.weight" = "8 2 3"\n"m.bias" = "8"',
        "batch 4 n",
        "conv1d m stride=2 padding=1 dilation=2 groups=2",
        nn.Conv1d(4, 8, 3, 2, 1, 2, 2),
        (2, 4, 11),
    ),
    "conv2d": (
        '"m.weight" = "6 3 3 2"',
        "batch 3 n n",
        "conv2d m padding=1",
        nn.Conv2d(3, 6, (3, 2), padding=1, bias=False),
        (2, 3, 11, 11),
    ),
    "linear on three dimensions": (
        '"m.weight" = "5 4"\n"m.bias" = "5"',
        "batch n 4",
        "linear m",
        nn.Linear(4, 5),
        (2, 11, 4),
    ),
    "linear without bias": ('"m.weight" = "5 4"', "batch n 4", "linear m", nn.Linear(4, 5, bias=False), (2, 11, 4)),
    "batch_norm": (
        '"m.running_mean" = "4"\n"m.running_var" = "4"\n"m.num_batches_tracked" = ""',
        "batch 4 n",
        "batch_norm m eps=1e-3",
        nn.BatchNorm1d(4, eps=1e-3, affine=False),
        (2, 4, 11),
    ),
    "layer_norm": (
        '"m.weight" = "3 4"\n"m.bias" = "3 4"',
        "batch n 3 4",
        "layer_norm m eps=0.01",
        nn.LayerNorm((3, 4), 0.01),
        (2, 11, 3, 4),
    ),
    "max_pool1d": (
        "",
        "batch 4 n",
        "max_pool1d kernel=3 stride=2 padding=1 dilation=2",
        nn.MaxPool1d(3, 2, 1, 2),
        (2, 4, 11),
    ),
    "max_pool2d": (
        "",
        "batch 4 n n",
        "max_pool2d kernel=3 stride=2 ceil_mode=true",
        nn.MaxPool2d(3, 2, ceil_mode=True),
        (2, 4, 12, 12),
    ),
    "avg_pool1d": ("", "batch 4 n", "avg_pool1d kernel=3 padding=1", nn.AvgPool1d(3, padding=1), (2, 4, 11)),
    "avg_pool2d": (
        "",
        "batch 4 n n",
        "avg_pool2d kernel=2 count_include_pad=false padding=1",
        nn.AvgPool2d(2, padding=1, count_include_pad=False),
        (2, 4, 11, 11),
    ),
    "adaptive_avg_pool2d evenly": (
        "",
        "batch 4 n n",
        "adaptive_avg_pool2d size=3",
        nn.AdaptiveAvgPool2d(3),
        (2, 4, 12, 12),
    ),
    "adaptive_avg_pool2d unevenly": (
        "",
        "batch 4 n n",
        "adaptive_avg_pool2d size=5",
        nn.AdaptiveAvgPool2d(5),
        (2, 4, 12, 12),
    ),
    "adaptive_avg_pool1d": ("", "batch 4 n", "adaptive_avg_pool1d size=4", nn.AdaptiveAvgPool1d(4), (2, 4, 11)),
    "adaptive_max_pool2d": ("", "batch 4 n n", "adaptive_max_pool2d size=4", nn.AdaptiveMaxPool2d(4), (2, 4, 11, 11)),
    "adaptive_max_pool1d": ("", "batch 4 n", "adaptive_max_pool1d size=1", nn.AdaptiveMaxPool1d(1), (2, 4, 11)),
    "log_softmax": ("", "batch 4 n", "log_softmax axis=1", nn.LogSoftmax(dim=1), (2, 4, 11)),
    "softmax": ("", "batch 4 n", "softmax", nn.Softmax(dim=-1), (2, 4, 11)),
    "flatten": ("", "batch 4 n n", "flatten start=2", nn.Flatten(2), (2, 4, 11, 11)),
    "gelu": ("", "batch n", "gelu", nn.GELU(), (2, 11)),
    "silu": ("", "batch n", "silu", nn.SiLU(), (2, 11)),
}


class At(nn.Module):
    """A layer under the name m."""

    def __init__(self, m: nn.Module) -> None:
        super().__init__()
        self.m = m

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.m(x)


@pytest.mark.parametrize("opset", [17, 18, 21])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_torchs(name: str, opset: int) -> None:
    tensors, inputs, step, layer, shape = OPERATIONS[name]
    spec = parse_text(f'{HEAD}{tensors}\n[forward]\ninput = "{inputs}"\nsteps = ["{step}"]\n')
    words = inputs.split()
    run = expand_recipe(expand(spec, {"n": shape[words.index("n")]}))
    x = torch.randn(shape)
    close(run, shuffled(At(layer)), x, ulps=8, opset=opset)
    with torch.inference_mode():
        known = [dim for dim in zip(run.output.shape, layer(x).shape, strict=True) if isinstance(dim[0], int)]
    assert all(said == found for said, found in known)
    assert len(known) == x.dim() - 1 if "flatten" not in name else True


def test_an_embedding_a_residual_and_a_tie_are_torchs() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.block, self.head = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            hidden = self.embed(tokens)
            return self.head(torch.relu(self.block(hidden)) + hidden)

    spec = parse_text("""spec = 1
name = "tied"
[tensors]
"embed.weight" = "9 4"
"block.weight" = "4 4"
"block.bias" = "4"
"head.weight" = { shape = "9 4", tied = "embed.weight" }
[forward]
input = "batch length"
dtype = "I64"
steps = ["embedding embed", ["residual", "linear block", "relu"], "linear head"]
""")
    run = expand_recipe(expand(spec, {}))
    built = build_module(run)
    assert built.get_parameter("head.weight") is built.get_parameter("embed.weight")
    close(run, shuffled(Model()), torch.randint(0, 9, (2, 5)))
    model, _ = build_graph(run, {n: TensorInfo.of(DType.F32, tuple(t.shape)) for n, t in Model().state_dict().items()},
                           same={"head.weight": "embed.weight"})  # fmt: skip
    assert [tensor.name for tensor in model.graph.initializer] == ["embed.weight", "block.weight", "block.bias"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_types_are_cast_in_the_graph_and_that_is_reported(dtype: torch.dtype) -> None:
    run = run_of("mlp", {"input_size": 8, "hidden_layers": [6], "output_size": 3})
    network = shuffled(Network(8, 3, [6])).to(dtype)
    infos = {name: TensorInfo.of(DTYPES[dtype], tuple(value.shape)) for name, value in network.state_dict().items()}
    model, findings = build_graph(run, infos)
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    if dtype is torch.float16:
        assert not casts
        assert not findings
        close(run, network, torch.rand(7, 8).half())
        return
    assert len(casts) == 4
    assert [finding.code for finding in findings] == ["cast"]
    assert {tensor.data_type for tensor in model.graph.initializer} == {
        {torch.bfloat16: onnx.TensorProto.BFLOAT16, torch.float64: onnx.TensorProto.DOUBLE}[dtype]
    }
    x = torch.rand(7, 8)
    (found,) = session(run, network.state_dict()).run(None, {"input": x.numpy()})
    with torch.inference_mode():
        expected = network.float()(x)
    assert np.abs(found - expected.numpy()).max() <= 4 * np.spacing(np.float32(expected.abs().max().item()))


SPEC = HEAD + '"m.weight" = "4 4"\n"c.weight" = "4 4 3 3"\n[repeat]\ni = "n"\n[forward]\n'

BAD = [
    ('input = "batch 4"\nsteps = ["liner m"]', "no operation 'liner'", "linear"),
    ('input = "batch 4"\nsteps = ["linear"]', "needs the name of its module", None),
    ('input = "batch 4"\nsteps = ["relu m"]', "relu has no tensors", None),
    ('input = "batch 4"\nsteps = ["linear m stride=1"]', "no attribute 'stride'", None),
    ('input = "batch 4"\nsteps = ["linear m{i}"]', "the loop 'i', which is not around it", None),
    ('input = "batch 4"\nsteps = [["for j", "relu"]]', "no loop 'j'", None),
    ('input = "batch 4"\nsteps = [["for i i", "relu"]]', "inside a loop over the same 'i'", None),
    ('input = "batch 4"\nsteps = [["unless n", "relu"]]', "no such block", "for LOOP"),
    ('input = "batch 4"\nsteps = [["residual", ["shortcut", "relu"], ["shortcut", "relu"]]]', "two shortcuts", None),
    ('input = "batch 4"\nsteps = [1]', "expected a step", None),
    ('input = "batch 4"\nsteps = ["softmax axis=1 axis=1"]', "given twice", None),
    ('steps = ["relu"]', "needs 'input'", None),
    ('input = "batch 4"\ndtype = "F99"\nsteps = ["relu"]', "no element type of an input", "I64"),
    ('input = "batch 4"\nstep = []', "unknown key", "steps"),
    ('input = "batch 4"\nsteps = ["linear {n +}"]', "expression", None),
]


@pytest.mark.parametrize(("text", "words", "hint"), BAD)
def test_a_mistake_in_a_recipe_is_named_where_it_stands(text: str, words: str, hint: str | None) -> None:
    with pytest.raises(CkptconvError, match="forward") as caught:
        parse_text(SPEC + text)
    assert words in caught.value.message
    assert hint is None or hint in (caught.value.hint or "")


MISFITS = [
    ('input = "batch 5"\nsteps = ["linear m"]', "takes 4 features and is given 5"),
    ('input = "batch 5 9 9"\nsteps = ["conv2d c"]', "takes 4 channels and is given 5"),
    ('input = "batch 4 2 2"\nsteps = ["conv2d c"]', "does not fit into 2"),
    ('input = "batch 4"\nsteps = ["conv2d c"]', "input of 4 dimensions"),
    ('input = "batch 4"\nsteps = ["linear other"]', "no tensor 'other.weight'"),
    ('input = "batch 4"\nsteps = ["linear c"]', "shape of 4 dimensions"),
    ('input = "batch 4 8 8"\nsteps = ["max_pool2d kernel=0"]', "kernel is 0"),
    ('input = "batch 4 8 8"\nsteps = ["max_pool2d"]', "needs kernel"),
    (
        'input = "batch 4 8 8"\nsteps = [["residual", "max_pool2d kernel=2"]]',
        "adds [batch, 4, 4, 4] to [batch, 4, 8, 8]",
    ),
    ('input = "batch 4"\nsteps = []', "nothing with the input"),
]


@pytest.mark.parametrize(("text", "words"), MISFITS)
def test_a_recipe_that_does_not_fit_its_tensors_is_refused(text: str, words: str) -> None:
    with pytest.raises(CkptconvError) as caught:
        expand_recipe(expand(parse_text(SPEC + text), {"n": 2}))
    assert words in caught.value.message


def test_loops_without_end_are_refused_at_once() -> None:
    spec = parse_text(SPEC + 'input = "batch 4"\nsteps = [["for i", "relu"]]')
    with pytest.raises(CkptconvError, match=r"more than|too many"):
        expand_recipe(expand(spec, {"n": 90_000_000}))


def test_an_unknown_activation_is_refused_with_the_known_ones() -> None:
    with pytest.raises(CkptconvError, match="no activation 'mish'") as caught:
        run_of("mlp", {"input_size": 4, "hidden_layers": [3], "output_size": 2, "activation": "mish"})
    assert "gelu" in (caught.value.hint or "")


def test_an_architecture_without_a_recipe_says_so() -> None:
    spec = parse_text('spec = 1\nname = "plain"\n[tensors]\n"w" = "4"\n')
    table = expand(spec, {})
    with pytest.raises(CkptconvError, match="no forward recipe"):
        expand_recipe(table)
