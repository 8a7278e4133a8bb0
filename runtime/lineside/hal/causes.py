"""What a runtime's refusal of a model file means for the user. Pure; the patterns are of the runtimes' own messages."""

from __future__ import annotations

import re

_SHORT = 300  # characters of a vendor's message in one of ours
_EXPORT_OPSET = "export again for operator set {0} or lower (torch.onnx.export(opset_version={0}), opset={0})"

# pattern in the runtime's message -> the cause, with the pattern's groups in it; the first that fits counts
_CAUSES: tuple[tuple[str, str], ...] = (
    (
        r"IR version: (\d+), max supported IR version: (\d+)",
        "the file's IR version is {1}, and this runtime reads up to IR version {2}: set model.ir_version = {2} with "
        "the onnx package and save it again, export with an older onnx package, or install a newer runtime",
    ),
    (
        r"Opset (\d+) is under development.*?till opset (\d+)",
        "the file's operator set (opset) is {1}, and this runtime knows up to {2}: "
        + _EXPORT_OPSET.replace("{0}", "{2}")
        + ", or install a newer runtime",
    ),
    (
        r"No Op registered for (\S+) with domain_version of (\d+)",
        "operator {1} is not in operator set (opset) {2} that the file names: export it again with a current exporter",
    ),
    (
        r"([\w.]+):(\w+)\(-?\d+\) is not a registered function/op",
        "operator {2} of {1} is an extension that this runtime does not have: export without it (for suppression: "
        "without NMS; for TensorRT plugins: without them)",
    ),
    (
        r"No opset import for domain '?([\w.]+)'?",
        "its operators of {1} are an extension that the file does not declare: export without them",
    ),
    (
        r"Unrecognized attribute: (\w+) for operator (\w+)",
        "{1} is no attribute of {2} in the operator set (opset) that the file names: the two don't belong together: "
        "export it again instead of changing the operator set by hand",
    ),
    (
        r"Could not find an implementation for (\w+)\((\d+)\)",
        "this runtime has no implementation of operator {1} (operator set {2}) for the file's data types: export with "
        "float32, or another operator set",
    ),
    (
        r"No conversion rule found for operations?: ([^\n|]+)",
        "this runtime does not know the operators {1}: export without them, or run the file on another backend",
    ),
    (
        r"(?i)external data|external initializer|externally stored data",
        "its weights are in another file, which is missing, too short or not readable: copy both files together, or "
        "make one of them: onnx.save(onnx.load(path), new_path)",
    ),
    (
        r"Select TensorFlow op\(s\)|Flex\w+",
        "it holds TensorFlow operators outside of TFLite's own (Flex): convert again with TFLITE_BUILTINS only",
    ),
    (
        r"(?:Encountered unresolved custom op: |custom op )(\w+)",
        "operator {1} is an extension that this runtime does not have: convert without it",
    ),
    (
        r"Didn't find op for builtin opcode '(\w+)' version '(\d+)'",
        "operator {1} in version {2} is newer than this runtime: install a newer one, or convert with an older "
        "converter",
    ),
)


def cause(message: object) -> str | None:
    """Why the runtime refused the file, and what to do; None where its message is none of the known ones."""
    text = str(message)
    for pattern, words in _CAUSES:
        if found := re.search(pattern, text, re.DOTALL):
            groups = [group.strip(" .,;") for group in found.groups()]
            return words.format("", *groups)
    return None


def one_line(message: object) -> str:
    """A vendor's message as one line of at most 300 characters: where it is longer its middle is left out, as its head
    says what failed and its end says why."""
    lines = [line.strip() for line in str(message).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from", "Check '", "Summary:"))]
    text = " ".join(telling or lines) or type(message).__name__
    if len(text) <= _SHORT:
        return text
    head = _SHORT // 3
    return f"{text[:head].rstrip()} ... {text[-(_SHORT - head - 5) :].lstrip()}"
