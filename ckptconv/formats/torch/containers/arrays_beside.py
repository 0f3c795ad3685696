"""Arrays that gensim keeps in files beside a pickle.

gensim's ``save`` writes an object as a pickle, and its arrays of more than 10 MB by numpy.save, into files named by the
way to them: ``w2v.model.wv.vectors.npy`` beside ``w2v.model``. In their place the pickle has None, and with it lists of
the attributes' names:

    __numpys                 arrays, each in FILE.ATTRIBUTE.npy
    __scipys                 sparse matrices, in several files
    __recursive_saveloads    objects of which the same is true; their file is FILE.ATTRIBUTE
    __ignoreds               what is left out: some models save it as an object of its own, in FILE.ATTRIBUTE

Such an array is a tensor like those in the pickle. Sparse matrices, and arrays whose file is missing, damaged or
compressed (FILE.ATTRIBUTE.npz), are not read, which is reported. So are objects of their own: each is a pickle to read
by itself.

Source: gensim/utils.py (`SaveLoad._save_specials`, `_load_specials`); models/ldamodel.py, lsimodel.py (`save`).
"""

from __future__ import annotations

from itertools import islice
from shlex import quote
from typing import TYPE_CHECKING

from ckptconv.core.report import Finding
from ckptconv.core.tensor import ByteSpan
from ckptconv.core.text import plural, quoted
from ckptconv.errors import COPY_AGAIN, CkptconvError, CorruptFileError, UnsupportedError
from ckptconv.formats.tensors.npy import Npy, read_header
from ckptconv.formats.torch.pickle import UnbuiltObject
from ckptconv.formats.torch.values.stubs import refused
from ckptconv.io.folder import Folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.core.checkpoint import OpenFile
    from ckptconv.formats.torch.containers.pickled import BareConstructors
    from ckptconv.formats.torch.pickle import Machine, Value
    from ckptconv.formats.torch.values.stubs import TensorStub
    from ckptconv.io.source import Source

ARRAYS, MATRICES, OBJECTS, LEFT_OUT = "__numpys", "__scipys", "__recursive_saveloads", "__ignoreds"
MAX_ARRAYS = 1000
MAX_DEPTH = 16


def attach_arrays(
    value: Value, machine: Machine, constructors: BareConstructors, source: Source
) -> tuple[OpenFile, tuple[Finding, ...]]:
    """Put the arrays that are in files beside `source` into the objects of its pickle that lack them.

    Returns what has to stay open, and what to report.
    """
    if not any(name.module.partition(".")[0] == "gensim" for name in machine.globals):
        return source, ()
    places = [*islice(_places(value, source.path.name, 0, set()), MAX_ARRAYS)]
    left_out = _left_out(value, source.path.name)
    if not places and not left_out:
        return source, ()
    folder, found = Folder.around(source), list[str]()
    findings = [_of_its_own(file) for file in left_out if file in folder.names]
    for state, attribute, file in places:
        if file is None:
            state[attribute] = refused("a sparse matrix in files beside this one")
            continue
        try:
            state[attribute] = _open(folder.open(file), constructors)
            found.append(file)
        except CkptconvError as error:
            state[attribute] = refused(f"in the file {file!r} beside this one ({error.message})", file)
    opened: OpenFile = folder if source.beside is None else source  # whoever opened an archive closes what is in it
    if found:
        message = f"{plural(len(found), 'array')} in files beside it, as gensim keeps them: {quoted(found)}"
        findings.insert(0, Finding("beside", "info", "", message))
    return opened, tuple(findings)


def _left_out(value: Value, file: str) -> list[str]:
    """The files in which a model may keep what its own pickle leaves out."""
    state = value.state if isinstance(value, UnbuiltObject) else None
    return [f"{file}.{name}" for name in _names(state, LEFT_OUT)[:MAX_ARRAYS]] if isinstance(state, dict) else []


def _of_its_own(file: str) -> Finding:
    message = f"a part of the model is an object of its own beside it, which is not read with it: {file!r}"
    return Finding("beside", "warning", "", message, hint=f"read it by itself: ckptconv inspect {quote(file)}")


def _places(
    value: Value, file: str, depth: int, seen: set[int]
) -> Iterator[tuple[dict[Value, Value], str, str | None]]:
    """The states of objects that lack an array, with its attribute and its file; None for a sparse matrix. `seen`: the
    objects that were looked at.
    """
    if not isinstance(value, UnbuiltObject) or not isinstance(value.state, dict) or depth > MAX_DEPTH:
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    for attribute in _names(value.state, ARRAYS):
        yield value.state, attribute, f"{file}.{attribute}.npy"
    for attribute in _names(value.state, MATRICES):
        yield value.state, attribute, None
    for attribute in _names(value.state, OBJECTS):
        yield from _places(value.state.get(attribute), f"{file}.{attribute}", depth + 1, seen)


def _names(state: dict[Value, Value], key: str) -> list[str]:
    """The attributes that a list in the state names; of arrays, those that the pickle lacks."""
    names = state.get(key)
    if not isinstance(names, list):
        return []
    unique = dict.fromkeys(name for name in names if isinstance(name, str))
    return [name for name in unique if key == OBJECTS or state.get(name) is None]


def _open(source: Source, constructors: BareConstructors) -> TensorStub:
    """The array of a .npy as a tensor."""
    what = repr(source.path.name)
    header = read_header(lambda length: bytes(source.read_at(0, min(length, source.size))), what)
    if not isinstance(header, Npy):
        raise UnsupportedError(f"{what} holds text", hint=COPY_AGAIN)
    start = len(header.raw)
    if source.size - start != header.nbytes:
        raise CorruptFileError(f"{what} has {source.size - start:,} bytes, and its shape asks for {header.nbytes:,}")
    span, info = ByteSpan(source, start, header.nbytes), header.info
    return constructors.array(span, info.dtype, info.shape, fortran=header.fortran, swapped=header.swapped)
