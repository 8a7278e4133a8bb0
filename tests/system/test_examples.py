"""Every docs/examples/*.toml as it stands, with a broker: what its comments promise comes out of MQTT.

Bundles, pictures and videos are put beside a copy where its paths look for them; only the broker's port is changed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from broker import Mosquitto
from lineside.cli import main
from lineside.commands.check import problems
from lineside.records import Artefact, DecodeSettings, InputSpec
from lineside.resources import shipped
from lineside.store.pack import pack
from rig import Daemon, Subscriber, bundle, until

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path_factory.mktemp("broker")) as running:
        yield running


def cut(video: Path, target: Path, first: int, count: int) -> None:
    """Some frames of a video, at its rate."""
    source = cv2.VideoCapture(str(video))
    source.set(cv2.CAP_PROP_POS_FRAMES, first)
    size = int(source.get(cv2.CAP_PROP_FRAME_WIDTH)), int(source.get(cv2.CAP_PROP_FRAME_HEIGHT))
    out = cv2.VideoWriter(str(target), cv2.VideoWriter.fourcc(*"mp4v"), source.get(cv2.CAP_PROP_FPS), size)
    for _ in range(count):
        read, image = source.read()
        assert read
        out.write(image)
    out.release()


def brightness_model(path: Path) -> Path:
    """An anomaly model as Anomalib exports one (pred_score, anomaly_map): what is bright is anomalous."""
    picture = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 32, 32])
    score = helper.make_tensor_value_info("pred_score", TensorProto.FLOAT, [1, 1])
    heat = helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, [1, 1, 32, 32])
    channels, sides = (
        helper.make_tensor(name, TensorProto.INT64, [len(v)], v) for name, v in (("c", [1]), ("s", [2, 3]))
    )
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["input", "c"], ["anomaly_map"], keepdims=1),
            helper.make_node("ReduceMax", ["anomaly_map", "s"], ["peak"], keepdims=0),
            helper.make_node("Identity", ["peak"], ["pred_score"]),
        ],
        "brightness",
        [picture],
        [score, heat],
        [channels, sides],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def put_anomaly(folder: Path, data: Path) -> None:
    pack(
        folder / "bundles" / "anomaly",
        name="anomaly",
        version="1",
        task="anomaly",
        labels=["anomaly"],
        input=InputSpec(32, 32, "rgb", "nchw", std=(255.0,) * 3, resize="stretch"),
        decode="anomaly",
        settings=DecodeSettings(threshold=0.5),
        artefacts=[Artefact(str(brightness_model(folder / "bright.onnx")), "onnx", "fp32", "")],
        licence="CC0-1.0",
    )
    (folder / "pictures").mkdir()
    for number, level in enumerate((20, 115, 240)):  # good, in between, anomalous
        cv2.imwrite(str(folder / "pictures" / f"{number}.png"), np.full((40, 60, 3), level, np.uint8))


def put_frames(folder: Path, data: Path) -> None:
    words = (data / "models" / "labels" / "imagenet_labels_1001.txt").read_text().splitlines()
    labels = folder / "labels.txt"  # "hotdog, hot dog, red hot" -> "hotdog"
    labels.write_text("".join(line.partition(",")[0] + "\n" for line in words))
    model = data / "models" / "classify" / "mobilenet_v2_1.0_224_quant.tflite"
    assert (
        main(["bundle", "new", str(model), "--labels", str(labels), "-o", str(folder / "bundles" / "classifier")]) == 0
    )
    (folder / "pictures").mkdir()
    for name in ("cat.jpg", "hot_dog.jpg", "sunflower.jpg"):  # in the order of their names; of three sizes
        shutil.copy(data / "samples" / name, folder / "pictures")


def put_faces(folder: Path, data: Path) -> None:
    shutil.copytree(bundle("faces", data / "models"), folder / "bundles" / "faces")
    shutil.copy(data / "videos" / "heads_two_faces.mp4", folder / "faces.mp4")


def put_zones(folder: Path, data: Path) -> None:
    shutil.copytree(bundle("detector", data / "models"), folder / "bundles" / "detector")
    cut(data / "videos" / "person_walking.mp4", folder / "person.mp4", 40, 200)


def put_parts(folder: Path, data: Path) -> None:
    if not (shipped("models") / "conveyor-parts" / "model.toml").is_file():
        pytest.skip("the shipped model conveyor-parts is not in this tree")


def see_anomaly(witness: Subscriber) -> None:
    """Its score decides, one decision a picture."""
    verdicts = [message["verdict"] for _, message in sorted(witness.by_seq().items())]
    assert verdicts == ["accept", "unknown", "reject"]
    assert witness.by_seq()[4]["findings"][0]["label"] == "anomaly"


def see_frames(witness: Subscriber) -> None:
    """One decision a picture, in the order of their names; a hotdog must not be there."""
    decisions = [message for _, message in sorted(witness.by_seq().items())]
    assert [message["verdict"] for message in decisions] == ["accept", "reject", "accept"]
    assert "hotdog" in decisions[1]["cause"]
    assert [message["part"]["number"] for message in decisions] == [1, 2, 3]


def see_faces(witness: Subscriber) -> None:
    """An event while somebody is there: started, and ended when the video ends."""
    events = witness.all("event")
    assert (events[0]["phase"], events[-1]["phase"]) == ("start", "end")
    assert events[0]["count"] >= 1
    assert "somebody" in events[0]["cause"] or "face" in events[0]["cause"]
    assert not witness.all("decision")


def see_zones(witness: Subscriber) -> None:
    """Something is in the zone and stays; every start has its end, later than the dwell."""
    events = witness.all("event")
    assert [event["phase"] for event in events if event["phase"] != "change"][:2] == ["start", "end"]
    starts = {event["event_id"] for event in events if event["phase"] == "start"}
    ends = {event["event_id"]: event for event in events if event["phase"] == "end"}
    assert starts == set(ends)
    assert all(event["lasted_ms"] >= 500 for event in ends.values())


def see_parts(witness: Subscriber) -> None:
    """Each object that crosses the line ends in exactly one decision."""
    decisions = [message for _, message in sorted(witness.by_seq().items())]
    assert len(decisions) >= 10
    assert [message["part"]["number"] for message in decisions] == list(range(1, len(decisions) + 1))
    assert {message["verdict"] for message in decisions} >= {"accept", "reject"}


@pytest.mark.parametrize(
    ("name", "put", "see"),
    [
        ("anomaly", put_anomaly, see_anomaly),
        ("frames", put_frames, see_frames),
        ("faces", put_faces, see_faces),
        ("zones", put_zones, see_zones),
        ("parts", put_parts, see_parts),
    ],
)
def test_an_example_keeps_its_promise(
    tmp_path: Path,
    data: Path,
    broker: Mosquitto,
    name: str,
    put: Callable[[Path, Path], None],
    see: Callable[[Subscriber], None],
) -> None:
    put(tmp_path, data)
    copy = tmp_path / f"{name}.toml"
    text = (EXAMPLES / f"{name}.toml").read_text()
    assert text.count("port = 1883") == 1
    copy.write_text(text.replace("port = 1883", f"port = {broker.port}"))
    assert problems(copy) == []
    line = text.partition('line = "')[2].partition('"')[0]
    with Subscriber(broker.port, f"lineside/plant1/{line}/#") as witness:
        before = len(witness.seen())
        with Daemon(tmp_path, copy) as daemon:
            assert daemon.wait(60) == 0, daemon.log()
        until(lambda: witness.seen()[before:] and witness.all("status")[-1]["state"] == "offline", what="offline")
        see(witness)
        seqs = witness.seqs()
        assert seqs == list(range(1, len(seqs) + 1))
        assert all(later["seq"] > earlier["seq"] for earlier, later in pairwise(witness.all("event")))
    assert "Traceback" not in daemon.log()


def test_no_example_is_left_out() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.toml")} == {"anomaly", "frames", "faces", "zones", "parts"}
