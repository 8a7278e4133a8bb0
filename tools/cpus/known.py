"""What a run of cells must show: the cells that may be refused are named here with the reason, all others are right."""

from __future__ import annotations

from cpus.cells import ALONE, Cell
from cpus.judging import Judged

NEEDS = "needs a processor with"  # what hal/choose.py says of a file that model.toml keeps from this processor


def may_be_refused(cell: Cell) -> str:
    """Why this cell may be refused at its start, with an error; empty: it may not."""
    if cell.backend == "openvino" and cell.file.endswith(".tflite"):
        return "OpenVINO reads no TFLite file that is INT8 from end to end"
    if cell.backend == "openvino" and cell.machine.startswith("cortex"):
        return "OpenVINO's ARM plugin does not compile INT8 files"
    return ""


def unexpected(cell: Cell, judged: Judged) -> str:
    """What must not be: a wrong answer that the golden pictures let pass, a file that is refused or dies where it is
    not known to, a bundle that does not decide with ONNX Runtime alone. Empty: all is as it must be."""
    if judged.outcome == "right":
        return ""
    if judged.outcome == "refused" and not judged.golden and (may_be_refused(cell) or NEEDS in judged.why):
        return ""
    if judged.exact is not None and judged.outcome == "wrong":
        return f"wrong: {judged.exact.flips} of {judged.pictures} verdicts are not those of the file computed exactly"
    first = judged.why.splitlines()[0] if judged.why else ""
    if cell.backend == ALONE:
        return f"does not decide with ONNX Runtime alone: {judged.outcome}: {first}"
    return f"{judged.outcome}: {first}"
