"""The program as a process: exit codes, broken outputs, signals, terminals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import onnx
import onnx.parser
import pytest
import torch

from ckptconv import convert, diff

from .conftest import Process, strict

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals, /dev/full and pseudo-terminals")

SLOW = """
import os, signal, sys, time
from ckptconv.io import target
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has background jobs ignore it
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and nohup that
if {named}:
    del os.O_TMPFILE
def slow(self, offset, data):
    print("writing", file=sys.stderr, flush=True)
    for _ in range(600):
        time.sleep(0.1)  # a signal just before a sleep is heard after it
target.Target.write_at = slow
sys.argv = ["ckptconv", "convert", *{arguments!r}]
from ckptconv.cli.main import run
run()
"""


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated"), (signal.SIGHUP, 129, "terminated")],
)
def test_a_signal_during_a_convert_leaves_no_file(
    model: Path, tmp_path: Path, named: bool, number: signal.Signals, code: int, word: str
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    script = SLOW.format(named=named, arguments=[str(model), str(folder / "m.safetensors"), "--json"])
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stderr is not None
        assert running.stderr.readline() == "writing\n"
        running.send_signal(number)
        stdout, stderr = running.communicate(timeout=60)
    assert stderr == f"ckptconv: {word}; nothing was written\n"
    assert running.returncode == code
    assert strict(stdout)["error"]["code"] == word
    assert list(folder.iterdir()) == []


EARLY = """
import os, signal, sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "click":
            os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupting())
sys.argv = ["ckptconv", "formats"]
from {module} import run
run()
"""


def test_ctrl_c_while_the_program_is_loaded_ends_it_without_a_traceback() -> None:
    module = next(entry for entry in entry_points(group="console_scripts") if entry.name == "ckptconv").module
    for name in (module, "ckptconv.__main__"):
        script = EARLY.format(module=name)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")


HANGS_UP = """
import os, signal, sys
from ckptconv.io import target
signal.signal(signal.SIGHUP, signal.SIG_IGN)
write_at = target.Target.write_at
def write(self, offset, data):
    os.kill(os.getpid(), signal.SIGHUP)
    print("hung up", file=sys.stderr)
    write_at(self, offset, data)
target.Target.write_at = write
sys.argv = ["ckptconv", "convert", *{arguments!r}]
from ckptconv.cli.main import run
run()
"""


def test_a_convert_under_nohup_continues_when_the_terminal_closes(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "m.safetensors"
    script = HANGS_UP.format(arguments=[str(model), str(target)])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert "hung up" in done.stderr
    assert diff(model, target).equal


def test_a_full_disk_behind_stdout_is_one_error_line(process: Process, model: Path) -> None:
    for arguments in (["inspect", model], ["inspect", "--json", model], ["--help"], ["--version"], ["formats"]):
        with Path("/dev/full").open("w") as full:
            done = process(*arguments, stdout=full)
        assert done.returncode == 2
        error, hint = done.stderr.splitlines()
        assert error == "ckptconv: error: cannot write to standard output: no space left on device"
        assert hint.startswith("hint: ")


def test_a_closed_stdout_is_quiet(model: Path) -> None:
    line = f"{sys.executable} -m ckptconv inspect {model} >&-"
    done = subprocess.run(["sh", "-c", line], stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_closed_stderr_harms_no_file(model: Path, tmp_path: Path) -> None:
    line = f"{sys.executable} -m ckptconv convert {model} {tmp_path / 'm.safetensors'} >&- 2>&- <&-"
    assert subprocess.run(["sh", "-c", line], timeout=60, check=False).returncode == 0
    assert (tmp_path / "m.safetensors").stat().st_size > 60


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_stops_reading_is_no_error(tmp_path: Path, unbuffered: str) -> None:
    path = tmp_path / "many.pth"
    torch.save({f"a.rather.long.name.{i}.of.a.tensor": torch.zeros(1) for i in range(3000)}, path)
    running = subprocess.Popen(
        [sys.executable, "-m", "ckptconv", "inspect", "--list", path],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )  # fmt: skip
    assert running.stdout is not None
    assert running.stderr is not None
    assert running.stdout.read(4) == b"NAME"
    running.stdout.close()
    assert (running.wait(timeout=60), running.stderr.read()) == (141, b"")
    running.stderr.close()


def test_pipes_and_folders_are_refused_by_name(process: Process, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, what in (
        (tmp_path / "pipe", "a pipe, not a file"),
        (tmp_path, "a folder without a file in it"),
        ("/dev/null", "a device, not a file"),
    ):
        done = process("inspect", path)
        assert done.returncode == 2
        assert done.stderr.startswith(f"ckptconv: error: {path}: this is {what}\n")


def test_exit_codes_are_0_1_and_2(process: Process, model: Path, hostile: Path) -> None:
    assert process("inspect", model).returncode == 0
    assert process("inspect", hostile, "--fail-on-code").returncode == 1
    assert process("inspect", hostile, model / "nothing", "--fail-on-code").returncode == 2


def test_a_path_that_is_no_text_is_spelled_out(tmp_path: Path, process: Process) -> None:
    name = os.fsencode(tmp_path) + b"/\xff.pth"
    done = process("inspect", os.fsdecode(name))
    assert (done.returncode, r"\udcff.pth: cannot open" in done.stderr) == (2, True)


def test_plainer_signs_serve_where_the_encoding_has_no_others(tmp_path: Path, process: Process) -> None:
    path = tmp_path / "m.pth"
    torch.save({f"layers.{i}.w": torch.zeros(1) for i in range(2)} | {"é.a": torch.zeros(1)}, path)
    done = process("inspect", path, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0
    assert "layers.0-1.w x2" in done.stdout
    assert r"\xe9.a" in done.stdout


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_colours_are_for_terminals_that_want_them(model: Path, no_color: str, coloured: bool) -> None:
    import pty

    leader, follower = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "ckptconv", "inspect", model], stdout=follower, timeout=60, check=False,
        env={**os.environ, "NO_COLOR": no_color, "TERM": "xterm"},
    )  # fmt: skip
    os.close(follower)
    text = os.read(leader, 100_000).decode()
    os.close(leader)
    assert done.returncode == 0
    assert ("\x1b[32mplain\x1b[0m" in text) is coloured
    assert ("\x1b" in text) is coloured


def test_a_pipe_gets_no_colour(process: Process, model: Path) -> None:
    assert "\x1b" not in process("inspect", model, env={**os.environ, "TERM": "xterm", "FORCE_COLOR": "1"}).stdout


def test_inspecting_a_model_imports_nothing_of_edits_or_archives(tmp_path: Path) -> None:
    """Whether it is an adapter, or lies in an archive, is known without them; what they import takes half the time."""
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pth")
    (tmp_path / "parts").mkdir()
    convert(tmp_path / "a.pth", tmp_path / "parts" / "model.safetensors.index.json")
    code = (
        "import sys\nfrom ckptconv import inspect\ninspect(sys.argv[1])\nprint([name for name in sys.modules if "
        "name.startswith(('ckptconv.edits.apply', 'ckptconv.edits.adapters.deltas', 'ckptconv.io.archive', "
        "'ckptconv.formats.torch.megatron.ranks', 'concurrent', 'tempfile', 'numpy'))])"
    )
    for path in (tmp_path / "a.pth", tmp_path / "parts"):
        done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
        assert done.stdout == "[]\n"


def test_a_diff_of_other_names_imports_no_dialect_but_those_that_names_show(tmp_path: Path) -> None:
    """All of them take 0.1 s, and are only needed for other frameworks' files."""
    for name in ("a", "b"):
        torch.save({f"{name}.weight": torch.ones(2)}, tmp_path / f"{name}.pth")
    code = (
        "import sys\nfrom ckptconv import diff\ndiff(*sys.argv[1:])\nprint('ckptconv.edits.translate' in sys.modules)"
    )
    line = [sys.executable, "-c", code, str(tmp_path / "a.pth"), str(tmp_path / "b.pth")]
    assert subprocess.run(line, capture_output=True, text=True, check=True).stdout == "False\n"


STOPPED = """
import os, signal, sys
from ckptconv.io import source
signal.signal(signal.SIGINT, signal.default_int_handler)
source.Source.read_into = lambda *_: os.kill(os.getpid(), signal.SIGINT)
sys.argv = ["ckptconv", *{arguments!r}]
from ckptconv.cli.main import run
run()
"""


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["inspect", "--stats", "A"], "interrupted"),
        (["diff", "A", "B"], "interrupted"),
        (["validate", "--values", "--arch", "A", "A"], "interrupted"),
        (["convert", "A", "out.pth", "--dtype", "F16"], "interrupted; nothing was written"),
    ],
)
def test_what_writes_nothing_does_not_say_that_nothing_was_written(
    tmp_path: Path, command: list[str], said: str
) -> None:
    for name, value in (("A", 1.0), ("B", 2.0)):
        torch.save({"w": torch.full((4096,), value)}, tmp_path / name)
    script = STOPPED.format(arguments=command)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", f"ckptconv: {said}\n")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["A", "B"]


ENDLESS = """
import signal, sys
from ckptconv.checks import onnx_runner
run = onnx_runner._run_interruptibly

def interrupted_soon(*arguments):
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    return run(*arguments)

onnx_runner._run_interruptibly = interrupted_soon
sys.argv = ["ckptconv", "verify", "a.onnx", "a.onnx"]
from ckptconv.cli.main import run as main
main()
"""


def test_ctrl_c_ends_a_graph_that_loops_for_ever(tmp_path: Path) -> None:
    number, truth = onnx.TensorProto.FLOAT, onnx.TensorProto.BOOL
    body = onnx.parser.parse_graph("b (int64 i, bool go, float[N] a) => (bool more, float[N] twice)"
        "{ more = Identity (go) twice = Add (a, a) }")  # fmt: skip
    node = onnx.helper.make_node("Loop", ["", "go", "x"], ["y"], body=body)
    ends = [onnx.helper.make_tensor_value_info(name, number, ["N"]) for name in "xy"]
    go = onnx.helper.make_tensor("go", truth, [], [True])
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:], [go])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "a.onnx")
    done = subprocess.run(
        [sys.executable, "-c", ENDLESS], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "ckptconv: interrupted\n")
