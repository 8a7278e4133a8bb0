"""On an emulated ARM64 board (`make test-arm`): the models answer as on this machine, and the whole program runs.

qemu's user emulation of a Cortex-A76, with Debian's arm64 Python and the runtimes' own aarch64 wheels: arithmetic and
programs are ARM's, speed is not.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from broker import Mosquitto
from conftest import ROOT
from lineside.resources import shipped
from lineside.store.bundle import open_bundle
from rig import Daemon, Subscriber, until

pytestmark = [pytest.mark.arm, pytest.mark.timeout(600)]  # emulated, beside whatever else runs

BUNDLES = sorted(folder.name for folder in shipped("models").iterdir() if (folder / "model.toml").is_file())
FOREIGN = {  # not trained here; what LiteRT runs is INT8 from end to end, what OpenVINO runs float
    "mobilenet_v2": ("litert", "classify/mobilenet_v2_1.0_224_quant.tflite", (224, 224), "nhwc"),
    "yolov5n": ("litert", "detect/yolov5n_224_int8.tflite", (224, 224), "nhwc"),
    "fastestdet": ("openvino", "detect/fastestdet_352.onnx", (352, 352), "nchw"),
    "mobilenet_v2_qdq": ("onnxruntime", "classify/mobilenet_v2_224_int8_qdq.onnx", (224, 224), "nchw"),
}
NORMALISED = {"mobilenet_v2": (128, 128), "yolov5n": (0, 255)}  # mean and std, where the input is quantised
NEAR = {  # of the range; between float layers a last bit may become a step of INT8
    ("litert", "int8"): 1e-5,
    ("litert", "mixed"): 0.05,
    ("onnxruntime", "int8"): 0.01,
    ("onnxruntime", "mixed"): 0.05,
}
OPTIONS = {"openvino": {"precision": "f32"}}
RUNTIMES = {"tflite": "litert", "onnx": "onnxruntime"}

# argv: a JSON list of [key, backend, file, format, [width, height], color, layout, mean, std]; a folder with
# canvas.npz; where the answers go; options by backend
ANSWER = """
import json, sys
from pathlib import Path
import numpy as np
from lineside.records import Artefact, InputSpec
from lineside.registry import driver
from lineside.vision.prepare import Prepare

jobs, folder, out = json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
canvases, found, options = np.load(folder / "canvas.npz"), {}, json.loads(sys.argv[4])
for key, backend, file, format, (width, height), color, layout, mean, std in jobs:
    spec = InputSpec(width, height, color, layout, tuple(mean), tuple(std))
    artefact = Artefact(file, format, "int8", "")
    model = driver("backend", backend)(artefact, spec, threads=1, options=options.get(backend))
    for number, output in enumerate(model.infer(canvases[f"{width}x{height}"])):
        found[f"{key}/{number}"] = output.raw.copy()
    model.close()
for size in canvases.files:
    width, height = map(int, size.split("x"))
    canvas, *_ = Prepare(InputSpec(width, height, "bgr", "nhwc", resize="stretch")).put(canvases["640x360"])
    found[f"pixels/{size}"] = canvas.copy()
np.savez(out, **found)
"""


@pytest.fixture(scope="session")
def arm() -> str:
    """The emulated board's Python."""
    python = ROOT / ".venv-arm" / "bin" / "python"
    if not (ROOT / ".venv-arm" / "ready").is_file():
        if os.environ.get("CI"):
            pytest.fail(f"{python}: the emulated ARM board is absent, and in CI its tests must run: tools/setup_arm.sh")
        pytest.skip("no emulated ARM board: tools/setup_arm.sh makes one on Debian")
    return str(python)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "runtime")}


def run(python: str, *words: str | Path) -> str:
    """What a command of this Python prints."""
    command = [python, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment(), cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def jobs_of(name: str) -> list[list[Any]]:
    """The INT8 files of a shipped bundle that LiteRT and ONNX Runtime take."""
    bundle = open_bundle(name)
    found = []
    for one in bundle.artefacts:
        spec = bundle.input_for(one)
        if one.format in RUNTIMES and one.precision in ("int8", "mixed"):
            how = [
                [spec.width_px or 320, spec.height_px or 320],
                spec.color,
                spec.layout,
                list(spec.mean),
                list(spec.std),
            ]
            key = f"{name}/{RUNTIMES[one.format]}/{one.precision}"
            found.append([key, RUNTIMES[one.format], one.path, one.format, *how])
    return found


Answers = dict[str, NDArray[Any]]


@pytest.fixture(scope="session")
def answers(arm: str, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Answers, Answers]:
    """Raw outputs by "model/backend/precision/number", here and on the board, of the same pixels."""
    import cv2

    folder = tmp_path_factory.mktemp("answers")
    jobs = [job for name in BUNDLES for job in jobs_of(name)]
    for key, (backend, file, size, layout) in FOREIGN.items():
        path = data / "models" / file
        mean, std = NORMALISED.get(key, (0, 1))
        jobs.append(
            [f"{key}/{backend}/int8", backend, str(path), path.suffix[1:], size, "rgb", layout, [mean] * 3, [std] * 3]
        )
    picture = cv2.imread(str(shipped("models") / "conveyor-parts" / "golden" / "0.png"))
    sizes = {(640, 360), *(tuple(job[4]) for job in jobs)}
    np.savez(folder / "canvas.npz", **{f"{w}x{h}": cv2.resize(picture, (w, h)) for w, h in sizes})
    both = []
    for python in (sys.executable, arm):
        out = folder / f"{len(both)}.npz"
        run(python, "-c", ANSWER, json.dumps(jobs), folder, out, json.dumps(OPTIONS))
        both.append(dict(np.load(out)))
    return both[0], both[1]


def of(answers: tuple[Answers, Answers], name: str, backend: str) -> list[tuple[str, NDArray[Any], NDArray[Any]]]:
    """(precision, here, there) of every output of that model; the two are the same model's."""
    here, there = answers
    keys = [key for key in here if key.startswith(f"{name}/{backend}/")]
    assert list(here) == list(there)
    return [(key.split("/")[2], here[key], there[key]) for key in keys]


def span(output: NDArray[Any]) -> float:
    """The range of an output; of a single number its size."""
    return float(np.ptp(output.astype(float))) if output.size > 1 else float(np.abs(output).max())


@pytest.mark.parametrize("name", [*BUNDLES, "mobilenet_v2", "yolov5n"])
def test_litert_answers_bit_for_bit(answers: tuple[Answers, Answers], name: str) -> None:
    """Where an output is float its last steps are, and compilers add in another order: a ten-millionth or so."""
    outputs = of(answers, name, "litert")
    assert any(span(here) > 0 for _, here, _ in outputs), "an answer, and not silence"
    for precision, here, there in outputs:
        if here.dtype.kind in "iu":
            np.testing.assert_array_equal(here, there)
        else:
            assert np.abs(here - there).max() <= NEAR["litert", precision] * span(here)


@pytest.mark.parametrize("name", [*BUNDLES, "mobilenet_v2_qdq"])
def test_onnx_runtime_answers_within_a_hundredth(answers: tuple[Answers, Answers], name: str) -> None:
    """The same bits where this machine has VNNI; an x86 without clips sums of U8S8 products."""
    outputs = of(answers, name, "onnxruntime")
    assert any(span(here) > 0 for _, here, _ in outputs), "an answer, and not silence"
    for precision, here, there in outputs:
        assert np.abs(here.astype(float) - there).max() <= NEAR["onnxruntime", precision] * span(here)


def test_openvino_runs_a_float_model_as_here(answers: tuple[Answers, Answers]) -> None:
    """Its ARM plugin does not compile our INT8 files: docs/hardware.md."""
    ((_, here, there),) = of(answers, "fastestdet", "openvino")
    assert np.ptp(here) > 0
    assert np.abs(here - there).max() <= 1e-3 * np.ptp(here)


def test_pixels_are_resized_alike_to_two_grey_levels(answers: tuple[Answers, Answers]) -> None:
    here, there = answers
    sizes = [key for key in here if key.startswith("pixels/")]
    far = {key: int(np.abs(here[key].astype(int) - there[key]).max()) for key in sizes}
    assert max(far.values()) <= 2, far


@pytest.mark.parametrize("name", BUNDLES)
def test_a_shipped_model_gives_its_golden_answers(arm: str, name: str) -> None:
    bundle = open_bundle(name)
    if bundle.golden is None:
        pytest.skip(f"{name} has no golden answers")
    backends = sorted({RUNTIMES[one.format] for one in bundle.artefacts if one.format in RUNTIMES})
    words = [word for backend in backends for word in ("--backend", backend)]
    said = run(arm, "-m", "lineside.cli", "bundle", "verify", name, *words)
    assert said.count("passed") == len(backends)


def test_probe_knows_the_board_and_its_runtimes(arm: str) -> None:
    told = json.loads(run(arm, "-m", "lineside.cli", "probe", "--json"))
    assert (told["board"]["arch"], told["board"]["cpu"]) == ("aarch64", "Arm Cortex-A76")
    assert told["profile"]["name"] == "arm-cpu"
    here = {f"{one['backend']}:{one['device']}" for one in told["devices"] if one["present"]}
    assert here == {"onnxruntime:cpu", "openvino:cpu", "litert:cpu"}


IDENTITY = """
import ctypes, json
hwcap = ctypes.CDLL(None).getauxval
hwcap.restype, hwcap.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
told = dict(line.split("\\t: ") for line in open("/proc/cpuinfo").read().split("\\n\\n")[0].splitlines())
midr = open("/sys/devices/system/cpu/cpu0/regs/identification/midr_el1").read().strip()
print(json.dumps([told["CPU part"], told["Features"].split(), midr, hwcap(16)]))
"""
ATOMICS, DOT_PRODUCT = 8, 20  # bits of AT_HWCAP: arch/arm64/include/uapi/asm/hwcap.h


@pytest.mark.parametrize(
    ("cpu", "part", "has_dot_product"),
    [("cortex-a53", "0xd03", False), ("cortex-a72", "0xd08", False), ("cortex-a76", "0xd0b", True)],
)
def test_each_processor_tells_its_own_identification_and_has_what_it_says(
    arm: str, cpu: str, part: str, has_dot_product: bool
) -> None:
    told, features, midr, hwcap = json.loads(run(str(ROOT / ".venv-arm" / cpu / "bin" / "python"), "-c", IDENTITY))
    assert told == part
    assert f"0x{int(midr, 16) >> 4 & 0xFFF:x}" == part
    assert ("asimddp" in features) == bool(hwcap >> DOT_PRODUCT & 1) == has_dot_product
    assert ("atomics" in features) == bool(hwcap >> ATOMICS & 1) == has_dot_product


def found_in(python: str, picture: Path, *words: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(run(python, "-m", "lineside.cli", "infer", "--jsonl", *words, picture))
    return told


def test_infer_finds_what_it_finds_here_on_the_backend_that_the_profile_prefers(arm: str) -> None:
    picture = open_bundle("conveyor-parts").folder / "golden" / "0.png"
    there = found_in(arm, picture, "--bundle", "conveyor-parts")
    here = found_in(sys.executable, picture, "--bundle", "conveyor-parts", "--backend", "litert")
    assert there["backend"] == here["backend"] == "litert:cpu"
    assert len(here["findings"]) > 5
    for one, other in zip(*(sorted(map(by_place, told["findings"])) for told in (here, there)), strict=True):
        assert one[0] == other[0]
        assert np.abs(np.subtract(one[1], other[1])).max() < 2
        assert abs(one[2] - other[2]) < 0.1


def by_place(finding: dict[str, Any]) -> tuple[str, list[float], float]:
    return finding["label"], finding["box"], finding["score"]


BELT = """
site = "arm"
[mqtt]
host = "127.0.0.1"
port = {port}
box = "board"
[cameras.belt]
driver = "synthetic"
seed = 6
width_px = 640
height_px = 360
fps = 15
frames = 4
pace = "max_speed"
[stations.inspect]
camera = "belt"
bundle = "conveyor-parts"
backend = "litert"
frames = "every"
[[stations.inspect.rules]]
kind = "defect"
labels = ["scratch", "stain", "chip", "missing_hole"]
min_score = 0.5
"""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "broker") as running:
        yield running


def test_run_decides_and_publishes_as_here(arm: str, broker: Mosquitto, tmp_path: Path) -> None:
    decided = []
    with Subscriber(broker.port, "lineside/arm/#") as witness:
        for python in (sys.executable, arm):
            folder = tmp_path / str(len(decided))
            folder.mkdir()
            daemon = Daemon(folder, BELT.format(port=broker.port), python=python)
            daemon.env |= environment() | {key: daemon.env[key] for key in daemon.env if key.endswith("_DIRECTORY")}
            before = len(witness.all("decision"))
            with daemon:
                assert daemon.wait(400) == 0, daemon.log()
            until(lambda known=before: len(witness.all("decision")) == known + 4, what="every decision arrives")
            decided.append([(one["verdict"], one["cause"]) for one in witness.all("decision")[before:]])
            shutil.rmtree(folder)
    assert len(decided[0]) == 4
    assert [verdict for verdict, _ in decided[1]] == [verdict for verdict, _ in decided[0]]
