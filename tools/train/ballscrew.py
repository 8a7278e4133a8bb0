"""Makes ballscrew-mobilenet or ballscrew-mobilevit, pitting or ok, from photos of a ball screw's spindle:

    pip install -e . -r tools/train/requirements.txt
    python tools/train/ballscrew.py mobilenet --work build/ballscrew-mobilenet -o models/ballscrew-mobilenet
    python tools/train/ballscrew.py mobilevit --work build/ballscrew-mobilevit -o models/ballscrew-mobilevit

and the reference that is not shipped, on smaller pictures, as it takes ten times as long:

    python tools/train/ballscrew.py resnet50 --size 320x128 --work build/ballscrew-resnet50 -o build/reference-bundle

It may be stopped and started again: training goes on from its last checkpoint in --work.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import cv2
import drawn
import release
from classifier import IMAGENET, Plan
from photos import Changes, Sample

from lineside.records import InputSpec

LABELS = ("ok", "pitting")
WIDTH_PX, HEIGHT_PX = 640, 256
HELD_OUT = frozenset(("560000_000", "635000_270", "KGT2-S"))  # places that show how good the first stage is
MORE_EPOCHS = 4  # with all places


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("net", choices=("mobilenet", "mobilevit", "resnet50"))
    parser.add_argument("--size", default=f"{WIDTH_PX}x{HEIGHT_PX}", metavar="WxH", help="of the input")
    name = f"ballscrew-{parser.parse_known_args()[0].net}"
    release.options(parser, name)
    asked = parser.parse_args()
    folder = asked.data / "bsdata"
    told = release.Told(
        name=name,
        version=asked.version,
        licence="CC-BY-SA-4.0",
        source="tools/train/ballscrew.py; card.md",
        licence_text=release.BEGUN_WITH + DATA_TERMS,
        golden={"ok": drawn.spindle(defect=False), "pitting": drawn.spindle(defect=True)},
    )
    head = HEAD.replace("{name}", name).replace("{architecture}", ARCHITECTURE[asked.net])
    head = head.replace("{size}", asked.size.replace("x", " x "))
    first = plan_of(*map(int, asked.size.split("x")))
    job = release.Job(
        told=told,
        net=asked.net,
        first=first,
        second=replace(first, epochs=MORE_EPOCHS, rate=first.rate / 2, seed=2),
        train=read_list(folder, "train"),
        test=read_list(folder, "test"),
        held_out=HELD_OUT,
        head=head,
        tail=TAIL.format(net=asked.net, name=name),
    )
    release.make(job, asked)


def read_list(folder: Path, name: str) -> list[Sample]:
    """train.jsonl or test.jsonl of bsdata; a group is a place on the spindle."""
    rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
    return [
        Sample(
            folder / "images" / row["file"],
            LABELS.index(row["label"]),
            row["position"],
            polygons=tuple(tuple((float(x), float(y)) for x, y in polygon) for polygon in row["polygons"]),
        )
        for row in rows
    ]


def plan_of(width_px: int, height_px: int) -> Plan:
    """Pictures are stretched to one size, whatever theirs is: in the train list the larger ones all show pitting."""
    spec = InputSpec(width_px, height_px, "rgb", "nchw", *IMAGENET, resize="stretch")
    # pits are on the raceway, so a pasted one stays near its height, and the thread keeps its light from above
    changes = Changes(paste=(1,), paste_within=0.06, flips="x", border=cv2.BORDER_REFLECT_101)
    return Plan(spec, LABELS, changes, epochs=10)


HEAD = """\
# {name}

Says of a photo of a ball screw's spindle whether it shows pitting, damage of the surface by fatigue.

- Licence: CC BY-SA 4.0, as that of the photos it was trained on: BSData, github.com/2Obe/BSData, by Schlagenhauf and
  Landwehr ("Industrial Machine Tool Element Surface Defect Dataset", arXiv 2103.13003). The weights began with
  torchvision's MobileNetV2 (BSD-3-Clause; LICENSE).
- Input: {size} RGB, the picture stretched to that.
{architecture}
- In training one more output told for each spot of the map what it shows, from the authors' polygons; it is not in the
  files.

## Data
314 photos of nine places on two spindles, a time series of each: 171 pitting, 143 ok. Each is turned, scaled, relit and
blurred a little anew each time; into a third of the ok ones a pit of another photo is put. In the train list the photos
larger than 1130 x 460 all show pitting: what knows only the size of the file has an AUROC of {by_size} on the test
list. All are stretched to one size here, by scales and aspects that vary more than those of the files do.
The test list (70 photos) is of four other places.
"""

ARCHITECTURE = {
    "mobilenet": """\
- MobileNetV2 down to its map of stride 16 (40 x 16), widened to 576 channels; one look at the mean over the map and one
  at the spot of it that stands out most.
- INT8: ONNX (activations uint8, weights int8 per channel) and full-integer TFLite (int8 in and out, all of it
  operators that the Edge TPU's compiler lists), made by `lineside quantize`; quantize.md says how and what it changed,
  parity.json how far each is from FP32.""",
    "mobilevit": """\
- MobileViT blocks (Mehta and Rastegari 2021: a convolution, transformer layers over the pixels of the map, a
  convolution over both) behind the stages of 64 and 96 channels of a MobileNetV2; the widths are MobileNetV2's, so that
  those layers begin with its weights of ImageNet. There were none of MobileViT itself. One look at the mean over the
  map of stride 16 (40 x 16), and one at the spot of it that stands out most.
- INT8: convolutions and fully connected layers only; attention (its products and softmax), layer norms and what joins
  them stay in float, on the CPU. Beside an Edge TPU that leaves of the TFLite file all but convolutions there: PAD,
  QUANTIZE, DEQUANTIZE, ADD, TRANSPOSE, RESHAPE, MEAN, SQUARED_DIFFERENCE, RSQRT, MUL, SUB, SLICE, FULLY_CONNECTED (of
  tokens), BATCH_MATMUL, SOFTMAX, CONCATENATION, AVERAGE_POOL_2D, MAX_POOL_2D. Made by
  `lineside quantize`; quantize.md says how and what it changed, parity.json how far each file is from FP32.""",
    "resnet50": """\
- ResNet50 (He et al. 2015), trained from nothing. It is here to compare with, and is not shipped.""",
}

TAIL = """\
## Limits
Two spindles, one camera, one light. Pits of a few pixels (the first days) are what escapes; what counts as the first
day is the authors' eye: in a few photos of one place faint damage is drawn on one day and not on the next. Soil grows
with time as damage does; it is not labelled. Other screws, cameras and distances were not tried. The validation shows
how a new place can fail: one held-out place has a mark beside the raceway, on its first photo as on its last, and after
the first stage the model called most of its good photos pitting. Look at the good photos of a new place before you
trust it.

Times beside ResNet50 in FP32, and accuracy beside it with places held out in turn: docs/models.md, "Beside ResNet50".

## Golden pictures
Two surfaces that tools/train/drawn.py draws, with and without a pit; no photo of the dataset is in the bundle.

## Made by
`python tools/train/ballscrew.py {net} --work build/{name} -o models/{name}`
(torch 2.13.0 on a CPU with bfloat16 autocast, one thread). Another processor rounds differently, so weights and scores
will differ a little.
"""

DATA_TERMS = """
Trained on BSData by Tobias Schlagenhauf and Magnus Landwehr, github.com/2Obe/BSData, under Creative Commons
Attribution-ShareAlike 4.0 International (https://creativecommons.org/licenses/by-sa/4.0/). These weights are offered
under the same licence. None of the photos is in this bundle.
"""

if __name__ == "__main__":
    main()
