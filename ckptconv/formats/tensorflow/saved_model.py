"""What TensorFlow runs of a SavedModel beside its variables. The graph stays behind; what of it touches files is told.

    saved_model.pb          SavedModel         2* meta_graphs: 2 graph_def  7 object_graph_def: 1* nodes:
                                               4 user_object: 3 metadata, JSON of Keras' before TensorFlow 2.5
    keras_metadata.pb       SavedMetadata      1* nodes: 5 metadata, JSON of Keras' since
    variables/              a checkpoint, the format of this family
    assets/                 vocabularies

A graph is a program of TensorFlow's operators. Loading runs what initializes its resources, and calling it the rest;
operators that write a file at a path of their own count as calls (`formats.code.operators`). Those that read one are a
warning. Graphs name them by texts, which are looked for in all of the file. Those that call Python (PyFunc) find
nothing to call in another process. Keras 2 makes its layers anew of the JSON, code of ``Lambda`` layers included
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
    from ckptconv.io.source import Source

GRAPH, METADATA, VARIABLES = "saved_model.pb", "keras_metadata.pb", "variables"
BY = "TensorFlow"

MAX_GRAPH = 1 << 28
"""Bytes of a graph that is looked at: protobuf's own limit is 2 GB, and constants of some megabytes are usual."""


def variables_of(folder: Folder) -> Folder | None:
    """The checkpoint in a SavedModel; None where it is none, or has no variables."""
    return folder.inside(VARIABLES) if GRAPH in folder.names and VARIABLES in folder.folders else None


def with_graph(checkpoint: Checkpoint, folder: Folder) -> Checkpoint:
    """The checkpoint of a SavedModel's variables, with what is to be said of its graph. Raises CorruptFileError."""
    told = Finding("graph", "info", GRAPH, "the graph stays behind: its variables are read")
    programs, findings = look(folder)
    checkpoint.notes = replace(checkpoint.notes, programs=(*checkpoint.notes.programs, *programs))
    checkpoint.findings = (*checkpoint.findings, told, *findings)
    return checkpoint


def look(folder: Folder) -> tuple[list[Program], list[Finding]]:
    """What TensorFlow and Keras would run of a SavedModel, and which files its graph reads. Raises CorruptFileError."""
    programs: list[Program] = []
    findings: list[Finding] = []
    with folder.open_unshared(GRAPH) as source, located(source.path):
        if source.size > MAX_GRAPH:
            why = f"{source.size:,} bytes, which are too many to be looked at"
            programs.append(Program(GRAPH, Opaque("tensorflow.saved_model.load", "called", (why,)), BY))
        else:
            data = source.read_at(0, source.size)
            programs += [*_writing(data), *_of_keras(GRAPH, _old_metadata(data))]
            if read := operators.reading(data):
                message = f"its graph reads files as it runs: {quoted(read)}"
                findings.append(Finding("reads-file", "warning", GRAPH, message))
    if METADATA in folder.names:
        with folder.open_unshared(METADATA) as source, located(source.path):
            programs += _of_keras(METADATA, _metadata(source))
    return programs, findings


def _writing(data: memoryview) -> Iterator[Program]:
    for name in operators.writing(data):
        yield Program(GRAPH, Opaque(f"tensorflow.raw_ops.{name}", "called"), BY)


def _within(data: memoryview, *path: int) -> Iterator[memoryview]:
    """The messages of a message that the numbers lead to."""
    if not path:
        yield data
        return
    for number, value in fields(data):
        if number == path[0] and isinstance(value, memoryview):
            yield from _within(value, *path[1:])


def _old_metadata(data: memoryview) -> Iterator[memoryview]:
    return _within(data, 2, 7, 1, 4, 3)


def _metadata(source: Source) -> Iterator[memoryview]:
    return _within(memoryview(source.read_all(MAX_CONFIG)), 1, 5)


def _of_keras(where: str, texts: Iterator[memoryview]) -> Iterator[Program]:
    for text in texts:
        for one in keras.programs_in({keras.SAVED: bytes(text)}):
            inner = one.where.removeprefix(keras.SAVED).lstrip(".")
            yield replace(one, where=f"{where}: {inner}" if inner else where)
