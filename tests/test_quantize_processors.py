"""What `lineside quantize` makes holds its bounds on every processor that it is made for, and the report says how that
is known. The model here goes wrong wherever two products of INT8 are added in 16 bits."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lineside.cli import main
from lineside.errors import ConfigError
from lineside.golden import differences
from lineside.hal import processor
from lineside.hal.openvino import exact
from lineside.quantize import graph, ir, qdq, ranges
from lineside.quantize.emulated import emulators
from lineside.quantize.golden_pictures import in_order
from lineside.quantize.measure import Judge, Reading, Runner, Score
from lineside.quantize.pictures import Shot, find_pictures, load
from lineside.quantize.processor_proof import ProcessorProver
from lineside.quantize.processors import (
    PROCESSORS,
    SEVEN_BITS,
    Weights,
    exact_by,
    here,
    kind_of,
    used_by,
    wanted,
    weights_of,
)
from lineside.quantize.report import Row
from lineside.quantize.search import Bounds
from lineside.quantize.work import feed, to_use
from lineside.records import (
    Artefact,
    Classification,
    DecodeSettings,
    Detections,
    Image,
    InputSpec,
    Placement,
    Seen,
)
from lineside.store.bundle import Bundle, open_bundle
from lineside.vision.prepare import Prepare
from quantizing import SIDE, attention_model, brightness_model, brightness_pictures, depthwise_model

SPEC = InputSpec(SIDE, SIDE, "bgr", "nchw", resize="stretch")
READING = Reading(SPEC, "classify", DecodeSettings(scores="logit"), ("dark", "bright"))
BOUNDS = Bounds(0.02, 0.02)
BY_NAME = {kind.name: kind for kind in PROCESSORS}
SATURATING = {"exact_int8": False}
WORDS = ("--mean", "0", "--std", "1", "--color", "bgr", "--resize", "stretch", "--scores", "logit")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with float.onnx, 8.onnx and 7.onnx, and pictures."""
    folder = tmp_path_factory.mktemp("brightness")
    brightness_pictures(folder / "pictures", 40)
    (folder / "labels.txt").write_text("dark\nbright\n")
    network = graph.prepare(brightness_model(folder / "model.onnx"), (1, 3, SIDE, SIDE), folder)
    feeds = [lambda each=shot: feed(each, SPEC) for shot in shots(folder).calibration]
    limits = ranges.collect(network.path, feeds, network.input, lambda: None).limits("min-max")
    for bits in (7, 8):
        qdq.quantise(network, limits, (), folder / f"{bits}.onnx", weight_bits=bits)
    return folder


def shots(folder: Path) -> Any:
    return load(find_pictures(folder / "pictures"), SPEC, 10, 30)


def artefact(path: Path) -> Artefact:
    return Artefact(str(path), "onnx", "int8", "")


def judged(folder: Path) -> tuple[Judge, tuple[Shot, ...]]:
    pictures = shots(folder).validation
    reference = Runner(Artefact(str(folder / "model.onnx"), "onnx", "fp32", ""), READING, "onnxruntime")
    return Judge(READING, reference.see(pictures), None), pictures


def flips(folder: Path, file: str, backend: str, options: dict[str, object] | None = None) -> int:
    judge, pictures = judged(folder)
    return judge.score(Runner(artefact(folder / file), READING, backend, options).see(pictures)).flips


# --- on this machine


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("file", ["7.onnx", "8.onnx"])
def test_bright_pictures_are_bright_as_lineside_opens_the_file(made: Path, backend: str, file: str) -> None:
    assert flips(made, file, backend) == 0


@pytest.mark.skipif(not processor.saturates_int8(), reason="this processor adds INT8 products in 32 bits")
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_only_weights_of_8_bits_go_wrong_in_16_bit_sums(made: Path, backend: str) -> None:
    assert flips(made, "8.onnx", backend, SATURATING) == 15, "each bright one: this model shows the fault"
    assert flips(made, "7.onnx", backend, SATURATING) == 0


# --- emulated


@pytest.fixture(scope="session")
def qemu() -> str:
    found = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")
    if not found:
        pytest.skip("other processors are emulated by qemu-x86_64: apt install qemu-user")
    return found


def prover(folder: Path, qemu: str, **more: Any) -> ProcessorProver:
    """For an emulated Haswell, whatever this machine is."""
    judge, pictures = judged(folder)
    commands = {"x86-64-v3": (qemu, "-cpu", "Haswell", sys.executable)}
    return ProcessorProver(
        wanted("x86-64-v3"), "", commands, READING, judge, pictures[:8], BOUNDS, lambda words: None, **more
    )


NONE = Score(8, 0, 0.0, None, 0.0)


@pytest.mark.timeout(300)
def test_an_emulated_processor_without_vnni_gets_it_right_as_lineside_opens_the_file(made: Path, qemu: str) -> None:
    (proof,) = prover(made, qemu).prove([(artefact(made / "8.onnx"), "onnxruntime", NONE)], 280)
    assert (proof.how, proof.why, proof.holds) == ("emulated", f"{Path(qemu).name} -cpu Haswell", True), proof
    assert proof.score is not None
    assert (proof.score.pictures, proof.score.flips) == (8, 0)


@pytest.mark.timeout(300)
def test_emulation_finds_what_goes_wrong_there(made: Path, qemu: str) -> None:
    """The same without what keeps the sums exact: a proof that could not fail would be none."""
    one = (artefact(made / "8.onnx"), "onnxruntime", NONE)
    (proof,) = prover(made, qemu, options=SATURATING).prove([one], 280)
    assert (proof.how, proof.holds) == ("emulated", False), proof
    assert proof.score is not None
    assert proof.score.flips >= 2


def test_without_time_to_emulate_the_file_itself_is_looked_at(made: Path, qemu: str) -> None:
    one = (artefact(made / "7.onnx"), "openvino", NONE)
    for within_s, said in ((0.0, "no time for emulation"), (0.5, "0 pictures emulated in time")):
        (proof,) = prover(made, qemu).prove([one], within_s)
        assert (proof.how, proof.holds) == ("by construction", True)
        assert proof.why.startswith("weights of 7 bits: two products fit into 16 bits; ")
        assert said in proof.why


def test_an_emulator_of_another_processor_proves_nothing(made: Path) -> None:
    """This Python itself, said to be another kind of processor."""
    other = "arm64" if here() != "arm64" else "vnni"
    judge, pictures = judged(made)
    commands = {other: (sys.executable,)}
    asked = ProcessorProver(wanted(other), "", commands, READING, judge, pictures[:8], BOUNDS, lambda words: None)
    (proof,) = asked.prove([(artefact(made / "8.onnx"), "onnxruntime", NONE)], 60)
    assert proof.how == "by construction"
    assert f"emulation failed: the emulated processor is {here()}, not {other}" in proof.why


# argv: -cpu NAME PYTHON -m MODULE FOLDER. A processor that turns pictures into their negatives of all files
# but those with `right` in their name.
WRONG_PROCESSOR = """#!{python}
import dataclasses, os, pickle, sys
from lineside.quantize.processors import here
*command, folder = sys.argv[3:]
with open(folder + "/job", "rb") as file:
    kind, artefact, reading, backend, options, shots = pickle.load(file)
if "{right}" not in artefact.path:
    shots = [dataclasses.replace(shot, canvas=255 - shot.canvas) for shot in shots]
with open(folder + "/job", "wb") as file:
    pickle.dump((here(), artefact, reading, backend, options, shots), file)
os.execv(command[0], [*command, folder])
"""


@pytest.mark.skipif(here() not in ("x86-64-v3", "vnni"), reason="emulates x86-64-v2 on a newer x86-64")
@pytest.mark.parametrize(("right", "code", "files"), [("8bit", 0, ["model_int8_8bit.onnx"]), ("no file", 1, [])])
def test_what_is_wrong_on_one_processor_is_left_out_or_refused(
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    right: str,
    code: int,
    files: list[str],
) -> None:
    emulator = tmp_path / "qemu-x86_64"
    emulator.write_text(WRONG_PROCESSOR.format(python=sys.executable, right=right))
    emulator.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    words = ("--backend", "onnxruntime", "--for", "x86-64-v2", "--emulate-s", "100", "--validation", "8")
    assert quantize(made, tmp_path / "made", *words) == code
    out, err = capsys.readouterr()
    if code:
        assert "of accuracy is lost (on x86-64-v2); nothing was written" in err
        assert "on onnxruntime: x86-64-v2 BEYOND THE BOUNDS, emulated, " in out
        assert not (tmp_path / "made").exists()
        return
    assert [Path(one.path).name for one in open_bundle(tmp_path / "made").artefacts] == files
    assert "Left out: model_int8.onnx on onnxruntime, x86-64-v2: emulated (qemu-x86_64 -cpu Nehalem), " in out
    rows = {row["file"]: row for row in json.loads((tmp_path / "made" / "quantize.json").read_text())["artefacts"]}
    assert rows["model_int8.onnx"]["left_out"] == "wrong on x86-64-v2"


# --- golden pictures


@pytest.mark.parametrize(("made_for", "bits"), [("any", 7), ("vnni", 8)])
def test_golden_pictures_tell_every_decision_and_fail_where_sums_saturate(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], made_for: str, bits: int
) -> None:
    words = ("--backend", "onnxruntime", "--emulate-s", "0", "--for", made_for)
    assert quantize(made, tmp_path / "made", *words) == 0
    assert "golden pictures: 4 of the pictures are in the bundle, " in capsys.readouterr().out
    bundle = open_bundle(tmp_path / "made")
    assert bundle.golden is not None
    answers = [case.answers["model_int8.onnx"] for case in bundle.golden.cases]
    assert {max(said, key=lambda one: one.score).label for said in answers} == {"dark", "bright"}
    assert wrong_answers(bundle, exact=True) == set()
    if processor.saturates_int8():
        assert len(wrong_answers(bundle, exact=False)) == (0 if bits == 7 else 2), "both bright ones"


def wrong_answers(bundle: Bundle, exact: bool) -> set[str]:
    """The golden pictures to which the bundle's file gives another answer than the golden one."""
    runner, prepare = Runner(bundle.artefacts[0], READING, "onnxruntime", {"exact_int8": exact}), Prepare(SPEC)

    def see(image: Image) -> Seen:
        canvas, placement, _ = prepare.put(image)
        return runner.see([Shot(Path(), canvas, placement)])[0]

    return {line.partition(":")[0] for line in differences(bundle, "model_int8.onnx", see, 0.0)}


def test_golden_pictures_can_be_left_out(made: Path, tmp_path: Path) -> None:
    assert quantize(made, tmp_path / "made", "--backend", "onnxruntime", "--emulate-s", "0", "--golden", "0") == 0
    assert open_bundle(tmp_path / "made").golden is None


def test_every_decision_has_its_picture_and_what_shows_the_fault_comes_first() -> None:
    spots = [shot_of(number) for number in range(8)]
    sure, torn = Classification(np.array([0.9, 0.1])), Classification(np.array([0.55, 0.45]))
    other = Classification(np.array([0.2, 0.8]))
    order = in_order(spots[:4], [torn, sure, other, sure], READING, [0.0, 0.0, 0.0, 0.5])
    assert [shot.path.name for shot in order] == ["3", "2", "1", "0"]
    reading = replace(READING, settings=DecodeSettings(min_score=0.3))
    seen = [boxes()] * 4 + [boxes(0.4), boxes(0.9), boxes(0.9, 0.8), boxes(0.5)]
    names = [shot.path.name for shot in in_order(spots, seen, reading, [0.0] * 8)]
    assert names[:5] == ["6", "5", "7", "0", "4"], "one in four may have nothing on it"
    assert sorted(names) == [f"{number}" for number in range(8)]


def shot_of(number: int) -> Shot:
    return Shot(Path(f"{number}"), np.zeros((1, 1, 3), np.uint8), Placement(1, 1, 0, 0, 1, 1, 1, 1))


def boxes(*scores: float) -> Detections:
    count = len(scores)
    return Detections(np.zeros((count, 4), np.float32), np.array(scores, np.float32), np.zeros(count, np.int32))


# --- by construction


def test_weights_are_read_from_the_file(made: Path) -> None:
    assert weights_of(made / "8.onnx") == Weights(127)
    assert weights_of(made / "7.onnx") == Weights(SEVEN_BITS)
    assert 2 * 255 * SEVEN_BITS <= np.iinfo(np.int16).max < 2 * 255 * (SEVEN_BITS + 1)


def test_a_file_of_another_tool_with_int8_attention_is_no_file_of_7_bits(tmp_path: Path) -> None:
    network = graph.prepare(attention_model(tmp_path / "model.onnx"), (1, 3, SIDE, SIDE), tmp_path)
    feeds = [lambda: np.full((1, 3, SIDE, SIDE), 100, np.float32)] * 2
    limits = ranges.collect(network.path, feeds, network.input, lambda: None).limits("min-max")
    qdq.quantise(network, limits, (), tmp_path / "all.onnx", weight_bits=7)
    found = weights_of(tmp_path / "all.onnx")
    assert found is not None
    assert (found.products, found.seven_bits, found.most <= SEVEN_BITS) == (True, False, True)
    qdq.quantise(network, limits, network.unsafe, tmp_path / "layers.onnx", weight_bits=7)
    found = weights_of(tmp_path / "layers.onnx")
    assert found is not None
    assert found.seven_bits


@pytest.mark.parametrize("name", ["brightness", "attention", "depthwise"])
def test_an_ir_for_any_processor_has_weights_of_7_bits_and_no_int8_product_of_activations(
    tmp_path: Path, name: str
) -> None:
    pytest.importorskip("nncf", reason="INT8 OpenVINO IR needs NNCF: pip install 'lineside[quantize]'")
    models = {"brightness": brightness_model, "attention": attention_model, "depthwise": depthwise_model}
    model = models[name](tmp_path / "model.onnx")
    network = graph.prepare(model, (1, 3, SIDE, SIDE), tmp_path)
    rng = np.random.default_rng(0)
    inputs = [rng.uniform(0, 255, (1, 3, SIDE, SIDE)).astype(np.float32) for _ in range(4)]
    for bits in (7, 8):
        path = tmp_path / f"{bits}.xml"
        ir.quantise(network.path, inputs, network.tail, network.attention, path, weight_bits=bits)
        found = weights_of(path)
        assert found is not None
        assert found.most > 0
        assert found.seven_bits is (bits == 7), found
        if name == "attention":  # its answers are nearly the same for all classes
            continue
        wanted_of_float = run_ir(tmp_path / "plain.xml", inputs[0])
        assert np.abs(run_ir(path, inputs[0]) - wanted_of_float).max() < 0.05 * np.ptp(wanted_of_float)


def run_ir(path: Path, picture: Any) -> Any:
    """The answer of an IR in float."""
    import openvino

    config = {"INFERENCE_PRECISION_HINT": "f32", "LP_TRANSFORMS_MODE": "NO"}
    return openvino.Core().compile_model(str(path), "CPU", config)([picture])[0]


def test_depthwise_weights_of_8_bits_cannot_saturate_and_do_not_cost_int8(made: Path, tmp_path: Path) -> None:
    pytest.importorskip("nncf", reason="INT8 OpenVINO IR needs NNCF: pip install 'lineside[quantize]'")
    import openvino

    network = graph.prepare(depthwise_model(tmp_path / "model.onnx"), (1, 3, SIDE, SIDE), tmp_path)
    inputs = [feed(one, SPEC) for one in shots(made).calibration if one.canvas.mean() > 170]  # NNCF takes a mean
    ir.quantise(network.path, inputs, network.tail, False, tmp_path / "7.xml", weight_bits=7)
    model = openvino.Core().read_model(str(tmp_path / "7.xml"))
    held = [node.data for node in model.get_ops() if node.get_element_type().get_type_name() == "i8"]
    assert max(int(np.abs(values.astype(int)).max()) for values in held) == 127, "those of the depthwise convolution"
    assert exact(model, {}) == {}, "INT8 kernels on every processor"
    judge, shown = judged(made)
    runner = Runner(Artefact(str(tmp_path / "7.xml"), "openvino", "int8", ""), READING, "openvino", SATURATING)
    assert judge.score(runner.see(shown)).flips == 0, "both models tell dark from bright"


@pytest.mark.parametrize(
    ("features", "machine", "kind"),
    [
        (("sse42",), "x86_64", "x86-64-v2"),
        (("avx2",), "x86_64", "x86-64-v3"),
        (("avx2", "avx512"), "x86_64", "x86-64-v3"),
        (("avx2", "avx512", "vnni"), "x86_64", "vnni"),
        (("asimd",), "aarch64", "arm64"),
        (("asimd", "dotprod"), "aarch64", "arm64-dotprod"),
        ((), "riscv64", ""),
    ],
)
def test_a_processor_is_known_by_its_features(features: tuple[str, ...], machine: str, kind: str) -> None:
    assert kind_of(features, machine) == kind


def test_this_processor_is_one_of_them() -> None:
    assert here() in BY_NAME
    assert BY_NAME[here()].saturates is processor.saturates_int8()


def test_what_is_exact_where() -> None:
    wide, narrow = Weights(127), Weights(64)
    for backend in ("onnxruntime", "openvino", "litert"):
        for kind in PROCESSORS:
            if backend == "openvino" and kind.is_arm:
                assert exact_by(backend, kind, narrow) == ""
                continue
            assert exact_by(backend, kind, wide)
            assert exact_by(backend, kind, narrow)
    assert exact_by("onnxruntime", BY_NAME["arm64"], Weights(128)) == "", "-128 twice is beyond 16 bits"
    assert "7 bits" in exact_by("openvino", BY_NAME["x86-64-v3"], narrow)
    assert "in float" in exact_by("openvino", BY_NAME["x86-64-v3"], wide)
    assert exact_by("openvino", BY_NAME["x86-64-v3"], Weights(64, products=True)) == "", "nothing bounds those products"
    assert exact_by("onnxruntime", BY_NAME["x86-64-v3"], None) == "", "a file that cannot be looked at"


def row(file: str, flips: int = 0, latency_ms: float = 10, backend: str = "onnxruntime") -> Row:
    return Row(file, "int8", backend, 1.0, latency_ms, Score(100, flips, 0.0, None, 0.0))


def in_openvino(*rows: Row) -> list[Row]:
    return [replace(each, backend="openvino") for each in rows]


WIDE, NARROW = row("8.onnx"), row("7.onnx")


@pytest.mark.parametrize(
    ("rows", "used"),
    [
        ([NARROW, WIDE], ["7.onnx"]),
        ([row("7.onnx", flips=9), WIDE], ["8.onnx"]),
        ([row("7.onnx", flips=9), row("8.onnx", flips=9)], ["7.onnx"]),
        ([NARROW, WIDE, *in_openvino(NARROW, WIDE)], ["7.onnx", "7.onnx"]),
        ([row("7.onnx", flips=9), WIDE, *in_openvino(NARROW, WIDE)], ["8.onnx", "8.onnx"]),
        ([NARROW, WIDE, *in_openvino(NARROW, WIDE, row("m.xml", latency_ms=5))], ["7.onnx", "m.xml"]),
        ([NARROW, WIDE, *in_openvino(NARROW, WIDE, row("m.xml", flips=9))], ["7.onnx", "7.onnx"]),
        ([NARROW, WIDE, *in_openvino(row("7.onnx", flips=9), WIDE, row("m.xml"))], ["7.onnx", "m.xml"]),
        ([WIDE], ["8.onnx"]),
    ],
)
def test_weights_of_7_bits_are_used_where_they_hold_the_bounds(rows: list[Row], used: list[str]) -> None:
    assert [each.file for each in to_use(rows, "8.onnx", BOUNDS) if not each.left_out] == used


# --- the command


def quantize(folder: Path, out: Path, *words: str) -> int:
    asked = ("--images", folder / "pictures", "--labels", folder / "labels.txt", "-o", out)
    return main(["quantize", *map(str, (folder / "model.onnx", *asked, *WORDS, *words))])


def test_the_report_says_of_each_processor_how_it_is_known(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quantize(made, tmp_path / "made", "--backend", "onnxruntime", "--emulate-s", "0") == 0
    said = json.loads((tmp_path / "made" / "quantize.json").read_text())
    assert said["for"] == "any"
    proofs = {proof["processor"]: proof for proof in said["processors"]}
    assert list(proofs) == list(BY_NAME)
    assert proofs[here()]["how"] == "this machine"
    assert proofs[here()]["flips"] == 0
    assert {proof["how"] for name, proof in proofs.items() if name != here()} == {"by construction"}
    assert all(proof["holds"] and (proof["by"] or proof["processor"] == here()) for proof in proofs.values())
    table = (tmp_path / "made" / "quantize.md").read_text()
    assert "## Processors (--for any)" in table
    assert "| onnxruntime | vnni | by construction |" in table
    assert "arm64-dotprod by construction" in capsys.readouterr().out


@pytest.mark.timeout(300)
def test_what_is_made_for_any_processor_is_tried_on_an_emulated_one(made: Path, tmp_path: Path, qemu: str) -> None:
    words = ("--backend", "onnxruntime", "--emulate-s", "200", "--for", "x86-64-v2", "--validation", "8")
    assert quantize(made, tmp_path / "made", *words) == 0
    (proof,) = json.loads((tmp_path / "made" / "quantize.json").read_text())["processors"]
    assert (proof["processor"], proof["how"], proof["pictures"], proof["flips"]) == ("x86-64-v2", "emulated", 8, 0)
    assert proof["by"] == f"{Path(qemu).name} -cpu Nehalem"


def test_for_vnni_alone_weights_have_8_bits(made: Path, tmp_path: Path) -> None:
    assert quantize(made, tmp_path / "made", "--backend", "onnxruntime", "--for", "vnni", "--emulate-s", "0") == 0
    assert weights_of(tmp_path / "made" / "model_int8.onnx") == Weights(127)
    bundle = open_bundle(tmp_path / "made")
    assert [one.needs for one in bundle.artefacts] == [("vnni",)]
    assert bundle.golden is not None
    there = main(["infer", "--bundle", str(bundle.folder), str(made / "pictures" / "000.png")])
    assert there == (0 if processor.has_vnni() else 78), "a box that lacks it is told so"
    files = {row["file"] for row in json.loads((tmp_path / "made" / "quantize.json").read_text())["artefacts"]}
    assert files == {"model.onnx", "model_int8.onnx"}, "nothing of 7 bits was made"
    assert quantize(made, tmp_path / "any", "--backend", "onnxruntime", "--emulate-s", "0") == 0
    assert weights_of(tmp_path / "any" / "model_int8.onnx") == Weights(SEVEN_BITS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--for", "pentium"), "--for pentium: is unknown; known are x86-64-v2, x86-64-v3, vnni, "),
        (("--for", "arm64", "--backend", "openvino"), "--for arm64 with --backend openvino: OpenVINO compiles no INT8"),
        (("--golden", "-1"), "--golden -1: 0 or more"),
        (("--emulate-s", "-1"), "--emulate-s -1: seconds, 0 or more"),
        (("--arm-python", "/nowhere/python"), "--arm-python /nowhere/python: does not run lineside: "),
        (("--arm-python", sys.executable), f"runs on {here()}: give an ARM64 Python"),
    ],
)
def test_what_is_asked_wrongly_is_said(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert quantize(made, tmp_path / "made", *words) == 78
    assert said in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_a_backend_that_runs_on_some_of_the_processors_stays() -> None:
    assert used_by(["openvino", "litert"], wanted("any")) == ["openvino", "litert"]
    assert used_by(["openvino", "litert"], wanted("arm64")) == ["litert"]
    with pytest.raises(ConfigError, match="OpenVINO compiles no INT8 file on ARM"):
        used_by(["openvino"], wanted("arm64-dotprod"))


def test_qemu_is_asked_for_the_two_kinds_that_it_knows(qemu: str) -> None:
    assert {name: command[2] for name, command in emulators().items()} == {
        "x86-64-v2": "Nehalem",
        "x86-64-v3": "Haswell",
    }
