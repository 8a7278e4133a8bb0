"""tools/prove_cpus.py: cells are kept and resumed, a crash costs its own cell, what is wrong is called so; the float
model and the exact answers that cells are compared with are what they are said to be."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools" / "train"))
from cpus import demo, page
from cpus.cells import ALONE, Cell, Kept, cells_of, depends, references, without_words
from cpus.demo import Decided
from cpus.float_model import write_float
from cpus.judging import Judged, judge
from cpus.known import unexpected
from cpus.machines import HOST, MACHINES, PACKAGES
from cpus.proving import Job, prove
from lineside.registry import vendor
from lineside.resources import shipped
from lineside.store.bundle import Bundle, open_bundle

FACTS = {"machine": "Haswell", "cpu": "Haswell, qemu 7", "numpy": "2", "onnxruntime": "1.31", "openvino": "2026"}
SURE, DEFECT = {"scores": [0.9, 0.1]}, {"scores": [0.2, 0.8]}
CELL = Cell("Haswell", "tile-mobilenet", "onnxruntime", "tile-mobilenet_int8.onnx")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_bundle("tile-mobilenet")


# --- what is kept


def test_a_cell_is_kept_by_all_that_its_answers_depend_on(bundle: Bundle, tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    on = depends(CELL, bundle, FACTS, PACKAGES, "pictures")
    assert kept.read(on) is None
    kept.put(on, {"seen": [SURE]})
    assert kept.read(on) == {"seen": [SURE]}
    others = [
        depends(CELL, replace(bundle, digest="sha256:other"), FACTS, PACKAGES, "pictures"),
        depends(CELL, bundle, {**FACTS, "onnxruntime": "1.32"}, PACKAGES, "pictures"),
        depends(CELL, bundle, {**FACTS, "cpu": "Haswell, qemu 10"}, PACKAGES, "pictures"),
        depends(CELL, bundle, FACTS, PACKAGES, "other pictures"),
        {**on, "code": "another state of the backend's module"},
    ]
    assert [kept.read(other) for other in others] == [None] * len(others)


def test_a_new_version_of_another_runtime_leaves_a_cell_as_it_is(bundle: Bundle) -> None:
    on = depends(CELL, bundle, FACTS, PACKAGES, "pictures")
    assert on == depends(CELL, bundle, {**FACTS, "openvino": "2027"}, PACKAGES, "pictures")


def test_any_code_takes_what_was_found_with_another_state_of_the_code_and_nothing_else(
    bundle: Bundle, tmp_path: Path
) -> None:
    on = depends(CELL, bundle, FACTS, PACKAGES, "pictures")
    Kept(tmp_path).put(on, {"seen": []})
    lenient = Kept(tmp_path, any_code=True)
    assert lenient.read({**on, "code": "other"}) == {"seen": []}
    assert lenient.read({**on, "code": "other", "numpy": "3"}) is None


def test_a_file_that_was_cut_short_is_run_again(bundle: Bundle, tmp_path: Path) -> None:
    kept, on = Kept(tmp_path), depends(CELL, bundle, FACTS, PACKAGES, "pictures")
    kept.put(on, {"seen": [SURE]})
    whole = kept.path(on).read_text()
    for text in (whole[: len(whole) // 2], "[]", ""):
        kept.path(on).write_text(text)
        assert kept.read(on) is None


def test_comments_and_docstrings_change_no_answer_and_code_does() -> None:
    one = 'def f():\n    """Says."""\n    return 1  # why\n'
    assert without_words(one) == without_words("def f():\n    return 1\n")
    assert without_words(one) != without_words("def f():\n    return 2\n")


def test_every_shipped_file_has_a_cell_on_every_backend_that_takes_it_and_a_reference() -> None:
    for manifest in sorted(shipped("models").glob("*/model.toml")):
        one = open_bundle(manifest.parent)
        cells = list(cells_of("Haswell", one))
        asked = {(cell.backend, Path(cell.file).suffix) for cell in cells}
        for artefact in one.artefacts:
            suffix = Path(artefact.path).suffix
            takes = {".onnx": {"onnxruntime", "openvino"}, ".xml": {"openvino"}, ".tflite": {"litert", "openvino"}}
            assert {backend for backend, its in asked if its == suffix} == takes[suffix]
        assert (ALONE, "") in asked
        assert {cell.file for cell in cells} <= {cell.file for cell in references(one)}


# --- processes that die

FATEFUL = """
import json, os, signal, sys, time
for cell in json.load(open(sys.argv[1]))["cells"]:
    print("begin", cell["name"], flush=True)
    if cell["name"] == "illegal":
        os.kill(os.getpid(), signal.SIGILL)
    if cell["name"] == "ended":
        os.kill(os.getpid(), signal.SIGTERM)
    if cell["name"] == "hangs":
        time.sleep(600)
    if cell["name"] == "fails":
        raise SystemExit("no such instruction set")
    with open(cell["out"] + ".part", "w") as file:
        json.dump({"pid": os.getpid()}, file)
    os.rename(cell["out"] + ".part", cell["out"])
    print("done", cell["name"], flush=True)
"""


def test_a_cell_that_dies_or_hangs_costs_itself_alone(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(FATEFUL)
    names = ["first", "second", "illegal", "third", "fails", "hangs", "last"]
    jobs = [Job(name, "", "", "", tmp_path) for name in names]
    found = {job.name: one for job, one in prove(Path(sys.executable), jobs, 3.0, program)}
    assert list(found) == names
    assert found["illegal"] == {"died": "died of an illegal instruction"}
    assert found["fails"] == {"died": "ended with exit status 1: no such instruction set"}
    assert found["hangs"] == {"died": "no answer within 3 s"}
    pids = [found[name]["pid"] for name in ("first", "second", "third", "last")]
    assert pids[0] == pids[1], "one process goes on to the next cell"
    assert len(set(pids)) == 3


def test_a_process_that_somebody_ended_says_nothing_of_the_processor(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(FATEFUL)
    jobs = [Job(name, "", "", "", tmp_path) for name in ("ended", "last")]
    found = [one for _, one in prove(Path(sys.executable), jobs, 30.0, program)]
    assert found[0] == {"stopped": "died of SIGTERM"}
    assert "pid" in found[1]


def test_when_time_is_up_what_is_left_is_not_told_and_may_be_run_later(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(FATEFUL)
    jobs = [Job(name, "", "", "", tmp_path) for name in ("first", "hangs", "last")]
    until_s = time.monotonic() + 3.0
    told = [job.name for job, _ in prove(Path(sys.executable), jobs, 600.0, program, until_s)]
    assert told == ["first"]


# --- what a cell is worth


def found(*seen: dict[str, Any], golden: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"file": "f.onnx", "backend": "onnxruntime:cpu", "golden": list(golden), "seen": list(seen)}


def test_a_flip_that_the_golden_pictures_do_not_show_is_wrong_and_more_than_one_in_forty_is_no_rounding() -> None:
    exact = [SURE] * 40
    assert judge(found(*[SURE] * 39, DEFECT), exact, exact, None).outcome == "right"
    twice = judge(found(*[SURE] * 38, DEFECT, DEFECT), exact, exact, None)
    assert (twice.outcome, twice.exact and twice.exact.flips) == ("wrong", 2)
    assert twice.exact is not None
    assert twice.exact.drift == pytest.approx(0.7)
    assert "2 of 40" in unexpected(CELL, twice)


def test_what_quantising_flips_is_told_and_is_not_the_processors_fault() -> None:
    judged = judge(found(*[DEFECT] * 5), [SURE] * 5, [DEFECT] * 5, None)
    assert judged.outcome == "right"
    assert judged.float_ is not None
    assert judged.float_.flips == 5


def test_where_the_golden_pictures_fail_the_cell_is_refused_and_what_that_saves_is_still_measured() -> None:
    judged = judge(found(*[DEFECT] * 5, golden=("golden/0.png: ok 0.2, golden 0.9",)), [SURE] * 5, [SURE] * 5, None)
    assert (judged.outcome, judged.exact and judged.exact.flips) == ("refused", 5)
    assert unexpected(CELL, judged).startswith("refused: golden/0.png")


def test_an_answer_that_is_no_number_is_wrong() -> None:
    judged = judge(found({"scores": [float("nan"), 0.1]}), [SURE], [SURE], None)
    assert judged.outcome == "wrong"
    assert unexpected(CELL, judged)


def test_only_what_is_known_may_be_refused() -> None:
    refused = Judged("refused", "OpenVINO cannot read this model")
    openvino = replace(CELL, backend="openvino", file="tile-mobilenet_int8.tflite")
    assert not unexpected(openvino, refused)
    assert unexpected(CELL, refused)
    assert unexpected(openvino, Judged("died", "died of an illegal instruction"))
    alone = unexpected(replace(CELL, backend=ALONE, file=""), refused)
    assert "ONNX Runtime alone" in alone


# --- the page


def test_the_table_says_what_was_not_run_and_why_a_cell_did_not_answer() -> None:
    right = judge(found(*[SURE] * 5), [SURE] * 5, [SURE] * 5, None)
    judged: dict[Cell, Judged | None] = {
        CELL: right,
        replace(CELL, machine="Nehalem"): Judged("died", "died of an illegal instruction: qemu: signal 4"),
        replace(CELL, machine="cortex-a53"): None,
        replace(CELL, backend="openvino"): judge(found(DEFECT, golden=("golden",)), [SURE], [SURE], None),
    }
    machines = [one for one in MACHINES if one.name in ("Haswell", "Nehalem", "cortex-a53")]
    lines = list(page.table(machines, {one.name: {"cpu": f"{one.name}, qemu 7"} for one in machines}, judged))
    (row,) = (line for line in lines if "| onnxruntime |" in line)
    assert row.split(" | ")[3:] == ["cannot run (1)", "0/5 0.00 · 0/5 0.00", "not run |"]
    assert "(1) died of an illegal instruction: qemu: signal 4  " in lines
    assert any("refused (2): 1/1 0.70 · 1/1 0.70" in line for line in lines)
    assert "3 of 4 cells were run: 1 right, 1 refused, 1 died, 0 wrong." in lines
    assert "qemu 7" in lines[0]


# --- what cells are compared with


def test_a_float_model_clips_as_the_int8_file_does_and_rounds_nothing_but_its_weights(tmp_path: Path) -> None:
    onnx, ort = vendor("onnx"), vendor("onnxruntime")
    weights = np.array([[7, -128, 3], [100, 5, -9]], np.int8)
    constants = {
        "scale": np.float32(0.1),
        "zero": np.uint8(10),
        "weights": weights,
        "scales": np.array([0.5, 0.25], np.float32),
        "zeros": np.zeros(2, np.int8),
    }
    node, made = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    nodes = [
        node("QuantizeLinear", ["image", "scale", "zero"], ["q"]),
        node("DequantizeLinear", ["q", "scale", "zero"], ["dq"]),
        node("DequantizeLinear", ["weights", "scales", "zeros"], ["w"], axis=0),
        node("Gemm", ["dq", "w"], ["out"], transB=1),
    ]
    tensors = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    ends = [made("image", 1, [1, 3])], [made("out", 1, [1, 2])]
    graph = onnx.helper.make_graph(nodes, "g", *ends, tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "int8.onnx")
    write_float(tmp_path / "int8.onnx", tmp_path / "float.onnx")
    session = ort.InferenceSession(str(tmp_path / "float.onnx"), providers=["CPUExecutionProvider"])
    image = np.array([[0.123, -5.0, 99.0]], np.float32)
    clipped = np.clip(image, -1.0, 24.5)  # (0 - 10) * 0.1 to (255 - 10) * 0.1
    wanted = clipped @ (weights * np.array([[0.5], [0.25]])).T
    np.testing.assert_allclose(session.run(None, {"image": image})[0], wanted, rtol=1e-6)


def test_a_file_of_integer_operators_is_not_taken_for_one_of_rounding_steps(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds QLinearConv"):
        write_float(data / "models" / "classify" / "mobilenet_v2_224_int8_qdq.onnx", tmp_path / "float.onnx")


def test_a_file_without_rounding_has_no_float_model(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing in it is quantised"):
        write_float(data / "models" / "classify" / "mobilenet_v2_224_fp32.onnx", tmp_path / "float.onnx")


# --- the demo


def test_the_demos_decisions_are_compared_by_verdict_and_rule_not_by_numbers() -> None:
    good = {"verdict": "accept", "cause": "no rule held in 31 frames"}
    stain, chip = ({"verdict": "reject", "cause": f"defect {kind} 0.88 in 9 of 9 frames"} for kind in ("stain", "chip"))
    weaker = {"verdict": "reject", "cause": "defect stain 0.81 in 10 of 10 frames"}
    parts = ("defective", "good")
    here = Decided([stain, good], parts)
    assert demo.differ(here, Decided([weaker, good], parts)) == ""
    assert "part 1" in demo.differ(here, Decided([chip, good], parts))
    assert "1 decisions, 2" in demo.differ(here, Decided([weaker], parts))
    assert demo.differ(here, Decided([stain, good], ("defective", "defective"))) == "part 2 is defective"
    assert demo.differ(Decided([], ()), Decided([], ())) != ""


def test_every_processor_has_a_python_of_its_own() -> None:
    pythons = [path for one in MACHINES for path in (one.python, one.alone)]
    assert len(set(pythons)) == len(pythons)
    assert [one.name for one in MACHINES if not one.emulated] == [HOST]
