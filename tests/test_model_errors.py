"""Model files that are refused: the message names the cause. Weights in other files are packed with the model."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lineside.cli import main
from lineside.errors import ConfigError
from lineside.hal.causes import cause, one_line
from lineside.store.bundle import artefact_files, open_bundle, read_bundle, sha256_of
from lineside.store.onnxfile import external_files, read_head

CASES = Path(__file__).parent / "cases" / "models"
MEANS = [
    helper.make_node("ReduceMean", ["image"], ["means"], axes=[2, 3], keepdims=0),
    helper.make_node("MatMul", ["means", "weights"], ["logits"]),
]


def model(
    path: Path, nodes: list[onnx.NodeProto] | None = None, *, batch: int = 1, opset: int = 17, ir: int = 8
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes or MEANS,
        "means",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 3])],
        [onnx.numpy_helper.from_array(np.eye(3, dtype=np.float32), "weights")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir, producer_name="mine")
    onnx.save(made, str(path))
    return made


def split(path: Path, location: str) -> Path:
    """The model with its weights in `location`."""
    made = model(path)
    (path.parent / location).parent.mkdir(parents=True, exist_ok=True)
    tensor = made.graph.initializer[0]
    (path.parent / location).write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "36")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    path.write_bytes(made.SerializeToString())
    return path


def new(path: Path, out: Path, labels: str = "r\ng\nb\n") -> int:
    (out.parent / "names.txt").write_text(labels)
    return main(["bundle", "new", str(path), "--labels", str(out.parent / "names.txt"), "-o", str(out)])


# --- weights in other files


@pytest.mark.parametrize("location", ["weights.bin", "权重.data", "teil/веса ü.data", "l" * 150 + ".data"])
def test_weights_in_another_file_are_packed_with_the_model_and_hashed(tmp_path: Path, location: str) -> None:
    path = split(tmp_path / "model.onnx", location)
    assert external_files(path) == (tmp_path / location,)
    assert new(path, tmp_path / "made") == 0
    made = open_bundle(tmp_path / "made")
    packed = tmp_path / "made" / location
    assert packed.read_bytes() == (tmp_path / location).read_bytes()
    weights = np.frombuffer(packed.read_bytes(), np.float32).copy()
    packed.write_bytes((weights * 2).tobytes())
    with pytest.raises(ConfigError, match=r"model\.onnx: sha256"):
        open_bundle(tmp_path / "made")
    packed.unlink()
    with pytest.raises(ConfigError, match="is missing"):
        read_bundle(made.folder)


def test_the_shared_case_with_a_chinese_name_gives_its_answers_from_the_bundle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(CASES / "external", tmp_path / "there")
    labels = (CASES / "l2.txt").read_text()
    assert new(tmp_path / "there" / "y8.onnx", tmp_path / "made", labels) == 0
    shutil.rmtree(tmp_path / "there")
    capsys.readouterr()
    assert main(["infer", "--bundle", str(tmp_path / "made"), str(CASES / "sq.png")]) == 0
    said = capsys.readouterr().out
    assert "red 1.00 (224, 192, 256, 224)" in said
    assert "bright 1.00 (96, 64, 128, 96)" in said


@pytest.mark.parametrize("location", ["../w.data", "a/../../w.data", "/tmp/w.data", "..\\w.data", "C:\\w.data"])
def test_weights_outside_of_the_models_folder_are_refused_by_name(
    tmp_path: Path, location: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    path = split(tmp_path / "in" / "model.onnx", "w.data")
    bytes_ = onnx.load(str(path), load_external_data=False)
    bytes_.graph.initializer[0].external_data[0].value = location
    path.write_bytes(bytes_.SerializeToString())
    assert new(path, tmp_path / "made") == 78
    assert f"its weights are in {location!r}, outside of the model's folder" in capsys.readouterr().err


@pytest.mark.parametrize("location", ["model.toml", "labels.txt", "golden/w.data"])
def test_weights_that_would_take_the_place_of_the_bundles_own_files_are_refused(
    tmp_path: Path, location: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert new(split(tmp_path / "model.onnx", location), tmp_path / "made") == 78
    assert "a bundle has a file of its own of this name" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_weights_are_found_in_subgraphs_constants_and_sparse_tensors_and_not_in_words(tmp_path: Path) -> None:
    made = model(tmp_path / "model.onnx")

    def outside(name: str) -> TensorProto:
        tensor = TensorProto(name=name, dims=[1], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
        for key, value in (("offset", "0"), ("location", f"{name}.data")):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
        return tensor

    made.graph.node.append(helper.make_node("Constant", [], ["c"], value=outside("constant")))
    branch = helper.make_graph([], "branch", [], [], [outside("branch")])
    made.graph.node.append(helper.make_node("If", ["c"], ["d"], then_branch=branch, else_branch=branch))
    made.graph.sparse_initializer.append(onnx.SparseTensorProto(values=outside("sparse"), indices=outside("at")))
    made.doc_string = "\n\x08location\x12\x05w.bin external_data"  # the bytes of an entry, in a sentence
    (tmp_path / "model.onnx").write_bytes(made.SerializeToString())
    found = [path.name for path in external_files(tmp_path / "model.onnx")]
    assert found == ["at.data", "branch.data", "constant.data", "sparse.data"]


def test_the_hash_of_a_model_in_one_file_is_the_files(tmp_path: Path) -> None:
    import hashlib

    model(tmp_path / "model.onnx")
    assert artefact_files(tmp_path / "model.onnx") == (tmp_path / "model.onnx",)
    assert sha256_of(tmp_path / "model.onnx") == hashlib.sha256((tmp_path / "model.onnx").read_bytes()).hexdigest()


def test_the_head_of_a_file_is_read_without_a_runtime(tmp_path: Path) -> None:
    model(tmp_path / "model.onnx", opset=16, ir=7)
    head = read_head(tmp_path / "model.onnx")
    assert (head.ir_version, head.producer, head.opsets, head.external) == (7, "mine", {"": 16}, ())
    (tmp_path / "cut.onnx").write_bytes((tmp_path / "model.onnx").read_bytes()[:-30])
    with pytest.raises(ConfigError, match="was cut short"):
        read_head(tmp_path / "cut.onnx")


# --- what a runtime refuses


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("y8_b4.onnx", "a fixed batch of 4: lineside feeds one picture at a time: export it with a batch of 1"),
        ("y8_ir99.onnx", "the file's IR version is 99, and this runtime reads up to IR version 1"),
    ],
)
def test_the_shared_cases_name_their_cause(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, words: str
) -> None:
    assert new(CASES / name, tmp_path / "made", "bright\nred\n") == 78
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said


def test_operator_sets_operators_and_extensions_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plugin = helper.make_node("TRT_NMS", ["image"], ["logits"], domain="trt.plugins")
    cases: list[tuple[dict[str, object], str]] = [
        ({"opset": 99}, "operator set (opset) is 99, and this runtime knows up to"),
        (
            {"nodes": [helper.make_node("Frobnicate", ["image"], ["logits"])]},
            "operator Frobnicate is not in operator set",
        ),
        ({"nodes": [plugin]}, "operators of trt.plugins are an extension"),
        ({"opset": 18}, "axes is no attribute of ReduceMean in the operator set"),
        ({"batch": 2}, "a fixed batch of 2"),
    ]
    for number, (how, words) in enumerate(cases):
        model(tmp_path / f"{number}.onnx", **how)  # type: ignore[arg-type]
        assert new(tmp_path / f"{number}.onnx", tmp_path / "made") == 78
        assert words in capsys.readouterr().err


def test_missing_and_short_weights_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = split(tmp_path / "model.onnx", "w.data")
    (tmp_path / "w.data").write_bytes(b"short")
    assert new(path, tmp_path / "made") == 78
    assert "its weights are in another file, which is missing, too short" in capsys.readouterr().err
    (tmp_path / "w.data").unlink()
    assert new(path, tmp_path / "made") == 78
    assert "w.data: model file does not exist: it holds the weights of model.onnx" in capsys.readouterr().err


def test_openvinos_message_tells_the_operator_at_its_end(tmp_path: Path) -> None:
    from lineside.records import Artefact, InputSpec
    from lineside.registry import driver

    model(tmp_path / "model.onnx", [helper.make_node("Frobnicate", ["image"], ["logits"])])
    artefact = Artefact(str(tmp_path / "model.onnx"), "onnx", "fp32", "")
    with pytest.raises(ConfigError, match="does not know the operators Frobnicate"):
        driver("backend", "openvino")(artefact, InputSpec(8, 8, "rgb", "nchw"))


def test_a_fixed_batch_is_refused_by_every_backend(tmp_path: Path) -> None:
    from lineside.records import Artefact, InputSpec
    from lineside.registry import driver

    model(tmp_path / "model.onnx", batch=4)
    artefact = Artefact(str(tmp_path / "model.onnx"), "onnx", "fp32", "")
    for name in ("onnxruntime", "openvino"):
        with pytest.raises(ConfigError, match="a fixed batch of 4"):
            driver("backend", name)(artefact, InputSpec(8, 8, "rgb", "nchw"))


def test_a_long_message_keeps_its_head_and_its_end() -> None:
    said = one_line("Load model failed: " + "namespace::" * 80 + " Unsupported thing 7")
    assert len(said) <= 300
    assert said.startswith("Load model failed: ")
    assert said.endswith("Unsupported thing 7")
    assert one_line("Exception from x.cpp:1:\nCheck 'false' failed\nwhat it means\nand why") == "what it means and why"
    assert cause("something new") is None


def test_outputs_without_a_batch_are_an_error_and_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Decoded right, or refused: whichever, without a traceback."""
    code = new(CASES / "v7_e2e.onnx", tmp_path / "made", "bright\nred\n")
    said = capsys.readouterr().err
    assert code in (0, 78)
    assert "Traceback" not in said
    assert code == 0 or "[100, 7]" in said


def test_a_float_model_with_outside_weights_is_quantised_and_kept_whole(tmp_path: Path) -> None:
    import cv2

    shutil.copytree(CASES / "external", tmp_path / "there")
    (tmp_path / "pictures").mkdir()
    for number in range(8):
        image = np.full((320, 320, 3), 60, np.uint8)
        image[32 * number : 32 * number + 32, 96:128] = 255
        image[192:224, 32 * number : 32 * number + 32] = (0, 0, 255)
        cv2.imwrite(str(tmp_path / "pictures" / f"{number}.png"), image)
    words = ("--labels", CASES / "l2.txt", "--images", tmp_path / "pictures", "--accept-flips", "--keep-float")
    model = tmp_path / "there" / "y8.onnx"
    assert main(["quantize", str(model), *map(str, words), "--backend", "onnxruntime", "-o", str(tmp_path / "q")]) == 0
    made = open_bundle(tmp_path / "q")
    assert {Path(each.path).name for each in made.artefacts} >= {"y8_fp32.onnx", "y8_int8.onnx"}
    assert [path.name for path in (tmp_path / "q").glob("*.data")] == ["权重.data"]
