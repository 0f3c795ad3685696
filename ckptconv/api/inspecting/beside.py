"""What else lies in a folder or an archive that is inspected, and what it means for those who load it.

Every file of the folder, and of those in it, that may hold a pickle is opened as if it were inspected by itself; what
it would run or import counts for the folder. So does what configurations name (`ckptconv.formats.beside`). An archive
is the folder that becomes of it, and so is one in a folder, but not one in an archive. Nothing is looked at where a
file is inspected by its name.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.api.inspecting.uses import UNFOLLOWED, Beside, joined, of_programs, uses_of
from ckptconv.api.inspecting.within import look_within
from ckptconv.core.metadata import MetaNode, Opaque
from ckptconv.core.notes import Program
from ckptconv.core.report import Finding
from ckptconv.core.text import quoted
from ckptconv.errors import CkptconvError, FileAccessError, LimitError, UnknownFormatError
from ckptconv.formats import registry
from ckptconv.formats.archive import nemo_config
from ckptconv.formats.beside import expressions, files, hub, mlflow, named, served, settings
from ckptconv.formats.beside.homes import place_of
from ckptconv.formats.code import keras
from ckptconv.formats.code.jinja import program_in
from ckptconv.formats.detect import detect
from ckptconv.formats.flax import thinc
from ckptconv.formats.tensorflow import saved_model
from ckptconv.formats.tfjs import read as tfjs
from ckptconv.formats.torch.pickle.broken import names_something
from ckptconv.io.limits import MAX_CONFIG_VALUES
from ckptconv.io.source import Source

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from ckptconv.api.inspecting.uses import OpaqueUse
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.notes import GlobalUse
    from ckptconv.formats.beside.places import Place

_PASSED = ("vocab.json", "added_tokens.json")
"""JSON that no library takes for more than data, and that is large."""

_TOKENIZER = "tokenizer.json"
"""The same, but that KerasHub has a configuration of Keras' by that name."""

_HARMLESS = frozenset(["safetensors", "safetensors-sharded", "safetensors-slices", "openvino", "flax"])
"""Formats of files that run nothing; what is wrong with one of them is no matter here."""

_QUIET, _GRAPH = ("onnx",), ".onnx"
"""Formats that run nothing but what their metadata may say, and what files of such are called."""

_OF_MANY = ("archive", nemo_config.NAME)
"""Formats of files in which a checkpoint may be, or none at all."""

_SKOPS = "skops"

_OTHERS = (b"PK", b"GGUF")
"""How files start of which nothing runs where no format claims them: documents, and data sets."""

_LIBRARIES = (".so", ".dll", ".dylib", ".pyd")

_KERAS = keras.CONFIGURATIONS[0]
_SAYS_LAYERS = ("class_name", "modelTopology")
"""Keys of a document of Keras', and of TensorFlow.js', whose converter to Keras hands it to that."""

_LOOKED_AT = {"tensorflow": saved_model.GRAPH, "tfjs": tfjs.USUAL, nemo_config.NAME: nemo_config.CONFIG}
"""Documents at which a format has looked itself."""

_Said = tuple[str, str]

_Looked = tuple["list[OpaqueUse]", "Sequence[GlobalUse]", bool]
"""What a file would run, what its pickles name, and whether it was looked at."""


def look_beside(place: Place, checkpoint: Checkpoint) -> Beside:
    """Look at the files of a folder, or of an archive, that `checkpoint` was opened from.

    Raises LimitError (too many files, or a configuration that is too large), and of an archive what opening its members
    raises: what cannot be looked at there is refused, since whoever unpacks it may have it.
    """
    own = {(use.node.name, use.node.how) for use in uses_of(checkpoint) + look_within(checkpoint, place.path).uses}
    opened = place.opened(checkpoint)
    done = {_LOOKED_AT.get(checkpoint.format, "")}
    if len(opened) == 1 and isinstance(checkpoint.file, Source):
        done |= opened
    return look(place, own, opened, done)


def look(place: Place, own: Collection[_Said] = (), opened: Collection[str] = (), done: Collection[str] = ()) -> Beside:
    """Look at all files but those that are done with. What the checkpoint says, by the files that were opened for it,
    is said once. Raises as `look_beside`.
    """
    listing = place.listing()
    found, paths = Beside(), listing.paths
    found.findings += [_not_looked_at(path, why) for path, why in listing.unseen.items()]
    known = frozenset(paths)
    looked: list[str] = []
    for path in paths:
        try:
            if path not in done:
                found.uses += of_programs(_of_document(place, path, known, found.findings))
            if path in done or _is_read_with_others(path, known, opened):
                continue
            look = _of_listed if path.rpartition("/")[2] == files.LISTING else _of_file
            uses, globals_, was_read = look(place, path, found.findings)
        except FileAccessError as error:
            found.findings.append(_not_looked_at(path, error.message))
            continue
        if path in opened:
            found.uses += [use for use in uses if (use.node.name, use.node.how) not in own]
        else:
            found.uses += uses
            looked += [path] if was_read else []
        found.globals += globals_
    found.uses += of_programs(hub.scripts_in(known))
    found.findings += _told(looked, paths)
    return found


def _is_read_with_others(path: str, known: frozenset[str], opened: Collection[str]) -> bool:
    """Whether it is one of the files of a folder of torch.distributed.checkpoint's, which one reader reads together."""
    home, slash, name = path.rpartition("/")
    if name == files.LISTING:
        return path in opened
    return name.endswith(".distcp") and f"{home}{slash}{files.LISTING}" in known


def _not_looked_at(path: str, why: str) -> Finding:
    return Finding("not-looked-at", "warning", path, f"{path!r} was not looked into: {why}")


def _of_document(place: Place, path: str, known: frozenset[str], findings: list[Finding]) -> Iterator[Program]:
    name = path.rpartition("/")[2].lower()  # as drives take it that keep no case
    if name.endswith(".json") and not name.endswith(".index.json") and not _is_passed(place, path, name):
        document = _json(place, path, findings)
        yield from hub.programs_in(path, document, known)
        yield from named.programs_in(path, document, known)
        if isinstance(document, dict) and any(key in document for key in _SAYS_LAYERS):
            for one in keras.programs_in({_KERAS: document}):
                yield replace(one, where=path + one.where.removeprefix(_KERAS))
    elif name.endswith((".jinja", ".jinja2", ".j2")):
        template = program_in(path, place.text(path))
        yield from [template] if template else ()
    elif path.rpartition("/")[2] == saved_model.GRAPH:
        yield from _of_saved_model(place, path, findings)
    elif name in (mlflow.MODEL, mlflow.UNPICKLER):
        yield from mlflow.programs_in(path, place.text(path), known)
    elif name == nemo_config.CONFIG:
        yield from (
            replace(one, where=path[: -len(name)] + one.where) for one in nemo_config.programs_in(place.text(path))
        )
    elif name in named.ARRAYS:
        yield from named.programs_in(path, _json(place, path, findings), known)
    elif name == served.TRITON or name.endswith(served.GIN):
        yield from served.programs_in(path, place.text(path), known)
    elif name.endswith(settings.SUFFIXES):
        text = _yaml(place, path, findings)
        yield from settings.programs_in(path, text, known)
        yield from expressions.programs_in(path, text)


def _is_passed(place: Place, path: str, name: str) -> bool:
    if name != _TOKENIZER:
        return name in _PASSED
    with place.open(path) as source:
        return not files.says_class(source)


def _of_saved_model(place: Place, path: str, findings: list[Finding]) -> Iterator[Program]:
    """What is run of a SavedModel that lies below the folder, or beside other weights in it."""
    home = path.removesuffix(saved_model.GRAPH)
    programs, found = saved_model.look(place.folder(home))
    findings += [replace(one, where=home + one.where) for one in found]
    yield from (replace(one, where=home + one.where) for one in programs)


def _json(place: Place, path: str, findings: list[Finding]) -> MetaNode:
    """A document; None for one that is none, which no library reads either."""
    try:
        text = place.text(path)
        if sum(map(text.count, "[{,")) > MAX_CONFIG_VALUES:
            raise LimitError(f"it has more than {MAX_CONFIG_VALUES:,} values", path=place.path / path)
        document: MetaNode = json.loads(text)  # no stricter than the libraries are that read it
    except LimitError as error:
        if place.is_spent or hub.is_configuration(path) or path.endswith(_TOKENIZER):
            raise
        findings.append(_not_looked_at(path, error.message))
        return None
    except (ValueError, RecursionError) as error:
        findings.append(Finding("config", "warning", path, f"{path!r} is not JSON, and is passed over: {error}"))
        return None
    return document


def _yaml(place: Place, path: str, findings: list[Finding]) -> str:
    """A text of YAML; nothing of one that is too large, as data are, unless it is read by that name."""
    try:
        return place.text(path)
    except LimitError as error:
        if place.is_spent or path.rpartition("/")[2].lower() == settings.HYPERPARAMETERS:
            raise
        findings.append(_not_looked_at(path, error.message))
        return ""


def _of_file(place: Place, path: str, findings: list[Finding]) -> _Looked:
    """What a file would run that may hold a program."""
    with place.open(path) as source:
        if thinc.is_one(source):
            return _of_thinc(place, path, source, findings)
        return _of_opened(place, path, source, findings) if files.may_hold_a_program(source) else ([], (), False)


def _of_thinc(place: Place, path: str, source: Source, findings: list[Finding]) -> _Looked:
    """What the files in a model of Thinc's would run, which it hands to the libraries that they are of."""
    try:
        inside = thinc.files_in(source)
    except CkptconvError as error:
        if place.is_spent:
            raise
        node = Opaque("torch.load", "called", (UNFOLLOWED + error.message,))
        told = of_programs([Program(path, node, "Thinc")] if thinc.speaks_of_shims(source) else [])
        return told, (), bool(told)
    looked = [_of_opened(place, path, one, findings) for one in inside]
    globals_ = [one for _, some, _ in looked for one in some]
    return [use for uses, _, _ in looked for use in uses], globals_, bool(looked)


def _of_opened(place: Place, path: str, source: Source, findings: list[Finding]) -> _Looked:
    format = ""
    try:
        one = detect(source)
        format = one.name
        if format in _HARMLESS:
            return [], (), False
        with one.read(source) as checkpoint:
            return _all_of(checkpoint, source, path, findings)
    except CkptconvError as error:
        if place.is_spent:
            raise
        if format in _OF_MANY:
            with suppress(CkptconvError):
                return _of_archive(source, path, findings), (), True
        return of_programs(_unread(source, path, format, error, findings)), (), False


def _all_of(checkpoint: Checkpoint, source: Source, path: str, findings: list[Finding]) -> _Looked:
    """What a checkpoint would run, and what lies in its archive with it."""
    uses, globals_ = _of_itself(checkpoint, source.path)
    inner = place_of(source.path, checkpoint)
    if inner is not None:
        beside = look_beside(inner, checkpoint)
        uses, globals_ = uses + beside.uses, globals_ + beside.globals
        findings += _below(path, beside.findings)
    return [replace(use, where=joined(path, use.where)) for use in uses], globals_, True


def _of_itself(checkpoint: Checkpoint, path: Path) -> tuple[list[OpaqueUse], list[GlobalUse]]:
    """What a checkpoint would run, and the files in its bytes."""
    within = look_within(checkpoint, path)
    return uses_of(checkpoint) + within.uses, [*checkpoint.notes.globals, *within.globals]


def _of_archive(source: Source, path: str, findings: list[Finding]) -> list[OpaqueUse]:
    """What lies in an archive without a checkpoint, or with several. Raises as `look`."""
    from ckptconv.formats.beside.in_archive import InArchive
    from ckptconv.io.archive import Archive

    beside = look(InArchive(Archive.of(source)))
    findings += _below(path, beside.findings)
    return [replace(use, where=joined(path, use.where)) for use in beside.uses]


def _below(path: str, findings: list[Finding]) -> Iterator[Finding]:
    yield from (replace(one, where=f"{path}/{one.where}", message=f"{path}: {one.message}") for one in findings)


def _of_listed(place: Place, path: str, findings: list[Finding]) -> _Looked:
    """What a folder of torch.distributed.checkpoint's would run; where it is none, what its listing would, alone."""
    home = path.removesuffix(files.LISTING)
    try:
        with registry.by_name("torch-dcp").read(place.folder(home)) as checkpoint:
            uses, globals_ = _of_itself(checkpoint, place.path / path)
            return [replace(use, where=joined(path, use.where)) for use in uses], globals_, True
    except CkptconvError:
        if place.is_spent:
            raise
        return _of_file(place, path, findings)


def _unread(source: Source, path: str, format: str, error: CkptconvError, findings: list[Finding]) -> Iterator[Program]:
    """What is to be said of a file that could not be read: others may run what is in it, up to where it breaks."""
    source.read_at(max(source.size - 1, 0), min(1, source.size))  # a member that does not inflate is refused
    start = bytes(source.read_at(0, min(len(files.NUMPY), source.size)))
    node = Opaque("pickle.load", "called", (UNFOLLOWED + error.message,))
    if format == _SKOPS:  # which asks for consent to whatever it would make of it
        findings.append(_not_looked_at(path, error.message))
    elif format == "npz" or start == files.NUMPY:
        if format == "npz" or b"O" in bytes(source.read_at(0, min(1024, source.size))).partition(b"descr")[2][:16]:
            yield Program(path, replace(node, name="numpy.load"), "numpy", "allow_pickle=True")
    elif (
        format in _OF_MANY
        or (isinstance(error, UnknownFormatError) and start.startswith(_OTHERS))
        or files.is_cut_zip(source)
    ):
        findings.append(_not_looked_at(path, error.message))
    elif format in _QUIET or source.path.name.lower().endswith(_GRAPH):
        return  # what they are is no matter, only what they say
    elif source.path.name.lower().endswith(files.ZSTD):
        yield Program(path, replace(node, name="pandas.read_pickle"), "pandas")
    elif (
        start.startswith((b"PK", b"\x89HDF", *files.COMPRESSED))
        or (isinstance(error, UnknownFormatError) and files.is_disguised(source))
        or names_something(source)
    ):
        yield Program(path, node, "pickle")


def _told(looked: list[str], paths: list[str]) -> Iterator[Finding]:
    if looked:
        message = f"looked at, for what they would run: {quoted(looked)}"
        yield Finding("beside", "info", looked[0], message)
    scripts = [path for path in paths if path.endswith((".py", *_LIBRARIES))]
    if scripts:
        message = f"the folder contains programs, which run if something asks for them: {quoted(scripts)}"
        yield Finding("program", "info", scripts[0], message)
