"""``ckptconv verify`` as it is typed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import torch

from tests.cli.conftest import strict

if TYPE_CHECKING:
    import pytest

    from tests.cli.conftest import Run

FIXTURES = Path(__file__).parents[2] / "fixtures"


def test_verify_says_what_it_found_and_exits_by_it(run: Run, tmp_path: Path) -> None:
    source, graph = FIXTURES / "digits-metadata.pth", tmp_path / "a.onnx"
    assert run("convert", source, graph, "--arch", "mlp").exit_code == 0
    good = run("verify", source, graph)
    assert good.exit_code == 0, good.output
    assert good.output.startswith("equivalent: 36 samples in 3 batches on cpu, torch and onnxruntime\n")
    document = strict(run("verify", source, graph, "--json").output)
    assert document["equivalent"] is True
    assert document["outputs"][0].keys() == {"name", "max_abs", "max_rel", "bound", "ok"}
    state = torch.load(FIXTURES / "digits-raw.pth", weights_only=True)
    state["output.bias"][0] += 0.01  # all of them together would have no effect on log-softmax
    torch.save(state, tmp_path / "b.pth")
    bad = run("verify", tmp_path / "b.pth", graph)
    assert bad.exit_code == 1
    assert bad.output.startswith("not equivalent: ")
    assert "output.bias: the weights differ" in bad.output
    assert run("verify", tmp_path / "b.pth", graph, "--atol", "1").exit_code == 0


def test_trouble_is_one_line_and_a_hint(run: Run, tmp_path: Path) -> None:
    torch.save({"w": torch.ones(3)}, tmp_path / "a.pth")
    for typed in (["missing.pth", "a.pth"], [tmp_path / "a.pth", tmp_path / "a.pth"]):
        done = run("verify", *typed)
        assert done.exit_code == 2
        assert "hint: " in done.output


def test_outputs_are_saved_and_compared_later(run: Run, tmp_path: Path) -> None:
    source, graph, saved = FIXTURES / "digits-metadata.pth", tmp_path / "a.onnx", tmp_path / "out.npz"
    assert run("convert", source, graph, "--arch", "mlp").exit_code == 0
    kept = run("verify", source, "--save-outputs", saved)
    assert kept.exit_code == 0, kept.output
    assert kept.output.startswith(f"saved to {saved}: 36 samples in 3 batches on cpu, torch\n")
    later = run("verify", graph, "--outputs", saved)
    assert later.exit_code == 0, later.output
    assert later.output.startswith("equivalent: 36 samples in 3 batches on cpu, torch and onnxruntime\n")
    again = run("verify", source, "--save-outputs", saved)
    assert (again.exit_code, "--force" in again.output) == (2, True)
    document = strict(run("verify", source, "--save-outputs", saved, "--force", "--json").output)
    assert document["saved"] == str(saved)
    for wrong in ([source], [source, graph, "--outputs", saved], [source, "--outputs", saved, "--seed", "3"],
                  [source, "--save-outputs", saved, "--rtol", "1"]):  # fmt: skip
        assert run("verify", *wrong).exit_code == 2


def one_error(output: str, *words: str) -> None:
    """An error line and a hint, and no traceback."""
    lines = output.splitlines()
    assert [line.split(": ")[0] for line in lines] == ["ckptconv", "hint"], output
    assert lines[0].startswith("ckptconv: error: ")
    assert all(word in output for word in words), output


def test_what_the_machine_lacks_is_one_line_and_a_hint(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, graph = FIXTURES / "digits-metadata.pth", tmp_path / "a.onnx"
    assert run("convert", source, graph, "--arch", "mlp").exit_code == 0
    for missing in ("torch", "onnxruntime"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, missing, None)
            done = run("verify", source, graph)
        assert done.exit_code == 2
        one_error(done.output, missing, "ckptconv[verify]")
    for line in (["verify", source, graph], ["verify", source, "--save-outputs", tmp_path / "o.npz"]):
        if not torch.cuda.is_available():
            done = run(*line, "--device", "cuda")
            assert done.exit_code == 2
            one_error(done.output, "no CUDA device", "--device cpu")


def test_an_operator_that_the_provider_lacks_is_named(run: Run, tmp_path: Path) -> None:
    """onnxruntime's CPU kernels lack BF16 for most operators."""
    value, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.BFLOAT16
    nodes = [
        onnx.helper.make_node("Cast", ["x"], ["narrow"], to=kind),
        onnx.helper.make_node("MatMul", ["narrow", "narrow"], ["made"]),
        onnx.helper.make_node("Cast", ["made"], ["y"], to=onnx.TensorProto.FLOAT),
    ]
    graph = onnx.helper.make_graph(nodes, "g", [value("x", 1, [4, 4])], [value("y", 1, [4, 4])])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, tmp_path / "a.onnx")
    done = run("verify", tmp_path / "a.onnx", tmp_path / "a.onnx")
    assert done.exit_code == 2, done.output
    one_error(done.output, "CPUExecutionProvider has no kernel for MatMul(13)", "--dtype F32")


def test_a_model_of_llama_cpps_is_run_under_transformers_names_and_converted_as_it_is(run: Run, tmp_path: Path) -> None:
    layer = ["norm", "q", "k", "v", "output"]
    names = ["token_embd", "output_norm", *(f"blk.0.attn_{one}" for one in layer), "blk.0.ffn_up", "blk.0.ffn_down"]
    torch.save({f"{name}.weight": torch.ones(8, 8) for name in names}, tmp_path / "a.pth")
    model = tmp_path / "a.gguf"
    meta = ("--meta", "general.architecture=llama", "--meta", "llama.attention.head_count=2")
    assert run("convert", tmp_path / "a.pth", model, *meta).exit_code == 0
    done = run("convert", model, tmp_path / "a.onnx")
    assert done.exit_code == 2
    assert f"hint: ckptconv convert {model} translated.pth --translate gguf" in done.output
    done = run("verify", model, model, "--arch", "llama")
    assert done.exit_code == 2
    assert "gate_proj" in done.output  # which it lacks
