"""Folders with a harmless file of weights, and a document or a checkpoint that names what a library calls, or is Python."""

from __future__ import annotations

import pickle

from tests.hostile.cases import beside, checkpoint
from tests.hostile.folder import MODULE, Folder, json_of

RUNS = "__import__('os').system('touch pwned')"
TOUCH = {"args": ["touch", "pwned"]}
EVAL = "builtins.eval"


def kept(**values: object) -> bytes:
    """A checkpoint with these beside its weights."""
    return checkpoint(beside(pickle.dumps(values, 2)[2:-1]))


def configured(text: str) -> bytes:
    """A checkpoint of MMEngine's: its configuration is Python."""
    return checkpoint(pickle.dumps({"message_hub": {"runtime_info": {"cfg": text}}}, 2))


NAMED = [
    Folder("a step of LeRobot's", {"policy_preprocessor.json": json_of(
        steps=[{"registry_name": "x", "class": "os.x"}, {"class": "subprocess.Popen", "config": TOUCH}])},
        named=("subprocess.Popen",)),
    Folder("a predictor of GluonTS'", {"predictor.json": b'{"__kind__": "instance", "class": "os.system", "args": ["x"]}'},
           named=("os.system",)),
    Folder("a model of AllenNLP's", {"config.json": json_of(dataset_reader={"type": "subprocess.Popen", **TOUCH})},
           named=("subprocess.Popen",)),
    Folder("a model of AllenNLP's alone", {"config.json": json_of(model={"type": "subprocess.Popen", **TOUCH})},
           named=("subprocess.Popen",)),
    Folder("a component of DeepPavlov's", {"config.json": json_of(chainer={"pipe": [{"class_name": "subprocess:Popen", **TOUCH}]})},
           named=("subprocess.Popen",)),
    Folder("a node of Rasa's", {"metadata.json": json_of(predict_schema={"nodes": {"a": {"uses": "subprocess.Popen"}}})},
           named=("subprocess.Popen",)),
    Folder("an object of NeMo 2's", {"context/io.json": json_of(objects={"a": {"type": {
        "type": "pyref", "module": "os", "name": "system"}}})}, named=("os.system",)),
    Folder("a target in JSON", {"config.json": json_of(net={"_target_": "os.system", "command": "touch pwned"})},
           named=("os.system",)),
    Folder("a target behind one that only asks", {"a.yaml": b"x:\n  _target_: os.path.os.system\n  command: touch pwned\n"},
           named=("os.path.os.system",)),
    Folder("a target that is another's", {"a.yaml": b"x:\n  _target_: torch.serialization.load\n  f: y\n"},
           named=("torch.serialization.load",)),
    Folder("a class of Lightning's", {"a.yaml": b"x:\n  class_path: logging.FileHandler\n"}, named=("logging.FileHandler",)),
    Folder("Python in a bundle of MONAI's", {"configs/inference.json": json_of(
        imports=["$import os", "$import subprocess"], device=f"${RUNS}", a="$os", b="$@a.system('x')")},
        named=(EVAL,) * 3),
    Folder("Python in a bundle of MONAI's, in YAML", {"configs/inference.yaml": f'device: "${RUNS}"\n'.encode()},
           named=(EVAL,)),
    Folder("layers that YOLOv5 evaluates", {"yolov5s.yaml":
           f"nc: 80\nbackbone:\n  [[-1, 1, nn.Upsample, [None, 2]], # (1)\n   [-1, 1, \"{RUNS}\", [64]]]\nhead: []\n".encode()},
           named=(EVAL,) * 2),
    Folder("layers that YOLOv5 evaluates, as if they were prose", {"a.yaml":
           b"backbone: [[-1, 1, exit (1), []], [-1, 1, \"run ('x')\", []], [-1, 1, run (), []], [-1, 1, a.run (x), []]]\nhead: []\n"},
           named=(EVAL,) * 4),
    Folder("operators that PaddleDetection evaluates", {"infer_cfg.yml": f'Preprocess:\n- type: "{RUNS}"\n'.encode()},
           named=(EVAL,) * 2),
    Folder("operators that PaddleOCR evaluates", {"inference.yml":
           f'PreProcess:\n  transform_ops:\n  - "{RUNS}": {{}}\n'.encode()}, named=(EVAL,) * 2),
    Folder("settings that rl_zoo3 evaluates", {"config.yml":
           f"!!python/object/apply:collections.OrderedDict\n- - - normalize\n    - {RUNS}\n".encode()}, named=(EVAL,) * 2),
    Folder("a configuration that FunASR trusts", {
        "config.yaml": b"model: X\ntrust_remote_code: true\nremote_code: ./model.py\n", "model.py": MODULE},
        named=("importlib.import_module",)),
    Folder("requirements that FunASR installs", {
        "configuration.json": json_of(file_path_metas={"config": "config.yaml"}), "requirements.txt": b"x\n"}, named=("pip.main",)),
    Folder("code that ModelScope imports", {"configuration.json": json_of(allow_remote=True, plugins=["x"]), "x.py": MODULE},
           named=("modelscope.utils.plugins.import_module_from_model_dir", "pip.main")),
    Folder("a library of onnxruntime-genai's", {"genai_config.json": json_of(
        model={"decoder": {"session_options": {"custom_ops_library": "./x.so"}}}), "x.so": b""}, named=("./x.so",)),
    Folder("an array of pickles", {
        "a/.zarray": json_of(zarr_format=2, filters=[{"id": "pickle"}], dtype="|O", shape=[1], chunks=[1]),
        "b/zarr.json": json_of(codecs=[{"name": "numcodecs.pickle"}])}, named=("pickle.loads",) * 2),
    Folder("a model that Triton serves", {"m/config.pbtxt": b'backend: "python"\n', "m/1/model.py": MODULE},
           named=("1/model.py",)),
    Folder("a backend of Triton's", {"config.pbtxt": b'backend: "mine"\n', "1/libtriton_mine.so": b""},
           named=("1/libtriton_mine.so",)),
    Folder("a configuration of Gin's", {"a.gin": b"from __gin__ import dynamic_registration\nimport subprocess\n"
           b"subprocess.Popen.args = ['touch', 'pwned']\nx.y = @subprocess.Popen()\n"}, named=("subprocess",)),
    Folder("code for pictures that vLLM fetches", {"config.json": json_of(model_type="Llama_Nemotron_Nano_VL", vision_config={
        "auto_map": {"AutoConfig": "o/r--mine.C"}})}, "would run code", ("o/r--mine.C",), ("trust_remote_code=True",)),
    Folder("an instantiator of Lightning's", {"a.ckpt": kept(hyper_parameters={"_instantiator": "mine.f"})}, named=("mine.f",)),
    Folder("a target among hyperparameters", {"a.ckpt": kept(hyper_parameters={"net": {"_target_": "os.system"}})},
           named=("os.system",)),
    Folder("a configuration of MMEngine's", {"a.pth": configured(f"x = {RUNS}\n")}, named=("mmengine.Config.fromstring",)),
    Folder("a configuration of MMEngine's that reads another", {"a.pth": configured("_base_ = '/tmp/x.py'\n")},
           named=("mmengine.Config.fromstring",)),
    Folder("a type of MMEngine's", {"a.pth": configured("model = dict(type='subprocess.Popen', args=['touch', 'pwned'])\n")},
           named=("subprocess.Popen",)),
]  # fmt: skip
"""What runs of each was seen in the library, or read up in its source."""

HARMLESS = [
    Folder("configurations of others that are data", {
        "policy_preprocessor.json": json_of(steps=[{"registry_name": "x"}, {"class": "lerobot.processor.Step", "config": {}}]),
        "predictor.json": b'{"__kind__": "instance", "class": "gluonts.torch.model.predictor.P", "args": []}',
        "a/config.json": json_of(dataset_reader={"type": "x"}, model={"type": "allennlp.models.basic_classifier.B"}),
        "b/config.json": json_of(chainer={"pipe": [{"class_name": "x"}, {"class_name": "deeppavlov.models.x:C"}]}),
        "context/io.json": json_of(a={"type": "pyref", "module": "nemo.collections.llm", "name": "GPTModel"},
                                b={"type": "pyref", "module": "builtins", "name": "dict"}),
        "configuration.json": json_of(framework="pytorch", task="text-generation", allow_remote=False),
        "genai_config.json": json_of(model={"decoder": {"session_options": {"log_id": "x"}}}),
        "z/.zarray": json_of(filters=[{"id": "vlen-utf8"}], compressor={"id": "blosc"}), "t/config.pbtxt": b'backend: "onnxruntime"',
        "a.gin": b"import t5x\nfrom __gin__ import dynamic_registration\nfrom t5x import models\nx.y = @models.f()\n",
        "plain.gin": b"import os\n", "requirements.txt": b"torch\n",
    }, "plain"),
    Folder("a bundle of MONAI's", {"configs/inference.json": json_of(
        imports=["$import glob", "$import os"], device="$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        data="$sorted(glob.glob(os.path.join(@root, '*.nii')))", net="$@net_def.to(@device)", price="$5 net",
        run=["$@evaluator.run()", "$setattr(torch.backends.cudnn, 'benchmark', True)", "$HOME/x"],
    ), "configs/train.yaml": b"imports:\n- $import glob\nlr: $@base * 2 # $x()\nhome: $HOME\nx: ${y}\n"}, "plain"),
    Folder("networks in YAML", {
        "yolov5s.yaml": b"# YOLOv5 (v6.0)\nbackbone:\n  [[-1, 1, Conv, [64, 6]], # 0-P1/2 (a)\n   [-1, 1, nn.SiLU(), []]]\n"
                        b"activation: nn.SiLU()\nhead: [[-1, 1, nn.Upsample, [None, 2, 'nearest']]]\n",
        "infer_cfg.yml": b"mode: paddle\nPreprocess:\n- type: Resize\n  target_size: [640, 640]\n",
        "config.yml": b"!!python/object/apply:collections.OrderedDict\n- - - policy_kwargs\n    - dict(log_std_init=-2,\n"
                      b"      net_arch=dict(pi=[256], vf=[256]), activation_fn=nn.ReLU)\n  - - normalize\n    - dict(norm_obs=True)\n",
        "config.yaml": b"model: X\ntrust_remote_code: true\n", "metafile.yml": b"Name: a (1x)\nbackbone head\n",
    }, "plain"),
    Folder("prose and questions in YAML", {
        "config.yaml": b"model: resnet (v2)\nnormalize: true\nabout: Normalizes images (ImageNet\n  statistics, 1.2) before\n"
                       b"callback: early stopping (patience 3)\nname: resnet50(pretrained)\n",
        "model.yaml": b"data:\n  transforms: [resize (224), normalize]\nbackbone: resnet50 (pretrained)\nhead: linear (10 classes)\n",
        "price.yml": b'price: "$5 (five)"\n',
        "a.yaml": b"optimizer: {_target_: functools.partial}\nfile: {_target_: os.path.join, _args_: [a, b]}\n"
                  b"threads: {_target_: os.cpu_count}\nlog: {_target_: logging.getLogger, name: a}\n",
    }, "plain"),
    Folder("a trainer's settings", {
        "a.ckpt": kept(hyper_parameters={"_instantiator": "lightning.pytorch.cli.instantiate_module",
                                         "net": {"_target_": "torch.optim.Adam", "target": "code.py"}}),
        "b.pth": configured("model = dict(\n    backbone=dict(depth=50, type='ResNet'),\n    type='FasterRCNN')\n"
                            "data_root = 'test.json'\nmost = inf\nc = (1 + 2j)\nx = [dict(type='Pack', keys=('a', -1))]\nload_from = None\n"),
    }, "plain"),
]  # fmt: skip
