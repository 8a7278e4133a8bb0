"""The command line as others script against it: exit statuses, --help, status, init; no traceback whatever is given."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lineside import __version__
from lineside.cli import COMMANDS, main
from lineside.commands.check import problems
from lineside.control import ControlServer
from lineside.resources import shipped
from rig import Daemon, bundle, fake_bundle, fake_profile, lineside, pictures

Captured = pytest.CaptureFixture[str]


def told(capsys: Captured, *words: str | Path) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command in this process."""
    try:
        code = main([str(word) for word in words])
    except SystemExit as end:  # argparse
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help(capsys: Captured, command: str) -> None:
    code, out, _ = told(capsys, command, "--help")
    assert code == 0
    assert out.startswith(f"usage: lineside {command}")


@pytest.mark.parametrize("verb", ["new", "show"])
def test_the_verbs_of_bundle_have_a_help(capsys: Captured, verb: str) -> None:
    code, out, _ = told(capsys, "bundle", verb, "--help")
    assert (code, "usage: lineside bundle" in out) == (0, True)


def test_the_top_lists_every_command(capsys: Captured) -> None:
    for words in ((), ("--help",)):
        code, out, _ = told(capsys, *words)
        assert code == 0
        for name, (_, summary) in COMMANDS.items():
            assert name in out
            assert summary in out
    assert told(capsys, "--version")[:2] == (0, f"lineside {__version__}\n")


@pytest.mark.parametrize("words", [["reboot"], ["run"], ["check"], ["run", "a", "b"], ["status", "--jsn"], ["bundle"]])
def test_a_wrong_command_is_2_with_a_usage_line(capsys: Captured, words: list[str]) -> None:
    code, _, err = told(capsys, *words)
    assert (code, "usage: lineside" in err) == (2, True)


def test_help_needs_neither_numpy_nor_opencv_nor_a_runtime() -> None:
    code = (
        "import sys; from lineside.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'cv2', 'pydantic', 'paho', 'onnxruntime', 'openvino'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- bad input: a line and the right exit status


def foreign(folder: Path) -> dict[str, Path]:
    """Files that are not what a command asks for."""
    found = {name: folder / name for name in ("empty.onnx", "random.onnx", "text.tflite", "zip.onnx", "broken.xml")}
    found["empty.onnx"].write_bytes(b"")
    found["random.onnx"].write_bytes(bytes(range(256)) * 20)
    found["text.tflite"].write_text("this is a shopping list\n" * 100)
    found["zip.onnx"].write_bytes(b"PK\x03\x04" + bytes(500))
    found["broken.xml"].write_text("<net name='x'><layers>")
    (folder / "broken.bin").write_bytes(b"\0" * 10)
    (folder / "folder.onnx").mkdir()
    return {**found, "folder": folder / "folder.onnx", "absent": folder / "absent.onnx"}


@pytest.mark.parametrize(
    "name", ["empty.onnx", "random.onnx", "text.tflite", "zip.onnx", "broken.xml", "folder", "absent"]
)
def test_bundle_new_says_what_is_wrong_with_a_file_that_is_no_model(
    capsys: Captured, tmp_path: Path, name: str
) -> None:
    model = foreign(tmp_path)[name]
    code, _, err = told(capsys, "bundle", "new", model, "--decode", "yunet", "-o", tmp_path / "out")
    assert code == 78
    assert err.startswith("lineside: ")
    assert model.name in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.95])
@pytest.mark.parametrize("model", ["face/yunet_n_320_320.onnx", "classify/mobilenet_v1_0.25_128_quant.tflite"])
def test_a_truncated_model_is_refused(tmp_path: Path, data: Path, model: str, keep: float) -> None:
    whole = (data / "models" / model).read_bytes()
    path = tmp_path / Path(model).name
    path.write_bytes(whole[: int(len(whole) * keep)])
    labels = data / "models" / "labels" / "imagenet_labels_1001.txt"
    more = ["--labels", str(labels)] if path.suffix == ".tflite" else ["--decode", "yunet"]
    done = lineside("bundle", "new", path, *more, "-o", tmp_path / "out")  # a process: a runtime may well crash on it
    assert "Traceback" not in done.stderr
    assert done.returncode == 78, (done.returncode, done.stdout, done.stderr)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", [["infer", "x.jpg"], ["bench"], ["bundle show"]])
@pytest.mark.parametrize("what", ["absent", "a file", "an empty folder", "a foreign manifest"])
def test_a_bundle_that_is_none_is_a_line(capsys: Captured, tmp_path: Path, command: list[str], what: str) -> None:
    place = tmp_path / "bundle"
    if what == "a file":
        place.write_bytes(b"x")
    elif what == "an empty folder":
        place.mkdir()
    elif what == "a foreign manifest":
        place.mkdir()
        (place / "model.toml").write_bytes(b"\x00\xff" * 50)
    words = ["bundle", "show", str(place)] if command == ["bundle show"] else [*command, "--bundle", str(place)]
    code, _, err = told(capsys, *words)
    assert (code, err.startswith("lineside: bundle ")) == (78, True), err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["bench", "--frames", "0"], "--frames 0"),
        (["bench", "--threads", "0"], "--threads 0"),
        (["bench", "--backend", "tensorflow"], "known are"),
        (["bench", "--backend", "fake"], "no bare loop"),
        (["bench", "--video", "/no/such.mp4"], "/no/such.mp4"),
        (["infer", "/no/such.jpg"], "/no/such.jpg"),
        (["infer", "/proc/self/fd"], "/proc/self/fd: no picture"),
        (["infer", "/etc/passwd"], "/etc/passwd"),
    ],
)
def test_a_wrong_argument_is_a_line(capsys: Captured, data: Path, words: list[str], expected: str) -> None:
    made = fake_bundle() if "fake" in words else bundle("faces", data / "models")
    capsys.readouterr()
    code, _, err = told(capsys, *words, "--bundle", made)
    assert code in (1, 78)
    assert expected in err


def test_a_reader_that_leaves_ends_a_command_quietly(data: Path) -> None:
    made = bundle("faces", data / "models")
    command = [sys.executable, "-m", "lineside.cli", "infer", "--bundle", str(made), "--jsonl"]
    files = [str(data / "samples" / "face.jpg")] * 300
    with subprocess.Popen([*command, *files], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        json.loads(process.stdout.readline())
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 141
    assert "Traceback" not in errors
    assert "BrokenPipe" not in errors


# --- status


def test_status_without_a_daemon_is_1_and_says_how_to_start_one(capsys: Captured, tmp_path: Path) -> None:
    code, _, err = told(capsys, "status", "--socket", tmp_path / "nobody.sock")
    assert (code, "lineside run CONFIG" in err) == (1, True)


def test_status_shows_every_count(capsys: Captured, tmp_path: Path) -> None:
    answer = {"version": "1", "cameras": {"gate": {"frames": 3, "last_error": ""}}, "mqtt": {"pending": 2}}
    server = ControlServer(tmp_path / "c.sock", {"status": lambda _: answer}, lambda: None)
    server.start()
    code, out, _ = told(capsys, "status", "--socket", tmp_path / "c.sock")
    assert (code, out) == (0, "version: 1\ncameras\n  gate\n    frames:     3\n    last_error: -\nmqtt\n  pending: 2\n")
    code, out, _ = told(capsys, "status", "--socket", tmp_path / "c.sock", "--json")
    assert (code, json.loads(out)) == (0, answer)
    server.stop()


# --- init


def test_init_writes_what_check_accepts(capsys: Captured, tmp_path: Path, data: Path) -> None:
    clip = pictures(tmp_path / "clip", 1)
    for name in ("faces", "classifier"):
        made = bundle(name, data / "models")
        for camera in ("synthetic", str(clip), "/dev/video0", "rtsp://10.0.0.20/stream1"):
            path = tmp_path / f"{name}.toml"
            code, _, err = told(capsys, "init", "--yes", "-o", path, "--force", "--bundle", made, "--camera", camera)
            assert (code, problems(path)) == (0, []), err


def test_the_first_configuration_runs_as_it_is(capsys: Captured, tmp_path: Path) -> None:
    if not (shipped("models") / "conveyor-parts" / "model.toml").is_file():
        pytest.skip("the shipped model conveyor-parts is not in this tree")
    path = tmp_path / "lineside.toml"
    assert told(capsys, "init", "--yes", "-o", path)[0] == 0
    assert problems(path) == []


@pytest.mark.parametrize("per", ["object", "frame", "event"])
def test_init_by_flags(capsys: Captured, tmp_path: Path, data: Path, per: str) -> None:
    made = bundle("faces", data / "models")
    path = tmp_path / "lineside.toml"
    flags = ["--site", "plant1", "--line", "l2", "--camera", "synthetic", "--per", per, "--broker", "10.0.0.1:1884"]
    assert told(capsys, "init", "--yes", "-o", path, "--bundle", made, *flags)[0] == 0
    assert problems(path) == []
    text = path.read_text()
    for expected in ('site = "plant1"', 'line = "l2"', f'per = "{per}"', 'host = "10.0.0.1"', "port = 1884"):
        assert expected in text


def test_init_names_paths_as_the_file_sees_them(
    capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures(tmp_path / "here" / "clip", 1)
    shutil.copytree(fake_bundle(), tmp_path / "here" / "bundle")
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert told(capsys, "init", "--yes", "-o", "../there/x.toml", "--camera", "clip", "--bundle", "bundle")[0] == 0
    assert problems(tmp_path / "there" / "x.toml") == []


@pytest.mark.parametrize(
    "flags",
    [
        ["--site", 'a"b'],
        ["--line", "a/b"],
        ["--broker", "host:abc"],
        ["--broker", ":1883"],
        ["--broker", "host:99999"],
        ["--camera", "x\ny\x7f"],
        ["--camera", "rtsp://user:secret@host/x"],
        ["--per", "object"],
    ],
)
def test_init_never_loses_what_was_there(capsys: Captured, tmp_path: Path, data: Path, flags: list[str]) -> None:
    made = bundle("classifier", data / "models")
    capsys.readouterr()
    path = tmp_path / "lineside.toml"
    path.write_text("# three days of work\n")
    code, _, err = told(capsys, "init", "--yes", "-o", path, "--force", "--bundle", made, *flags)
    assert (code, path.read_text()) == (78, "# three days of work\n")
    assert "secret" not in err
    assert os.listdir(tmp_path) == ["lineside.toml"]


def test_init_overwrites_only_when_told(capsys: Captured, tmp_path: Path) -> None:
    path = tmp_path / "lineside.toml"
    path.write_text("# mine\n")
    code, _, err = told(capsys, "init", "--yes", "-o", path)
    assert (code, path.read_text(), "--force" in err) == (78, "# mine\n", True)


@pytest.mark.parametrize("output", ["no/such/folder/x.toml", ".", "file/x.toml"])
def test_init_to_nowhere_is_a_line(capsys: Captured, tmp_path: Path, output: str) -> None:
    (tmp_path / "file").touch()
    code, _, err = told(capsys, "init", "--yes", "--force", "-o", tmp_path / output, "--bundle", fake_bundle())
    assert (code, "cannot be written" in err) == (78, True), err


def _own_terminal() -> None:
    """In the child: standard input becomes its controlling terminal, so that ^C is a signal."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background job, such as these tests, has it ignored


def _at_a_terminal(answers: list[str], *words: str | Path) -> tuple[int, str]:
    """Run a command on a pseudo-terminal, give these lines one by one, return exit status and screen.

    A key that comes between a prompt and its read can be lost to Python, so one is pressed again, as a person does.
    """
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "lineside.cli", *map(str, words)]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=_own_terminal)
    os.close(theirs)
    screen, given, deadline = b"", 0, time.monotonic() + 20
    while time.monotonic() < deadline:
        if not select.select([ours], [], [], 0.1)[0]:
            if process.poll() is not None:
                break
            if given == len(answers) and len(answers[-1]) == 1:
                os.write(ours, answers[-1].encode())
            continue
        try:
            got = os.read(ours, 4096)
        except OSError:
            break
        screen += got
        while given < len(answers) and screen.count(b"]: ") > given:
            os.write(ours, answers[given].encode())
            given += 1
    os.close(ours)
    return process.wait(10), screen.decode(errors="replace")


def test_init_asks_at_a_terminal(tmp_path: Path, data: Path) -> None:
    made = bundle("faces", data / "models")
    path = tmp_path / "lineside.toml"
    answers = ["plant7\n", "\n", "rtsp://10.0.0.7/a\n", f"{made}\n", "event\n", "none\n"]
    code, screen = _at_a_terminal(answers, "init", "-o", path)
    assert code == 0, screen
    text = path.read_text()
    assert 'site = "plant7"' in text
    assert 'line = "line"' in text
    assert 'per = "event"' in text
    assert "\n[mqtt]" not in text
    assert problems(path) == []


@pytest.mark.parametrize(("key", "expected"), [("\x04", 78), ("\x03", 130)])
def test_leaving_init_writes_nothing(tmp_path: Path, key: str, expected: int) -> None:
    code, screen = _at_a_terminal(["plant7\n", key], "init", "-o", tmp_path / "x.toml")
    assert (code, os.listdir(tmp_path)) == (expected, []), screen
    assert "Traceback" not in screen


def test_run_on_nothing_is_78() -> None:
    done = lineside("run", "/no/such/lineside.toml")
    assert (done.returncode, done.stderr) == (
        78,
        "lineside: /no/such/lineside.toml: cannot be read (No such file or directory): "
        "give a readable UTF-8 TOML file\n",
    )


def test_ctrl_c_stops_the_daemon_as_sigterm_does(tmp_path: Path, eventually: Callable[..., Any]) -> None:
    clip = pictures(tmp_path / "clip", 2)
    config = (
        f'[daemon]\nprofile = "{fake_profile(tmp_path / "fake.toml")}"\n[cameras.a]\ndriver = "clip"\npath = "{clip}"\n'
        f'loop = true\n[stations.s]\ncamera = "a"\nbundle = "{fake_bundle()}"\n'
    )
    with Daemon(tmp_path, config) as daemon:
        daemon.ready()
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGINT)
        assert daemon.wait(20) == 0
    assert "Traceback" not in daemon.log()
