"""Forward recipes where they are easily wrong: windows at the edge, half precision, ties, tensors left over, limits."""

from __future__ import annotations

import random
import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from ckptconv.arch.load import parse_text
from ckptconv.arch.recipe.expand import expand_recipe
from ckptconv.arch.recipe.graph import build_graph
from ckptconv.arch.recipe.module import build_module
from ckptconv.arch.table import expand
from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import TensorInfo
from ckptconv.errors import CkptconvError, LimitError, UnsupportedError
from tests.arch.recipe.test_recipe import LeNet, run_of, session, shuffled

if TYPE_CHECKING:
    from collections.abc import Container

    from ckptconv.arch.recipe.program import Program

BITS = {torch.float32: 23, torch.float16: 10, torch.bfloat16: 7}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def run_of_text(forward: str, tensors: str = "", present: Container[str] | None = None) -> Program:
    spec = parse_text(f'spec = 1\nname = "one"\n[tensors]\n{tensors}\n[forward]\n{forward}\n')
    return expand_recipe(expand(spec, {}), present)


def test_windows_at_the_edge_are_torchs() -> None:
    """Sizes, strides, paddings and ceil_mode at random, the two axes unequal: shapes said and values computed."""
    choose = random.Random(0)
    tried = 0
    while tried < 150:
        kernel, stride, ceil = choose.randint(1, 4), choose.randint(1, 4), choose.random() < 0.7
        padding, sizes = choose.randint(0, kernel // 2), (choose.randint(4, 13), choose.randint(4, 13))
        window: dict[str, Any] = {"kernel_size": kernel, "stride": stride, "padding": padding, "ceil_mode": ceil}
        step = f"kernel={kernel} stride={stride} padding={padding} ceil_mode={str(ceil).lower()}"
        x = torch.randn(2, 3, *sizes)
        if choose.random() < 0.5:
            expected, step = functional.max_pool2d(x, **window), f"max_pool2d {step}"
        else:
            inside = choose.random() < 0.5
            expected = functional.avg_pool2d(x, count_include_pad=inside, **window)
            step = f"avg_pool2d {step} count_include_pad={str(inside).lower()}"
        run = run_of_text(f'input = "batch 3 {sizes[0]} {sizes[1]}"\nsteps = ["{step}"]')
        (found,) = session(run, {}, choose.choice([17, 18, 20, 22])).run(None, {"input": x.numpy()})
        assert run.output.shape[1:] == tuple(expected.shape[1:]), (step, sizes)
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-6, err_msg=f"{step} of {sizes}")
        assert torch.equal(build_module(run)(x), expected)
        tried += 1


def rows(activation: nn.Module, norm: type[nn.Module]) -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 96), norm(96), activation, nn.Linear(96, 64), norm(64), activation, nn.Linear(64, 10),
        nn.LogSoftmax(dim=1),
    )  # fmt: skip


@pytest.mark.parametrize("dtype", BITS)
@pytest.mark.parametrize("name", ["lenet", "gelu batch", "gelu_tanh layer", "silu layer", "tanh batch"])
def test_onnxruntime_is_within_four_ulp_of_torch_in_the_weights_own_type(name: str, dtype: torch.dtype) -> None:
    if name == "lenet":
        network: nn.Module
        run, network = run_of("lenet", {"in_channels": 3, "features": 400, "num_classes": 10}), LeNet()
        x = torch.rand(4, 3, 32, 32)
    else:
        activation, norm = name.split()
        layer = {"gelu": nn.GELU(), "gelu_tanh": nn.GELU("tanh"), "silu": nn.SiLU(), "tanh": nn.Tanh()}[activation]
        network, x = rows(layer, {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}[norm]), torch.rand(64, 64)
        row = {"input_size": 64, "hidden_layers": [96, 64], "output_size": 10, "stride": 3}
        run = run_of("mlp", {"variant": "numbered", "norm": norm, "activation": activation, **row})
    network = network.to(dtype).eval()
    x = x.to(dtype)
    with torch.inference_mode():
        expected = network(x).double().numpy()
    fed = x.float() if dtype is torch.bfloat16 else x
    (found,) = session(run, network.state_dict()).run(None, {"input": fed.numpy()})
    largest = np.abs(expected).max(axis=1, keepdims=True)
    ulps = np.abs(found.astype(np.float64) - expected) / 2.0 ** (np.floor(np.log2(largest)) - BITS[dtype])
    assert ulps.max() <= 4


def test_the_same_graph_twice_is_the_same_bytes() -> None:
    params = {"input_size": 8, "hidden_layers": [6], "output_size": 3}
    made = []
    for _ in range(2):
        run = run_of("mlp", params)
        infos = {name: TensorInfo.of(DType.BF16, entry.shape) for name, entry in run.table.tensors.items()}  # type: ignore[arg-type]
        made.append(build_graph(run, infos)[0].SerializeToString())
    assert made[0] == made[1]


TWO = '"a.weight" = "4 4"\n"b.weight" = "4 4"'


def test_a_tensor_that_no_step_uses_is_refused() -> None:
    with pytest.raises(CkptconvError, match=r"no step uses the tensor 'b\.weight'"):
        run_of_text('input = "batch 4"\nsteps = ["linear a"]', TWO)


def test_an_optional_tensor_counts_where_the_checkpoint_has_it() -> None:
    tensors = '"a.weight" = "4 4"\n"a.bias" = { shape = "4", optional = true }'
    forward = 'input = "batch 4"\nsteps = ["linear a"]'
    assert list(build_module(run_of_text(forward, tensors)).state_dict()) == ["a.weight", "a.bias"]
    without = run_of_text(forward, tensors, present={"a.weight"})
    assert list(build_module(without).state_dict()) == ["a.weight"]


@pytest.mark.parametrize("used", ["first", "second"])
def test_both_names_of_a_tie_are_there_whichever_is_used(used: str) -> None:
    tensors = '"first.weight" = "4 4"\n"deep.second.weight" = { shape = "4 4", tied = "first.weight" }'
    name = {"first": "first", "second": "deep.second"}[used]
    module = build_module(run_of_text(f'input = "batch 4"\nsteps = ["linear {name}"]', tensors))
    state = module.state_dict()
    assert set(state) == {"first.weight", "deep.second.weight"}
    assert state["first.weight"].data_ptr() == state["deep.second.weight"].data_ptr()


@pytest.mark.parametrize("order", [("a", "a.b"), ("a.b", "a")])
def test_a_layer_may_stand_inside_another(order: tuple[str, str]) -> None:
    tensors = "\n".join(f'"{name}.weight" = "4 4"' for name in order)
    steps = ", ".join(f'"linear {name}"' for name in order)
    module = build_module(run_of_text(f'input = "batch 4"\nsteps = [{steps}]', tensors))
    assert set(module.state_dict()) == {"a.weight", "a.b.weight"}
    first, second = (module.get_parameter(f"{name}.weight") for name in order)
    x = torch.randn(3, 4)
    assert torch.equal(module(x), x @ first.T @ second.T)


def test_a_layer_that_is_used_twice_has_its_weights_once() -> None:
    run = run_of_text('input = "batch 4"\nsteps = ["linear a", "relu", "linear a", "linear b"]', TWO)
    module = shuffled(build_module(run))
    a, b = module.get_parameter("a.weight"), module.get_parameter("b.weight")
    x = torch.randn(3, 4)
    with torch.inference_mode():
        expected = torch.relu(x @ a.T) @ a.T @ b.T
    (found,) = session(run, module.state_dict()).run(None, {"input": x.numpy()})
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["forward", "training", "deep.half"])
def test_a_name_that_torch_cannot_have_is_refused_by_name(name: str) -> None:
    run = run_of_text(f'input = "batch 4"\nsteps = ["linear {name}"]', f'"{name}.weight" = "4 4"')
    with pytest.raises(UnsupportedError, match=f"'{name}'"):
        build_module(run)


NORM = '"a.running_mean" = "4"\n"a.running_var" = "{var}"\n'

MISFITS = [
    ('"a.weight" = "3 4"\n"a.bias" = "7"', "batch 4", "linear a", r"bias has the shape \[7\], and \[3\]"),
    ('"a.weight" = "3 4 3"\n"a.bias" = "3 1"', "batch 4 9", "conv1d a", r"bias has the shape \[3, 1\]"),
    ('"a.weight" = "4"\n"a.bias" = "1"', "batch 4", "layer_norm a", r"bias has the shape \[1\]"),
    (NORM.format(var=9), "batch 4", "batch_norm a", r"running_var has the shape \[9\]"),
    (NORM.format(var=4) + '"a.bias" = "4"', "batch 4", "batch_norm a", "both or none"),
    ('"a.running_mean" = ""\n"a.running_var" = ""', "batch 4", "batch_norm a", "shape of 0 dimensions"),
    ('"a.weight" = "4 2 3"', "batch 6 9", "conv1d a groups=3", "4 output channels do not divide into 3 groups"),
    ('"a.weight" = "4 6"', "batch 6", "embedding a", "takes integers, and gets floats"),
    ("", "batch 4", "softmax axis=2", "axis 2 of an input of 2 dimensions"),
    ("", "batch 4", "log_softmax axis=-3", "axis -3 of an input of 2 dimensions"),
    ("", "batch 4 9", "max_pool1d kernel=2.5", r"kernel is 2\.5"),
    ('"a.weight" = "4"', "batch 4", "layer_norm a eps=1e999", "eps is inf"),
    ("", "batch 4 9", "adaptive_avg_pool1d size=99999999", "size is over"),
    ("", "batch -4", "relu", "a dimension of -4"),
]


@pytest.mark.parametrize(("tensors", "dimensions", "step", "words"), MISFITS)
def test_what_torch_would_refuse_or_take_wrongly_is_refused(
    tensors: str, dimensions: str, step: str, words: str
) -> None:
    with pytest.raises(CkptconvError, match=words):
        run_of_text(f'input = "{dimensions}"\nsteps = ["{step}"]', tensors)


def test_integers_go_into_an_embedding_alone() -> None:
    with pytest.raises(CkptconvError, match="takes floats, and gets integers"):
        run_of_text('input = "batch 4"\ndtype = "I64"\nsteps = ["linear a", "linear b"]', TWO)
    with pytest.raises(CkptconvError, match="no element type of an input: 'F16'"):
        run_of_text('input = "batch 4"\ndtype = "F16"\nsteps = ["linear a", "linear b"]', TWO)


def test_one_module_is_one_layer() -> None:
    steps = '["conv1d a", "conv1d a stride=2"]'
    with pytest.raises(CkptconvError, match="'a' is another operation, or has other attributes"):
        run_of_text(f'input = "batch 4 9"\nsteps = {steps}', '"a.weight" = "4 4 1"')


@pytest.mark.parametrize("steps", ['["shortcut", "relu"]', '["residual", ["if true", ["shortcut", "relu"]]]'])
def test_a_shortcut_beside_nothing_is_refused(steps: str) -> None:
    with pytest.raises(CkptconvError, match="directly in a residual block"):
        run_of_text(f'input = "batch 4"\nsteps = ["linear a", "linear b", {steps}]', TWO)


def test_a_graph_without_end_is_refused_before_it_fills_the_memory() -> None:
    run = run_of_text('input = "batch 4 9"\nsteps = ["adaptive_avg_pool1d size=1000000"]')
    tracemalloc.start()
    try:
        with pytest.raises(LimitError, match="more than 1000 nodes"), pytest.MonkeyPatch.context() as patch:
            patch.setattr("ckptconv.arch.recipe.nodes.MAX_NODES", 1000)
            build_graph(run, {})
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_window_larger_than_its_input_is_cut_where_sizes_are_rounded_up() -> None:
    """As in torch, which refuses it where they are rounded down."""
    x = torch.randn(2, 3, 1, 2)
    for kind, pool in (("max", functional.max_pool2d), ("avg", functional.avg_pool2d)):
        run = run_of_text(f'input = "batch 3 1 2"\nsteps = ["{kind}_pool2d kernel=3 ceil_mode=true"]')
        expected = pool(x, 3, ceil_mode=True)
        assert run.output.shape[1:] == tuple(expected.shape[1:])
        (found,) = session(run, {}, 18).run(None, {"input": x.numpy()})
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)
        assert torch.equal(build_module(run)(x), expected)
        with pytest.raises(CkptconvError, match="a window of 3 does not fit into 1"):
            run_of_text(f'input = "batch 3 1 2"\nsteps = ["{kind}_pool2d kernel=3"]')


def test_integers_that_are_passed_on_come_out_as_integers() -> None:
    run = run_of_text('input = "batch 3 4"\ndtype = "I64"\nsteps = ["identity", "flatten"]')
    x = np.arange(24).reshape(2, 3, 4)
    (found,) = session(run, {}, 18).run(None, {"input": x})
    assert (found == x.reshape(2, 12)).all()
