"""Makes models/pcb-yolo, which finds six kinds of defects of printed circuit boards, from DeepPCB's training list:

    pip install -e . -r tools/train/requirements.txt
    python tools/train/pcb.py --work build/pcb -o models/pcb-yolo

It may be stopped and started again: training goes on from its last checkpoint in --work. Settings are chosen on a part
of the training list; the test list is scored by tools/score_models.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import drawn_boxes
import numpy as np
from boxes import DATA, PCB_LABELS, Labelled, Sample, batches, cropped, deeppcb, mended, read, split, template, turned
from fit_yolo import Course, fit
from ship import Told, begin, ship
from yolo import Shape, Yolo

from lineside.images import read_image

SHAPE = Shape(classes=len(PCB_LABELS), depthwise=False, width=16, depth=2, head_layers=1)
WHOLE_PX = 640
COURSES = ("first", "second", "third")
# What the first chooses by are boards that it never sees; the second, other pictures of boards that it sees, as in the
# test list.
FIRST = Course(epochs=60, rate=2e-3, stop=26)
SECOND = Course(epochs=22, rate=1e-3, plain=3)
TEMPLATES = 0.25  # of the second course's windows
# The third sees each place of a board with its defect and, mended, without.
THIRD = Course(epochs=70, rate=1e-3, plain=5)
MENDED = 0.3  # of its defects


def main() -> None:
    asked = begin(__doc__, "build/pcb", "models/pcb-yolo")
    net = train(asked.work)
    told = Told(
        name="pcb-yolo",
        version=asked.version,
        licence="Apache-2.0 (weights); data: DeepPCB, MIT, its README says for research",
        source="tools/train/pcb.py, trained on DeepPCB; card.md",
        size_px=(WHOLE_PX, WHOLE_PX),
        labels=PCB_LABELS,
        golden={"board": drawn_boxes.board()},
        words=("--resize", "letterbox", "--max-loss", "0.005", "--validation", "150", "--search-s", "120"),
        head=HEAD,
        tail=TAIL,
    )
    curves = {name: asked.work / name / "curve.json" for name in COURSES}
    ship(net, told, deeppcb("train"), curves, DATA, asked.work, asked.output)


def train(work: Path) -> Yolo:
    """Three courses. The first learns what defects look like. Whether a round spot of copper or a thin trace belongs to
    a board cannot be seen in one picture of it alone: the others learn the boards, from their templates too."""
    for name in COURSES:
        (work / name).mkdir(parents=True, exist_ok=True)
    others, unseen = split(deeppcb("train"))
    net = course(work / "first", Yolo(SHAPE), FIRST, others, [], unseen, window_px=384, turns=1.0)
    more, choose = unseen[::2], unseen[1::2]
    known = [*others, *more]
    net = course(work / "second", net, SECOND, known, known, choose, window_px=448, turns=0.3)
    return course(work / "third", net, THIRD, known, known, choose, window_px=448, turns=0.3, mend=MENDED)


def course(
    folder: Path,
    net: Yolo,
    how: Course,
    train: Sequence[Labelled],
    templates: Sequence[Labelled],
    choose: Sequence[Labelled],
    window_px: int,
    turns: float,
    mend: float = 0.0,
) -> Yolo:
    """`turns`: the share of windows that are turned by right angles and mirrored. `mend`: of the defects that look as
    their template does; then no whole templates are shown."""
    pictures: list[Sample] = [(read(one), one.truth) for one in train]
    nothing = np.zeros((0, 5), np.float32)
    clean = [template(one) for one in templates]

    def picked(index: int, rng: np.random.Generator) -> Sample:
        if mend:
            return mended(*pictures[index], read_image(clean[index]), mend, rng)
        if clean and rng.random() < TEMPLATES:
            return read_image(clean[int(rng.integers(len(clean)))]), nothing
        return pictures[index]

    def window(index: int, rng: np.random.Generator) -> Sample:
        image, truth = cropped(*picked(index, rng), window_px, rng)
        if rng.random() >= turns:
            return image, truth
        return turned(image, truth, int(rng.integers(4)), bool(rng.random() < 0.5))

    def whole(index: int, rng: np.random.Generator) -> Sample:
        if not clean:
            return turned(*pictures[index], int(rng.integers(4)), bool(rng.random() < 0.5))
        return picked(index, rng)

    return fit(
        folder,
        net,
        how,
        lambda number: batches(len(pictures), 8, number, window),
        lambda number: batches(len(pictures), 4, number, whole),
        [(read(one), one.truth) for one in choose],
        PCB_LABELS,
    )


HEAD = """\
# pcb-yolo

Finds six kinds of defects on binary pictures of bare printed circuit boards: open, short, mousebite, spur, spurious
copper and pin-hole.

- Licence: Apache-2.0 for the weights. The data, DeepPCB (github.com/tangsanli5201/DeepPCB, Tang et al. 2019), is under
  MIT, and its README says that it is for research only: ask its authors before you build a product on it.
- Input: 640 x 640 BGR, 0 to 255, copper black on white.
- An anchor-free YOLO with CSP backbone, path aggregation and decoupled heads of whole 3 x 3 convolutions and ReLU,
  trained from nothing. Outputs: for each of the strides 8, 16 and 32 the scores [1, n, 6] and the four sides of a box
  as distributions over 8 bins [1, n, 32]; decoder `nanodet`.
- INT8: ONNX (activations uint8, weights int8 per channel) and full-integer TFLite (int8 in and out), made by `lineside
  quantize`; quantize.md says how and what it changed, parity.json how far each is from FP32.

## Data
DeepPCB's 1,000 tested images of its training list, in windows, some of them turned and mirrored, and the templates of
the same boards as pictures without a defect. The first course chose by 150 images of boards of which it trained on no
near neighbour. Every other one of these went into the second course, which chose by the remaining 75, as did the third;
there each place of a board is seen with its defect and, mended from the template, without. The test list's 375 images
are other pictures, most of them **of the same kinds of boards**, with defects that the authors drew.
"""

TAIL = """\
## Limits
Whether a round spot of copper or a thin bridge belongs to the board cannot be seen without its template: DeepPCB's own
method looks at both. This model looks at one picture and knows the boards that it was trained with; on boards that it
never saw it misses about one defect in ten (first course, training curve), most of them shorts, mousebites and spurious
copper that could be part of the layout. Train it on your own boards and their templates. Grey or colour photos were
never seen.

## Golden picture
A board that tools/train/drawn_boxes.py draws, with a defect of each kind; no picture of the dataset is in the bundle.

## Made by
`python tools/train/pcb.py --work build/pcb -o models/pcb-yolo` (torch 2.13.0 on a CPU with bfloat16 autocast). The
first 4 epochs of the second course followed a rate that falls over 30, the first 10 of the third one that falls over
100. Another processor rounds differently, so weights and scores will differ a little. A fourth course, 18 epochs that
showed the pictures to choose by, too, had mAP50 0.966 on the test list; nothing held out was left to choose it by, and
the third's weights are what ships.
"""


if __name__ == "__main__":
    main()
