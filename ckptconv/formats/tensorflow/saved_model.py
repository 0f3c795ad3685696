"""What loading a SavedModel would run. The graph stays behind; its operators that touch files are reported.

    saved_model.pb          SavedModel         2* meta_graphs: 2 graph_def  7 object_graph_def: 1* nodes:
                                               4 user_object: 3 metadata, JSON from Keras before TensorFlow 2.5
    keras_metadata.pb       SavedMetadata      1* nodes: 5 metadata, JSON from Keras since then
    variables/              a checkpoint, in this family's format
    assets/                 vocabularies

A graph is a program of TensorFlow's operators. Loading it runs what initializes its resources, calling it runs the
rest. Operators that write a file at a path in the graph count as calls (`formats.code.operators`); those that read one
give a warning. The operators' names are searched for in the whole file. Those that call Python (PyFunc) find nothing to
call in another process. Keras 2 rebuilds its layers from the JSON, including the code of ``Lambda`` layers
(`ckptconv.formats.code.keras`).

Sources: tensorflow/core/protobuf (saved_model.proto, meta_graph.proto, saved_object_graph.proto),
tensorflow/python/keras/protobuf/saved_metadata.proto.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.core.metadata import Opaque
from ckptconv.core.notes import Program
from ckptconv.core.report import Finding
from ckptconv.core.text import quoted
from ckptconv.errors import located
from ckptconv.formats.code import keras, operators
from ckptconv.formats.tensorflow.bundle import fields
from ckptconv.io.limits import MAX_CONFIG

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.io.folder import Folder

GRAPH, METADATA, VARIABLES = "saved_model.pb", "keras_metadata.pb", "variables"
BY = "TensorFlow"

MAX_GRAPH = 1 << 28
"""The largest graph that is searched, in bytes: protobuf's own limit is 2 GB; constants of some megabytes are usual."""


def variables_of(folder: Folder) -> Folder | None:
    """The folder of a SavedModel's checkpoint; None if this is not a SavedModel, or has no variables."""
    return folder.inside(VARIABLES) if GRAPH in folder.names and VARIABLES in folder.folders else None


def with_graph(checkpoint: Checkpoint, folder: Folder) -> Checkpoint:
    """Add what the SavedModel in `folder` would run to the checkpoint of its variables. Raises CorruptFileError."""
    stays_behind = Finding("graph", "info", GRAPH, "the graph stays behind: its variables are read")
    programs, findings = find_programs(folder)
    checkpoint.notes = replace(checkpoint.notes, programs=(*checkpoint.notes.programs, *programs))
    checkpoint.findings = (*checkpoint.findings, stays_behind, *findings)
    return checkpoint


def find_programs(folder: Folder) -> tuple[list[Program], list[Finding]]:
    """What TensorFlow and Keras would run of a SavedModel, and findings about files that its graph reads.

    Raises CorruptFileError.
    """
    programs: list[Program] = []
    findings: list[Finding] = []
    with folder.open_unshared(GRAPH) as source, located(source.path):
        if source.size > MAX_GRAPH:
            why = f"{source.size:,} bytes, which are too many to be looked at"
            programs.append(Program(GRAPH, Opaque("tensorflow.saved_model.load", "called", (why,)), BY))
        else:
            data = source.read_at(0, source.size)
            programs += [*_writing_operators(data), *_keras_programs(GRAPH, _messages_at(data, 2, 7, 1, 4, 3))]
            if read := operators.reading(data):
                message = f"its graph reads files as it runs: {quoted(read)}"
                findings.append(Finding("reads-file", "warning", GRAPH, message))
    if METADATA in folder.names:
        with folder.open_unshared(METADATA) as source, located(source.path):
            data = memoryview(source.read_all(MAX_CONFIG))
            programs += _keras_programs(METADATA, _messages_at(data, 1, 5))
    return programs, findings


def _writing_operators(data: memoryview) -> Iterator[Program]:
    for name in operators.writing(data):
        yield Program(GRAPH, Opaque(f"tensorflow.raw_ops.{name}", "called"), BY)


def _messages_at(data: memoryview, *path: int) -> Iterator[memoryview]:
    """The inner messages that a path of field numbers leads to."""
    if not path:
        yield data
        return
    for number, value in fields(data):
        if number == path[0] and isinstance(value, memoryview):
            yield from _messages_at(value, *path[1:])


def _keras_programs(file: str, texts: Iterator[memoryview]) -> Iterator[Program]:
    """What Keras would run of the JSON `texts` in a file."""
    for text in texts:
        for program in keras.programs_in({keras.SAVED: bytes(text)}):
            inner = program.where.removeprefix(keras.SAVED).lstrip(".")
            yield replace(program, where=f"{file}: {inner}" if inner else file)
