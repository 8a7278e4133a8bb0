"""The program of a cell: runs on the processor that is tried, and writes down what the models say there.

    PYTHON answer.py JOB.json

JOB.json holds `cells` (each `name`, `bundle`, `backend`, `file`, `pictures`: an .npz, and `out`), see `proving.Job`.
A line on stdout when a cell begins and when it is written, so that who started this knows where it died. Decoding
pictures is left to who started it: emulated, it would cost as much as a model.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lineside.commands.infer import Eye
from lineside.errors import LinesideError
from lineside.golden import differences
from lineside.hal import board, choose, profile
from lineside.proof import Prover
from lineside.records import AnomalyMap, Artefact, Classification, Image, Seen
from lineside.store.bundle import Bundle, open_bundle
from lineside.vision.decode import open_decoder
from lineside.vision.prepare import Prepare


def main() -> int:
    job = json.loads(Path(sys.argv[1]).read_text())
    for cell in job["cells"]:
        print(f"begin {cell['name']}", flush=True)
        out = Path(cell["out"])
        part = out.with_suffix(".part")
        part.write_text(json.dumps(answer(cell)))
        part.replace(out)
        print(f"done {cell['name']}", flush=True)
    return 0


def answer(cell: dict[str, Any]) -> dict[str, Any]:
    """What a cell gives: `refused`, or the golden pictures' differences and what was seen in each picture."""
    began = time.process_time()
    try:
        bundle = open_bundle(cell["bundle"])
        one = (cell["file"], cell["backend"], cell["options"])
        file, backend, see = _one(bundle, *one) if cell["file"] else _alone(bundle)
        golden = differences(bundle, file, see, bundle.settings.min_score) if cell["golden"] else []
        with np.load(cell["pictures"]) as pictures:
            seen = [plain(see(pictures[f"{number}"])) for number in range(len(pictures.files))]
    except LinesideError as error:
        return {"refused": str(error), "cpu_s": round(time.process_time() - began, 1)}
    cpu_s = round(time.process_time() - began, 1)
    return {"backend": backend, "file": file, "golden": golden, "seen": seen, "cpu_s": cpu_s}


def _alone(bundle: Bundle) -> tuple[str, str, Callable[[Image], Seen]]:
    """As `lineside infer` opens a bundle when no backend is named, proven, with the runtimes that are here."""
    eye = Eye(bundle, "auto", None, prover=Prover(None))
    return eye.file, eye.backend, eye.look


def _one(bundle: Bundle, file: str, backend: str, options: dict[str, Any]) -> tuple[str, str, Callable[[Image], Seen]]:
    """One file on one backend, whether or not it would pass: that is what is measured. Raises LinesideError."""
    own = [one for one in bundle.artefacts if Path(one.path).name == file]
    artefact = own[0] if own else Artefact(file, "onnx", "fp32", "")  # the float model beside the bundle
    only = replace(bundle, artefacts=(artefact,))
    here = profile.match(board.read())
    choice = choose.open_backend(
        only.artefacts, only.input, profile=here, backend=backend, device="cpu", threads=1, options={backend: options}
    )
    spec = only.input_for(artefact)
    decoder = open_decoder(only.decode, choice.backend.outputs, only.labels, spec, only.settings)
    prepare = Prepare(spec)

    def see(image: Image) -> Seen:
        canvas, placement, window = prepare.put(image)
        return decoder.decode(choice.backend.infer(canvas, window=window), placement)

    return file, choice.name, see


def plain(seen: Seen) -> dict[str, Any]:
    """JSON values of what was seen, and all of them but a heat map."""
    match seen:
        case Classification():
            return {"scores": seen.scores.tolist()}
        case AnomalyMap():
            return {"score": float(seen.score)}
        case _:
            kept = {"boxes": seen.boxes, "scores": seen.scores, "class_ids": seen.class_ids}
            return {name: array.tolist() for name, array in kept.items()}


if __name__ == "__main__":
    sys.exit(main())
