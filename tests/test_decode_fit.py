"""Whether a model's outputs fit a decoder is known before the first frame, and said so that a person can act."""

from __future__ import annotations

import numpy as np
import pytest

from lineside.errors import ConfigError
from lineside.records import DecodeSettings, Detections, InputSpec, Placement, Tensor, TensorSpec
from lineside.registry import names
from lineside.vision.decode import findings, fitting, open_decoder

COCO = tuple(f"class {number}" for number in range(80))
FACE = ("face",)
WHOLE = Placement(1.0, 1.0, 0.0, 0.0, 640, 640, 640, 640)


def size(width: int | None, height: int | None) -> InputSpec:
    return InputSpec(width, height, "rgb", "nchw", resize="letterbox" if width else "pad")


def out(name: str, *shape: int | None, dtype: str = "float32", scale: float = 1.0, zero: int = 0) -> TensorSpec:
    return TensorSpec(name, shape, dtype, scale, zero)


YUNET = tuple(
    out(f"{kind}_{stride}", 1, (320 // stride) ** 2, channels)
    for kind, channels in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10))
    for stride in (8, 16, 32)
)
NANODET = tuple(
    out(f"{kind}_{stride}", 1, (320 // stride) ** 2, channels)
    for kind, channels in (("cls_pred_stride", 80), ("dis_pred_stride", 32))
    for stride in (8, 16, 32)
)
SSD = (out("a", 1, 10, 4), out("b", 1, 10), out("c", 1, 10), out("d", 1))
FITTING = {
    "classify": ((out("logits", 1, 80),), COCO, size(224, 224)),
    "yolov5": ((out("output0", 1, 25200, 85),), COCO, size(640, 640)),
    "yolov8": ((out("output0", 1, 84, 8400),), COCO, size(640, 640)),
    "yolo_e2e": ((out("output0", 1, 300, 6),), COCO, size(640, 640)),
    "yolox": ((out("output", 1, 3549, 85),), COCO, size(416, 416)),
    "ssd": (SSD, COCO, size(300, 300)),
    "nanodet": (NANODET, COCO, size(320, 320)),
    "fastestdet": ((out("758", 1, 85, 22, 22),), COCO, size(352, 352)),
    "yunet": (YUNET, FACE, size(320, 320)),
    "ultraface": ((out("scores", 1, 4420, 2), out("boxes", 1, 4420, 4)), FACE, size(320, 240)),
    "blazeface": ((out("r", 1, 896, 16), out("c", 1, 896, 1)), FACE, size(128, 128)),
    "detr": ((out("logits", 1, 300, 80), out("pred_boxes", 1, 300, 4)), COCO, size(640, 640)),
    "labelled_boxes": (
        (out("boxes", None, 4), out("labels", None, dtype="int64"), out("scores", None)),
        COCO,
        size(640, 640),
    ),
    "detection_output": ((out("detection_out", 1, 1, 200, 7),), COCO, size(300, 300)),
    "yolov7_e2e": ((out("output", None, 7),), COCO, size(640, 640)),
    "nas_flat": ((out("predictions", 300, 7),), COCO, size(640, 640)),
    "efficientdet": (
        (out("regression", 1, 49104, 4), out("classification", 1, 49104, 80)),
        COCO,
        size(512, 512),
    ),
    "fomo": ((out("grid", 1, 12, 12, 3),), ("nut", "bolt"), size(96, 96)),
    "anomaly": ((out("pred_score", 1), out("anomaly_map", 1, 1, 256, 256)), ("anomaly",), size(256, 256)),
}


def test_every_decoder_has_outputs_here() -> None:
    assert set(FITTING) == set(names("decoder"))


@pytest.mark.parametrize("name", FITTING)
def test_a_decoder_is_found_by_the_outputs_of_its_family(name: str) -> None:
    assert name in fitting(*FITTING[name])


@pytest.mark.parametrize("name", FITTING)
def test_a_decoder_takes_outputs_in_any_order(name: str) -> None:
    outputs, labels, input = FITTING[name]
    assert name in fitting(outputs[::-1], labels, input)


@pytest.mark.parametrize("name", FITTING)
def test_outputs_of_another_family_are_refused_with_what_came_what_fits_and_what_was_expected(name: str) -> None:
    other = "classify" if name in ("yolov8", "detr", "efficientdet") else "yolov8"
    outputs, labels, input = FITTING[name]
    with pytest.raises(ConfigError) as refused:
        open_decoder(other, outputs, labels, input, DecodeSettings())
    said = str(refused.value)
    assert f"decode.name = '{other}'" in said
    assert outputs[0].name in said
    assert "expected" in said
    assert name in said.partition("--decode")[2]


@pytest.mark.parametrize(
    "name", ["classify", "yolov5", "yolov8", "yolox", "nanodet", "fastestdet", "detr", "efficientdet"]
)
def test_a_wrong_label_count_is_refused_with_both_numbers(name: str) -> None:
    outputs, _, input = FITTING[name]
    with pytest.raises(ConfigError, match=r"(?s)79.*80|80.*79"):
        open_decoder(name, outputs, COCO[:79], input, DecodeSettings())


@pytest.mark.parametrize("name", ["yunet", "ultraface", "blazeface"])
def test_a_face_decoder_wants_one_label(name: str) -> None:
    outputs, _, input = FITTING[name]
    with pytest.raises(ConfigError, match="2 labels were given"):
        open_decoder(name, outputs, ("face", "mask"), input, DecodeSettings())


def test_a_background_line_too_many_is_explained() -> None:
    with pytest.raises(ConfigError, match='drop the "background" line'):
        open_decoder("classify", (out("logits", 1, 80),), ("background", *COCO), size(224, 224), DecodeSettings())


def test_a_grid_of_another_size_than_the_input_is_refused() -> None:
    outputs, labels, _ = FITTING["yolox"]
    with pytest.raises(ConfigError, match=r"\[1, 8400, 5 \+ classes\] for 640 x 640"):
        open_decoder("yolox", outputs, labels, size(640, 640), DecodeSettings())


def test_one_scale_for_boxes_in_pixels_and_scores_is_refused() -> None:
    spoilt = (out("output0", 1, 84, 8400, dtype="int8", scale=2.5, zero=-128),)
    with pytest.raises(ConfigError, match="rounds every score to 0: export boxes and scores as two outputs"):
        open_decoder("yolov8", spoilt, COCO, size(640, 640), DecodeSettings())


def test_end_to_end_rows_are_not_taken_for_the_candidates_of_two_classes() -> None:
    assert fitting((out("output0", 1, 300, 6),), ("ok", "dent"), size(640, 640)) == ["yolo_e2e"]
    assert "yolov8" in fitting((out("output0", 1, 8400, 6),), ("ok", "dent"), size(640, 640))


def test_free_sizes_are_no_misfit() -> None:
    assert "yolov8" in fitting((out("output0", None, 84, None),), COCO, size(640, 640))
    free = tuple(TensorSpec(each.name, (None, None, each.shape[2]), each.dtype) for each in YUNET)
    assert fitting(free, FACE, size(None, None)) == ["yunet"]


def head(count: int, seed: int) -> np.ndarray:
    """A head [84, N] whose candidates are noise, but for a few objects with neighbours that overlap them."""
    random = np.random.default_rng(seed)
    columns = np.zeros((84, count), np.float32)
    columns[:2] = random.uniform(0.05, 0.95, (2, count))
    columns[2:4] = random.uniform(0.02, 0.3, (2, count))
    columns[4:] = random.uniform(0, 0.2, (80, count))
    for at in (2 * random.choice(count // 2, 12, replace=False)).tolist():
        columns[4 + int(random.integers(80)), at] = random.uniform(0.3, 1.0)
        columns[:2, at + 1] = columns[:2, at]
        columns[2:, at + 1] = columns[2:, at] * np.float32(0.99)
    return columns


def as_split(columns: np.ndarray) -> tuple[Tensor, ...]:
    return Tensor("scores", columns[None, 4:]), Tensor("boxes", columns[None, :4])


def as_rows(columns: np.ndarray) -> tuple[Tensor, ...]:
    return (Tensor("output0", np.ascontiguousarray(columns.T)[None]),)


def as_pixels(columns: np.ndarray) -> tuple[Tensor, ...]:
    scaled = columns.copy()
    scaled[:4] *= 640
    return (Tensor("output0", scaled[None]),)


def decode(outputs: tuple[Tensor, ...], **settings: object) -> Detections:
    specs = tuple(
        TensorSpec(each.name, each.raw.shape, each.raw.dtype.name, each.scale, each.zero_point) for each in outputs
    )
    decoder = open_decoder("yolov8", specs, COCO, size(640, 640), DecodeSettings(**settings))  # type: ignore[arg-type]
    seen = decoder.decode(outputs, WHOLE)
    assert isinstance(seen, Detections)
    return seen


@pytest.mark.parametrize("form", [as_split, as_rows, as_pixels])
@pytest.mark.parametrize("seed", range(5))
def test_the_forms_that_exporters_give_one_head_decode_to_the_same(form: object, seed: int) -> None:
    columns = head(400, seed)
    plain = decode((Tensor("output0", columns[None]),))
    assert 5 < len(plain.boxes) <= 12
    other = decode(form(columns))  # type: ignore[operator]
    assert other.class_ids.tolist() == plain.class_ids.tolist()
    assert np.allclose(other.scores, plain.scores)
    assert np.allclose(other.boxes, plain.boxes, atol=1e-2)


@pytest.mark.parametrize("seed", range(5))
def test_a_quantised_head_is_decoded_as_its_real_values_are(seed: int) -> None:
    scale, zero = 1 / 255, -128
    raw = (np.rint(head(400, seed) / scale) + zero).clip(-128, 127).astype(np.int8)
    quantised = Tensor("output0", raw[None], scale, zero)
    plain = decode((Tensor("output0", quantised.real()),), boxes="unit")
    found = decode((quantised,))
    assert len(found.boxes) > 5
    assert np.array_equal(found.boxes, plain.boxes)
    assert np.array_equal(found.scores, plain.scores)


def test_a_class_without_a_label_is_named_by_its_number() -> None:
    seen = Detections(np.zeros((1, 4), np.float32), np.ones(1, np.float32), np.array([85], np.int32))
    assert findings(seen, COCO)[0].label == "class 85"
