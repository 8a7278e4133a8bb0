"""Makes models/face-yolo, which finds faces, masked ones too, from the training list of faces_mask and the COCO weights
of YOLOX-nano:

    pip install -e . -r tools/train/requirements.txt
    python tools/train/faces.py --work build/faces -o models/face-yolo

It may be stopped and started again: training goes on from its last checkpoint in --work. Settings are chosen on a part
of the training list; the test list is scored by tools/score_models.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import drawn_boxes
import numpy as np
from boxes import DATA, Labelled, Sample, batches, faces_mask, mosaic, placed, read, relit, split, turned
from fit_yolo import Course, fit, pixels_of
from qat import equalised, rounded, unrounded
from ship import Told, begin, ship
from yolo import Shape, Yolo, start_from_yolox_nano

LABELS = ("face",)
LEAST_PX = 10  # a smaller face is not asked for: many of them have no box
SIDE_PX = 416
COURSE = Course(epochs=38, rate=1e-3, plain=5)
ROUNDING = Course(epochs=4, rate=1e-4, stop=2, every=1)  # more made it no better


def main() -> None:
    asked = begin(__doc__, "build/faces", "models/face-yolo")
    net = rounding(asked.work, train(asked.work))
    told = Told(
        name="face-yolo",
        version=asked.version,
        licence="Apache-2.0",
        source="tools/train/faces.py, trained on faces_mask from YOLOX-nano's weights; card.md",
        size_px=(SIDE_PX, SIDE_PX),
        labels=LABELS,
        golden={"faces": drawn_boxes.faces()},
        words=("--resize", "letterbox_top_left", "--pad-value", "114", "--validation", "150", "--search-s", "120"),
        head=HEAD,
        tail=TAIL,
    )
    curves = {"float": asked.work / "curve.json", "rounding": asked.work / "rounding" / "curve.json"}
    ship(net, told, faces_mask("train"), curves, DATA, asked.work, asked.output)


def train(work: Path) -> Yolo:
    """In float, from YOLOX-nano's weights."""
    pictures = [loaded(one) for one in split(faces_mask("train"))[0]]
    net, rng = Yolo(Shape(classes=1, depthwise=False, head_layers=2)), np.random.default_rng(0)
    start = pixels_of([four(pictures, at, rng)[0] for at in range(24)])
    start_from_yolox_nano(net, DATA / "models" / "detect" / "yolox_nano_416.onnx", start)
    return course(work, net, COURSE)


def rounding(work: Path, net: Yolo) -> Yolo:
    """With weights and activations rounded to 8 bits. A few channels that it took over from YOLOX-nano reach fifty
    times as far as the others; unless they are evened out, `lineside quantize` refuses the INT8 files."""
    known, _ = split(faces_mask("train"))
    even = equalised(net.eval(), pixels_of([fitted(*loaded(picture))[0] for picture in known[:64]]))
    return unrounded(course(work / "rounding", rounded(even), ROUNDING))


def course(work: Path, net: Yolo, how: Course) -> Yolo:
    work.mkdir(parents=True, exist_ok=True)
    known, choose = split(faces_mask("train"))
    pictures = [loaded(picture) for picture in known]
    return fit(
        work,
        net,
        how,
        lambda number: batches(len(pictures), 8, number, lambda at, rng: four(pictures, at, rng)),
        lambda number: batches(len(pictures), 8, number, lambda at, rng: single(pictures, at, rng)),
        [fitted(*loaded(picture)) for picture in choose],
        LABELS,
    )


def four(pictures: Sequence[Sample], index: int, rng: np.random.Generator) -> Sample:
    """A picture among three others."""
    chosen = [index, *map(int, rng.integers(0, len(pictures), 3))]
    parts = [turned(*pictures[at], 0, bool(rng.random() < 0.5)) for at in chosen]
    image, truth = mosaic(parts, SIDE_PX, rng, (0.4, 1.5))
    return relit(image, rng), truth


def single(pictures: Sequence[Sample], index: int, rng: np.random.Generator) -> Sample:
    """A picture alone, about as large as it will be shown."""
    image, truth = turned(*pictures[index], 0, bool(rng.random() < 0.5))
    scale = rng.uniform(0.8, 1.2) * SIDE_PX / max(image.shape[:2])
    left, top = (min(0.0, SIDE_PX - scale * size) * rng.random() for size in (image.shape[1], image.shape[0]))
    image, truth = placed(image, truth, SIDE_PX, scale, left, top)
    return relit(image, rng), truth


def loaded(one: Labelled) -> Sample:
    truth = one.truth.copy()
    truth[(truth[:, 3:] - truth[:, 1:3]).min(1) < LEAST_PX, 0] = -1
    return read(one), truth


def fitted(image: np.ndarray, truth: np.ndarray) -> Sample:
    """On the model's canvas as lineside places it: scaled to fit the left top corner."""
    return placed(image, truth, SIDE_PX, SIDE_PX / max(image.shape[:2]), 0, 0)


HEAD = """\
# face-yolo

Finds faces in photos of people and crowds, faces with masks too. It tells that there is a face, not whose.

- Licence: Apache-2.0. The weights began with those of YOLOX-nano (Megvii, Apache-2.0), which were trained on COCO.
- Input: 416 x 416 BGR, 0 to 255, the picture fitted into the top left corner over grey (114).
- An anchor-free YOLO with CSP backbone, path aggregation and decoupled heads, the layers of YOLOX-nano with each
  depthwise and pointwise pair joined into one whole 3 x 3 convolution and ReLU for SiLU: more arithmetic, but of a
  kind that INT8 speeds up three to four times. Outputs: for each of the strides 8, 16 and 32 the scores [1, n, 1] and
  the four sides of a box as distributions over 8 bins [1, n, 32]; decoder `nanodet`.
- INT8: ONNX (activations uint8, weights int8 per channel) and full-integer TFLite (int8 in and out), made by `lineside
  quantize`; quantize.md says how and what it changed, parity.json how far each is from FP32.

## Data
faces_mask (the "Face Mask Detection" pictures that were published as CC0): 505 of the 593 photos of its training list
to train on, four at a time in mosaics, then one by one, mirrored and relit; 88 to choose by, no near copies of the
others by perceptual hash. Faces under 10 pixels are not asked for, as many of them have no box. The test list has 150
photos; some show people and rooms that are in the training list, too.
"""

TAIL = """\
## Limits
About 600 photos, most of them of the year 2020 and of people with masks: far fewer than face detectors are trained on
usually. Faces that fill the picture, profiles, heads upside down and faces under 20 pixels are found less often. How it
does by age, sex or skin colour was not measured. It must not be used to recognise anyone.

## Golden picture
Two heads that tools/train/drawn_boxes.py draws, one with a mask; no photo of anyone is in the bundle.

## Made by
`python tools/train/faces.py --work build/faces -o models/face-yolo` (torch 2.13.0 on a CPU with bfloat16 autocast).
The first 20 epochs followed a rate that falls over 50. Another processor rounds differently, so weights
and scores will differ a little.
"""


if __name__ == "__main__":
    main()
