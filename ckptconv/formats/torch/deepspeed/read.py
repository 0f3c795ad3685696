"""Reader for DeepSpeed's folders: the pickles of all files, and tensors that are cut out of the ranks' flat tensors.

The model's tensors are the optimizer's fp32 weights, with the names and in the order of the module's state_dict. Its
buffers, and parameters that are not in the optimizer, come from the module (in stage 3 from rank 0's). The 16-bit
weights, which are the fp32 weights rounded, are left out. Metadata in which another rank's file differs from rank 0's
is kept under that file's name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.report import Finding
from ckptconv.errors import COPY_ALL_AGAIN, CorruptFileError, located
from ckptconv.formats.torch.deepspeed.files import files_of, tag_folder
from ckptconv.formats.torch.deepspeed.ranks import Ranks
from ckptconv.formats.torch.deepspeed.reading import Reading, state_dict
from ckptconv.formats.torch.deepspeed.states import ModelStates, model_states, optimizer_states
from ckptconv.formats.torch.deepspeed.universal import Universal
from ckptconv.formats.torch.tree.build import add_beside

if TYPE_CHECKING:
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.formats.torch.pickle import Value
    from ckptconv.io.folder import Folder


def read(folder: Folder) -> Checkpoint:
    """Open the checkpoint in a tag's folder, or the one that ``latest`` names. Reads every file's pickle, but no byte
    of a tensor.

    Raises CorruptFileError, LimitError, UnsupportedError, UnsafeError, UsageError, with the file's path.
    """
    tag = tag_folder(folder)
    with located(tag.path):
        return _read(folder, tag)


def _read(outer: Folder, folder: Folder) -> Checkpoint:
    reading, files = Reading(outer), files_of(folder)
    models = [model_states(reading.open(folder, name)) for name in files.model]
    for model in models[1:]:
        model.module.clear()  # only rank 0's is used, and there may be a thousand others
    if files.universal:
        tensors, rest = Universal(reading, models, folder).join()
    elif files.optimizer:
        ranks = [optimizer_states(reading.open(folder, name)) for name in files.optimizer]
        tensors, rest = Ranks(reading, models, ranks).join()
    else:
        tensors, rest = _module_alone(reading, models[0])
    return reading.finish(state_dict(models[0].module, tensors), rest)


def _module_alone(reading: Reading, model: ModelStates) -> tuple[dict[str, Value], dict[Value, Value]]:
    """A checkpoint without optimizer states: the module has the weights. Raises CorruptFileError if it does not."""
    if model.divided:
        raise CorruptFileError(
            "the weights of stage 3 are in the ranks' optim_states files, and there are none",
            path=model.file.folder.path, hint=COPY_ALL_AGAIN,
        )  # fmt: skip
    if model.shapes:
        message = "there are no optim_states, which have the fp32 weights: these are the module's own"
        reading.findings.append(Finding("no-optim-states", "warning", "", message))
    rest: dict[Value, Value] = {}
    add_beside(rest, model.rest)
    return dict(model.module), rest
