"""Folders: a harmless file of weights, and beside it what those who load the folder would unpickle, import or run."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import re
import shutil
import struct
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tests.hostile.cases import RUN, SYSTEM, beside, call, checkpoint, number
from tests.hostile.folder import MODULE, Folder, json_of
from tests.hostile.named import HARMLESS, NAMED
from tests.hostile.others import WHOLE
from tests.support.craft import text

if TYPE_CHECKING:
    from collections.abc import Mapping

TRUST = "trust_remote_code=True"
ATTACK = "{{ cycler.__init__.__globals__.os.system('touch pwned') }}"


def place(case: Folder, root: Path) -> Path:
    """Write the folder's files; gives the folder."""
    home = root / case.slug
    for name, data in {"model.safetensors": WHOLE, **case.files}.items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for name, to in case.links.items():
        (home / name).symlink_to(to)
    return home


BEHIND_NAME, BEHIND_FILE = b"\x1f", b"\x1e"
_NAME = re.compile(rb"[\w-][\w.-]{,30}(/[\w-][\w.-]{,30}){,3}")


def joined(case: Folder) -> bytes:
    """The folder's files as one run of bytes, for whoever changes some of these."""
    return BEHIND_FILE.join(name.encode() + BEHIND_NAME + data for name, data in case.files.items())


def unpacked(data: bytes, home: Path) -> Path:
    """What `joined` made, as a folder, whatever has become of it; gives the folder."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    for piece in [b"model.safetensors" + BEHIND_NAME + WHOLE, *data.split(BEHIND_FILE)]:
        name, behind, contents = piece.partition(BEHIND_NAME)
        if behind and _NAME.fullmatch(name):
            with suppress(OSError):  # a file where there is a folder, or the other way
                path = home / name.decode()
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(contents)
    return home


def zipped(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return buffer.getvalue()


def array_of_objects() -> bytes:
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"\x80\x02" + SYSTEM + b"."


EVIL = b"\x80\x02" + SYSTEM + b"."
EVIL_ARCHIVE = checkpoint(beside(SYSTEM))
LATER = b"I1\n0" + SYSTEM + b"."
BROKEN = b"\x80\x02" + SYSTEM + b"\xff"
NO_TENSORS = zipped({"a/data.pkl": pickle.dumps({"lr": 0.1}, 2), "a/version": b"3\n", "a/byteorder": b"little"})
ARGUED = zipped({"a/data.pkl": pickle.dumps({"args": {"conv_feature_layers": "__import__('os').getpid()"}}, 2),
                 "a/version": b"3\n", "a/byteorder": b"little"})  # fmt: skip
ARGUMENTS = call("transformers.training_args", "OptimizerNames", text("adamw_torch"))
MODULES = [{"idx": 0, "name": "0", "path": "", "type": "mine.C"}]
OTHERS = Path(__file__).parents[2] / "fixtures" / "others"
WRITES, LITE = ((OTHERS / f"tensorflow-writes.{suffix}").read_bytes() for suffix in ("pb", "tflite"))
LAMBDA = {"class_name": "Lambda", "config": {"function": {"class_name": "__lambda__", "config": {"code": "4w=="}}}}


def thinc_model(state: bytes) -> bytes:
    """A model of Thinc's, of one layer that is another library's, as spaCy keeps it."""
    shim = b"\x82\xa6config\x80\xa5state\xc6" + struct.pack(">I", len(state)) + state
    return b"\x84\xa5nodes\x90\xa5attrs\x90\xa6params\x90\xa5shims\x91\x91\xc6" + struct.pack(">I", len(shim)) + shim


PICKLES = [
    Folder("a layer in a model of spaCy's", {"tok2vec/model": thinc_model(EVIL)}, named=("os.system",)),
    Folder(
        "a layer in a model of spaCy's, in an archive",
        {"tok2vec/model": thinc_model(EVIL_ARCHIVE)},
        named=("os.system",),
    ),
    Folder(
        "a layer in a model of spaCy's that breaks off",
        {"tok2vec/model": thinc_model(EVIL)[:-1]},
        named=("torch.load",),
    ),
    Folder("an optimizer of a trainer's", {"optimizer.pt": EVIL_ARCHIVE}, named=("os.system",), pickle="optimizer.pt"),
    Folder(
        "a copy of the weights", {"pytorch_model.bin": EVIL_ARCHIVE}, named=("os.system",), pickle="pytorch_model.bin"
    ),
    Folder("a pickle that is called a text", {"a/b/notes.txt": EVIL}, named=("os.system",), pickle="a/b/notes.txt"),
    Folder("a pickle in a hidden folder", {".cache/x": EVIL}, named=("os.system",), pickle=".cache/x"),
    Folder("a pickle that starts as a text", {"head.pkl": LATER}, named=("pickle.load",), pickle="head.pkl"),
    Folder("a pickle that breaks off", {"cut.bin": BROKEN}, named=("pickle.load",), pickle="cut.bin"),
    Folder("a pickle behind a link", {"x/y": EVIL}, named=("os.system",) * 2, links={"z.pt": "x/y"}, pickle="z.pt"),
    Folder("a listing below", {"fsdp_0/.metadata": EVIL}, named=("os.system",), pickle="fsdp_0/.metadata"),
    Folder("a listing below that starts as a text", {"fsdp_0/.metadata": LATER}, named=("pickle.load",)),
    Folder("a part without its listing", {"a.distcp": EVIL}, named=("os.system",), pickle="a.distcp"),
    Folder(
        "a listing of one process", {"fsdp_0/__0.metadata": EVIL}, named=("os.system",), pickle="fsdp_0/__0.metadata"
    ),
    Folder("a pickle that joblib inflates", {"model_head.pkl": zlib.compress(EVIL)}, named=("os.system",)),
    Folder("a pickle of another suffix", {"a.sav": LATER}, named=("pickle.load",), pickle="a.sav"),
    Folder(
        "a pickle that joblib inflates, of any name",
        {"scaler.z": zlib.compress(EVIL), "vectorizer": gzip.compress(EVIL)},
        named=("os.system",) * 2,
    ),
    Folder("an archive with something before it", {"m.keras": b"x" + EVIL_ARCHIVE}, named=("pickle.load",)),
    Folder("an archive beside", {"old.zip": zipped({"a/b.pkl": EVIL, "c.txt": b"x"})}, named=("os.system",)),
    Folder(
        "an archive of two checkpoints beside",
        {"old.zip": zipped({"a.pth": NO_TENSORS, "b.pth": EVIL_ARCHIVE})},
        named=("os.system",),
    ),
    Folder("a pickle that pandas inflates", {"a.pkl.zst": b"\x28\xb5\x2f\xfd"}, named=("pandas.read_pickle",)),
    Folder("two pickles", {"a.pkl": EVIL, "b.pkl": EVIL}, named=("os.system", "os.system"), pickle="a.pkl"),
]

CONFIGURATIONS = [
    Folder("a module of sentence-transformers", {"modules.json": json.dumps(MODULES).encode(), "mine.py": MODULE},
           named=("mine.C",)),
    Folder("a module of another repository", {"modules.json": json.dumps([{"type": "o/r--mine.C"}]).encode()},
           named=("o/r--mine.C",)),
    Folder("a router of sentence-transformers", {"router_config.json": json_of(types={"q": "mine.C"}), "mine.py": MODULE},
           named=("mine.C",)),
    Folder("an activation", {"2_Dense/config.json": json_of(activation_function="os.getpid")}, named=("os.getpid",)),
    Folder("an activation of a cross-encoder", {"config.json": json_of(sentence_transformers={"activation_fn": "os.abort"})},
           named=("os.abort",)),
    Folder("a model of mlx-lm's", {"config.json": json_of(model_file="mine.py/."), "mine.py": MODULE}, named=("mine.py/.",)),
    Folder("a pipeline's class", {"model_index.json": json_of(_class_name=["mine", "C"]), "mine.py": MODULE},
           named=("mine.C",)),
    Folder("a component's class", {"model_index.json": json_of(_class_name="P", tokenizer=["mine", "MyTokenizer"]),
                                   "tokenizer/mine.py": MODULE}, named=("mine.MyTokenizer",)),
    Folder("a component's class elsewhere", {"model_index.json": json_of(_class_name="P", tokenizer=["../mine", "MyTokenizer"]),
                                             "tokenizer/x": b"", "mine.py": MODULE}, named=("../mine.MyTokenizer",)),
    Folder("a component's class behind a link", {"model_index.json": json_of(_class_name="P", unet=["mine", "C"]),
                                                 "x/mine.py": MODULE}, named=("mine.C",), links={"unet": "x"}),
    Folder("None.py", {"model_index.json": json_of(_class_name="P"), "None.py": MODULE}, named=("None.py",)),
    Folder("a kernel", {"config.json": json_of(text_config={"_attn_implementation": "o/kernel"})}, named=("o/kernel",)),
    Folder("a chat template", {"tokenizer_config.json": json_of(chat_template=ATTACK)}, named=("jinja2.Template.render",)),
    Folder("one of several chat templates",
           {"tokenizer_config.json": json_of(chat_template=[{"name": "a", "template": "x"}, {"name": "b", "template": ATTACK}])},
           named=("jinja2.Template.render",)),
    Folder("a file of a chat template", {"additional_chat_templates/x.jinja": ATTACK.encode()},
           named=("jinja2.Template.render",)),
    Folder("a model of Keras'", {"config.json": json_of(class_name="Sequential", config={"layers": [LAMBDA]})},
           named=("keras.src.utils.python_utils.func_load",)),
    Folder("a SavedModel below", {"tf/saved_model.pb": WRITES}, named=("tensorflow.raw_ops.WriteFile",)),
    Folder("a graph of TensorFlow Lite's", {"a.tflite": LITE}, named=("tensorflow.raw_ops.WriteFile",)),
    Folder("a SavedModel beside", {"saved_model.pb": WRITES}, named=("tensorflow.raw_ops.WriteFile",)),
    Folder("hyperparameters", {"hyperparams.yaml": b"a: 1\nx: !apply:os.system ['touch pwned']\n"}, named=("os.system",)),
    Folder("hyperparameters in disguise", {"hyperparams.yaml": b"x: !<!new:os.sys%74em> [a]\n"}, named=("os.system",)),
    Folder("hyperparameters by a detour", {"hyperparams.yaml": b"x: !new:speechbrain.utils.subprocess.Popen [a]\n"},
           named=("speechbrain.utils.subprocess.Popen",)),
    Folder("a configuration in capitals", {"Config.JSON": json_of(activation_function="os.getpid")}, named=("os.getpid",)),
    Folder("hyperparameters of Python", {"hyperparams.yaml": b"x: !!python/object/apply:os.system [a]\n"}, named=("os.system",)),
    Folder("hyperparameters by reference", {"hyperparams.yaml": b"x: !applyref:os.system\n  command: touch pwned\n"},
           named=("os.system",)),
    Folder("hyperparameters elsewhere", {"hyperparams.yaml": b"x: !include:notes.txt\n", "notes.txt": b"y: !apply:os.system [a]\n"},
           named=("notes.txt",)),
    Folder("hyperparameters in another file", {"hyperparams.yaml": b"x: !include:b.yaml\n", "b.yaml": b"y: !a%70ply:os.system [a]\n"},
           named=("os.system",)),
    Folder("a configuration of Python", {"config.yml": b"x: !!python%2fobject/new:subprocess.Popen [[touch, pwned]]\n"},
           named=("subprocess.Popen",)),
    Folder("a target of Hydra's", {"conf/model.yaml": b'{"a": {"_target_": "os.\\x73ystem", "command": "touch pwned"}}'},
           named=("os.system",)),
    Folder("a target of a diffusion model's", {"v1.yaml": b"model:\n  target: subprocess.Popen\n  params: {args: [touch, pwned]}\n"},
           named=("subprocess.Popen",)),
    Folder("a target by an alias", {"conf.yaml": b"b: &b os.system\na: {_target_: *b}\n"}, named=("os.system",)),
    Folder("a preprocessor of pyannote.audio's", {"config.yaml": b"pipeline: {name: types.SimpleNamespace}\npreprocessors:\n"
           b"  audio:\n    name: subprocess.Popen\n    params: {args: [touch, pwned]}\n"},
           named=("types.SimpleNamespace", "subprocess.Popen")),
    Folder("a target of NeMo's", {"model_config.yaml": b"a:\n  _target_: os.system\n"}, named=("os.system",)),
    Folder("names that YOLOv5 evaluates", {"metadata.yaml": b"names: \"__import__('os').system('touch pwned')\"\n"},
           named=("builtins.eval",)),
    Folder("names that YOLOv5 evaluates, by an alias and over two lines", {"metadata.yaml":
           b"a: &a >-\n  __import__('os')\n  .system('touch pwned')\nnames: *a\n"}, named=("builtins.eval",)),
    Folder("layers that fairseq evaluates", {"checkpoint.pt": ARGUED}, named=("builtins.eval",)),
    Folder("a loader of MLflow's", {"MLmodel": b"flavors:\n  python_function:\n    loader_module: mine\n    code: code\n",
                                    "code/sklearn.py": MODULE}, named=("mine", "code")),
    Folder("a loader of MLflow's in one line", {"MLmodel": b'{flavors: {python_function: {"loader\\x5fmodule": mine}}}'},
           named=("mine",)),
    Folder("a loader of MLflow's by an anchor", {"MLmodel": b"a: &k loader_module\nflavors: {python_function: {*k : mine}}\n"},
           named=("loader_module",)),
    Folder("types that MLflow trusts", {"MLmodel": b"flavors:\n  sklearn:\n    skops_trusted_types:\n    - os.system\n"},
           named=("- os.system",)),
    Folder("an unpickler of MLflow's", {"data/pickle_module_info.txt": b"mine"}, named=("mine",)),
    Folder("a task of KerasHub's", {"task.json": json_of(module="os", class_name="function", config="system")}, named=("os.system",)),
    Folder("a tokenizer of KerasHub's", {"tokenizer.json": b'{"module": "os", "cl\\u0061ss_name": "function", "config": "system"}'},
           named=("os.system",)),
    Folder("a chat template by a token", {"tokenizer_config.json": json_of(chat_template="{{ cycler[bos_token] }}", bos_token="__init__")},
           named=("jinja2.Template.render",)),
    Folder("a chat template in disguise", {"chat_template.jinja": rb"{{ ''['__cl\x61ss__'] }}"}, named=("jinja2.Template.render",)),
]  # fmt: skip

CONSENT = [
    Folder("a model with code", {"config.json": json_of(auto_map={"AutoConfig": "mine.C", "AutoModel": "o/r--mine.C"}),
                                 "mine.py": MODULE}, "plain", (), (TRUST, TRUST)),
    Folder("a tokenizer with code", {"tokenizer_config.json": json_of(auto_map={"AutoTokenizer": ["mine.C", None]})}, "plain",
           (), (TRUST,)),
    Folder("a pipeline with code", {"config.json": json_of(custom_pipelines={"t": {"impl": "mine.C"}})}, "plain", (), (TRUST,)),
    Folder("code that generates", {"custom_generate/generate.py": MODULE}, "plain", (), (f"custom_generate=… and {TRUST}",)),
    Folder("an endpoint's handler", {"handler.py": MODULE}, "plain", (), ("it is deployed to one",)),
    Folder("a module of torch.hub's", {"hubconf.py": MODULE}, "plain", (), ("torch.hub.load(FOLDER, …, source='local')",)),
    Folder("a pipeline that is asked for", {"model_index.json": json_of(_class_name="P"), "pipeline.py": MODULE}, "plain", (),
           ("custom_pipeline=FOLDER",)),
    Folder("objects in an array", {"a.npy": array_of_objects()}, "plain", (), ("allow_pickle=True",)),
    Folder("objects in arrays", {"a.npz": zipped({"x.npy": array_of_objects()})}, "plain", (), ("allow_pickle=True",)),
]  # fmt: skip

HONEST = [
    Folder("a pipeline of spaCy's", {"config.cfg": b"[nlp]\n", "tok2vec/model": thinc_model(NO_TENSORS)}, "plain"),
    Folder("a trainer's", {"optimizer.pt": checkpoint(beside(number(3))), "scheduler.pt": NO_TENSORS, "rng_state.pth": NO_TENSORS,
                           "trainer_state.json": json_of(epoch=1.0)}, "plain"),
    Folder("weights of other tools", {"openvino_model.bin": struct.pack("<64f", *range(64)), "ggml.bin": b"lmgg" + bytes(64),
                                      "c.bin": b"c is for weights\nand that", "model.onnx": b"\x08\x07"}, "plain"),
    Folder("documents", {"README.md": b"!apply:os.system\n", "LICENSE": b"cos\nsystem\n", "data.zip": zipped({"a.csv": b"1,2"}),
                         "plot.png": b"\x89PNG", "tokenizer.json": b'{"auto_map": {"AutoModel": "mine.C"}}'}, "plain"),
    Folder("a script that nothing names", {"convert.py": MODULE}, "plain"),
    Folder("a model of sentence-transformers", {
        "modules.json": json.dumps([{"type": "sentence_transformers.models.Transformer"}]).encode(),
        "2_Dense/config.json": json_of(activation_function="torch.nn.modules.activation.Tanh"),
        "config.json": json_of(activation_function="gelu_new", attn_implementation="sdpa", model_file="model.bin"),
    }, "plain"),
    Folder("hyperparameters of SpeechBrain's", {"hyperparams.yaml": (
        b"__set_seed: !apply:torch.manual_seed [1]\nmodel: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN\n"
        b"tokenizer: !new:sentencepiece.SentencePieceProcessor\nemb: !apply:speechbrain.utils.hparams.choice\n"
        b"loss: !name:speechbrain.nnet.losses.nll_loss\nact: !name:torch.nn.LeakyReLU\n"
    )}, "plain"),
    Folder("a model of MLflow's", {"MLmodel": (
        b"flavors:\n  python_function:\n    code: null\n    loader_module: mlflow.sklearn\n  sklearn:\n    code: code\n"
        b"    skops_trusted_types: null\nsignature:\n  inputs: '[{\"name\": \"code\"}]'\n"
    ), "code/README.md": b"none", "data/pickle_module_info.txt": b"mlflow.pytorch.pickle_module"}, "plain"),
    Folder("configurations in YAML", {"args.yml": (
        b"!!python/object/apply:collections.OrderedDict\n- - - size\n    - !!python/tuple [1, 2]\n"
    ), "conf/model.yaml": b"_target_: src.models.Net\nopt: {_target_: torch.optim.Adam}\npath: {_target_: pathlib.Path}\n",
        "v1.yaml": b"model:\n  target: ldm.models.diffusion.ddpm.LatentDiffusion\n", "yolo.yaml": b"activation: nn.LeakyReLU(0.1)\n",
        "metadata.yaml": b"names: \"{0: 'person (1)'}\"\n", "data.yaml": b"names:\n  0: person\ntarget: os\n",
        "config.yaml": b"pipeline:\n  name: pyannote.audio.pipelines.SpeakerDiarization\n  params:\n    embedding_batch_size: 32\n"},
        "plain"),
    Folder("chat templates", {"chat_template.jinja": (
        b"{{ '<tool_call>\\n{\\\"name\\\": ' }}{{ message['__meta__'] }}{% set parts = content.split('__') %}{{ parts[0] }}"
    )}, "plain"),
    Folder("a tokenizer with a word like that", {"tokenizer.json": b'{"vocab": {"class_name": 7}}'}, "plain"),
    Folder("what the hub's cache notes", {".cache/huggingface/download/a.metadata": b"cab\nab\n1.0\n"}, "plain"),
    Folder("links elsewhere", {"a/b": b"x"}, "plain", links={"circle": "circle", "out": "/proc", "gone": "nothing"}),
    Folder("links to folders in circles", {"a/b/c": b"x", "d/e": b"x"}, "plain",
           links={"a/b/up": "..", "a/over": "../d", "d/back": "../a"}),
    Folder("a copy of the weights that broke off", {"pytorch_model.bin": EVIL_ARCHIVE[:-30]}, "plain"),
    Folder("a log of 17 MB", {"trainer_state.json": b'{"a": "' + b" " * (17 << 20) + b'"}'}, "plain"),
    Folder("what lies in a repository of git", {".git/lfs/objects/x": EVIL}, "plain"),
    Folder("a configuration that is not JSON", {"config.json": b"{"}, "plain"),
]  # fmt: skip

OPAQUE = [
    Folder("arguments of a trainer", {"training_args.bin": checkpoint(beside(ARGUMENTS[:-1] + b"\x81"))}, "opaque",
           ("transformers.training_args.OptimizerNames",)),
    Folder("a library of an adapter's base", {"adapter_config.json": json_of(
        auto_mapping={"parent_library": "mine", "base_model_class": "C"})}, "opaque", ("mine.C",)),
    Folder("a module of another package", {"modules.json": json.dumps([{"type": "pylate.models.Dense.Dense"}]).encode()},
           "opaque", ("pylate.models.Dense.Dense",)),
]  # fmt: skip

REFUSED = [
    Folder("a configuration of 17 MB", {"config.json": b'{"a": "' + b" " * (17 << 20) + b'"}'}, "refused"),
]

FOLDERS = [*PICKLES, *CONFIGURATIONS, *NAMED, *CONSENT, *HONEST, *HARMLESS, *OPAQUE, *REFUSED]
assert RUN
