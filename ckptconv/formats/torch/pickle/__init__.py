"""An interpreter for pickles that builds data and never calls anything that the file names.

A pickle is a program for a stack machine (opcodes: CPython's ``pickletools``). This one runs it to its end and builds
only Python's own containers and numbers, and whatever *our* `Constructors` table has for an exact (module, name) pair.
Everything else becomes a `UnbuiltObject`: the name of the class or function, the arguments and the state, as data.
Nothing is ever imported because a file says so.

Memory and time are linear in the pickle's length: memo indices may be huge without costing memory, and constructors
are charged for what they copy.

    machine     begin here: the loop, and the opcodes that name globals and would call them
    containers  …the opcodes that fill containers
    program     …the opcodes that push plain values
    idiom       …the opcode sequence with which torch.save writes a tensor, interpreted in one step
    memo        the memo
    values      objects that are not plain data, and the protocol that decides what may be built
    stream      pickles that follow one another in a file: where each ends
    broken      whether a truncated pickle has called something before it breaks off

Refused: opcodes that need a registry or buffers outside the file (EXT, NEXT_BUFFER), and bytes after STOP.
"""

from ckptconv.formats.torch.pickle.machine import Machine
from ckptconv.formats.torch.pickle.stream import PickleStream
from ckptconv.formats.torch.pickle.values import (
    Budget,
    Constructors,
    Elided,
    Global,
    StateOrderedDict,
    UnbuiltObject,
    Value,
    attributes_among,
    has_implicit_calls,
)

__all__ = [
    "Budget",
    "Constructors",
    "Elided",
    "Global",
    "Machine",
    "PickleStream",
    "StateOrderedDict",
    "UnbuiltObject",
    "Value",
    "attributes_among",
    "has_implicit_calls",
]
