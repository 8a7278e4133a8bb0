"""The baseline loops that lineside's frame path is measured against: one expert's script, nothing of lineside.

    python tools/loops.py bare       --engine E --model FILE --family F --size WxH --threads N --frames N --json
    python tools/loops.py tuned      ... --video FILE [--fps 15]
    python tools/loops.py throughput ... --video FILE [--arrangement NAME]

`bare` runs a preallocated input through the model and nothing else. `tuned` is what a careful engineer would write by
hand for one camera: OpenCV capture, linear resize straight into the reused input, infer, channel-maximum decode, NMS.
`throughput` runs a file on `--threads` cores in every arrangement of those steps, each in a process of its own.
Needs numpy, opencv and the engine that is asked for. One JSON object a run; times in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]  # (H, W, 3) BGR
MIN_SCORE, MAX_IOU, WARM_UP = 0.25, 0.45, 10


class Family(NamedTuple):
    """Real value = (pixel - mean) / std in the model's colour order; a letterbox lies at the centre or top left."""

    rgb: bool
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    letterbox: bool = True
    centred: bool = False


FAMILIES = {
    "yolov8": Family(rgb=True, std=(255.0, 255.0, 255.0), centred=True),
    "yolox": Family(rgb=False),
    "classify": Family(rgb=True, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), letterbox=False),
}


# --- engines ---------------------------------------------------------------------------------------------------------


class Slot(NamedTuple):
    """One model with memory of its own. Views that `input` and `run` give must be gone before the next `run`."""

    input: Callable[[], NDArray[Any]]  # the very memory that the model reads, batch axis kept
    run: Callable[[], NDArray[Any]]  # infers, gives the raw output
    input_scale: tuple[float, int] = (1.0, 0)  # scale, zero point
    output_scale: tuple[float, int] = (1.0, 0)
    request: Any = None  # openvino's own, for the arrangement of two requests


def onnxruntime(args: argparse.Namespace, slots: int) -> Callable[[], Slot]:
    """Input and outputs bound once, so that a run neither allocates nor copies. One session serves every slot."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = max(1, args.threads // slots)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.x64quantprecision", "1")  # exact INT8 without VNNI, too
    session = ort.InferenceSession(args.model, options, providers=["CPUExecutionProvider"])

    def slot() -> Slot:
        array = np.zeros((1, 3, args.height, args.width), np.float32)
        name, binding = session.get_inputs()[0].name, session.io_binding()
        output: NDArray[Any] = session.run(None, {name: array})[0]
        binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        sink = session.get_outputs()[0].name
        binding.bind_output(sink, "cpu", 0, np.float32, output.shape, output.ctypes.data)

        def run() -> NDArray[Any]:
            session.run_with_iobinding(binding)
            return output

        return Slot(lambda: array, run)

    return slot


def openvino(args: argparse.Namespace, slots: int) -> Callable[[], Slot]:
    """One stream a slot. But for `bare`, the model takes the uint8 BGR picture: conversion is folded into the graph."""
    import openvino as ov

    core = ov.Core()
    model = core.read_model(args.model)
    if model.input(0).partial_shape.is_dynamic:
        model.reshape([1, 3, args.height, args.width])
    if args.command != "bare":
        if model.input(0).element_type != ov.Type.f32:
            sys.exit(f"--model {args.model}: openvino is timed on models with a float input (.onnx, .xml)")
        family, fold = FAMILIES[args.family], ov.preprocess.PrePostProcessor(model)
        fold.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
        fold.input().tensor().set_color_format(ov.preprocess.ColorFormat.BGR)
        steps = fold.input().preprocess().convert_element_type(ov.Type.f32)
        if family.rgb:
            steps.convert_color(ov.preprocess.ColorFormat.RGB)
        steps.mean(list(family.mean)).scale(list(family.std))
        fold.input().model().set_layout(ov.Layout("NCHW"))
        model = fold.build()
    options = {"NUM_STREAMS": str(slots), "INFERENCE_NUM_THREADS": str(args.threads)}
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:
        if "vnni" not in lines.read():
            options["LP_TRANSFORMS_MODE"] = "NO"  # INT8 sums would saturate there
    options |= {"CACHE_DIR": args.cache_dir} if args.cache_dir else {}
    options |= {"INFERENCE_PRECISION_HINT": "f32"} if args.f32 else {}
    compiled = core.compile_model(model, "CPU", options)

    def slot() -> Slot:
        request = compiled.create_infer_request()
        array = request.get_input_tensor().data
        output: NDArray[Any] = request.get_output_tensor(0).data

        def run() -> NDArray[Any]:
            request.start_async()  # unlike infer(), builds no dictionary of results
            request.wait()
            return output

        return Slot(lambda: array, run, request=request)

    return slot


def litert(args: argparse.Namespace, slots: int) -> Callable[[], Slot]:
    """One interpreter a slot, its own tensors viewed and never copied."""
    from ai_edge_litert.interpreter import Interpreter

    def slot() -> Slot:
        interpreter = Interpreter(args.model, num_threads=max(1, args.threads // slots))
        interpreter.allocate_tensors()
        ends = (interpreter.get_input_details()[0], interpreter.get_output_details()[0])
        view_in, view_out = (interpreter.tensor(end["index"]) for end in ends)
        scale_in, scale_out = (end["quantization"] if end["quantization"][0] else (1.0, 0) for end in ends)

        def run() -> NDArray[Any]:
            interpreter.invoke()
            output: NDArray[Any] = view_out()
            return output

        return Slot(view_in, run, scale_in, scale_out)

    return slot


ENGINES = {"onnxruntime": onnxruntime, "openvino": openvino, "litert": litert}


# --- before and after the model --------------------------------------------------------------------------------------


class Path:
    """One slot's way from a decoded picture to findings; every buffer is made once."""

    def __init__(self, args: argparse.Namespace, slot: Slot, frame: Pixels) -> None:
        import cv2

        family, self.cv2, self.slot, self.rgb = FAMILIES[args.family], cv2, slot, FAMILIES[args.family].rgb
        width, height, self.left, self.top = args.width, args.height, 0, 0
        if family.letterbox:
            self.ratio = min(args.width / frame.shape[1], args.height / frame.shape[0])
            width, height = round(frame.shape[1] * self.ratio), round(frame.shape[0] * self.ratio)
        if family.centred:
            self.left, self.top = (args.width - width) // 2, (args.height - height) // 2
        self.rows, self.columns = slice(self.top, self.top + height), slice(self.left, self.left + width)
        self.resize = partial(cv2.resize, dsize=(width, height), interpolation=cv2.INTER_LINEAR)
        self.small = np.empty((height, width, 3), np.uint8)
        self.planes = [np.empty((height, width), np.uint8) for _ in range(3)]
        self.unit = max(args.width, args.height) if args.model.endswith(".tflite") else 1  # TFLite: boxes in 0 to 1
        self.decode = getattr(self, f"decode_{args.family}")
        self.gain = [np.float32(1 / std) for std in family.std]
        self.bias = [np.float32(-mean / std) for mean, std in zip(family.mean, family.std, strict=True)]
        array, pad = slot.input(), 114
        if array.dtype == np.float32:
            self.prepare = self.prepare_planes
            for channel in range(3):
                array[0, channel] = pad * self.gain[channel] + self.bias[channel]
        elif args.engine == "openvino":
            self.prepare = self.prepare_pixels
            array[:] = pad
        else:
            self.prepare = self.prepare_bytes
            self.turn = 0x80 if array.dtype == np.int8 else 0
            self.step, self.shift = 1.0, 0.0  # quantised classifiers take the pixel as it is, or the pixel - 128
            if family.letterbox:
                self.step, self.shift = float(self.gain[0]) / slot.input_scale[0], slot.input_scale[1] + self.turn
            array.view(np.uint8)[:] = round(pad * self.step + self.shift) ^ self.turn
        if args.family == "yolox":
            cells = [np.mgrid[: args.height // s, : args.width // s][::-1].reshape(2, -1) for s in (8, 16, 32)]
            self.grid = np.concatenate(cells, axis=1).T.astype(np.float32)
            self.stride = np.repeat([8.0, 16.0, 32.0], [c.shape[1] for c in cells])[:, None].astype(np.float32)

    def __call__(self, frame: Pixels) -> int:
        self.prepare(frame, self.slot.input())
        return len(self.decode(self.slot.run())[1])

    def prepare_pixels(self, frame: Pixels, array: NDArray[Any]) -> None:
        """uint8 NHWC BGR, as it is."""
        self.resize(frame, dst=array[0, self.rows, self.columns])

    def prepare_bytes(self, frame: Pixels, array: NDArray[Any]) -> None:
        """uint8 or int8 NHWC: pixel * step + shift; int8 is that with the top bit turned."""
        part = array.view(np.uint8)[0, self.rows, self.columns]
        self.resize(frame, dst=self.small)
        if self.step == 1.0:
            self.cv2.cvtColor(self.small, self.cv2.COLOR_BGR2RGB, dst=part)
        else:
            self.cv2.cvtColor(self.small, self.cv2.COLOR_BGR2RGB, dst=self.small)
            self.cv2.convertScaleAbs(self.small, dst=part, alpha=self.step, beta=self.shift)
        if self.turn:
            np.bitwise_xor(part, self.turn, out=part)

    def prepare_planes(self, frame: Pixels, array: NDArray[Any]) -> None:
        """float32 NCHW."""
        self.resize(frame, dst=self.small)
        self.cv2.split(self.small, self.planes)
        for channel, plane in enumerate(self.planes[::-1] if self.rgb else self.planes):
            into = array[0, channel, self.rows, self.columns]
            np.multiply(plane, self.gain[channel], out=into)
            if self.bias[channel]:
                np.add(into, self.bias[channel], out=into)

    def decode_yolov8(self, output: NDArray[Any]) -> tuple[Any, Any, Any]:
        """(1, 4 + C, N): the maximum over channels first, on raw values; only survivors are looked at further."""
        (scale, zero_point), boxes, scores = self.slot.output_scale, output[0, :4], output[0, 4:]
        best = scores.max(axis=0)
        keep = np.flatnonzero(best >= MIN_SCORE / scale + zero_point)
        class_ids = scores[:, keep].argmax(axis=0)
        xywh = (boxes[:, keep].T.astype(np.float32) - zero_point) * (scale * self.unit)
        return self.nms(xywh, (best[keep].astype(np.float32) - zero_point) * scale, class_ids)

    def decode_yolox(self, output: NDArray[Any]) -> tuple[Any, Any, Any]:
        """(1, N, 5 + C), raw: objectness first, since a score is objectness times class."""
        keep = np.flatnonzero(output[0, :, 4] >= MIN_SCORE)
        rows = output[0, keep]
        class_ids = rows[:, 5:].argmax(axis=1)
        scores = rows[:, 4] * rows[np.arange(len(rows)), 5 + class_ids]
        sure = np.flatnonzero(scores >= MIN_SCORE)
        rows, keep = rows[sure], keep[sure]
        centre = (rows[:, :2] + self.grid[keep]) * self.stride[keep]
        size = np.exp(rows[:, 2:4]) * self.stride[keep]
        return self.nms(np.concatenate([centre, size], axis=1), scores[sure], class_ids[sure])

    def nms(self, xywh: NDArray[Any], scores: NDArray[Any], class_ids: NDArray[Any]) -> tuple[Any, Any, Any]:
        if not len(scores):
            return xywh, scores, class_ids
        xywh[:, :2] -= xywh[:, 2:] / 2
        keep = self.cv2.dnn.NMSBoxesBatched(xywh.tolist(), scores.tolist(), class_ids.tolist(), MIN_SCORE, MAX_IOU)
        boxes = xywh[keep]
        boxes[:, :2] -= (self.left, self.top)
        boxes /= self.ratio
        boxes[:, 2:] += boxes[:, :2]
        return boxes, scores[keep], class_ids[keep]

    def decode_classify(self, output: NDArray[Any]) -> tuple[Any, Any, Any]:
        best = output[0].argmax()
        return None, output[0, best : best + 1], [best]


# --- measuring -------------------------------------------------------------------------------------------------------


def percentiles(times_ns: list[int]) -> dict[str, float]:
    points = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99_9": 99.9, "max": 100.0}
    return {name: round(float(np.percentile(times_ns, at)) / 1e6, 4) for name, at in points.items()}


def pss_mb() -> float:
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss:")) / 1024


def since_start_s() -> float:
    """Since the kernel made this process, interpreter start and imports included (proc(5), field 22; 10 ms steps)."""
    with open("/proc/self/stat") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def open_video(path: str, decode_threads: int) -> Any:
    import cv2

    cv2.setNumThreads(1)
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, decode_threads])
    if not capture.isOpened():
        sys.exit(f"--video {path}: OpenCV cannot open it")
    return capture


def read(capture: Any, frame: Pixels | None) -> Pixels:
    """The next picture, into `frame` where it fits; from the beginning again when the file ends."""
    ok, picture = capture.read(frame)
    if not ok:
        capture.set(1, 0)  # CAP_PROP_POS_FRAMES
        ok, picture = capture.read(frame)
    return picture  # type: ignore[no-any-return]


def bare(args: argparse.Namespace) -> dict[str, Any]:
    slot = ENGINES[args.engine](args, 1)()
    slot.input()[:] = np.random.default_rng(0).integers(0, 2, slot.input().shape)
    times_ns: list[int] = []
    for _ in range(WARM_UP + args.frames):
        start = time.perf_counter_ns()
        slot.run()
        times_ns.append(time.perf_counter_ns() - start)
    return {"infer_ms": percentiles(times_ns[WARM_UP:]), "pss_mb": round(pss_mb(), 1)}


def tuned(args: argparse.Namespace) -> dict[str, Any]:
    capture = open_video(args.video, 1)  # as fast, and fewer pictures in memory
    slot = ENGINES[args.engine](args, 1)()
    frame = read(capture, None)
    path = Path(args, slot, frame)
    path(frame)
    first_s = since_start_s()
    for _ in range(WARM_UP):
        path(read(capture, frame))
    times_ns: list[int] = []
    findings, skipped = 0, 0
    period_ns = int(1e9 / args.fps) if args.fps else 0
    began_cpu_s, began_ns = time.process_time(), time.monotonic_ns()
    due_ns = began_ns
    while len(times_ns) < args.frames:
        if period_ns:
            due_ns += period_ns
            while (wait_ns := due_ns - time.monotonic_ns()) < -period_ns:  # behind: only the freshest picture counts
                read(capture, frame)
                due_ns += period_ns
                skipped += 1
            time.sleep(max(0, wait_ns) / 1e9)
        frame = read(capture, frame)
        start_ns = time.perf_counter_ns()
        findings += path(frame)
        times_ns.append(time.perf_counter_ns() - start_ns)
    wall_s, spent_s = (time.monotonic_ns() - began_ns) / 1e9, time.process_time() - began_cpu_s
    path_ms = percentiles(times_ns)
    return {
        "path_ms": path_ms,
        "p99_over_p50": round(path_ms["p99"] / path_ms["p50"], 3),
        "fps": round(args.frames / wall_s, 2),
        "cpu_ms_per_frame": round(spent_s / args.frames * 1000, 3),
        "first_result_s": round(first_s, 3),
        "pss_mb": round(pss_mb(), 1),
        "skipped": skipped,
        "findings_per_frame": round(findings / args.frames, 2),
    }


# --- throughput: the arrangements of decode, infer and post-process --------------------------------------------------


class Ahead:
    """A thread that decodes up to four pictures ahead, into buffers that come back."""

    def __init__(self, capture: Any, first: Pixels, frames: int) -> None:
        self.capture, self.frames = capture, frames
        self.free: SimpleQueue[Pixels] = SimpleQueue()
        self.ready: SimpleQueue[Pixels | None] = SimpleQueue()
        for _ in range(4):
            self.free.put(np.empty_like(first))
        threading.Thread(target=self.decode, daemon=True).start()

    def decode(self) -> None:
        for _ in range(self.frames):
            self.ready.put(read(self.capture, self.free.get()))
        self.ready.put(None)

    def __iter__(self) -> Iterator[Pixels]:
        while (frame := self.ready.get()) is not None:
            yield frame
            self.free.put(frame)
        self.ready.put(None)  # for the other worker


def sequential(args: argparse.Namespace, capture: Any, paths: list[Path], frame: Pixels) -> int:
    return sum(paths[0](read(capture, frame)) for _ in range(args.frames))


def decode_ahead(args: argparse.Namespace, capture: Any, paths: list[Path], frame: Pixels) -> int:
    return sum(map(paths[0], Ahead(capture, frame, args.frames)))


def two_workers(args: argparse.Namespace, capture: Any, paths: list[Path], frame: Pixels) -> int:
    pictures = Ahead(capture, frame, args.frames)
    with ThreadPoolExecutor(2) as pool:
        return sum(pool.map(lambda path: sum(map(path, pictures)), paths))


def two_requests(args: argparse.Namespace, capture: Any, paths: list[Path], frame: Pixels) -> int:
    """OpenVINO runs two requests by itself; this thread prepares and decodes meanwhile, in order."""
    findings = 0
    for number, picture in enumerate(chain(Ahead(capture, frame, args.frames), (None, None))):
        path = paths[number % 2]
        if number >= 2:
            path.slot.request.wait()
            findings += len(path.decode(path.slot.request.get_output_tensor(0).data)[1])
        if picture is not None:
            path.prepare(picture, path.slot.input())
            path.slot.request.start_async()
    return findings


# name -> how many slots, the loop
ARRANGEMENTS: dict[str, tuple[int, Callable[[argparse.Namespace, Any, list[Path], Pixels], int]]] = {
    "sequential": (1, sequential),
    "decode_ahead": (1, decode_ahead),
    "two_workers": (2, two_workers),
    "two_requests": (2, two_requests),
}


def throughput(args: argparse.Namespace) -> dict[str, Any]:
    if args.arrangement == "all":
        fps: dict[str, float] = {}
        for name in (name for name in ARRANGEMENTS if name != "two_requests" or args.engine == "openvino"):
            command = [sys.executable, __file__, *sys.argv[1:], "--arrangement", name, "--json"]
            fps[name] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["best_fps"]
        return {"fps": fps, "best": max(fps, key=lambda name: fps[name]), "best_fps": max(fps.values())}
    slots, arrangement = ARRANGEMENTS[args.arrangement]
    capture = open_video(args.video, args.threads)
    frame = read(capture, None)
    open_slot = ENGINES[args.engine](args, slots)
    paths = [Path(args, open_slot(), frame) for _ in range(slots)]
    for _ in range(WARM_UP):
        for path in paths:
            path(frame)
    start = time.perf_counter()
    findings = arrangement(args, capture, paths, frame)
    fps_now = round(args.frames / (time.perf_counter() - start), 2)
    return {"best": args.arrangement, "best_fps": fps_now, "findings_per_frame": round(findings / args.frames, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["bare", "tuned", "throughput"])
    parser.add_argument("--engine", required=True, choices=list(ENGINES))
    parser.add_argument("--model", required=True, help=".onnx, .xml or .tflite")
    parser.add_argument("--family", required=True, choices=list(FAMILIES))
    parser.add_argument("--size", required=True, metavar="WxH", help="of the model's input")
    parser.add_argument("--video", help="for tuned and throughput")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--frames", type=int, default=300, help="frames that are measured")
    parser.add_argument("--fps", type=float, help="tuned: pace the frames; without it as fast as they go")
    parser.add_argument("--arrangement", choices=["all", *ARRANGEMENTS], default="all")
    parser.add_argument("--cache-dir", help="openvino: keep the compiled model here")
    parser.add_argument("--f32", action="store_true", help="openvino: no bf16")
    parser.add_argument("--json", action="store_true", help="one JSON object on one line")
    args = parser.parse_args()
    args.width, args.height = (int(side) for side in args.size.split("x"))
    if args.command != "bare" and not args.video:
        parser.error(f"{args.command} needs --video FILE")
    keys = ("engine", "model", "family", "size", "threads", "frames")
    result = {"loop": args.command, **{key: getattr(args, key) for key in keys}}
    result |= {"fps_asked": args.fps} if args.fps else {}
    result |= {"bare": bare, "tuned": tuned, "throughput": throughput}[args.command](args)
    print(json.dumps(result, indent=None if args.json else 2), flush=True)


if __name__ == "__main__":
    main()
