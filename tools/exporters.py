"""Real exports by the projects' own tools, beside lineside on the same file and pictures.

A project's script in tests/exporters runs inside its own venv under out/venvs (tools/setup_exporters.sh): it exports,
and writes what its own pipeline answers. Here `lineside bundle new` and `lineside infer` are run on the exported file
with as little said as that family needs, and the two sides are compared. tests/test_exporters.py checks each cell;
tools/exporters_report.py writes them into docs/models.md.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import io
import json
import os
import subprocess
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "tests" / "exporters"
VENVS = ROOT / "out" / "venvs"
KEPT = ROOT / "out" / "exporters"
SCORE_OFF, LEAST_IOU = 0.01, 0.98  # what both sides may differ by
LIMITS = (30, 100, 300)  # of findings a picture, that the scripts and lineside know
EXPORT_S = 5400
Json = dict[str, Any]

PHOTOS = tuple(f"samples/{name}.jpg" for name in ("pets", "cat", "kite_and_cold", "face", "bird", "grace_hopper"))
COOKIES = tuple(f"aws_cookies/images/{name}.jpg" for name in ("normal-8", "normal-10", "anomaly-7", "anomaly-8"))


# in two processes, so that a long run of many exports can go beside another
YOLO = (
    *("yolo11-onnx", "yolo11-nms-onnx", "yolo11-openvino", "yolov8-onnx", "yolo26-onnx", "yolo26-raw-onnx"),
    *("yolov10-onnx", "yolov5u-onnx", "yolo11-nms-openvino", "yolov9-onnx", "yolo12-onnx", "yolov8-nms-onnx"),
    "yolo11-dynamic-onnx",
)
YOLO_TASKS = (
    *("yolo11-cls-onnx", "yolo11-seg-onnx", "yolo11-obb-onnx", "yolo11-seg-nms-onnx", "yolo11-obb-nms-onnx"),
    *("yolo11-pose-onnx", "rtdetr-onnx", "yolo26-seg-onnx", "yolo26-obb-onnx", "yolo26-pose-onnx"),
    *("yolo11-pose-nms-onnx", "yolo11-cls-openvino"),
)


class Project(NamedTuple):
    """A script of tests/exporters and the venv in which it runs."""

    venv: str
    script: str
    pictures: tuple[str, ...] = PHOTOS  # in the data folder
    only: tuple[str, ...] = ()  # variants; empty: all of the script


PROJECTS = {
    "ultralytics": Project("ultralytics", "ultralytics_yolo.py", only=YOLO),
    "ultralytics-tasks": Project("ultralytics", "ultralytics_yolo.py", only=YOLO_TASKS),
    "torchvision": Project("torch", "torchvision_models.py"),
    "timm": Project("torch", "timm_models.py"),
    "keras": Project("tensorflow", "keras_mobilenet.py"),
    "model-garden": Project("tensorflow", "tf_ssd.py"),
    "anomalib": Project("anomalib", "anomalib_models.py", COOKIES),
    "huggingface": Project("huggingface", "huggingface_models.py"),
    "rfdetr": Project("rfdetr", "rfdetr_models.py"),
    "super-gradients": Project("super-gradients", "yolo_nas.py"),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One exported file on one backend."""

    project: str
    variant: str
    family: str
    backend: str = "onnxruntime"
    refused: str = ""  # what a right refusal names; empty: it must be decoded
    resize: str = ""  # how the exporter resizes, where lineside cannot: photos need not agree then

    @property
    def name(self) -> str:
        return f"{self.project}/{self.variant}/{self.backend}"


U, T, OV, LRT = "ultralytics", "ultralytics-tasks", "openvino", "litert"
CELLS = (
    Cell(U, "yolov5u-onnx", "YOLOv5u"),
    Cell(U, "yolov8-onnx", "YOLOv8"),
    Cell(U, "yolov8-nms-onnx", "YOLOv8, nms=True"),
    Cell(U, "yolov9-onnx", "YOLOv9"),
    Cell(U, "yolov10-onnx", "YOLOv10"),
    Cell(U, "yolo11-onnx", "YOLO11"),
    Cell(U, "yolo11-onnx", "YOLO11", OV),
    Cell(U, "yolo11-dynamic-onnx", "YOLO11, dynamic=True"),
    Cell(U, "yolo11-openvino", "YOLO11", OV),
    Cell(U, "yolo11-nms-onnx", "YOLO11, nms=True"),
    Cell(U, "yolo11-nms-openvino", "YOLO11, nms=True", OV),
    Cell(U, "yolo12-onnx", "YOLO12"),
    Cell(U, "yolo26-onnx", "YOLO26, end to end"),
    Cell(U, "yolo26-raw-onnx", "YOLO26"),
    Cell(T, "yolo11-cls-onnx", "YOLO11-cls"),
    Cell(T, "yolo11-cls-openvino", "YOLO11-cls", OV),
    Cell(T, "yolo11-seg-onnx", "YOLO11-seg, its boxes"),
    Cell(T, "yolo11-seg-nms-onnx", "YOLO11-seg, nms=True, its boxes"),
    Cell(T, "yolo26-seg-onnx", "YOLO26-seg, its boxes"),
    Cell(T, "yolo11-pose-onnx", "YOLO11-pose, its boxes"),
    Cell(T, "yolo11-pose-nms-onnx", "YOLO11-pose, nms=True, its boxes"),
    Cell(T, "yolo26-pose-onnx", "YOLO26-pose, its boxes"),
    Cell(T, "yolo11-obb-onnx", "YOLO11-obb", refused="orient"),
    Cell(T, "yolo11-obb-nms-onnx", "YOLO11-obb, nms=True", refused="orient"),
    Cell(T, "yolo26-obb-onnx", "YOLO26-obb", refused="orient"),
    Cell(T, "rtdetr-onnx", "RT-DETR (Ultralytics)"),
    Cell("torchvision", "ssdlite-onnx", "SSDlite MobileNetV3"),
    Cell("torchvision", "fasterrcnn-onnx", "Faster R-CNN MobileNetV3"),
    Cell("timm", "mobilenetv2-onnx", "MobileNetV2", resize="bicubic"),
    Cell("timm", "mobilenetv3-onnx", "MobileNetV3", resize="bicubic"),
    Cell("timm", "mobilevit-onnx", "MobileViT-XXS", resize="bicubic"),
    Cell("keras", "mobilenet-float", "MobileNetV2, float", LRT),
    Cell("keras", "mobilenet-dynamic-range", "MobileNetV2, dynamic range", LRT),
    Cell("keras", "mobilenet-int8", "MobileNetV2, int8", LRT),
    Cell("keras", "mobilenet-uint8", "MobileNetV2, uint8", LRT),
    Cell("keras", "mobilenet-int16x8", "MobileNetV2, int16x8", LRT),
    Cell("keras", "mobilenet-int16x8-int16", "MobileNetV2, int16x8, int16 in and out", LRT),
    Cell("model-garden", "ssd-unit", "RetinaNet MobileNetV2, boxes 0 to 1", LRT),
    Cell("model-garden", "ssd-pixels", "RetinaNet MobileNetV2, boxes in pixels", LRT),
    Cell("anomalib", "padim-onnx", "PaDiM"),
    Cell("anomalib", "padim-openvino", "PaDiM", OV),
    Cell("huggingface", "mobilevit-onnx", "MobileViT-XXS"),
    Cell("huggingface", "rtdetr-onnx", "RT-DETR"),
    Cell("huggingface", "dfine-onnx", "D-FINE"),
    Cell("rfdetr", "nano-onnx", "RF-DETR nano"),
    Cell("super-gradients", "yolo-nas-onnx", "YOLO-NAS S, raw"),
    Cell("super-gradients", "yolo-nas-nms-onnx", "YOLO-NAS S, pre-processing and suppression inside"),
)


@dataclass(slots=True)
class Difference:
    """How far two sides are apart on some pictures."""

    pictures: int = 0
    answers: int = 0  # of the exporter's: findings, or pictures of a classifier
    score: float = 0.0  # largest difference
    iou: float = 1.0  # least
    missing: int = 0  # findings of the exporter without a partner
    extra: int = 0  # findings of lineside without one
    wrong: list[str] = field(default_factory=list)  # the first few, in words

    @property
    def same(self) -> bool:
        return not (self.missing or self.extra or self.wrong) and self.score <= SCORE_OFF and self.iou >= LEAST_IOU

    def __str__(self) -> str:
        told = [f"{self.answers} answers" if self.answers != self.pictures else f"{self.pictures} pictures"]
        told.append(f"score {self.score:.4f}")
        if self.iou < 1.0:
            told.append(f"IoU {self.iou:.3f}")
        if self.missing or self.extra:
            told.append(f"{self.missing} missing, {self.extra} more")
        return ", ".join(told)


# --- exports ------------------------------------------------------------------------------------------------------


def exports(project: str, data: Path) -> tuple[Path, Json]:
    """The folder of a project's exports and what its own pipeline says of them, by variant; kept by a stamp.

    Variants that stand there with the same scripts, venv and pictures are not made again. Raises FileNotFoundError
    without the venv, RuntimeError when the script fails as a whole.
    """
    told = PROJECTS[project]
    out = KEPT / project
    ready = VENVS / told.venv / "ready"
    if not ready.exists():
        raise FileNotFoundError(f"no venv {ready.parent}: {_why_no_venv(told.venv)}")
    stamp = _digest([SCRIPTS / told.script, SCRIPTS / "peer.py", SCRIPTS / "torchvision_cpu.py", ready], told.pictures)
    out.mkdir(parents=True, exist_ok=True)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"YOLO_CONFIG_DIR": str(out), "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    command = [str(ready.parent / "bin" / "python"), str(SCRIPTS / told.script), str(out)]
    command += [*(str(data / name) for name in told.pictures), "--stamp", stamp]
    if told.only:
        command += ["--only", *told.only]
    log = out / "log.txt"
    with log.open("w") as told_there:
        ran = subprocess.run(
            command, env=environment, stdout=told_there, stderr=subprocess.STDOUT, timeout=EXPORT_S, check=False
        )
    if ran.returncode:
        raise RuntimeError(f"{told.script} failed: {last_line(log.read_text())} ({log})")
    return exported(project)


def exported(project: str) -> tuple[Path, Json]:
    """The same as they stand, whatever they were made with. Raises FileNotFoundError where there are none."""
    out = KEPT / project
    rows: Json = json.loads((out / "expected.json").read_text())
    return out, {name: row | {"tool": row.get("tool", "")} for name, row in rows.items()}


def _why_no_venv(venv: str) -> str:
    failed = VENVS / f"{venv}.failed"
    return failed.read_text().strip() if failed.exists() else f"tools/setup_exporters.sh {venv} makes it"


def _digest(files: list[Path], words: tuple[str, ...]) -> str:
    """Of what the files do: comments, docstrings and layout of a script change nothing."""
    made = hashlib.sha256(repr(words).encode())
    for file in files:
        made.update(_code(file.read_text()).encode() if file.suffix == ".py" else file.read_bytes())
    return made.hexdigest()[:16]


def _code(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [each for each in body if not _is_text(each)]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


# --- lineside's side ----------------------------------------------------------------------------------------------


class Ran(NamedTuple):
    """What a command of lineside printed, and its exit status."""

    status: int
    stdout: str
    stderr: str


def lineside(*words: object) -> Ran:
    """Run a command as a user would, in this process: dozens of starts would cost more than the answers."""
    from lineside.cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main([str(word) for word in words])
        except SystemExit as end:  # argparse
            status = int(end.code or 0)
        except Exception:  # a traceback is an answer, too: a wrong one
            traceback.print_exc()
            status = 1
    return Ran(status, out.getvalue(), err.getvalue())


def options(row: Json) -> list[str]:
    """What `bundle new` is told beside the labels: what the file cannot say, and the exporter's own thresholds."""
    words = list(row.get("options", []))
    if row.get("min_score") and "--min-score" not in words:
        words += ["--min-score", str(row["min_score"])]
    if wanted := row.get("filter"):
        words += ["--filter", wanted]
    return words


def new_bundle(row: Json, exported: Path, folder: Path) -> Ran:
    """`lineside bundle new` on an exported file, with the labels where the file holds none."""
    words = options(row)
    if row.get("labels"):
        labels = folder.parent / f"{folder.name}.txt"
        labels.write_text("\n".join(row["labels"]) + "\n")
        words += ["--labels", str(labels)]
    return lineside("bundle", "new", exported / row["model"], "-o", folder, *words)


def infer(row: Json, bundle: Path, backend: str) -> tuple[dict[str, Json], str]:
    """What `lineside infer` finds in all the pictures of a row, by file; and its last word where it failed."""
    pictures = [*row["sized"], *row.get("photos", {})]
    ran = lineside("infer", "--bundle", bundle, "--backend", backend, "--jsonl", *pictures)
    return {line["file"]: line for line in map(json.loads, ran.stdout.splitlines())}, (
        last_line(ran.stderr) if ran.status else ""
    )


def compare(row: Json, wanted: Json, found: dict[str, Json]) -> Difference:
    """The exporter's answers, by picture, beside those of `lineside infer`."""
    from lineside.images import read_image

    difference = Difference(len(wanted))
    for picture, answer in wanted.items():
        line = found.get(picture)
        if line is None:
            difference.wrong.append(f"{picture}: no answer")
        elif isinstance(answer, dict):
            _anomaly(answer, line, difference)
        elif answer and isinstance(answer[0], float):
            _classes(answer, line, difference)
        elif "findings" not in line:
            difference.wrong.append(f"{picture}: no findings but {sorted(line)}")
        else:
            height, width = read_image(picture).shape[:2]
            answer, seen = [_cut(each, width, height) for each in answer], line["findings"]
            if row.get("edges") == "left out":
                answer, seen = _inside(answer, width, height), _inside(seen, width, height)
            _boxes(answer, seen, row["min_score"], difference)
    return difference


def alike(row: Json) -> str:
    """Why these answers prove nothing: none at all, or the same one for every picture; empty where they do."""
    answers = list(row["sized"].values())
    if all(isinstance(answer, list) and not answer for answer in answers):
        return "the exporter finds nothing in any picture"
    if all(answer == answers[0] for answer in answers):
        return "the exporter's answers are all alike"
    if isinstance(answers[0], list) and answers[0] and isinstance(answers[0][0], float):
        best = {max(range(len(answer)), key=answer.__getitem__) for answer in answers}
        return "" if len(best) > 1 else "the exporter gives every picture the same class"
    if isinstance(answers[0], list):
        spread = [each["score"] for answer in answers for each in answer]
        return "" if max(spread) - min(spread) > 0.2 else "the exporter's scores are all alike"
    return ""


def _anomaly(answer: Json, line: Json, difference: Difference) -> None:
    difference.answers += 1
    difference.score = max(difference.score, abs(line["score"] - answer["score"]))
    if line.get("anomalous") != answer["anomalous"]:
        difference.wrong.append(f"{line['file']}: anomalous is {line.get('anomalous')}")


def _classes(answer: list[float], line: Json, difference: Difference) -> None:
    difference.answers += 1
    if "top" not in line:
        difference.wrong.append(f"{line['file']}: no classes but {sorted(line)}")
        return
    for each in line["top"]:
        difference.score = max(difference.score, abs(each["score"] - answer[each["class_id"]]))
    first = max(range(len(answer)), key=answer.__getitem__)
    if line["top"][0]["class_id"] != first and answer[first] - answer[line["top"][0]["class_id"]] > SCORE_OFF:
        difference.wrong.append(f"{line['file']}: class {line['top'][0]['class_id']} for {first}")


def _boxes(wanted: list[Json], seen: list[Json], min_score: float, difference: Difference) -> None:
    """Pairs of the same class, the best overlap first; what lies within SCORE_OFF of the least score may be absent.

    A side that found as many as it may gives fewer than it saw: its weakest finding is the least score then.
    """
    difference.answers += len(wanted)
    least = max(
        min_score,
        *(min((each["score"] for each in side), default=0.0) for side in (wanted, seen) if len(side) in LIMITS),
        0.0,
    )
    left = list(seen)
    for want in wanted:
        near = [each for each in left if each["label"] == want["label"]]
        # of boxes at one place the one whose score is nearest
        best = max(
            near, key=lambda each: iou(each["box"], want["box"]) - abs(each["score"] - want["score"]), default=None
        )
        if best is None or iou(best["box"], want["box"]) < 0.5:
            difference.missing += want["score"] > least + SCORE_OFF
            continue
        left.remove(best)
        difference.score = max(difference.score, abs(best["score"] - want["score"]))
        difference.iou = min(difference.iou, iou(best["box"], want["box"]))
    difference.extra += sum(each["score"] > least + SCORE_OFF for each in left)


def _cut(finding: Json, width: int, height: int) -> Json:
    """Its box within the picture, as lineside gives all boxes; some projects let them reach over the edge."""
    x1, y1, x2, y2 = finding["box"]
    return finding | {"box": [min(max(x1, 0), width), min(max(y1, 0), height), min(x2, width), min(y2, height)]}


def _inside(findings: list[Json], width: int, height: int) -> list[Json]:
    """Those that touch no edge of the picture."""
    return [
        each for each in findings if min(each["box"]) > 1 and each["box"][2] < width - 1 and each["box"][3] < height - 1
    ]


def iou(first: list[float], second: list[float]) -> float:
    """Boxes that are the same to the printed digits overlap wholly, without area (cut at an edge), too."""
    if max(abs(one - other) for one, other in zip(first, second, strict=True)) < 0.02:
        return 1.0
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = (first[2] - first[0]) * (first[3] - first[1]) + (second[2] - second[0]) * (second[3] - second[1])
    return width * height / (both - width * height)


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""


# --- a cell -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Outcome:
    """What came of a cell. `same`: decoded as the exporter does; `refused`: rightly, by a named cause."""

    verdict: str  # same | same but for RESIZE | refused | differs | wrongly refused | no export
    tool: str = ""
    decided: list[str] = field(default_factory=list)  # what `bundle new` printed as guessed
    options: list[str] = field(default_factory=list)  # what it was told
    photos: str = ""
    sized: str = ""
    why: str = ""

    @property
    def right(self) -> bool:
        return self.verdict == "refused" or self.verdict.startswith("same")


def measure(cell: Cell, row: Json, exported: Path, folder: Path) -> Outcome:
    """Make a bundle of the exported file in `folder`, and compare what it finds with the exporter's own answers."""
    if "error" in row:
        return Outcome("no export", row.get("tool", ""), why=row["error"])
    outcome = Outcome("same", row["tool"], options=options(row))
    if reason := alike(row):
        outcome.verdict, outcome.why = "no export", reason
        return outcome
    bundle = folder / "bundle"
    ran = new_bundle(row, exported, bundle)
    outcome.decided = [line.removeprefix("guessed ") for line in ran.stdout.splitlines() if line.startswith("guessed ")]
    if ran.status:
        named = ran.status == 78 and cell.refused and cell.refused in ran.stderr.lower()
        outcome.verdict = "refused" if named else "wrongly refused"
        outcome.why = last_line(ran.stderr).replace(f"{exported}/", "")
        return outcome
    found, why = infer(row, bundle, cell.backend)
    sized = compare(row, row["sized"], found)
    outcome.sized, outcome.verdict = str(sized), "same" if sized.same else "differs"
    wrong = sized.wrong
    if row.get("photos"):
        photos = compare(row, row["photos"], found)
        outcome.photos = str(photos)
        if sized.same and not photos.same:
            outcome.verdict = f"same but for {cell.resize}" if cell.resize else "differs"
        wrong = wrong or photos.wrong
    outcome.why = why or "; ".join(wrong[:2]).replace(f"{exported}/", "")
    return outcome
