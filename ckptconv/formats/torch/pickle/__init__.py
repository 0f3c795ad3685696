"""A machine for pickles that builds data and never calls anything that the file names.

A pickle is a program for a stack machine (opcodes: CPython's ``pickletools``). This one follows it to its end and
builds only what is listed here: Python's own containers and numbers, and whatever a `Constructors` table of *ours*
answers for an exact (module, name) pair. All else becomes a `Thing`: the class's name, the arguments and the state, as
data. Nothing is ever imported because a file says so.

Memory and time are linear in the pickle's length: indices of the memo may be huge, and constructors are
charged for what they copy.

    machine     begin here: the loop, and the opcodes that name things and would call them
    containers  …those that fill containers
    program     …those that push plain values
    idiom       …those by which torch.save spells a tensor, at once
    memo        what a pickle may fetch again
    values      what is built where it is not plain data, and who decides that
    stream      where pickles that stand one after another end
    broken      whether one that breaks off has called something by then

Refused: opcodes that need a registry or buffers outside of the file (EXT, NEXT_BUFFER), bytes after STOP.
"""

from ckptconv.formats.torch.pickle.machine import Machine
from ckptconv.formats.torch.pickle.stream import PickleStream
from ckptconv.formats.torch.pickle.values import (
    Budget,
    Constructors,
    Elided,
    Global,
    StateOrderedDict,
    Thing,
    Value,
    answers_unasked,
    attributes_among,
)

__all__ = [
    "Budget",
    "Constructors",
    "Elided",
    "Global",
    "Machine",
    "PickleStream",
    "StateOrderedDict",
    "Thing",
    "Value",
    "answers_unasked",
    "attributes_among",
]
