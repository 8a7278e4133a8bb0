"""What exporters write about a model, in its file and beside it, becomes the words of a bundle."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import flatbuffers
import pytest

from lineside.commands.model_notes import notes_of
from lineside.commands.small_yaml import parse
from lineside.commands.tflite_notes import appended

ULTRALYTICS_YAML = """\
description: Ultralytics YOLO11n model trained on coco.yaml
author: Ultralytics
date: '2025-01-02T03:04:05'   # of the export
version: 8.3.0
license: AGPL-3.0 License (https://ultralytics.com/license)
task: detect
imgsz:
- 640
- 480
names:
  0: person
  1: 'it''s'
  2: "\\u5212 # x"
args:
  half: false
  nms: true
list: [a, 'b c', {x: 1, y: [1, 2]}]
rows:
  - id: 1
    name: cat
  - id: 2
    name: dog
"""


def test_yaml_as_exporters_write_it_is_read() -> None:
    told = parse(ULTRALYTICS_YAML)
    assert told["names"] == {0: "person", 1: "it's", 2: "划 # x"}
    assert told["imgsz"] == [640, 480]
    assert told["date"] == "2025-01-02T03:04:05"
    assert told["license"] == "AGPL-3.0 License (https://ultralytics.com/license)"
    assert told["args"] == {"half": False, "nms": True}
    assert told["list"] == ["a", "b c", {"x": 1, "y": [1, 2]}]
    assert told["rows"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert parse("") is None
    assert parse("names: [no, 1e3, -2, ~]") == {"names": ["no", 1000.0, -2, None]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &x 1", "line 1: '&x 1' is beyond"),
        ("a: 1\nb: |\n  x", "line 2: '|' is beyond"),
        ("a: [1, 2", "line 1: a bracket without end"),
        ("\ta: 1", "line 1: a tab"),
        ("a: 1\n   b: 2", "line 2: indented otherwise"),
        ("a: 'x", "line 1: a quoted text without end"),
        ("a: 1\na: 2", "line 2: 'a' is there twice"),
        ("a: !!python/object {}", "line 1: '!!python/object {}' is beyond"),
        ("a: " + "[" * 200, "nested too deep"),
    ],
)
def test_yaml_beyond_that_is_refused_by_its_line(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("|", r"\|").replace("(", r"\(")):
        parse(text)


def test_what_is_nearer_to_the_weights_wins(tmp_path: Path) -> None:
    (tmp_path / "metadata.yaml").write_text(ULTRALYTICS_YAML)
    (tmp_path / "data.yaml").write_text("names: [cat, dog]\n")
    notes = notes_of(tmp_path / "model.onnx", {"names": "{0: 'a', 1: 'b', 2: 'c'}"}, {})
    assert notes["labels"] == (("a", "b", "c"), "the model's metadata")
    assert notes["size"] == ((480, 640), "metadata.yaml beside it")
    assert notes["nms"].value is True
    assert notes_of(tmp_path / "model.onnx", {}, {})["labels"].value == ("person", "it's", "划 # x")


def test_openvinos_model_info_is_understood(tmp_path: Path) -> None:
    told = {
        **{"mean_values": "123.675 116.28 103.53", "scale_values": "58.395 57.12 57.375"},
        **{"reverse_input_channels": "YES", "resize_type": "fit_to_window_letterbox", "pad_value": "114"},
        **{"confidence_threshold": "0.35", "iou_threshold": "0.6", "labels": "nut big_bolt"},
    }
    notes = {key: note.value for key, note in notes_of(tmp_path / "model.xml", told, {}).items()}
    assert notes["mean"] == (123.675, 116.28, 103.53)
    assert notes["std"] == (58.395, 57.12, 57.375)
    assert (notes["color"], notes["resize"], notes["pad_value"]) == ("rgb", "letterbox", 114)
    assert (notes["min_score"], notes["nms_iou"]) == (0.35, 0.6)
    assert notes["labels"] == ("nut", "big_bolt")
    turned = notes_of(tmp_path / "model.xml", {"reverse_input_channels": "False", "scale_values": "255.0"}, {})
    assert turned["color"].value == "bgr"
    assert (turned["mean"].value, turned["std"].value) == ((0.0,) * 3, (255.0,) * 3)


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        (
            {"do_normalize": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "size": 224},
            {"mean": (127.5,) * 3, "std": (127.5,) * 3, "color": "rgb", "resize": "stretch"},
        ),
        (
            {"image_processor_type": "MobileViTImageProcessor", "size": {"shortest_edge": 288}, "crop_size": 256},
            {"mean": (0.0,) * 3, "std": (255.0,) * 3, "color": "bgr", "resize": "center_crop"},
        ),
        (
            {"do_rescale": False, "size": {"height": 640, "width": 480}},
            {"mean": (0.0,) * 3, "std": (1.0,) * 3, "color": "rgb", "size": (480, 640)},
        ),
    ],
)
def test_hugging_faces_preprocessor_is_understood(
    told: dict[str, object], wanted: dict[str, object], tmp_path: Path
) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(told))
    notes = {key: note.value for key, note in notes_of(tmp_path / "model.onnx", {}, {}).items()}
    for key, value in wanted.items():
        assert notes[key] == (pytest.approx(value) if key in ("mean", "std") else value)


def test_timms_config_and_the_transform_of_older_anomalibs_are_understood(tmp_path: Path) -> None:
    timm = {"pretrained_cfg": {"mean": [0.485, 0.456, 0.406], "std": [0.5, 0.5, 0.5], "crop_pct": 0.875}}
    (tmp_path / "config.json").write_text(json.dumps(timm))
    notes = notes_of(tmp_path / "model.onnx", {}, {})
    assert notes["mean"].value == pytest.approx((123.675, 116.28, 103.53))
    assert notes["crop_fraction"].value == 0.875
    steps = [{"height": 256}, {"mean": [0.4, 0.4, 0.4], "std": [0.2, 0.2, 0.2], "max_pixel_value": 255.0}]
    (tmp_path / "metadata.json").write_text(
        json.dumps({"image_threshold": 12.5, "transform": {"transform": {"transforms": steps}}})
    )
    notes = notes_of(tmp_path / "model.onnx", {}, {})
    assert notes["threshold"] == (12.5, "metadata.json beside it")
    assert notes["mean"].value == pytest.approx((102.0,) * 3)


# --- TFLite metadata, written here field by field as metadata_schema.fbs numbers them


def metadata_flatbuffer(mean: float, std: float, label_file: str) -> bytes:
    builder = flatbuffers.Builder(0)

    def vector(tables: list[int]) -> int:
        builder.StartVector(4, len(tables), 4)
        for each in reversed(tables):
            builder.PrependUOffsetTRelative(each)
        return builder.EndVector()

    def floats(value: float) -> int:
        builder.StartVector(4, 1, 4)
        builder.PrependFloat32(value)
        return builder.EndVector()

    def table(size: int, **fields: int) -> int:
        builder.StartObject(size)
        for key, value in fields.items():
            if key.startswith("byte"):
                builder.PrependInt8Slot(int(key[4:]), value, 0)
            else:
                builder.PrependUOffsetTRelativeSlot(int(key[4:]), value, 0)
        return builder.EndObject()

    means, stds = floats(mean), floats(std)
    options = table(2, slot0=means, slot1=stds)
    unit = table(2, byte0=1, slot1=options)
    units = vector([unit])
    picture = table(2, byte0=1)
    content = table(3, byte0=2, slot1=picture)
    taken = table(7, slot3=content, slot4=units)
    name = builder.CreateString(label_file)
    file = table(4, slot0=name, byte2=2)
    files = vector([file])
    given = table(7, slot6=files)
    inputs, outputs = vector([taken]), vector([given])
    graph = table(8, slot2=inputs, slot3=outputs)
    graphs = vector([graph])
    builder.Finish(table(8, slot3=graphs))
    return bytes(builder.Output())


def tflite(path: Path, metadata: bytes) -> Path:
    """Enough of a TFLite file: one empty buffer, one with the metadata, and the entry that names it."""
    builder = flatbuffers.Builder(0)
    data = builder.CreateByteVector(metadata)
    builder.StartObject(3)
    builder.PrependUOffsetTRelativeSlot(0, data, 0)
    full = builder.EndObject()
    builder.StartObject(3)
    empty = builder.EndObject()
    name = builder.CreateString("TFLITE_METADATA")
    builder.StartObject(2)
    builder.PrependUOffsetTRelativeSlot(0, name, 0)
    builder.PrependUint32Slot(1, 1, 0)
    entry = builder.EndObject()
    vectors = []
    for tables in ([empty, full], [entry]):
        builder.StartVector(4, len(tables), 4)
        for each in reversed(tables):
            builder.PrependUOffsetTRelative(each)
        vectors.append(builder.EndVector())
    builder.StartObject(8)
    builder.PrependUOffsetTRelativeSlot(4, vectors[0], 0)
    builder.PrependUOffsetTRelativeSlot(6, vectors[1], 0)
    builder.Finish(builder.EndObject(), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def test_tflite_metadata_tells_normalisation_colour_and_labels(tmp_path: Path) -> None:
    model = tflite(tmp_path / "model.tflite", metadata_flatbuffer(127.5, 64.0, "labelmap.txt"))
    with zipfile.ZipFile(model, "a") as archive:
        archive.writestr("labelmap.txt", "nut\nbig bolt\n")
    table, told = appended(model)
    assert table == {}
    assert told == {"mean": (127.5,) * 3, "std": (64.0,) * 3, "color": "rgb", "labels": ("nut", "big bolt")}


def test_a_tflite_file_whose_metadata_is_damaged_is_a_model_without(tmp_path: Path) -> None:
    whole = metadata_flatbuffer(127.5, 64.0, "labelmap.txt")
    for cut in (3, 20, len(whole) // 2):
        assert appended(tflite(tmp_path / "model.tflite", b"\xff" * 4 + whole[4:cut]))[1] == {}
