"""Bundles: what is read, what is refused and why, and what `lineside bundle new` makes of a model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lineside.cli import main
from lineside.errors import ConfigError
from lineside.records import Artefact, DecodeSettings, InputSpec
from lineside.store.bundle import open_bundle, read_bundle, sha256_of
from lineside.store.pack import pack


def classifier(path: Path, classes: int = 3, side: int | None = 8, metadata: dict[str, str] | None = None) -> Path:
    """An ONNX model whose logits are the means of the red, green and blue input planes, and zeros after them."""
    weights = np.zeros((3, classes), np.float32)
    weights[:, :3] = np.eye(3)[:, :classes]
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["image"], ["means"], axes=[2, 3], keepdims=0),
            helper.make_node("MatMul", ["means", "weights"], ["logits"]),
        ],
        "means",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, side or "height", side or "width"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, classes])],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    for key, value in (metadata or {}).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(model, str(path))
    return path


def a_bundle(folder: Path, model: Path, **more: object) -> Path:
    options: dict[str, object] = {
        "name": "parts",
        "version": "1.2.0",
        "task": "classify",
        "labels": ("red", "green", "blue"),
        "input": InputSpec(8, 8, "rgb", "nchw", std=(255.0,) * 3, resize="stretch"),
        "decode": "classify",
        "settings": DecodeSettings(),
        "artefacts": [Artefact(str(model), "onnx", "fp32", "")],
        "licence": "CC0-1.0",
        **more,
    }
    pack(folder, **options)  # type: ignore[arg-type]
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return a_bundle(tmp_path / "parts", classifier(tmp_path / "model.onnx"))


def edit(bundle: Path, old: str, new: str) -> None:
    text = (bundle / "model.toml").read_text()
    assert old in text
    (bundle / "model.toml").write_text(text.replace(old, new, 1))


# --- reading


def test_a_packed_bundle_reads_back_as_it_was_given(bundle: Path) -> None:
    read = open_bundle(bundle)
    assert (read.name, read.version, read.task, read.decode) == ("parts", "1.2.0", "classify", "classify")
    assert read.labels == ("red", "green", "blue")
    assert read.input == InputSpec(8, 8, "rgb", "nchw", std=(255.0,) * 3, resize="stretch")
    assert read.settings == DecodeSettings()
    assert read.artefacts[0].sha256 == sha256_of(bundle / "model.onnx")
    assert read.ref.digest.startswith("sha256:")


def test_the_digest_is_of_the_content_and_not_of_the_place(bundle: Path, tmp_path: Path) -> None:
    copied = tmp_path / "elsewhere" / "copy"
    shutil.copytree(bundle, copied)
    assert open_bundle(copied).digest == open_bundle(bundle).digest


def test_the_digest_changes_with_labels_settings_and_weights(bundle: Path, tmp_path: Path) -> None:
    digests = {open_bundle(bundle).digest}
    model = bundle / "model.onnx"
    for number, more in enumerate(
        [
            {"labels": ("red", "green", "violet")},
            {"settings": DecodeSettings(min_score=0.3)},
            {
                "artefacts": [
                    Artefact(str(classifier(tmp_path / "other.onnx", metadata={"a": "b"})), "onnx", "fp32", "")
                ]
            },
        ]
    ):
        digests.add(open_bundle(a_bundle(tmp_path / str(number), model, **more)).digest)
    assert len(digests) == 4


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('color = "rgb"', 'color = "rbg"', r"input\.color = 'rbg': input should be 'rgb', 'bgr' or 'gray'"),
        ("mean = [", "meen = [", r"input\.meen: unknown key"),
        ("min_score = 0.25", "min_score = 25", r"decode\.min_score = 25: .*less than or equal to 1"),
        ("std = [255.0, 255.0, 255.0]", "std = [255.0, 0.0, 255.0]", r"input: std = .* must be above 0"),
        ("width_px = 8\n", "", r"width_px and height_px: give both, or neither"),
        ('resize = "stretch"', 'resize = "pad"', r'"pad" is for models that take any size'),
        ('name = "classify"', 'name = "clasify"', r"decode\.name = 'clasify': unknown; known are classify, "),
        ('task = "classify"', 'task = "detect"', r'task = "detect": the decoder classify gives "classify"'),
        ('version = "1.2.0"\n', "", r"version: missing"),
        ("format = 1", "format = 2", r"format = 2: input should be 1"),
        ('file = "model.onnx"', 'file = "../model.onnx"', r"artefact\.0\.file = .* inside the bundle's folder"),
        ("format = 1", "format = ", r"model\.toml is not valid TOML"),
        ('labels = "labels.txt"', "labels = []", r"labels: give the name of a file .* or a list"),
        ('labels = "labels.txt"', 'labels = "classes.txt"', r'labels = "classes\.txt": cannot be read'),
    ],
)
def test_a_wrong_manifest_is_refused_with_path_value_and_remedy(bundle: Path, old: str, new: str, said: str) -> None:
    edit(bundle, old, new)
    with pytest.raises(ConfigError, match=said) as refused:
        open_bundle(bundle)
    assert all(line.startswith(f"bundle {bundle}: model.toml") for line in refused.value.lines)


def test_every_fault_of_a_manifest_is_told_at_once(bundle: Path) -> None:
    edit(bundle, 'color = "rgb"', 'color = "rbg"')
    edit(bundle, "nms_iou = 0.45", "nms_iou = 0")
    with pytest.raises(ConfigError) as refused:
        open_bundle(bundle)
    assert len(refused.value.lines) == 2


def test_a_changed_a_truncated_and_an_empty_model_file_are_refused(bundle: Path) -> None:
    model = bundle / "model.onnx"
    whole = model.read_bytes()
    for content, said in (
        (whole[:-1] + b"!", "cut short or changed after packing"),
        (whole[: len(whole) // 2], "cut short or changed after packing"),
        (b"", "is empty"),
    ):
        model.write_bytes(content)
        with pytest.raises(ConfigError, match=said):
            open_bundle(bundle)
    model.unlink()
    with pytest.raises(ConfigError, match=r"model\.onnx is missing"):
        open_bundle(bundle)


def test_reading_without_hashing_leaves_the_check_to_the_caller(bundle: Path) -> None:
    (bundle / "model.onnx").write_bytes(b"changed")
    assert read_bundle(bundle).name == "parts"


@pytest.mark.parametrize(
    ("text", "said"),
    [(b"", "no label in it"), (b"red\n\nblue\n", "line 2 is blank"), (b"\xff\xfe\x00", "not UTF-8")],
)
def test_a_bad_label_file_is_refused(bundle: Path, text: bytes, said: str) -> None:
    (bundle / "labels.txt").write_bytes(text)
    with pytest.raises(ConfigError, match=said):
        open_bundle(bundle)


def test_a_folder_that_is_no_bundle_is_told_from_one_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for name, said in (("empty", r"holds no model\.toml"), ("file", "is no folder"), ("absent", "does not exist")):
        with pytest.raises(ConfigError, match=said):
            open_bundle(tmp_path / name)


# --- packing


def test_a_bundle_is_never_written_over(bundle: Path, tmp_path: Path) -> None:
    before = open_bundle(bundle).digest
    with pytest.raises(ConfigError, match="exists and is not empty: a bundle is never changed"):
        a_bundle(bundle, tmp_path / "model.onnx", version="2")
    assert open_bundle(bundle).digest == before


def test_a_bundle_that_would_not_be_valid_leaves_nothing_behind(tmp_path: Path) -> None:
    model = classifier(tmp_path / "model.onnx")
    with pytest.raises(ConfigError, match=r"bundle .*/bad: model\.toml: name = 'no good'"):
        a_bundle(tmp_path / "bad", model, name="no good")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx"]


def test_labels_and_names_survive_toml_whatever_is_in_them(tmp_path: Path) -> None:
    labels = ('a "quoted" part', "Ω, mit Umlaut ä", "back\\slash")
    source = 'tab\there, newline\nthere, quote " and ]]'
    packed = a_bundle(tmp_path / "odd", classifier(tmp_path / "model.onnx"), labels=labels, source=source)
    assert open_bundle(packed).labels == labels


# --- lineside bundle new


def new(*words: str | Path) -> int:
    return main(["bundle", "new", *map(str, words)])


def label_file(folder: Path, *labels: str) -> Path:
    path = folder / "names.txt"
    path.write_text("".join(f"{label}\n" for label in labels))
    return path


def test_new_says_what_it_guessed_and_how_to_say_otherwise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = classifier(tmp_path / "model.onnx")
    assert new(model, "--labels", label_file(tmp_path, "r", "g", "b"), "-o", tmp_path / "made") == 0
    said = capsys.readouterr().out
    assert "guessed decode = classify" in said
    assert "--mean, --std overrides" in said
    assert "guessed scores = logit" in said
    made = open_bundle(tmp_path / "made")
    assert (made.name, made.task, made.decode, made.settings.scores) == ("made", "classify", "classify", "logit")
    assert (made.input.width_px, made.input.layout, made.input.resize) == (8, "nchw", "center_crop")


def test_what_the_user_says_is_not_guessed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = classifier(tmp_path / "model.onnx")
    words = "--task classify --decode classify --color bgr --mean 0 --std 255 --resize stretch --scores probability"
    words += " --filter area"
    labels = label_file(tmp_path, "r", "g", "b")
    assert new(model, "--labels", labels, *words.split(), "--name", "rgb", "-o", tmp_path / "made") == 0
    assert "guessed" not in capsys.readouterr().out
    made = open_bundle(tmp_path / "made")
    assert (made.name, made.input.color, made.input.std, made.input.resize) == ("rgb", "bgr", (255.0,) * 3, "stretch")
    assert made.settings.scores == "probability"


def test_names_and_size_come_from_the_models_own_metadata(tmp_path: Path) -> None:
    metadata = {"names": "{0: 'ok', 1: 'scratch', 2: 'dent'}", "imgsz": "[8, 8]", "stride": "32"}
    model = classifier(tmp_path / "model.onnx", side=None, metadata=metadata)
    assert new(model, "--decode", "classify", "-o", tmp_path / "made") == 0
    made = open_bundle(tmp_path / "made")
    assert made.labels == ("ok", "scratch", "dent")
    assert (made.input.width_px, made.input.height_px) == (8, 8)


def test_notes_that_an_exporter_appended_to_a_tflite_file_are_read(data: Path, tmp_path: Path) -> None:
    import zipfile

    model = tmp_path / "model.tflite"
    shutil.copyfile(data / "models/classify/vww_96_int8.tflite", model)
    with zipfile.ZipFile(model, "a") as archive:  # as Ultralytics does
        archive.writestr("metadata.json", json.dumps({"task": "classify", "names": {"0": "nobody", "1": "someone"}}))
    assert new(model, "-o", tmp_path / "made") == 0
    assert open_bundle(tmp_path / "made").labels == ("nobody", "someone")


def test_a_background_class_that_the_model_does_not_have_is_dropped(tmp_path: Path) -> None:
    labels = label_file(tmp_path, "background", "r", "g", "b")
    assert new(classifier(tmp_path / "model.onnx"), "--labels", labels, "-o", tmp_path / "made") == 0
    assert open_bundle(tmp_path / "made").labels == ("r", "g", "b")


def test_imagenets_thousand_labels_get_the_background_class_of_a_model_with_1001(tmp_path: Path) -> None:
    labels = label_file(tmp_path, *(f"class {number}" for number in range(1000)))
    assert new(classifier(tmp_path / "model.onnx", classes=1001), "--labels", labels, "-o", tmp_path / "made") == 0
    assert open_bundle(tmp_path / "made").labels[:2] == ("background", "class 0")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--decode classify", "holds no class names: give --labels FILE"),
        ("--labels two.txt --decode classify", "2 labels were given, but the model has 3 classes"),
        ("--labels two.txt", r"no decoder fits the outputs logits float32 \[1, 3\] with 2 labels"),
        ("--labels three.txt --decode yolov8", r"expected one output \[1, 4 \+ classes, N\].*--decode classify"),
        ("--labels three.txt --decode yolo", "--decode yolo: unknown; known are classify, "),
        ("--labels three.txt --decode classify --task detect", "--task detect: the decoder classify gives"),
        ("--labels three.txt --size 16x16", "--size 16x16: the model takes 8x8"),
        ("--labels absent.txt", r"--labels absent\.txt: cannot be read"),
    ],
)
def test_what_does_not_fit_is_refused_with_exit_78_and_nothing_is_written(
    words: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.txt").write_text("a\nb\n")
    (tmp_path / "three.txt").write_text("a\nb\nc\n")
    classifier(tmp_path / "model.onnx")
    assert new("model.onnx", *words.split(), "-o", "made") == 78
    assert re.search(said, capsys.readouterr().err)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("model.pt", b"PK\x03\x04", r"model files are \.onnx, \.tflite or OpenVINO's \.xml"),
        ("model.onnx", b"", "is empty"),
        ("model.onnx", b"PK\x03\x04 not a model", "is no onnx model"),
        ("model.onnx", b"\x08\x07\x12\x04abcd" + bytes(64), "cannot read this model"),
        ("model.tflite", b"\x1c\0\0\0TFL3" + bytes(64), r"model\.tflite"),
        ("model.xml", b"<?xml version='1.0'?><net", r"model\.bin: model file does not exist"),
    ],
)
def test_a_file_that_is_no_model_is_refused(
    name: str, content: bytes, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import re

    (tmp_path / name).write_bytes(content)
    assert new(tmp_path / name, "--labels", label_file(tmp_path, "a", "b", "c"), "-o", tmp_path / "made") == 78
    error = capfd.readouterr().err
    assert re.search(said, error)
    assert "Traceback" not in error


def test_the_same_model_in_several_formats_goes_into_one_bundle(tmp_path: Path) -> None:
    import openvino as ov

    model = classifier(tmp_path / "model.onnx")
    ov.save_model(ov.convert_model(str(model)), str(tmp_path / "model.xml"), compress_to_fp16=False)
    labels = label_file(tmp_path, "r", "g", "b")
    assert new(model, "--artefact", tmp_path / "model.xml", "--labels", labels, "-o", tmp_path / "made") == 0
    made = open_bundle(tmp_path / "made")
    assert [artefact.format for artefact in made.artefacts] == ["onnx", "openvino"]
    weights = tmp_path / "made" / "model.bin"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\1\2\3\4")
    with pytest.raises(ConfigError, match=r"model\.xml: sha256"):
        open_bundle(tmp_path / "made")


def test_another_network_is_no_second_artefact(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = data / "models"
    labels = models / "labels" / "imagenet_labels_1001.txt"
    fp32, lite = models / "classify/mobilenet_v2_224_fp32.onnx", models / "classify/mobilenet_v1_0.25_128_quant.tflite"
    assert new(fp32, "--artefact", lite, "--labels", labels, "-o", tmp_path / "made") == 78
    assert "height_px = 224: the model takes 128" in capsys.readouterr().err


def test_files_of_one_network_may_differ_in_layout(tmp_path: Path) -> None:
    from lineside.registry import driver
    from lineside.vision.prepare import Prepare

    first = classifier(tmp_path / "first.onnx")
    model = onnx.load(str(first))
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 8, 8, 3]))
    model.graph.node.insert(0, helper.make_node("Transpose", ["pixels"], ["image"], perm=[0, 3, 1, 2]))
    onnx.save(model, str(tmp_path / "second.onnx"))
    labels = label_file(tmp_path, "r", "g", "b")
    words = ("--artefact", tmp_path / "second.onnx", "--labels", labels, "-o", tmp_path / "made")
    assert new(first, *words) == 0
    made = open_bundle(tmp_path / "made")
    assert [made.input_for(artefact).layout for artefact in made.artefacts] == ["nchw", "nhwc"]
    canvas, _, _ = Prepare(made.input).put(np.full((8, 8, 3), (10, 90, 200), np.uint8))
    answers = []
    for artefact in made.artefacts:
        backend = driver("backend", "onnxruntime")(artefact, made.input_for(artefact))
        answers.append(backend.infer(canvas)[0].real().copy())
        backend.close()
    assert np.allclose(answers[0], answers[1])


def test_a_layout_that_was_said_wins(tmp_path: Path) -> None:
    model = onnx.load(str(classifier(tmp_path / "model.onnx", side=3)))  # 3 x 3 x 3: nobody can tell
    model.graph.node.insert(0, helper.make_node("Transpose", ["pixels"], ["image"], perm=[0, 3, 1, 2]))
    model.graph.input[0].name = "pixels"
    onnx.save(model, str(tmp_path / "model.onnx"))
    labels = label_file(tmp_path, "r", "g", "b")
    assert new(tmp_path / "model.onnx", "--layout", "nhwc", "--labels", labels, "-o", tmp_path / "made") == 0
    made = open_bundle(tmp_path / "made")
    assert (made.input.layout, made.artefacts[0].layout) == ("nhwc", None)


def test_show_prints_what_the_bundle_holds(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "show", str(bundle)]) == 0
    said = capsys.readouterr().out
    for word in ("parts 1.2.0", "sha256:", "CC0-1.0", "3: red, green, blue", "8 x 8, rgb, nchw", "onnx fp32"):
        assert word in said


def test_a_made_bundle_infers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import cv2

    model = classifier(tmp_path / "model.onnx")
    words = ("--mean", "0", "--std", "255", "--scores", "logit")
    new(model, "--labels", label_file(tmp_path, "r", "g", "b"), *words, "-o", tmp_path / "made")
    cv2.imwrite(str(tmp_path / "green.png"), np.full((20, 30, 3), (0, 255, 0), np.uint8))
    capsys.readouterr()
    assert main(["infer", "--bundle", str(tmp_path / "made"), "--jsonl", str(tmp_path / "green.png")]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["top"][0]["label"] == "g"
    assert row["top"][0]["score"] == pytest.approx(np.e / (np.e + 2), abs=1e-5)  # softmax of 0, 1, 0
