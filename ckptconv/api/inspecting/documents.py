"""What the configurations and templates in a folder or archive would have run: JSON, YAML, Jinja, SavedModel graphs."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptconv.api.inspecting.uses import not_looked_at
from ckptconv.core.report import Finding
from ckptconv.errors import LimitError
from ckptconv.formats.archive import nemo_config
from ckptconv.formats.beside import expressions, files, hub, mlflow, named, served, settings
from ckptconv.formats.code import keras
from ckptconv.formats.code.jinja import program_in
from ckptconv.formats.tensorflow import saved_model
from ckptconv.io.limits import MAX_CONFIG_VALUES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.notes import Program
    from ckptconv.formats.beside.places import Place

_DATA_ONLY = ("vocab.json", "added_tokens.json")
"""JSON files that every library takes for plain data. They are large."""

_TOKENIZER = "tokenizer.json"
"""Plain data as well, and large, unless it is KerasHub's: a Keras configuration of the same name."""

_KERAS_CONFIG = keras.CONFIGURATIONS[0]

_KERAS_KEYS = ("class_name", "modelTopology")
"""Keys that mark a document as Keras', or as TensorFlow.js', whose converter passes it on to Keras."""


@dataclass(frozen=True, slots=True)
class Documents:
    """Reads the documents of one folder or archive.

    known:    the paths of all files in it.
    findings: gets a finding for each document that is passed over.
    """

    place: Place
    known: frozenset[str]
    findings: list[Finding]

    def programs_in(self, path: str) -> Iterator[Program]:
        """What this file names that would be run; nothing if it is not a document. Raises as `Place.text` does."""
        exact_name = path.rpartition("/")[2]
        name = exact_name.lower()  # a file system that ignores case opens it under either
        if name.endswith(".json") and not name.endswith(".index.json") and not self._is_data_only(path, name):
            yield from self._programs_in_json(path)
        elif name.endswith((".jinja", ".jinja2", ".j2")):
            template = program_in(path, self.place.text(path))
            if template:
                yield template
        elif exact_name == saved_model.GRAPH:
            yield from self._programs_in_saved_model(path)
        elif name in (mlflow.MODEL, mlflow.UNPICKLER):
            yield from mlflow.programs_in(path, self.place.text(path), self.known)
        elif name == nemo_config.CONFIG:
            home = path[: -len(name)]
            for program in nemo_config.programs_in(self.place.text(path)):
                yield replace(program, where=home + program.where)
        elif name in named.ARRAYS:
            yield from named.programs_in(path, self._read_json(path), self.known)
        elif name == served.TRITON or name.endswith(served.GIN):
            yield from served.programs_in(path, self.place.text(path), self.known)
        elif name.endswith(settings.SUFFIXES):
            text = self._read_yaml(path)
            yield from settings.programs_in(path, text, self.known)
            yield from expressions.programs_in(path, text)

    def _is_data_only(self, path: str, name: str) -> bool:
        if name != _TOKENIZER:
            return name in _DATA_ONLY
        with self.place.open(path) as source:
            return not files.has_class_name(source)

    def _programs_in_json(self, path: str) -> Iterator[Program]:
        document = self._read_json(path)
        yield from hub.programs_in(path, document, self.known)
        yield from named.programs_in(path, document, self.known)
        if isinstance(document, dict) and any(key in document for key in _KERAS_KEYS):
            for program in keras.programs_in({_KERAS_CONFIG: document}):
                yield replace(program, where=path + program.where.removeprefix(_KERAS_CONFIG))

    def _programs_in_saved_model(self, path: str) -> Iterator[Program]:
        """What a SavedModel runs that lies below the folder, or beside other weights in it."""
        home = path.removesuffix(saved_model.GRAPH)
        programs, findings = saved_model.find_programs(self.place.folder(home))
        self.findings.extend(replace(finding, where=home + finding.where) for finding in findings)
        for program in programs:
            yield replace(program, where=home + program.where)

    def _read_json(self, path: str) -> MetaNode:
        """The parsed document; None if it is not JSON, since then no library reads it either."""
        try:
            text = self.place.text(path)
            if sum(map(text.count, "[{,")) > MAX_CONFIG_VALUES:
                raise LimitError(f"it has more than {MAX_CONFIG_VALUES:,} values", path=self.place.path / path)
            document: MetaNode = json.loads(text)  # as lenient as the libraries that read it
        except LimitError as error:
            if self.place.is_spent or hub.is_configuration(path) or path.endswith(_TOKENIZER):
                raise
            self.findings.append(not_looked_at(path, error.message))
            return None
        except (ValueError, RecursionError) as error:
            message = f"{path!r} is not JSON, and is passed over: {error}"
            self.findings.append(Finding("config", "warning", path, message))
            return None
        return document

    def _read_yaml(self, path: str) -> str:
        """The text; "" for one that is too large, which is then data, unless SpeechBrain reads it by that name."""
        try:
            return self.place.text(path)
        except LimitError as error:
            if self.place.is_spent or path.rpartition("/")[2].lower() == settings.HYPERPARAMETERS:
                raise
            self.findings.append(not_looked_at(path, error.message))
            return ""
