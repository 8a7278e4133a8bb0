"""Makes tile-mobilenet, which defect a magnetic tile has, from photos of magnetic tiles with masks:

    pip install -e . -r tools/train/requirements.txt
    python tools/train/tile.py --data ../shared/data --work build/tile-mobilenet -o models/tile-mobilenet

It may be stopped and started again: training goes on from its last checkpoint in --work.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import drawn
import numpy as np
import release
from classifier import IMAGENET, Plan
from lists import tile_groups
from photos import Changes, Sample

from lineside.records import InputSpec

LABELS = ("free", "blowhole", "break", "crack", "fray", "uneven")
SIZE_PX = 320
HELD_OUT_SHARE = 5  # one group in so many shows how good the first stage is
LICENCE = "weights: lineside, from torchvision's (BSD-3-Clause); data: no licence stated, for research"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    release.options(parser, "tile-mobilenet")
    asked = parser.parse_args()
    folder = asked.data / "magnetic_tile"
    train = read_list(folder, "train")
    told = release.Told(
        name="tile-mobilenet",
        version=asked.version,
        licence=LICENCE,
        source="tools/train/tile.py; card.md",
        licence_text=release.BEGUN_WITH + DATA_TERMS,
        golden={"free": drawn.tile(defect=False), "hole": drawn.tile(defect=True)},
        max_flips=0.04,  # six classes, and one defect is often called another
    )
    first = plan_of(SIZE_PX)
    job = release.Job(
        told=told,
        net="mobilenet",
        first=first,
        second=second_of(first),
        train=train,
        test=read_list(folder, "test"),
        held_out=held_out(train),
        head=HEAD,
        tail=TAIL,
    )
    release.make(job, asked)


def read_list(folder: Path, name: str) -> list[Sample]:
    """train.csv or test.csv of magnetic_tile; a group is a tile, as far as the photos' numbers tell."""
    with (folder / f"{name}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        Sample(
            folder / "images" / row["file"],
            LABELS.index(row["label"]),
            str(group),
            None if row["label"] == "free" else folder / "masks" / Path(row["file"]).with_suffix(".png"),
        )
        for row, group in zip(rows, tile_groups([row["file"] for row in rows]), strict=True)
    ]


def held_out(samples: Sequence[Sample]) -> frozenset[str]:
    groups = sorted({sample.group for sample in samples}, key=int)
    np.random.default_rng(5).shuffle(groups)
    return frozenset(groups[: len(groups) // HELD_OUT_SHARE])


def plan_of(size_px: int) -> Plan:
    """The first stage: the tile fitted into a black square, so that all of it is seen and its stripes keep their
    direction."""
    spec = InputSpec(size_px, size_px, "rgb", "nchw", *IMAGENET, resize="letterbox", pad_value=0)
    holes_and_cracks = (LABELS.index("blowhole"), LABELS.index("crack"))  # these may be anywhere; a break has its edge
    return Plan(spec, LABELS, Changes(paste=holes_and_cracks), epochs=18)


def second_of(first: Plan) -> Plan:
    """The second stage: breaks and frays are put into other tiles, too, near the edge where they were: the held-out
    breaks were what the first stage knew least."""
    defects = tuple(LABELS.index(name) for name in ("blowhole", "break", "crack", "fray"))
    changes = replace(first.changes, paste=defects, paste_share=0.5, paste_within=0.08)
    return replace(first, changes=changes, epochs=7, rate=first.rate / 2, seed=2)


HEAD = """\
# tile-mobilenet

Says of a photo of a magnetic tile (motor magnets) whether it is free of defects, and if not which it has: blowhole,
break, crack, fray or uneven. The decision that a line needs is 1 - P(free).

- Licence: the weights began with torchvision's MobileNetV2 (BSD-3-Clause; LICENSE) and were trained on the
  magnetic tile defects of Huang, Qiu, Guo, Wang, Yuan, "Saliency of magnetic tile surface defects"
  (github.com/abin24/Magnetic-tile-defect-datasets): no licence stated, the authors welcome use and ask to be cited.
  For research and trials; ask them before you build on it.
- Input: 320 x 320 RGB, the picture fitted in with black bars.
- MobileNetV2 down to its map of stride 16 (20 x 20), widened to 576 channels; one look at the mean over the map and one
  at the spot of it that stands out most. In training a third output told for each spot of the map what it shows, from
  the masks; it is not in the files.
- INT8: ONNX (activations uint8, weights int8 per channel) and full-integer TFLite (int8 in and out, all of it
  operators that the Edge TPU's compiler lists), made by `lineside quantize`; quantize.md says how and what it changed,
  parity.json how far each is from FP32.

## Data
542 photos of the train list, each turned, scaled, relit and blurred a little anew each time; into some photos without
a defect a blowhole or crack of another one is put, in the second stage breaks and frays, too. Photos of one tile under
several exposures have numbers close together: those within 150 of each other are one group, and no group is both in
what trains and in what is held out. The test list (136 photos) has other tiles than the train list; what knows only the
size of the file has an AUROC of {by_size} there.
"""

TAIL = """\
## Limits
Six kinds of tile photo, grey, as that one lab took them; each tile fills its picture. Frays and cracks were few (15 and
26 photos): their names are less sure than that there is a defect. Neither new defects nor other lighting were tried.

## Golden pictures
Two surfaces that tools/train/drawn.py draws, with and without a hole; no photo of the dataset is in the bundle.

## Made by
`python tools/train/tile.py --work build/tile-mobilenet -o models/tile-mobilenet` (torch 2.13.0 on a CPU with bfloat16
autocast, one thread). Another processor rounds differently, so weights and scores will differ a little.
"""

DATA_TERMS = """
Trained on photos of Huang, Qiu, Guo, Wang, Yuan, "Saliency of magnetic tile surface defects",
github.com/abin24/Magnetic-tile-defect-datasets: no licence is stated there; the authors welcome use and ask to be
cited. None of the photos is in this bundle.
"""

if __name__ == "__main__":
    main()
