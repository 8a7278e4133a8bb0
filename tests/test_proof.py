"""No answer unproven: what a trial finds, where it is kept, and what every command does about it."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from onnx import helper

from lineside.cli import main
from lineside.config.stations import StationConfig
from lineside.errors import ConfigError
from lineside.hal.processor import features, saturates_int8
from lineside.hal.profile import GENERIC, Candidate, Profile
from lineside.proof import NotProven, Prover
from lineside.recipe import findings_of, open_model
from lineside.store.bundle import Bundle, open_bundle
from quantizing import save
from rig import Daemon, fake_bundle, pictures, rows, until
from test_golden import rewrite

DYING = Path(__file__).parent / "dying"
STATION = StationConfig(camera="none", bundle="none")


def profile(*backends: str | Candidate) -> Profile:
    found = tuple(Candidate(name=one) if isinstance(one, str) else one for one in backends)
    return replace(GENERIC, backend=found)


def wrong_for(bundle: Path, *suffixes: str) -> Bundle:
    """A copy of the shipped detector whose golden answers of these files are not what they say."""

    def change(told: dict) -> None:  # type: ignore[type-arg]
        for case in told["cases"]:
            for file, answers in case["answers"].items():
                if file.endswith(suffixes):
                    answers[:] = [{**one, "score": 1 - one["score"]} for one in answers]

    shutil.copytree(open_bundle("conveyor-parts").folder, bundle)
    rewrite(bundle, change)
    return open_bundle(bundle)


@pytest.fixture
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands without a configuration keep what they find out here."""
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "own"))
    return tmp_path / "own" / "lineside"


# --- a trial


def test_a_station_that_names_no_backend_goes_on_to_the_next(tmp_path: Path) -> None:
    bundle = wrong_for(tmp_path / "parts", ".tflite")
    prover = Prover(tmp_path / "state")
    model = open_model(bundle, STATION, profile("litert", "onnxruntime"), prover=prover)
    model.executor.close()
    assert model.backend == "onnxruntime:cpu"
    assert model.proof.state == "golden"
    (passed,) = model.passed_over
    assert (passed.name, passed.file) == ("litert:cpu", "conveyor-parts_int8.tflite")
    assert "gives wrong answers to its golden pictures" in passed.why


def test_a_station_that_names_a_backend_is_refused_with_those_that_pass(tmp_path: Path) -> None:
    bundle = wrong_for(tmp_path / "parts", ".tflite")
    named = replace(STATION, backend="litert")
    with pytest.raises(ConfigError) as refused:
        open_model(bundle, named, profile("litert", "onnxruntime"), prover=Prover(tmp_path / "state"))
    told = "\n".join(refused.value.lines)
    assert "conveyor-parts_int8.tflite gives wrong answers to its golden pictures" in told
    assert 'onnxruntime:cpu passes here: write backend = "onnxruntime"' in told


def test_a_trial_is_made_once_for_each_set_of_options(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bundle = open_bundle("conveyor-parts")
    artefact = next(one for one in bundle.artefacts if one.format == "tflite")
    plain, other = Candidate(name="litert"), Candidate(name="litert", options={"package": "ai_edge_litert"})
    caplog.set_level("INFO", "lineside.proof")
    for _ in range(2):
        for candidate in (plain, other):
            assert Prover(tmp_path).check(bundle, artefact, candidate).state == "golden"
    assert len(caplog.records) == 2
    Prover(tmp_path).prove(bundle, artefact, plain, again=True)
    assert len(caplog.records) == 3
    kept = [json.loads(path.read_text()) for path in tmp_path.glob("models/*/*.json")]
    assert [len(one["proofs"]) for one in kept] == [2]


def test_a_damaged_note_of_a_trial_costs_only_another_trial(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bundle = open_bundle("conveyor-parts")
    artefact = next(one for one in bundle.artefacts if one.format == "tflite")
    Prover(tmp_path).check(bundle, artefact, Candidate(name="litert"))
    (path,) = tmp_path.glob("models/*/*.json")
    key = next(iter(json.loads(path.read_text())["proofs"]))
    for harm in ("no json", "[]", '{"proofs": []}', json.dumps({"proofs": {key: {"state": "fine"}}})):
        path.write_text(harm)
        assert Prover(tmp_path).check(bundle, artefact, Candidate(name="litert")).state == "golden"
        assert json.loads(path.read_text())["proofs"][key]["state"] == "golden"


def test_without_a_place_to_keep_it_a_trial_is_made_all_the_same(tmp_path: Path) -> None:
    bundle = wrong_for(tmp_path / "parts", ".tflite")
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    artefact = next(one for one in bundle.artefacts if one.format == "tflite")
    for place in (None, blocked):
        with pytest.raises(NotProven, match="gives wrong answers"):
            Prover(place).check(bundle, artefact, Candidate(name="litert"))


# --- what does not survive


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DYING))
    known = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(DYING), *([known] if known else [])]))


@pytest.mark.usefixtures("dying")
def test_a_runtime_that_dies_of_an_illegal_instruction_is_passed_over(tmp_path: Path) -> None:
    bundle = open_bundle(fake_bundle())
    model = open_model(bundle, STATION, profile("illegal", "fake"), prover=Prover(tmp_path))
    model.executor.close()
    assert model.backend == "fake:cpu"
    (passed,) = model.passed_over
    assert "illegal instruction (SIGILL)" in passed.why
    again = open_model(bundle, STATION, profile("illegal", "fake"), prover=Prover(tmp_path))
    again.executor.close()
    assert again.passed_over == model.passed_over, "it is kept, not tried at each start"


@pytest.mark.usefixtures("dying")
def test_what_may_have_been_want_of_memory_is_refused_now_and_tried_again_at_the_next_start(tmp_path: Path) -> None:
    bundle = open_bundle(fake_bundle())
    proof = Prover(tmp_path).prove(bundle, bundle.artefacts[0], Candidate(name="killed"))
    assert proof.state == "broken"
    assert "SIGKILL" in proof.told
    assert not list(tmp_path.glob("models/*/*.json"))


def trials(folder: Path) -> list[str]:
    """The processes in which a model is tried for the daemon of this folder."""
    cache = str(folder / "cache")
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_bytes().decode(errors="replace")
            if "lineside.proving" in words and cache in words:
                found.append(words)
    return found


@pytest.mark.usefixtures("dying")
def test_a_trial_ends_when_the_daemon_is_stopped(tmp_path: Path) -> None:
    clip = pictures(tmp_path / "clip", 3)
    board = tmp_path / "board.toml"
    board.write_text(
        'title = "hangs"\n[match]\n[[backend]]\nname = "hanging"\n'
        '[thermal]\nzones = ["*"]\nwarn_c = 80\ncritical_c = 90\n'
    )
    config = (
        f'[daemon]\nstate_dir = "{tmp_path}/state"\ncontrol_socket = "{tmp_path}/run/control.sock"\n'
        f'profile = "{board}"\n[cameras.cam]\ndriver = "clip"\npath = "{clip}"\n'
        f'[stations.s1]\ncamera = "cam"\nbundle = "{fake_bundle()}"\n'
    )
    with Daemon(tmp_path, config) as daemon:
        until(lambda: daemon.socket.exists(), what="the control socket")
        status, took_s = daemon.stop()
    assert status == 0, daemon.log()
    assert took_s < 10
    with Daemon(tmp_path, config) as daemon:
        until(lambda: trials(tmp_path), what="the trial's process")
        daemon.kill()
        until(lambda: not trials(tmp_path), what="its end after kill -9 of the daemon")


# --- without golden pictures


def bright_bundle(folder: Path, models: list[Path]) -> Bundle:
    """Dark or bright, of one or several files."""
    (folder / "labels.txt").write_text("dark\nbright\n")
    words = ["--labels", str(folder / "labels.txt"), "--mean", "0", "--std", "1", "-o", str(folder / "bundle")]
    more = [word for path in models[1:] for word in ("--artefact", str(path))]
    assert main(["bundle", "new", str(models[0]), *more, *words]) == 0
    return open_bundle(folder / "bundle")


def bright(path: Path, sign: float = 1.0) -> Path:
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Sub", ["mean", "middle"], ["above"]),
        helper.make_node("Mul", ["above", "signs"], ["logits"]),
    ]
    held = {"middle": np.float32([120]), "signs": np.float32([[-sign, sign]])}
    return save(path, nodes, held, [1, 3, 32, 32], {"logits": [1, 2]})


def test_without_golden_pictures_a_second_way_to_run_it_must_agree(tmp_path: Path) -> None:
    bundle = bright_bundle(tmp_path, [bright(tmp_path / "a.onnx")])
    proof = Prover(tmp_path).check(bundle, bundle.artefacts[0], Candidate(name="onnxruntime"))
    assert proof.state == "consistent"
    assert "as a.onnx on" in proof.told


@pytest.mark.usefixtures("dying")
def test_without_golden_pictures_a_runtime_that_answers_differently_is_refused(tmp_path: Path) -> None:
    bundle = bright_bundle(tmp_path, [bright(tmp_path / "a.onnx")])
    proof = Prover(tmp_path).prove(bundle, bundle.artefacts[0], Candidate(name="constant"))
    assert proof.state == "wrong"
    assert "answer differently to" in proof.told
    model = open_model(bundle, STATION, profile("constant", "onnxruntime"), prover=Prover(tmp_path))
    model.executor.close()
    assert model.backend == "onnxruntime:cpu"


def saturating(path: Path) -> Path:
    """Two of white's products are 2 x 255 x 127, beyond 16 bits. Two classes, told apart by the sum alone."""
    weights = np.full((2, 18, 1, 1), 127, np.int8) * np.array([1, 0], np.int8)[:, None, None, None]
    held = {
        "one": np.float32(1),
        "zero": np.uint8(0),
        "weights": weights,
        "step": np.float32(1 / 127),
        "none": np.int8(0),
        "wide": np.float32(48),
        "middle": np.uint8(128),
        "shift": np.float32([[[[3600]], [[0]]]]),
    }
    nodes = [
        helper.make_node("Concat", ["image"] * 6, ["x0"], axis=1),
        helper.make_node("QuantizeLinear", ["x0", "one", "zero"], ["q1"]),
        helper.make_node("DequantizeLinear", ["q1", "one", "zero"], ["x1"]),
        helper.make_node("DequantizeLinear", ["weights", "step", "none"], ["w"]),
        helper.make_node("Conv", ["x1", "w"], ["x2"], kernel_shape=[1, 1]),
        helper.make_node("QuantizeLinear", ["x2", "wide", "middle"], ["q2"]),
        helper.make_node("DequantizeLinear", ["q2", "wide", "middle"], ["x3"]),
        helper.make_node("GlobalMaxPool", ["x3"], ["x4"]),
        helper.make_node("Sub", ["x4", "shift"], ["x5"]),
        helper.make_node("Flatten", ["x5"], ["logits"]),
    ]
    return save(path, nodes, held, [1, 3, 32, 32], {"logits": [1, 2]})


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_sums_of_int8_products_are_exact_on_this_processor(backend: str, tmp_path: Path) -> None:
    bundle = bright_bundle(tmp_path, [saturating(tmp_path / "sums.onnx")])
    white = np.full((32, 32, 3), 255, np.uint8)
    station = replace(STATION, backend=backend)
    for _ in range(2):  # the second time from the kept compiled model
        model = open_model(bundle, station, profile(backend), cache_dir=tmp_path / "cache")
        seen = findings_of(model.see(white), model.labels)
        model.executor.close()
        assert seen[0].label == "dark", "18 x 255 is the sum, above 3600"
        assert seen[0].score > 0.99


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.skipif(not saturates_int8(), reason="this processor has VNNI, or is no x86-64: nothing saturates")
def test_a_trial_finds_sums_that_saturate(backend: str, tmp_path: Path) -> None:
    bundle = bright_bundle(tmp_path, [saturating(tmp_path / "sums.onnx")])
    inexact = Candidate(name=backend, options={"exact_int8": False})
    proof = Prover(tmp_path).prove(bundle, bundle.artefacts[0], inexact)
    assert proof.state == "wrong", proof
    assert Prover(tmp_path).prove(bundle, bundle.artefacts[0], Candidate(name=backend)).state == "consistent"


# --- commands


def photo(path: Path) -> str:
    assert cv2.imwrite(str(path), np.full((48, 64, 3), 200, np.uint8))
    return str(path)


def test_infer_goes_on_to_the_next_and_refuses_what_was_named(
    tmp_path: Path, own_state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = wrong_for(tmp_path / "parts", ".tflite")
    words = ["infer", "--bundle", str(bundle.folder), "--jsonl", photo(tmp_path / "grey.png")]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["backend"] != "litert:cpu"
    assert list(own_state.glob("models/*/*.json"))
    assert main([*words, "--backend", "litert"]) == 78
    told = capsys.readouterr()
    assert told.out == ""
    assert "gives wrong answers to its golden pictures" in told.err
    assert "pass" in told.err


def test_what_is_not_proven_says_so_in_every_line(
    tmp_path: Path, own_state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = wrong_for(tmp_path / "parts", ".tflite")
    words = ["infer", "--bundle", str(bundle.folder), "--backend", "litert", "--unproven", photo(tmp_path / "grey.png")]
    assert main(words) == 0
    assert all(line.endswith("[unproven]") for line in capsys.readouterr().out.splitlines())
    assert main([*words, "--jsonl"]) == 0
    assert all(json.loads(line)["unproven"] for line in capsys.readouterr().out.splitlines())


def test_bench_refuses_a_backend_that_answers_wrong(
    tmp_path: Path, own_state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = wrong_for(tmp_path / "parts", ".tflite")
    words = ["bench", "--bundle", str(bundle.folder), "--backend", "litert", "--frames", "1"]
    assert main(words) == 78
    assert "gives wrong answers" in capsys.readouterr().err
    assert main([*words, "--unproven", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unproven"]


def test_a_daemon_says_which_backend_it_passed_over_and_why(tmp_path: Path) -> None:
    bundle = wrong_for(tmp_path / "parts", ".tflite")
    clip = pictures(tmp_path / "clip", 3)
    config = (
        f'[daemon]\nstate_dir = "{tmp_path}/state"\ncontrol_socket = "{tmp_path}/run/control.sock"\n'
        f'profile = "x86-cpu"\n[cameras.cam]\ndriver = "clip"\npath = "{clip}"\nloop = true\nfps = 20\n'
        f'[stations.s1]\ncamera = "cam"\nbundle = "{bundle.folder}"\n'
    )
    with Daemon(tmp_path, config) as daemon:
        daemon.ready()
        station = daemon.station("s1")
        until(lambda: rows(tmp_path, "decision"), what="a decision")
    assert station["backend"] != "litert:cpu"
    assert station["proof"]["state"] == "golden"
    assert [one["file"] for one in station["passed_over"]] == ["conveyor-parts_int8.tflite"]
    assert "not litert:cpu" in daemon.log()
    assert "gives wrong answers to its golden pictures" in daemon.log()


def test_a_processor_that_lacks_what_a_file_needs_takes_another(tmp_path: Path) -> None:
    bundle = open_bundle("conveyor-parts")
    first = replace(bundle.artefacts[0], needs=("vnni", "dotprod"))  # no processor has both
    only = replace(bundle, artefacts=(first,))
    with pytest.raises(ConfigError, match="needs a processor with"):
        open_model(only, STATION, profile("onnxruntime", "litert"))
    assert set(features())  # whatever it is, something is known of it
