"""Reader of Stable-Baselines3's ``.zip``, as ``model.save`` writes it.

    data                         JSON: the agent's attributes. What JSON has no word for is an object
                                 {":type:": …, ":serialized:": base64 of a pickle by cloudpickle, …}
    policy.pth                   torch.save of the policy's state_dict: the model
    policy.optimizer.pth …       that of each optimizer (also actor.optimizer, critic.optimizer, ent_coef_optimizer)
    pytorch_variables.pth        torch.save of further tensors, such as SAC's log_ent_coef; None where there are none
    _stable_baselines3_version   text; system_info.txt likewise

Entries are stored; tensors are read where they lie. Tensors of the other files are extras, under the file's name, and
`data` is metadata as JSON says it: the pickles in it are texts. They are followed all the same, since the library's
``load`` unpickles each: their calls are told, and what they name.

Source: stable_baselines3/common/save_util.py (`save_to_zip_file`, `data_to_json`, `json_to_data`), base_class.py.
"""

from __future__ import annotations

from base64 import b64decode
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptconv.core import strict_json
from ckptconv.core.metadata import Opaque, opaque_wholes
from ckptconv.core.notes import Notes, Program
from ckptconv.errors import COPY_AGAIN, CkptconvError, UnsupportedError
from ckptconv.formats.beside.members import EXTRAS, METADATA, MODEL, contained, documents
from ckptconv.formats.torch.containers.pickled import follow
from ckptconv.formats.torch.containers.saved import Saved, saved_in
from ckptconv.formats.torch.pickle import Budget
from ckptconv.formats.torch.tree.assemble import assemble
from ckptconv.formats.torch.tree.names import told_once, with_names
from ckptconv.formats.torch.tree.placing import Places
from ckptconv.formats.torch.tree.roots import plant, plant_state_dict
from ckptconv.io.archive import Archive
from ckptconv.io.zip import ZipArchive

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.formats.torch.pickle import Value
    from ckptconv.io.source import Source

NAME = "stable-baselines3"
DATA, POLICY, VERSION = "data", "policy.pth", "_stable_baselines3_version"
_SUFFIX = ".pth"
_SERIALIZED, _LOADS = ":serialized:", "cloudpickle.loads"

MAX_DATA = 64 << 20
"""Bytes of the agent's attributes: they hold the last observations, and what users put there."""

MAX_VERSION = 256


def claims(source: Source) -> bool:
    """Whether this is a zip archive with a policy and the library's version, or its data; or with data alone whose
    pickles the library would load before it looks for the policy.
    """
    try:
        archive = ZipArchive.of(source)
        if POLICY in archive.entries:
            return VERSION in archive.entries or DATA in archive.entries
        return DATA in archive.entries and _has_pickles(archive.read(DATA, MAX_DATA))
    except CkptconvError:
        return False


def _has_pickles(data: bytes) -> bool:
    """Whether agents' data has values that the library would unpickle; true of JSON that only others than we take."""
    try:
        document = strict_json.loads(data)
    except (ValueError, RecursionError):
        return data.lstrip()[:1] == b"{"
    return isinstance(document, dict) and any(isinstance(one, dict) and _SERIALIZED in one for one in document.values())


def read(source: Source) -> Checkpoint:
    """Open the archive: its directory, its texts, and the pickles of its files and of its data; no tensor byte.

    Raises CorruptFileError, LimitError, UnsupportedError, UnsafeError (a tensor of the model hangs on a call), which
    name the member.
    """
    archive = Archive.of(source)
    if POLICY not in archive.members:
        raise UnsupportedError(f"the archive has no {POLICY!r}", hint="name a file in it")
    files = {path: saved_in(archive.open(path)) for path in archive.members if path.endswith(_SUFFIX)}
    data = _data(archive)
    texts = documents(archive, files)
    if VERSION in archive.members:
        texts[VERSION] = archive.text(VERSION, MAX_VERSION).decode("utf-8", "replace")
    notes, programs = _followed(data, Notes())
    inner = _assembled(files, {DATA: data} if data else {}, source)
    inner.notes = replace(inner.notes, globals=told_once((*inner.notes.globals, *notes.globals)))
    uses = {**dict.fromkeys(files, EXTRAS), POLICY: MODEL, **({DATA: METADATA} if data else {})}
    return contained(inner, archive, NAME, uses, texts, programs)


def _assembled(files: Mapping[str, Saved], beside: Mapping[Value, Value], source: Source) -> Checkpoint:
    """The policy's tensors as the model's, those of the other files as extras."""
    policy = files[POLICY].value
    if not isinstance(policy, OrderedDict) and type(policy) is not dict:
        raise UnsupportedError(f"{POLICY!r} holds no state_dict", hint=f"name it: {source.path / POLICY}")
    places, budget = Places(), Budget(sum(saved.size for saved in files.values()) + MAX_DATA)
    for saved in files.values():
        places.add(saved.storages, saved.placer.place)
    others = {path.removesuffix(_SUFFIX): saved.value for path, saved in files.items() if path != POLICY}
    tensors = policy if isinstance(policy, OrderedDict) else OrderedDict(policy)
    tree = plant_state_dict(tensors, {**others, **beside}, budget)
    machines = [saved.machine for saved in files.values()]
    return assemble(tree, places.place, budget, format=NAME, machines=machines, file=source)


def _data(archive: Archive) -> dict[str, Any]:
    """The agent's attributes, as JSON says them; none where there is no such file.

    Raises CorruptFileError, LimitError.
    """
    if DATA not in archive.members:
        return {}
    document = strict_json.object_of(archive.text(DATA, MAX_DATA), repr(DATA), hint=COPY_AGAIN)
    strict_json.check_depth(document, repr(DATA))
    return document


def _followed(data: Mapping[str, Any], notes: Notes) -> tuple[Notes, tuple[Program, ...]]:
    """What unpickling the pickles in the agent's attributes would name, make and call."""
    programs: list[Program] = []
    for key, value in data.items():
        serialized = value.get(_SERIALIZED) if isinstance(value, dict) else None
        if serialized is None:
            continue
        try:
            pickled = b64decode(serialized)
            found, machine, makers = follow(pickled)
            budget = Budget(len(pickled))
            tree = plant(found, budget)
            before = len(notes.unseen)
            notes = with_names(notes, machine, tree, budget, makers.answered.__contains__)
        except (ValueError, TypeError, CkptconvError) as error:
            said = error.message if isinstance(error, CkptconvError) else "no base64"
            programs.append(Program(f"{DATA}: {key}", Opaque(_LOADS, "called", (f"cannot be followed: {said}",)), NAME))
            continue
        made = [node for _, node in opaque_wholes(tree.root)] + list(notes.unseen[before:])
        programs += [Program(f"{DATA}: {key}", node, NAME) for node in made]
    return notes, tuple(programs)
