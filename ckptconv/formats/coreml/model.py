"""The outer messages of a Core ML model: its kind, its pipeline, its metadata.

    Model               1 specificationVersion  2 description  10 isUpdatable; one of: 202 pipeline (in field 1 of 200
                        and 201)  303 403 500 neuralNetwork…  502 mlProgram  and others (`OTHERS`)
    ModelDescription    1* input  10* output (FeatureDescription: 1 name)  20* functions  100 metadata
    Metadata            1 shortDescription  2 versionString  3 author  4 license  100* userDefined (1 key  2 value)
    Pipeline            1* models  2* names

Source: coremltools/mlmodel/format (Model.proto).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.errors import CorruptFileError, LimitError
from ckptconv.io.protobuf import LEN, VARINT, Wire

if TYPE_CHECKING:
    from ckptconv.core.metadata import MetaNode
    from ckptconv.formats.graphs.names import GraphNames

VERSION, DESCRIPTION, UPDATABLE = 1, 2, 10
PIPELINES = (200, 201, 202)
NETWORKS = (303, 403, 500)
PROGRAM = 502
OTHERS = {
    300: "a linear regression", 301: "a support vector machine", 302: "an ensemble of trees",
    304: "a Bayesian regression", 400: "a linear classifier", 401: "a support vector machine",
    402: "an ensemble of trees", 404: "of nearest neighbours", 501: "a recommender",
    555: "a custom model, which is code of an app's", 556: "a link to another model", 560: "a threshold",
    600: "an encoder of categories", 601: "an imputer", 602: "a vector of features", 603: "a vectorizer",
    604: "a scaler", 606: "a mapping of categories", 607: "a normalizer", 609: "a choice of features",
    610: "a non-maximum suppression", 900: "the identity", 2000: "an Apple classifier", 2001: "an Apple tagger",
    2002: "an Apple feature print", 2003: "a preprocessing of sounds", 2004: "an Apple gazetteer",
    2005: "an Apple word embedding", 2006: "an Apple feature print", 3000: "a serialized Apple model",
}  # fmt: skip
"""Kinds of models that have no tensors that could be a network's weights."""

KINDS = frozenset((*PIPELINES, *NETWORKS, PROGRAM, *OTHERS))
MAX_VERSION = 1000
MAX_PIPELINE, MAX_MODELS, MAX_FEATURES = 8, 1000, 10_000
MAX_DESCRIPTION = 1 << 20
"""The most bytes of one text of a description."""

Range = tuple[int, int]


def bad(what: str) -> CorruptFileError:
    """The error for a file that contradicts the format."""
    return CorruptFileError(f"the Core ML model is invalid: {what}")


@dataclass(slots=True)
class Model:
    """One model: the field number that is its kind, where its message is, the prefix of names in a pipeline."""

    kind: int
    place: Range
    scope: str = ""


@dataclass(slots=True)
class Spec:
    """The whole file: its models (several if it is a pipeline), and its description."""

    version: int = 0
    models: list[Model] = field(default_factory=list)
    metadata: dict[str, MetaNode] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)


def is_model(wire: Wire, size: int) -> bool:
    """Whether the first fields are those of a model. A file that is truncated within its weights counts."""
    has_version = False
    for count, (number, kind, begin, end) in enumerate(wire.fields(0, 1 << 62)):
        if count > 8 or (number == VERSION) != (kind == VARINT and number != UPDATABLE):
            return False
        if number == VERSION:
            has_version = 0 < begin <= MAX_VERSION
        elif number in KINDS:
            return has_version and kind == LEN
        elif number not in (DESCRIPTION, UPDATABLE):
            return False
        if end >= size:
            return False
    return False


def read_spec(wire: Wire, names: GraphNames) -> Spec:
    """Walk the file, without the models' own messages. Raises CorruptFileError, LimitError."""
    spec = Spec()
    _read_model(wire, spec, names, Model(0, (0, wire.source.size)), 0)
    return spec


def _read_model(wire: Wire, spec: Spec, names: GraphNames, whole: Model, depth: int) -> None:
    if depth > MAX_PIPELINE:
        raise LimitError(f"its pipelines are more than {MAX_PIPELINE} deep")
    found: list[Model] = []
    for number, kind, begin, end in wire.fields(*whole.place):
        if number == VERSION:
            wire.expect(number, kind, VARINT)
            spec.version = spec.version or begin
        elif number == DESCRIPTION and not depth:
            wire.expect(number, kind, LEN)
            _read_description(wire, spec, begin, end)
        elif number in KINDS:
            wire.expect(number, kind, LEN)
            found.append(Model(number, (begin, end), whole.scope))
    if len(found) != 1:
        raise bad(f"it is {len(found)} models at once" if found else "there is no model in it")
    if found[0].kind not in PIPELINES:
        spec.models.append(found[0])
        return
    _read_pipeline(wire, spec, names, found[0], depth)


def _read_pipeline(wire: Wire, spec: Spec, names: GraphNames, pipeline: Model, depth: int) -> None:
    place = pipeline.place
    if pipeline.kind != PIPELINES[-1]:  # a classifier or a regressor, which holds a pipeline
        place = next(((begin, end) for _, begin, end in wire.matching(*place, {1: LEN})), place)
    models: list[Range] = []
    model_names: list[str] = []
    for number, begin, end in wire.known(*place, {1: LEN, 2: LEN}):
        if number == 1:
            models.append((begin, end))
        else:
            model_names.append(wire.text(begin, end))
        if max(len(models) + len(spec.models), len(model_names)) > MAX_MODELS:
            raise LimitError(f"it has more than {MAX_MODELS:,} models")
    if len(model_names) != len(models) or len(set(model_names)) != len(model_names):
        model_names = [f"model{index}" for index in range(len(models))]
    for name, inner in zip(model_names, models, strict=True):
        _read_model(wire, spec, names, Model(0, inner, names.join(pipeline.scope, name, ".")), depth + 1)


def _read_description(wire: Wire, spec: Spec, start: int, stop: int) -> None:
    for number, begin, end in wire.matching(start, stop, {1: LEN, 10: LEN, 100: LEN}):
        if number == 100:
            _read_metadata(wire, spec, begin, end)
        else:
            (spec.inputs if number == 1 else spec.outputs).append(name_of_message(wire, begin, end))
        if len(spec.inputs) + len(spec.outputs) > MAX_FEATURES:
            raise LimitError(f"it has more than {MAX_FEATURES:,} inputs and outputs")


def name_of_message(wire: Wire, start: int, stop: int) -> str:
    """The text in a message's field 1, which is its name; "" if it has none."""
    return next((wire.text(begin, end) for _, begin, end in wire.matching(start, stop, {1: LEN})), "")


def _read_metadata(wire: Wire, spec: Spec, start: int, stop: int) -> None:
    keys = {1: "shortDescription", 2: "versionString", 3: "author", 4: "license"}
    user_defined: dict[str, MetaNode] = {}
    for number, begin, end in wire.matching(start, stop, dict.fromkeys((*keys, 100), LEN)):
        if number in keys:
            spec.metadata[keys[number]] = wire.text(begin, end, MAX_DESCRIPTION)
            continue
        fields = wire.matching(begin, end, {1: LEN, 2: LEN})
        pair = {field: wire.text(first, last, MAX_DESCRIPTION) for field, first, last in fields}
        user_defined[pair.get(1, "")] = pair.get(2, "")
        if len(user_defined) > MAX_FEATURES:
            raise LimitError(f"it has more than {MAX_FEATURES:,} entries of its user's")
    if user_defined:
        spec.metadata["userDefined"] = user_defined
