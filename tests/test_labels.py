"""Class names in the forms that people have them in: understood, or refused by name; never syntax as a name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lineside.cli import main
from lineside.errors import ConfigError
from lineside.records import Detections
from lineside.store.bundle import open_bundle
from lineside.store.labels import Labels, parse_labels, read_labels
from lineside.vision.decode import findings


def names(text: str, file: str = "labels.txt") -> tuple[str, ...]:
    found = read_labels(text.encode(), file)
    assert found.closed == ()
    return found.names


LABEL_MAP = """
item {
  id: 1
  name: '/m/1'
  display_name: 'person'
}
item { id: 2 name: "bicycle" }
item {
 id: 4
 name: 'car'
}
"""
ULTRALYTICS = "path: ../x\ntrain: images/train\nval: images/val\nnc: 2\nnames:\n  0: bright\n  1: red  # of paint\n"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("labels.txt", "bright\nred\n"),
        ("labels.txt", "\ufeffbright\r\nred\r\n\r\n"),
        ("labels.txt", "0 bright\n1 red\n"),  # Teachable Machine
        ("labels.txt", "0  bright\n1  red"),  # Coral
        ("labels.txt", "0: bright\n1: red"),
        ("labels.txt", "1,red\n0,bright"),
        ("labels.txt", "0\tbright\n1\tred"),
        ("labels.txt", "0. bright\n1. red"),
        ("data.yaml", ULTRALYTICS),
        ("labels.txt", ULTRALYTICS),  # whatever it is called
        ("data.yaml", "names: [bright, 'red']\nnc: 2"),
        ("data.yaml", 'names: ["bright",\n  "red"]  # two\n'),
        ("data.yaml", "nc: 2\nnames:\n- bright\n- red\nroboflow:\n  license: CC BY 4.0\n"),
        ("data.yml", "names: {0: bright, 1: red}"),
        ("data.yaml", "nc: 2\nnames:\n  bright: 0\n  red: 1\n"),
        ("labels.yaml", "- bright\n- red\n"),
        ("labels.yaml", "0: bright\n1: red\n"),
        (
            "metadata.yaml",
            "description: a model: of two\ntask: detect\nnames:\n  0: bright\n  1: red\nargs:\n  batch: 1\n",
        ),
        ("labels.json", '["bright", "red"]'),
        ("labels.json", '{"0": "bright", "1": "red"}'),
        ("labels.json", '{"bright": 0, "red": 1}'),
        ("config.json", '{"model_type": "mobilevit", "id2label": {"0": "bright", "1": "red"}, "label2id": {"x": 3}}'),
        ("class_index.json", '{"0": ["n01", "bright"], "1": ["n02", "red"]}'),
        ("coco.json", '{"images": [], "categories": [{"id": 0, "name": "bright"}, {"id": 1, "name": "red"}]}'),
        ("labels.json", '[{"name": "bright"}, {"name": "red"}]'),
        ("labels.txt", '["bright", "red"]'),
        ("clsidx_to_labels.txt", "{0: 'bright',\n 1: 'red'}"),  # a Python dictionary
        ("metadata.json", '{"tfjsVersion": "1.3", "labels": ["bright", "red"]}'),  # Teachable Machine
        ("labels.txt", "classes:\n  - bright\n  - red\n"),
        ("classes.csv", "id,name\n1,red\n0,bright\n"),
        ("classes.csv", "index;mid;display_name\n0;/m/1;bright\n1;/m/2;red\n"),
        ("classes.csv", "label\nbright\nred\n"),
        ("classes.csv", "bright,0\nred,1"),
        ("classes.tsv", "0\tbright\n1\tred"),
    ],
)
def test_two_classes_are_read_from_every_form(file: str, text: str) -> None:
    assert names(text, file) == ("bright", "red")


def test_gaps_in_a_numbered_list_are_classes_without_a_name() -> None:
    coral = "0  person\n1  bicycle\n3  car\n"
    assert read_labels(coral.encode(), "coco_labels.txt") == Labels(
        ("person", "bicycle", "n/a", "car"), "a numbered list"
    )
    assert names(json.dumps({"0": "a", "3": "b"}), "l.json") == ("a", "n/a", "n/a", "b")


@pytest.mark.parametrize(
    "plain", ["3 mm\n5 mm", "0 mm\n1 mm", "1 mm", "2 eyes\n4 legs", "12 V\nred", "person\n1 car", "a: b\nc"]
)
def test_numbers_that_belong_to_the_names_stay(plain: str) -> None:
    assert names(plain) == tuple(plain.splitlines())


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("labels.txt", "1 person\n2 bicycle\n4 car"),
        ("labels.json", '{"1": "person", "2": "bicycle", "4": "car"}'),
        (
            "label_map.pbtxt",
            LABEL_MAP,
        ),
        ("classes.csv", "id,name\n1,person\n2,bicycle\n4,car"),
    ],
)
def test_numbers_from_one_can_be_read_in_two_ways(file: str, text: str) -> None:
    found = read_labels(text.encode(), file)
    assert found.names == ("n/a", "person", "bicycle", "n/a", "car")
    assert found.closed == ("person", "bicycle", "car")


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("data.yaml", "path: ../x\ntrain: images\nnc: 2\n", "is YAML, and 'path: ../x' is no class number and name"),
        ("data.yaml", "names: coco.names\n", "is no list of names"),
        ("data.yaml", "names: [a, b", "no ']' at its end"),
        ("data.yaml", "names:\n  0: a\n  0: b\n", "twice"),
        ("data.yaml", "names:\n  group:\n    0: a\n", "deeper"),
        ("data.yaml", "", "is YAML, and holds"),
        ("labels.json", '{"0": "a"', "is JSON, and is damaged"),
        ("labels.json", '{"model": "x", "labels": 3}', "is JSON, and holds no list of names"),
        ("labels.json", "[1, 2]", "is JSON"),
        ("labels.json", '{"a": 0, "b": 0}', "one class number to two names"),
        ("labels.json", '{"0": "a", "900000": "b"}', "numbers 2 classes up to 900000"),
        ("labels.json", "[]", "holds no class names"),
        ("classes.csv", "x,y,z\n1,2,3\n", "its header names no column"),
        ("classes.csv", "id,colour\n0,red\n", "names no column of class names"),
        ("classes.csv", "id,name\n0,a\n0,b\n", "twice"),
        ("classes.csv", "id,name\n0\n", "fewer columns"),
        ("map.pbtxt", "item { id: 1 }", "is a label map"),
        ("labels.txt", "<annotation><object/></annotation>", "is XML or HTML"),
    ],
)
def test_what_cannot_be_understood_is_refused_by_the_name_of_its_form(file: str, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match="class names alone, one a line") as refused:
        read_labels(text.encode(), file)
    assert said in str(refused.value)
    assert f"labels {file}" in str(refused.value)


def test_names_of_any_script_survive_and_quotes_go() -> None:
    assert names("names:\n  0: 明亮\n  1: 'царапина: ё'\n  2: \"a # b\"\n", "data.yaml") == (
        "明亮",
        "царапина: ё",
        "a # b",
    )
    assert names("names: ['it''s', \"a, b\", c d]", "data.yaml") == ("it's", "a, b", "c d")


def test_a_packed_list_of_lines_is_read_as_it_was_before(tmp_path: Path) -> None:
    assert parse_labels(b"0 person\n1 car\n", "labels.txt") == ("0 person", "1 car")


def test_a_class_without_a_label_is_logged_once_and_named_by_its_number(caplog: pytest.LogCaptureFixture) -> None:
    seen = Detections(np.zeros((2, 4), np.float32), np.float32([0.9, 0.8]), np.int32([0, 71]))
    for _ in range(3):
        assert [each.label for each in findings(seen, ("bright", "red", "blue"))] == ["bright", "class 71"]
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert "found class 71, but its bundle has 3 labels (0 to 2)" in told[0]


# --- by `bundle new`

CASES = Path(__file__).parent / "cases" / "models"


def new(model: str, labels: Path, out: Path) -> int:
    return main(["bundle", "new", str(CASES / model), "--labels", str(labels), "-o", str(out)])


@pytest.mark.parametrize(("file", "first"), [("ltm.txt", "not a person"), ("data.yaml", "bright")])
def test_the_shared_label_files_are_understood(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, first: str
) -> None:
    assert new("external/y8.onnx", CASES / file, tmp_path / "made") == 0
    assert open_bundle(tmp_path / "made").labels[0] == first
    assert len(open_bundle(tmp_path / "made").labels) == 2
    assert f"guessed labels 2 classes ({file} is" in capsys.readouterr().out


def test_labels_numbered_from_one_are_read_as_the_model_has_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbered = tmp_path / "numbered.txt"
    numbered.write_text("1 bright\n2 red\n")
    assert new("external/y8.onnx", numbered, tmp_path / "made") == 0  # it has two classes, not three
    assert open_bundle(tmp_path / "made").labels == ("bright", "red")
    assert "class 0 is 'bright'" in capsys.readouterr().out
    numbered.write_text("1 bright\n2 red\n4 blue\n")
    assert new("external/y8.onnx", numbered, tmp_path / "other") == 78
    assert "its class numbers begin at 1, and neither 3 classes from 0 and 5 with class 0" in capsys.readouterr().err


def test_labels_that_are_not_as_many_as_the_models_own_names_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "three.txt").write_text("a\nb\nc\n")
    assert new("y8_cjk.onnx", tmp_path / "three.txt", tmp_path / "made") == 78
    said = capsys.readouterr().err
    assert "3 labels" in said
