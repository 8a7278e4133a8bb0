"""What a model file says of itself: format, inputs, outputs, precision and the metadata its exporter left in it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lineside.commands.graph_peek import Peek, peek_onnx, peek_openvino, peek_tflite
from lineside.commands.model_notes import METADATA, Note, Notes, notes_of
from lineside.commands.tflite_notes import appended
from lineside.errors import ConfigError
from lineside.hal.artefact import check_batch, check_file, first_line
from lineside.hal.causes import cause
from lineside.hal.ort import session_specs
from lineside.hal.tflite import read_tflite
from lineside.records import Artefact, TensorSpec
from lineside.registry import vendor
from lineside.store.bundle import artefact_files

Format = Literal["onnx", "openvino", "tflite", "edgetpu"]
Precision = Literal["int8", "fp16", "fp32", "mixed"]

RUNTIMES = {"onnx": ("onnxruntime", "openvino"), "tflite": ("litert", "openvino"), "openvino": ("openvino",)}


@dataclass(frozen=True, slots=True)
class ModelFacts:
    path: Path
    format: Format
    precision: Precision
    input: TensorSpec
    outputs: tuple[TensorSpec, ...]
    metadata: dict[str, str] = field(default_factory=dict)  # as the exporter wrote it
    others: tuple[TensorSpec, ...] = ()  # inputs beside the picture, which need a constant each
    notes: Notes = field(default_factory=dict)  # what the metadata and the files beside the model come to
    peek: Peek = field(default_factory=Peek)  # what its graph does first and last
    said_layout: Literal["nchw", "nhwc"] | None = None  # by the user

    @property
    def artefact(self) -> Artefact:
        """For opening it where it lies; without its hash."""
        return Artefact(str(self.path), self.format, self.precision, "", self.layout)

    @property
    def layout(self) -> Literal["nchw", "nhwc"]:
        """Where the 3 (or 1) channels are; NCHW where both could be."""
        if self.said_layout is not None:
            return self.said_layout
        channels_last = self.input.shape[-1] in (1, 3) and self.input.shape[1] not in (1, 3)
        return "nhwc" if channels_last else "nchw"

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names from the notes, or none."""
        note = self.notes.get("labels")
        return tuple(note.value) if note else ()

    @property
    def size_px(self) -> tuple[int, int] | None:
        """Width and height of the input, or None where it takes any."""
        _, *sizes = self.input.shape
        height, width = sizes[:2] if self.layout == "nhwc" else sizes[1:]
        return None if height is None or width is None else (width, height)


def read_facts(path: Path) -> ModelFacts:
    """Raises ConfigError when the file is no model that lineside knows, or the runtime that reads it is missing."""
    kind = {".onnx": "onnx", ".tflite": "tflite", ".xml": "openvino"}.get(path.suffix.lower())
    if kind is None:
        raise ConfigError(f"{path}: model files are .onnx, .tflite or OpenVINO's .xml: export the model to one")
    read = {"onnx": _onnx, "tflite": _tflite, "openvino": _openvino}[kind]
    for part in artefact_files(path):
        if not part.is_file():
            holds = "" if part == path else f": it holds the weights of {path.name}: copy both"
            raise ConfigError(f"{part}: model file does not exist{holds}")
    check_file(Artefact(str(path), kind, "fp32", ""), (kind,), "lineside")  # type: ignore[arg-type]
    facts = read(path)
    facts = replace(facts, notes=notes_of(path, facts.metadata, {key: note.value for key, note in facts.notes.items()}))
    if len(facts.input.shape) != 4:
        advice = ": export it with a batch of one, as torch.rand(1, 3, H, W)" if len(facts.input.shape) == 3 else ""
        raise ConfigError(f"{path}: input {facts.input.name!r} is {facts.input.shape}: a picture needs 4 sizes{advice}")
    check_batch(str(path), facts.input)
    return facts


def _onnx(path: Path) -> ModelFacts:
    try:
        ort = vendor("onnxruntime")
    except ConfigError:
        return _openvino(path)
    content = path.read_bytes()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # only to read it
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its error classes share no base
        raise _unreadable(path, "ONNX Runtime", error) from error
    inputs, outputs = session_specs(session)
    picture, others = _picture(path, inputs)
    return ModelFacts(
        path,
        "onnx",
        _onnx_precision(content),
        picture,
        outputs,
        dict(session.get_modelmeta().custom_metadata_map),
        others,
        peek=peek_onnx(path, picture.name, [output.name for output in outputs]),
    )


def _onnx_precision(content: bytes) -> Precision:
    """By the operators' names in the file: no ONNX package is needed for that."""
    if b"QuantizeLinear" in content or b"QLinearConv" in content or b"ConvInteger" in content:
        return "int8"
    return "fp32"


def _tflite(path: Path) -> ModelFacts:
    file = read_tflite(str(path))
    spec, others = _picture(path, file.inputs)
    kind: Format = "edgetpu" if file.for_edgetpu else "tflite"
    precision = "int8" if spec.dtype in ("int8", "uint8") else _float_tflite_precision(path)
    table, told = appended(path)
    peek = peek_tflite(path, spec.name, [output.name for output in file.outputs])
    notes = {key: Note(value, METADATA) for key, value in told.items()}
    return ModelFacts(path, kind, precision, spec, file.outputs, table, others, notes, peek)


def _float_tflite_precision(path: Path) -> Precision:
    """A TFLite model that takes floats: what its tensors are made of."""
    try:
        package = vendor("ai_edge_litert.interpreter")
    except ConfigError:
        return "fp32"
    try:
        kinds = {detail["dtype"].__name__ for detail in package.Interpreter(str(path)).get_tensor_details()}
    except (RuntimeError, ValueError) as error:
        raise _unreadable(path, "LiteRT", error) from error
    return "mixed" if "int8" in kinds or "uint8" in kinds else "fp16" if "float16" in kinds else "fp32"


def _openvino(path: Path) -> ModelFacts:
    ov = vendor("openvino")
    try:
        model = ov.Core().read_model(str(path))
    except RuntimeError as error:
        raise _unreadable(path, "OpenVINO", error) from error
    kinds = {node.get_type_name() for node in model.get_ops()}
    if "FakeQuantize" in kinds:
        precision: Precision = "int8"
    else:
        weights = {node.get_element_type().get_type_name() for node in model.get_ops() if _is_constant(node)}
        precision = "fp16" if "f16" in weights else "fp32"
    metadata: dict[str, str] = {}
    for section in (
        "framework",
        "model_info",
    ):  # what an ONNX file said before it was converted, and what Model API reads
        if model.has_rt_info([section]):
            notes = model.get_rt_info([section]).value  # read from a file, they are strings
            told = {key: value if isinstance(value, str) else str(value.astype(str)) for key, value in notes.items()}
            metadata |= told
    inputs, outputs = (tuple(_ov_spec(port) for port in ports) for ports in (model.inputs, model.outputs))
    picture, others = _picture(path, inputs)
    names = [output.name for output in outputs]
    return ModelFacts(
        path,
        "onnx" if path.suffix == ".onnx" else "openvino",
        precision,
        picture,
        outputs,
        metadata,
        others,
        peek=peek_openvino(model, model.inputs[inputs.index(picture)], model.outputs, names),
    )


def _is_constant(node: Any) -> bool:
    return bool(node.get_type_name() == "Constant")


def _ov_spec(port: Any) -> TensorSpec:
    shape = tuple(None if size.is_dynamic else size.get_length() for size in port.get_partial_shape())
    name = port.get_any_name() if port.get_names() else ""
    return TensorSpec(name, shape, str(port.get_element_type().to_dtype().name))


def _picture(path: Path, inputs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, tuple[TensorSpec, ...]]:
    """The input of four sizes, and the others. Raises ConfigError where there is not one such input."""
    pictures = [spec for spec in inputs if len(spec.shape) == 4] if len(inputs) > 1 else list(inputs)
    if len(pictures) != 1:
        found = ", ".join(spec.name for spec in inputs) or "none"
        raise ConfigError(f"{path}: the model has {len(inputs)} inputs ({found}): lineside feeds one picture")
    return pictures[0], tuple(spec for spec in inputs if spec is not pictures[0])


def _unreadable(path: Path, runtime: str, error: Exception) -> ConfigError:
    if why := cause(error):
        return ConfigError(f"{path}: {runtime} cannot read this model: {why} ({first_line(error)})")
    return ConfigError(f"{path}: {runtime} cannot read this model ({first_line(error)}): copy or export it again")
