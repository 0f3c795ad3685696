"""torch's containers, read and written without torch.

A pickle is followed by `pickle`, which builds data alone; `construct` says what of torch's that may be. Of each tensor
this leaves a stub (`stubs`), which is placed on its storage at the end.

    read  legacy  tar  bare             torch.save's archives, what it wrote before, bare pickles
    joblib  joblib_machine              pickles of joblib's, with arrays between the opcodes
    script  script_classes              TorchScript
    export  payloads  graph_code        torch.export
    sharded                             sets with an index
    slices  slice_files  same           Llama's slices, and what all ranks say alike
    stable_baselines3                   archives of Stable-Baselines3
    dcp  deepspeed  megatron            folders that several processes wrote
    memmaps                             folders of tensordict's
    pickle  construct  names            following a pickle: what may be built, what is named
    calls  harmless  new_objects        …what is called; which calls and new objects do no harm
    capable  makers                     …which names can run anything; how other packages make their objects
    second                              what else a file of pickles is to those who load it
    broken                              …and whether one that breaks off has called something by then
    stubs  composites  numpy_values     …tensors, quantized and sparse ones, numpy's values
    dtensor  embedded                   …distributed ones, and files of torch's that stand in a pickle
    roots  find  modules                …which tensors are the model's, and what they are called
    placing  assemble                   from stubs to a checkpoint
    dtypes                              torch's spellings of element types
    write  storages  emit  spell        the writer
    notices                             what a person should know of what is written
"""

from ckptconv.core.arrays import TORCH_NAMES
from ckptconv.formats.base import Format, Holds

_LEGACY_NUMBER = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."

FORMATS = (
    Format(
        name="torch",
        summary="torch.save's zip archive: a bare state_dict, or one with metadata around it",
        suffixes=(".pth", ".pt", ".bin", ".ckpt"),
        magic=((0, b"PK\x03\x04"), (0, b"PK\x05\x06")),
        claims="ckptconv.formats.torch.read:claims",
        reader="ckptconv.formats.torch.read:read",
        writer="ckptconv.formats.torch.write:write",
        notices="ckptconv.formats.torch.notices:notices",
        holds=Holds(dtypes=tuple(TORCH_NAMES), metadata="typed", extras=True, ties=True, composites=True),
        sharded="torch-sharded",
    ),
    Format(
        name="megatron",
        summary="Megatron-LM's folder: Megatron-Core's .distcp files, or model_optim_rng.pt of each rank",
        suffixes=(),
        claims="ckptconv.formats.torch.megatron.read:claims",
        reader="ckptconv.formats.torch.megatron.read:read",
        takes=("folder",),
    ),
    Format(
        name="torch-dcp",
        summary="torch.distributed.checkpoint's folder: a .metadata that lists the chunks in .distcp files",
        suffixes=(),
        claims="ckptconv.formats.torch.dcp.read:claims",
        reader="ckptconv.formats.torch.dcp.read:read",
        writer="ckptconv.formats.torch.dcp.write:write",
        notices="ckptconv.formats.torch.notices:notices",
        holds=Holds(dtypes=tuple(TORCH_NAMES), metadata="typed", extras=True, ties=True),
        takes=("folder",),
        main=".metadata",
    ),
    Format(
        name="torch-sharded",
        summary="torch.save's archives of a bare state_dict's parts, and their index",
        suffixes=(".bin.index.json", ".pth.index.json", ".pt.index.json", ".ckpt.index.json"),
        magic=((0, b"{"),),
        claims="ckptconv.formats.torch.sharded:claims",
        reader="ckptconv.formats.torch.sharded:read",
        writer="ckptconv.formats.torch.sharded:write",
        layout="ckptconv.formats.torch.sharded:layout",
        holds=Holds(dtypes=tuple(TORCH_NAMES), metadata="record", extras=True, ties=True, opaque=True),
        takes=("file", "folder"),
        main="pytorch_model.bin.index.json",
    ),
    Format(
        name="torch-slices",
        summary="a folder of consolidated.00.pth and so on, as Meta releases Llama: a slice of each matrix in each",
        suffixes=(),
        claims="ckptconv.formats.torch.slices:claims",
        reader="ckptconv.formats.torch.slices:read",
        takes=("folder",),
        dialect="meta",
    ),
    Format(
        name="torch-legacy",
        summary="torch.save before 1.6: stacked pickles, then the storages",
        suffixes=(".pth", ".pt", ".bin", ".ckpt"),
        magic=(
            *((offset, _LEGACY_NUMBER) for offset in (2, 11)),
            (0, b"L119547037146038801333356L\n."),
        ),
        claims="ckptconv.formats.torch.legacy:claims",
        reader="ckptconv.formats.torch.legacy:read",
    ),
    Format(
        name="torch-tar",
        summary="torch.save before 0.1.12: a tar archive of pickles and storages",
        suffixes=(".pth", ".pt"),
        magic=((257, b"ustar"),),
        claims="ckptconv.formats.torch.tar:claims",
        reader="ckptconv.formats.torch.tar:read",
    ),
    Format(
        name="torchscript",
        summary="torch.jit.save's zip archive: parameters and buffers, without the code",
        suffixes=(".pt", ".ptl"),
        magic=((0, b"PK\x03\x04"), (0, b"PK\x05\x06")),
        claims="ckptconv.formats.torch.script:claims",
        reader="ckptconv.formats.torch.script:read",
    ),
    Format(
        name="torch-export",
        summary="torch.export's zip archive: weights and constants, without the graph",
        suffixes=(".pt2",),
        magic=((0, b"PK\x03\x04"), (0, b"PK\x05\x06")),
        claims="ckptconv.formats.torch.export:claims",
        reader="ckptconv.formats.torch.export:read",
    ),
)

DEEPSPEED = Format(
    name="deepspeed",
    summary="DeepSpeed's folder: model_states, and each rank's optim_states, of ZeRO's stages 0 to 3",
    suffixes=(),
    claims="ckptconv.formats.torch.deepspeed.files:claims",
    reader="ckptconv.formats.torch.deepspeed.read:read",
    takes=("folder",),
)
"""Asked after those that claim a folder with whole weights, which a trainer may put beside ``latest``."""

TENSORDICT = Format(
    name="tensordict",
    summary="tensordict's folder, as TensorDict.memmap writes it: a meta.json, and a .memmap file for each tensor",
    suffixes=(),
    claims="ckptconv.formats.torch.memmaps:claims",
    reader="ckptconv.formats.torch.memmaps:read",
    takes=("folder",),
)

STABLE_BASELINES3 = Format(
    name="stable-baselines3",
    summary="Stable-Baselines3's zip archive: a policy's weights, its optimizers' state, the agent's settings",
    suffixes=(".zip",),
    magic=((0, b"PK\x03\x04"),),
    claims="ckptconv.formats.torch.stable_baselines3:claims",
    reader="ckptconv.formats.torch.stable_baselines3:read",
)

JOBLIB = Format(
    name="joblib",
    summary="joblib.dump's pickle with arrays between its opcodes, as of scikit-learn's models, or a compressed pickle",
    suffixes=(".joblib",),
    claims="ckptconv.formats.torch.joblib:claims",
    reader="ckptconv.formats.torch.joblib:read",
)
"""Asked before a bare pickle, as which it starts."""

PICKLE = Format(
    name="pickle",
    summary="a bare pickle of arrays or tensors: pickle.dump, .pdparams",
    suffixes=(".pkl", ".pickle", ".pdparams", ".pdopt"),
    claims="ckptconv.formats.torch.bare:claims",
    reader="ckptconv.formats.torch.bare:read",
)
"""Asked last: its first bytes say the least."""
