"""From a trained classifier to its bundle: exported, quantised, given golden answers and a parity passport by
lineside's own commands, scored once on its test list, and described in its card."""

# mypy: disable-error-code="no-untyped-call"
# (torch is not installed where types are checked)

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import card_classifier
import cv2
import torch
from classifier import Plan, classify, fit, measured
from nets import NETS, Classifier
from photos import Image, Sample, by_size_alone

from lineside.quantize.pytorch import export

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Told:
    """What the bundle says of itself, and how it is made."""

    name: str
    version: str
    licence: str
    source: str
    licence_text: str
    golden: Mapping[str, Image]  # a drawn picture for each name
    max_flips: float = 0.02


@dataclass(frozen=True, slots=True)
class Job:
    """A model to make: how, of what, and what its card says beside the figures."""

    told: Told
    net: str  # of nets.NETS
    first: Plan  # of the stage that leaves `held_out` groups aside, to see how good it is
    second: Plan  # of the stage that goes on with all
    train: Sequence[Sample]
    test: Sequence[Sample]
    held_out: frozenset[str]
    head: str
    tail: str


def options(parser: argparse.ArgumentParser, name: str) -> None:
    """Those that every model has."""
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the folder of datasets and models")
    parser.add_argument("--work", type=Path, default=Path("build") / name, help="checkpoints and what is in between")
    parser.add_argument("-o", "--output", type=Path, default=Path("models") / name)
    parser.add_argument("--version", default="1.0.0")
    parser.add_argument("--validate", action="store_true", help="only see how good the first stage is")


def make(job: Job, asked: argparse.Namespace) -> None:
    """Train in two stages, pack, score on the test list, write the card, and put it all where it ships."""
    data, work = asked.data, asked.work
    torch.set_num_threads(1)
    held = [sample for sample in job.train if sample.group in job.held_out]
    rest = [sample for sample in job.train if sample.group not in job.held_out]
    torch.manual_seed(job.first.seed)
    net = NETS[job.net](len(job.first.labels), data / "models/classify/mobilenet_v2_224_fp32.onnx")
    net = fit(net, rest, job.first, work / "chosen", held)
    labels = [sample.label for sample in held]
    seen = measured(classify(net, held, job.first), labels)
    print(f"{job.told.name}: validation {seen}", flush=True)
    if asked.validate:
        return
    net = fit(net, job.train, job.second, work / "all")
    bundle = release(net, job.second, job.told, job.train, job.test, work)
    scores = scored(job.told.name, bundle, work, data)
    curve = json.loads((work / "chosen" / "curve.json").read_text())
    validation = VALIDATION.format(count=len(held), groups=len({sample.group for sample in held}), **seen)
    head = job.head.format(by_size=f"{by_size_alone(job.train, job.test):.2f}")
    text = card_classifier.card(head, curve, scores, validation, job.tail)
    (bundle / "card.md").write_text(text)
    publish(bundle, asked.output)


BEGUN_WITH = """\
The weights of this bundle began with those of torchvision's MobileNetV2:

BSD 3-Clause License

Copyright (c) Soumith Chintala 2016, All rights reserved.

Redistribution and use in source and binary forms, with or without modification, are permitted provided that the
following conditions are met:

* Redistributions of source code must retain the above copyright notice, this list of conditions and the following
  disclaimer.
* Redistributions in binary form must reproduce the above copyright notice, this list of conditions and the following
  disclaimer in the documentation and/or other materials provided with the distribution.
* Neither the name of the copyright holder nor the names of its contributors may be used to endorse or promote products
  derived from this software without specific prior written permission.

THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS" AND ANY EXPRESS OR IMPLIED WARRANTIES,
INCLUDING, BUT NOT LIMITED TO, THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A PARTICULAR PURPOSE ARE
DISCLAIMED. IN NO EVENT SHALL THE COPYRIGHT HOLDER OR CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL,
SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR
SERVICES; LOSS OF USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND ON ANY THEORY OF LIABILITY,
WHETHER IN CONTRACT, STRICT LIABILITY, OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT OF THE USE OF
THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH DAMAGE.
"""

VALIDATION = """\
Validation, {count} pictures of {groups} groups of the train list that the first stage did not see: AUROC {auroc:.3f},
accuracy {accuracy:.3f} (float, after the first stage). The second stage goes on with all pictures of the train list.

The test list, scored once for this version, each picture through the path of `lineside infer`; intervals of 95 %;
times are medians on one thread of an x86-64 server with VNNI that others used too. `AUROC` is of a defect or none;
`escapes` are defects that are called none, `overkill` the reverse:"""


def release(
    net: Classifier, plan: Plan, told: Told, train: Sequence[Sample], test: Sequence[Sample], work: Path
) -> Path:
    """Write the bundle WORK/bundle, but for its card, and the float models WORK/float. Raises CalledProcessError where
    lineside refuses."""
    for name in ("float", "train", "test", "quantised", "golden", "bundle", "pictures"):
        shutil.rmtree(work / name, ignore_errors=True)
    program = work / f"{told.name}.pt2"
    save(net, plan, program)
    floats = work / "float"
    floats.mkdir()
    for path in export(str(program), None, floats).paths:
        path.rename(floats / f"{told.name}_fp32{path.suffix}")
    for sample in train:  # a folder for each class, as --labels-from wants it
        link(sample.path, work / "train" / plan.labels[sample.label])
    for sample in test:
        link(sample.path, work / "test")
    (work / "labels.txt").write_text("".join(f"{label}\n" for label in plan.labels))
    (work / "pictures").mkdir()
    for name, image in told.golden.items():
        cv2.imwrite(str(work / "pictures" / f"{name}.png"), image)
    spec = plan.spec
    lineside(
        *("quantize", program, "-o", work / "quantised", "--images", work / "train", "--labels-from", "folders"),
        *("--labels", work / "labels.txt", "--decode", "classify", "--scores", "logit", "--resize", spec.resize),
        *("--color", "rgb", "--mean", ",".join(map(str, spec.mean)), "--std", ",".join(map(str, spec.std))),
        *("--pad-value", spec.pad_value, "--name", told.name, "--version", told.version, "--licence", told.licence),
        *("--source", told.source, "--max-flips", told.max_flips, "--validation", 200),
    )
    shown = [work / "pictures" / f"{name}.png" for name in told.golden]
    lineside("bundle", "golden", work / "quantised", *shown, "-o", work / "golden")
    lineside(
        *("parity", "--bundle", work / "golden", "--data", work / "test", "--into", work / "bundle"),
        *("--reference", floats / f"{told.name}_fp32.onnx", "--state-dir", work / "state"),
    )
    (work / "bundle" / "LICENSE").write_text(told.licence_text)
    return work / "bundle"


def save(net: Classifier, plan: Plan, path: Path) -> None:
    """A program of torch.export, as `lineside quantize` takes it."""
    sample = torch.zeros(1, 3, plan.spec.height_px or 0, plan.spec.width_px or 0)
    module = net.to(memory_format=torch.contiguous_format).eval()
    torch.export.save(torch.export.export(module, (sample,)), str(path))


def link(picture: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / picture.name).symlink_to(picture.resolve())


def lineside(*words: object) -> None:
    """One of lineside's commands, shown and run."""
    print("lineside", *words, flush=True)
    path = os.pathsep.join(filter(None, (str(ROOT / "runtime"), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-c", "import sys; from lineside.cli import main; sys.exit(main())", *map(str, words)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": path})


def publish(bundle: Path, output: Path) -> None:
    """Put the bundle in place of an older one."""
    new = output.with_name(f".{output.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(bundle, new)
    shutil.rmtree(output, ignore_errors=True)
    new.rename(output)


def scored(name: str, bundle: Path, work: Path, data: Path) -> list[dict[str, object]]:
    """Every file on every backend, and the float model beside them, on the model's test list."""
    sys.path.insert(0, str(ROOT / "tools"))
    from lineside.store.bundle import open_bundle
    from models_report import BACKENDS
    from score_models import SCORED_ON, rows

    reference = work / "float" / f"{name}_fp32.onnx"
    found = [asdict(row) for row in rows(open_bundle(bundle), SCORED_ON[name], data, BACKENDS, [reference])]
    (work / "scores.json").write_text(json.dumps(found, indent=1))
    return found
