"""Which models, engines and videos are compared, and the bundles and videos that this needs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ENGINES = ("litert", "onnxruntime", "openvino")


@dataclass(frozen=True)
class Net:
    """One model in the files of several engines. Paths count from the data folder (models/) or the bench folder."""

    name: str
    family: str  # as tools/loops.py calls it
    side_px: int
    files: dict[str, str]  # engine -> file
    options: tuple[str, ...]  # of `lineside bundle new`: the settings of tools/loops.py
    videos: tuple[str, ...] = ("360p", "1080p")


_SETTINGS = ("--min-score", "0.25", "--nms-iou", "0.45")
_COCO = ("--labels", "labels/coco_labels_80.txt", *_SETTINGS)


def _bench(side_px: int) -> dict[str, str]:
    stem = f"yolov8n_{side_px}_int8"
    return {"litert": f"{stem}.tflite", "onnxruntime": f"{stem}.onnx", "openvino": f"{stem}.xml"}


NETS = (
    Net(
        "yolox_nano_416",
        "yolox",
        416,
        {
            "litert": "detect/yolox_nano_416_dynamic_range.tflite",
            "onnxruntime": "detect/yolox_nano_416.onnx",
            "openvino": "detect/yolox_nano_416.onnx",
        },
        ("--decode", "yolox", *_COCO),
    ),
    Net("yolo_320_int8", "yolov8", 320, _bench(320), ("--decode", "yolov8", *_COCO)),
    Net("yolo_640_int8", "yolov8", 640, _bench(640), ("--decode", "yolov8", *_COCO)),
    Net(
        "yolov8n_640_trained",
        "yolov8",
        640,
        {"litert": "detect/yolov8n_640_full_int8.tflite"},
        ("--decode", "yolov8", *_COCO),
        ("360p",),
    ),
    Net(
        "mobilenet_v2_224",
        "classify",
        224,
        {
            "litert": "classify/mobilenet_v2_1.0_224_quant.tflite",
            "onnxruntime": "classify/mobilenet_v2_224_int8_qdq.onnx",
            "openvino": "classify/mobilenet_v2_224_fp32.onnx",
        },
        ("--decode", "classify", "--labels", "labels/imagenet_labels_1001.txt", "--resize", "stretch"),
        ("360p",),
    ),
)
_STANDARD = {("yolox_nano_416", "360p"), ("yolo_320_int8", "360p"), ("yolo_640_int8", "1080p")}


@dataclass(frozen=True)
class Case:
    """One line of the table: a model on an engine, on a video."""

    net: Net
    engine: str
    video: str  # "360p" or "1080p"

    def __str__(self) -> str:
        return f"{self.net.name}/{self.engine}/{self.video}"

    @property
    def standard(self) -> bool:
        return (self.net.name, self.video) in _STANDARD

    @property
    def classifier(self) -> bool:
        return self.net.family == "classify"


def all_cases() -> Iterator[Case]:
    for net in NETS:
        for video in net.videos:
            for engine in ENGINES:
                if engine in net.files:
                    yield Case(net, engine, video)


@dataclass
class Material:
    """Where models and videos are; bundles are made on first use."""

    data: Path  # the folder with models/ and videos/
    out: Path  # what is made here is kept for the next run
    folder: Path  # of this run
    made: dict[str, Path] = field(default_factory=dict)

    def model(self, case: Case) -> Path:
        name = case.net.files[case.engine]
        path = self.data / "models" / name if "/" in name else self.out / "bench_models" / name
        if not path.is_file():
            raise SystemExit(f"{path}: no such file: tools/make_bench_models.py makes it, or give --data DIR")
        return path

    def bundle(self, case: Case) -> Path:
        model = self.model(case)
        key = f"{case.net.name}-{case.engine}"
        if key not in self.made:
            words = [
                str(self.data / "models" / word) if word.startswith("labels/") else word for word in case.net.options
            ]
            if model.suffix == ".tflite" and case.net.family == "yolov8":
                words += ["--boxes", "unit"]
            target = self.folder / "bundles" / key
            target.parent.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, "-m", "lineside.cli", "bundle", "new", str(model), *words, "-o", str(target)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")
            self.made[key] = target
        return self.made[key]

    def video(self, case: Case) -> Path:
        small = self.data / "videos" / "bottles_conveyor.mp4"
        if not small.is_file():
            raise SystemExit(f"{small}: no such file: give --data DIR")
        return small if case.video == "360p" else _upscaled(small, self.out / "bench_1080p.mp4")


def _upscaled(source: Path, target: Path) -> Path:
    """The video at 1920 x 1080, twenty seconds of it; MPEG-4 part 2, since OpenCV's wheel has no H.264 encoder."""
    if target.is_file():
        return target
    import cv2

    print(f"{target}: upscaling {source.name} ...", file=sys.stderr, flush=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part.mp4")
    reader = cv2.VideoCapture(str(source))
    writer = cv2.VideoWriter(str(part), cv2.VideoWriter.fourcc(*"mp4v"), 29.8333, (1920, 1080))
    for _ in range(600):
        found, image = reader.read()
        if not found:
            break
        writer.write(cv2.resize(image, (1920, 1080), interpolation=cv2.INTER_CUBIC))
    writer.release()
    reader.release()
    part.rename(target)
    return target
