"""SavedModels: their variables are read, and what TensorFlow and Keras would run of them is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

import ckptconv
from ckptconv.cli.main import program
from ckptconv.errors import CkptconvError
from tests.support.protobuf_files import field

OTHERS = Path(__file__).parents[3] / "fixtures" / "others"
LAYER = {"class_name": "Lambda", "config": {"function": {"class_name": "__tuple__", "items": ["4w==", None, None]}}}


def saved(folder: Path, graph: bytes = b"", metadata: bytes | None = None) -> Path:
    """A SavedModel with the variables of a model that Keras exported."""
    (folder / "variables").mkdir(parents=True)
    for path in OTHERS.glob("tensorflow-exported.ckpt.*"):
        shutil.copyfile(path, folder / "variables" / path.name.replace("tensorflow-exported.ckpt", "variables"))
    (folder / "saved_model.pb").write_bytes(graph)
    if metadata is not None:
        (folder / "keras_metadata.pb").write_bytes(metadata)
    return folder


def node(operator: bytes, **attributes: bytes) -> bytes:
    """A SavedModel with a graph of one node."""
    pairs = (field(1, name.encode()) + field(2, field(2, text)) for name, text in attributes.items())
    body = field(1, b"n") + field(2, operator) + field(3, b"x") + b"".join(field(5, pair) for pair in pairs)
    return field(1, 1) + field(2, field(2, field(1, body)))


def called(folder: Path) -> list[str]:
    inspection = ckptconv.inspect(folder)
    assert inspection.verdict == ("would run code" if inspection.opaque else "plain")
    return [use.node.name for use in inspection.opaque]


def test_its_variables_are_those_of_the_folder_in_it(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", node(b"MatMul"))
    with ckptconv.open(folder) as whole, ckptconv.open(folder / "variables") as variables:
        assert whole.format == "tensorflow"
        assert list(whole) == list(variables)
        assert {name: bytes(one.read()) for name, one in whole.items()} == {
            name: bytes(one.read()) for name, one in variables.items()
        }
        assert ("graph", "saved_model.pb") in [(one.code, one.where) for one in whole.findings]
    assert called(folder) == []
    ckptconv.convert(folder, tmp_path / "m.safetensors")
    assert ckptconv.diff(folder, tmp_path / "m.safetensors").equal


def test_a_graph_that_writes_a_file_as_it_is_loaded_is_reported(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", (OTHERS / "tensorflow-writes.pb").read_bytes())
    assert called(folder) == ["tensorflow.raw_ops.WriteFile"]
    result = CliRunner().invoke(program, ["inspect", "--fail-on-code", str(folder)])
    assert result.exit_code == 1
    assert "loading it with TensorFlow would make 1 call" in result.output


def test_a_layer_of_code_in_keras_metadata_is_reported(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", node(b"MatMul"), (OTHERS / "tensorflow-lambda.pb").read_bytes())
    assert set(called(folder)) == {"keras.src.utils.python_utils.func_load"}
    assert all(use.where.startswith("keras_metadata.pb") for use in ckptconv.inspect(folder).opaque)


def test_a_layer_of_code_in_an_old_graph_is_reported(tmp_path: Path) -> None:
    user = field(1, b"_tf_keras_layer") + field(3, json.dumps(LAYER).encode())
    graph = field(2, field(2, b"") + field(7, field(1, field(4, user))))
    folder = saved(tmp_path / "m", graph)
    assert called(folder) == ["keras.src.utils.python_utils.func_load"]
    assert [use.where for use in ckptconv.inspect(folder).opaque] == ["saved_model.pb"]


@pytest.mark.parametrize("operator", ["WriteFile", "SaveDatasetV2", "CreateSummaryFileWriter", "DatasetToTFRecord"])
def test_operators_that_write_are_reported(operator: str, tmp_path: Path) -> None:
    assert called(saved(tmp_path / "m", node(operator.encode()))) == [f"tensorflow.raw_ops.{operator}"]


def test_those_that_write_to_an_address_are_where_they_have_one(tmp_path: Path) -> None:
    assert called(saved(tmp_path / "a", node(b"PrintV2", output_stream=b"stderr"))) == []
    assert called(saved(tmp_path / "b", node(b"PrintV2", output_stream=b"file:///x"))) == ["tensorflow.raw_ops.PrintV2"]


@pytest.mark.parametrize(
    "operator", ["MatMul", "SaveV2", "RestoreV2", "EagerPyFunc", "my/WriteFile", "WriteFiles", "StringJoin"]
)
def test_what_every_graph_has_is_not(operator: str, tmp_path: Path) -> None:
    assert called(saved(tmp_path / "m", node(operator.encode()))) == []


def test_operators_that_read_are_a_warning(tmp_path: Path) -> None:
    (finding,) = [
        one for one in ckptconv.inspect(saved(tmp_path / "m", node(b"ReadFile"))).findings if one.code == "reads-file"
    ]
    assert (finding.severity, finding.message) == ("warning", "its graph reads files as it runs: 'ReadFile'")


def test_a_graph_that_is_too_large_to_be_looked_at_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckptconv.formats.tensorflow.saved_model.MAX_GRAPH", 10)
    assert called(saved(tmp_path / "m", node(b"MatMul"))) == ["tensorflow.saved_model.load"]


@pytest.mark.parametrize("name", ["tensorflow-writes.pb", "tensorflow-lambda.pb"])
def test_damage_is_refused_or_read(name: str, tmp_path: Path) -> None:
    data = (OTHERS / name).read_bytes()
    folder = saved(tmp_path / "m", node(b"MatMul"))
    path = folder / ("saved_model.pb" if "writes" in name else "keras_metadata.pb")
    for at in range(0, len(data), 97):
        for changed in (data[:at], data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]):
            path.write_bytes(changed)
            try:
                ckptconv.inspect(folder)
            except CkptconvError as error:
                assert error.path == path
