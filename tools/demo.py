"""The main job in a minute: a clip becomes decisions on MQTT, and what was decided is compared with the truth.

    tools/demo.py                                     the renderer's conveyor and the shipped model
    tools/demo.py --clip path.mp4 --bundle DIR        the same on any video and model

Starts an embedded broker on 127.0.0.1, runs the daemon as a user would (`lineside run`), and listens as any subscriber
would. The truth of the rendered clip stays in this process: the daemon gets pictures only.
"""

from __future__ import annotations

import argparse
import json
import queue
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

import render
from lineside.cameras.render import Scene
from lineside.errors import ConfigError, LinesideError
from lineside.records import Finding, Image
from lineside.registry import vendor
from lineside.store.bundle import Bundle, open_bundle
from lineside.vision.draw import annotate, contact_sheet, cut_out

SHIPPED = "conveyor-parts"
MATCH_S = 0.4  # a decision and the truth's crossing belong together if they are no further apart
SHEET_TILES = 24
WRONG_SHARE = 0.1  # of the rendered parts; with more the demo has failed
Message = dict[str, Any]


def main() -> int:
    asked = _arguments()
    out: Path = asked.out
    out.mkdir(parents=True, exist_ok=True)
    try:
        bundle = open_bundle(asked.bundle or SHIPPED)
        clip, truth = (asked.clip, None) if asked.clip else _rendered(out, asked.seed, asked.seconds)
        if not clip.exists():
            raise ConfigError(f"--clip {clip}: no such file")
        per = asked.per or ("object" if bundle.name == SHIPPED else "frame")
        said, code, wall_s = _run(out, clip, bundle, per, asked.python, asked.pace)
    except LinesideError as error:
        print(error, file=sys.stderr)
        return 1
    if code != 0:
        print(f"the daemon ended with exit status {code}; its log: {out / 'daemon.log'}", file=sys.stderr)
        return 1
    decisions = [message for message in said if message["kind"] == "decision"]
    timed = truth if asked.pace == "real_time" else None  # else a decision's time says nothing of its part
    summary = _summary(decisions, timed)
    seqs = [message["seq"] for message in said]
    summary["seq"] = "gap-free" if seqs == list(range(1, len(seqs) + 1)) else f"not gap-free: {seqs}"
    summary["took"] = f"{wall_s:.1f} s"
    sheet = out / "disagreements.png"
    tiles = _disagreements(clip, decisions, timed) if timed else _samples(clip, decisions)
    if tiles:
        cv2.imwrite(str(sheet), contact_sheet(tiles[:SHEET_TILES], columns=min(4, len(tiles))))
    else:
        sheet.unlink(missing_ok=True)
    print("\n" + "\n".join(f"{key:<22}{value}" for key, value in summary.items()))
    shown = "disagreements" if timed else "decisions, a sample"
    print(f"{'contact sheet':<22}{f'{sheet} ({shown})' if tiles else 'none: no disagreement'}")
    told = [{key: one.get(key) for key in ("verdict", "cause", "backend")} for one in decisions]
    parts = ["defective" if _defective(part) else "good" for part in truth["parts"]] if truth else None
    (out / "decisions.json").write_text(json.dumps({"decisions": told, "parts": parts}, indent=1) + "\n")
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    if not decisions:
        print(f"no decision came; the daemon's log: {out / 'daemon.log'}", file=sys.stderr)
        return 1
    if timed and len(tiles) > WRONG_SHARE * len(timed["parts"]):
        print(f"more than {WRONG_SHARE:.0%} of the parts were decided wrongly or not at all: {sheet}", file=sys.stderr)
        return 1
    return 0


# --- the main job ---------------------------------------------------------------------------------------------------


def _run(out: Path, clip: Path, bundle: Bundle, per: str, python: str, pace: str) -> tuple[list[Message], int, float]:
    """Broker, subscriber, daemon; what came of the station, the daemon's exit status, seconds from start to end."""
    port = _free_port()
    broker = _broker(out, port)
    inbox: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
    subscriber = _subscriber(port, inbox)
    with tempfile.TemporaryDirectory(prefix="lineside-demo-") as state:
        config = out / "lineside.toml"
        config.write_text(_config(clip, bundle, per, port, state, pace))
        print(f"broker on 127.0.0.1:{port}; lineside run {config}\n", flush=True)
        begun = time.monotonic()
        with (out / "daemon.log").open("w") as log:
            daemon = subprocess.Popen([python, "-m", "lineside.cli", "run", str(config)], stderr=log)
            said = list(_received(inbox, daemon))
        wall_s = time.monotonic() - begun
    subscriber.disconnect()
    subscriber.loop_stop()
    broker.stop()
    return said, daemon.returncode, wall_s


def _received(inbox: queue.SimpleQueue[Message | None], daemon: subprocess.Popen[bytes]) -> Iterator[Message]:
    """Messages as they come, decisions printed, until the daemon has ended and nothing is left."""
    quiet_since = time.monotonic()
    try:
        while True:
            try:
                message = inbox.get(timeout=0.2)
            except queue.Empty:
                if daemon.poll() is not None:
                    return
                if time.monotonic() - quiet_since > 5:
                    print("   ... no decision for 5 s; the daemon works", flush=True)
                    quiet_since = time.monotonic()
                continue
            quiet_since = time.monotonic()
            if message is not None:
                if message["kind"] == "decision":
                    _show(message)
                yield message
    finally:
        if daemon.poll() is None:
            daemon.terminate()
            daemon.wait(10)


def _show(message: Message) -> None:
    mark = {"accept": " ", "reject": "x", "unknown": "?"}[message["verdict"]]
    print(
        f"{message['seq']:>5} [{mark}] {message['verdict']:<8}{message['latency_ms']:>7.1f} ms  {message['cause']}",
        flush=True,
    )


def _config(clip: Path, bundle: Bundle, per: str, port: int, state: str, pace: str) -> str:
    trigger = 'per = "frame"'
    rule = 'kind = "threshold"\nhigh = 0.5'
    steady = ""
    if per == "object":
        tracked = '["part"]' if "part" in bundle.labels else "[]"
        trigger = f'per = "object"\nline = [[0.5, 0.0], [0.5, 1.0]]\ntrack_labels = {tracked}'
        defects = [label for label in bundle.labels if label != "part"]
        rule = f'kind = "defect"\nlabels = {json.dumps(defects)}\nmin_score = 0.5'
        steady = "[stations.demo.steady]\nmin_frames = 2\n"
    return f"""# written by tools/demo.py
site = "demo"
line = "belt"
[daemon]
state_dir = {json.dumps(state)}
control_socket = {json.dumps(state + "/control.sock")}
[cameras.belt]
driver = "clip"
path = {json.dumps(str(clip.resolve()))}
pace = "{pace}"
[stations.demo]
camera = "belt"
bundle = {json.dumps(str(bundle.folder))}
[stations.demo.trigger]
{trigger}
[[stations.demo.rules]]
{rule}
{steady}[mqtt]
host = "127.0.0.1"
port = {port}
"""


def _broker(out: Path, port: int) -> Any:
    """An MQTT 5 broker inside this process, on loopback only."""
    config = out / "broker.toml"
    config.write_text(
        f"""id = 0
[router]
id = 0
max_connections = 100
max_outgoing_packet_count = 5000
max_segment_size = 104857600
max_segment_count = 10
[v5.1]
name = "v5"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1
    [v5.1.connections]
    connection_timeout_ms = 60000
    max_payload_size = 1048576
    max_inflight_count = 100
    dynamic_filters = true
"""
    )
    broker = vendor("iotcore.broker").Broker(config_path=str(config))
    broker.start()
    return broker


def _subscriber(port: int, inbox: queue.SimpleQueue[Message | None]) -> mqtt.Client:
    """A subscriber like any other: it knows topics and JSON, nothing of the daemon."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="demo-subscriber", protocol=mqtt.MQTTv5)
    ready = queue.SimpleQueue[bool]()

    def connected(*_: object) -> None:
        client.subscribe("lineside/+/+/demo/#", qos=1)

    client.on_connect = connected
    client.on_subscribe = lambda *_: ready.put(True)
    client.on_message = lambda _c, _u, message: inbox.put(json.loads(message.payload))
    deadline = time.monotonic() + 10
    while True:
        try:
            client.connect("127.0.0.1", port)
            break
        except OSError as error:
            if time.monotonic() > deadline:
                raise LinesideError(f"the embedded broker did not start on port {port}: {error}") from error
            time.sleep(0.05)
    client.loop_start()
    ready.get(timeout=10)
    return client


# --- truth ----------------------------------------------------------------------------------------------------------


def _rendered(out: Path, seed: int, seconds: float) -> tuple[Path, dict[str, Any]]:
    clip = out / f"parts-{seed}.mp4"
    print(f"rendering {seconds:.0f} s of parts on a belt (seed {seed})", flush=True)
    scene = Scene(seed)
    truth = render.render(scene, round(seconds * scene.fps), clip)
    return clip, {"fps": scene.fps, "parts": [part for part in truth.parts() if part["crosses_at"] is not None]}


def _matched(decisions: list[Message], truth: dict[str, Any]) -> list[tuple[dict[str, Any], Message | None]]:
    """Each part of the truth with its decision, if it has one: nearest in time, one to one, in order.

    The clip's start is unknown to a subscriber, so it is the one that brings most pairs together.
    """
    crossed_s = np.array([part["crosses_at"] / truth["fps"] for part in truth["parts"]])
    decided_s = np.array([datetime.fromisoformat(d["captured_at"]).timestamp() for d in decisions])
    if not len(crossed_s) or not len(decided_s):
        return [(part, None) for part in truth["parts"]]

    def pairs(start_s: float) -> list[tuple[int, int]]:
        found, next_free = [], 0
        for i, at in enumerate(crossed_s):
            for j in range(next_free, len(decided_s)):
                off = decided_s[j] - start_s - at
                if off > MATCH_S:
                    break
                if off >= -MATCH_S:
                    found.append((i, j))
                    next_free = j + 1
                    break
        return found

    starts = {round(float(d - c), 2) for d in decided_s[:8] for c in crossed_s[:8]}
    best = max(
        (pairs(start) for start in sorted(starts)),
        key=lambda found: (
            len(found),
            sum((decisions[j]["verdict"] == "reject") == _defective(truth["parts"][i]) for i, j in found),
        ),
    )
    partner = dict(best)
    return [(part, decisions[partner[i]] if i in partner else None) for i, part in enumerate(truth["parts"])]


def _defective(part: dict[str, Any]) -> bool:
    return bool(part["verdict"] == "defective")


def _summary(decisions: list[Message], truth: dict[str, Any] | None) -> dict[str, Any]:
    latency_ms = [float(message["latency_ms"]) for message in decisions] or [0.0]
    verdicts = {word: sum(d["verdict"] == word for d in decisions) for word in ("accept", "reject", "unknown")}
    summary: dict[str, Any] = {
        "parts": len(truth["parts"]) if truth else "unknown: this clip comes without truth",
        "decisions": f"{len(decisions)} ({', '.join(f'{count} {word}' for word, count in verdicts.items())})",
    }
    if decisions:
        summary["backend"] = ", ".join(sorted({str(decision["backend"]) for decision in decisions}))
    if truth:
        pairs = _matched(decisions, truth)
        missed = sum(decision is None for _, decision in pairs)
        right = sum(d is not None and (d["verdict"] == "reject") == _defective(part) for part, d in pairs)
        summary["misses"] = missed
        summary["agreement"] = f"{right} of {len(pairs)} parts ({right / max(1, len(pairs)):.1%})"
        summary["escapes"] = sum(_defective(p) and d is not None and d["verdict"] != "reject" for p, d in pairs)
        summary["overkill"] = sum(not _defective(p) and d is not None and d["verdict"] == "reject" for p, d in pairs)
    p50, p99 = np.percentile(latency_ms, [50, 99])
    summary["capture to decision"] = f"p50 {p50:.1f} ms, p99 {p99:.1f} ms"
    return summary


def _disagreements(clip: Path, decisions: list[Message], truth: dict[str, Any]) -> list[tuple[Image, str]]:
    """Each part that was decided wrongly or not at all, cut out where it crosses the line."""
    wrong = [
        (part, decision)
        for part, decision in _matched(decisions, truth)
        if decision is None or (decision["verdict"] == "reject") != _defective(part)
    ]
    frames = _frames(clip, {part["crosses_at"] for part, _ in wrong})
    tiles = []
    for part, decision in wrong:
        seen = part["frames"][part["crosses_at"]]
        image = annotate(
            frames[part["crosses_at"]],
            [Finding(defect["kind"], 1, 1.0, tuple(defect["box"])) for defect in seen["defects"]],
        )
        said = decision["cause"] if decision else "no decision"
        tiles.append((cut_out(image, seen["box"]), f"is {', '.join(part['defects']) or 'ok'}; said {said}"))
    return tiles


def _samples(clip: Path, decisions: list[Message]) -> list[tuple[Image, str]]:
    """A clip without truth: some decisions spread over the clip, as seen."""
    chosen = decisions[:: max(1, len(decisions) // 12)][:12]
    first = datetime.fromisoformat(decisions[0]["captured_at"]).timestamp() if decisions else 0.0
    fps = cv2.VideoCapture(str(clip)).get(cv2.CAP_PROP_FPS) or 25.0
    numbers = [round((datetime.fromisoformat(d["captured_at"]).timestamp() - first) * fps) for d in chosen]
    frames = _frames(clip, set(numbers))
    tiles = []
    for number, decision in zip(numbers, chosen, strict=True):
        if number not in frames:
            continue
        boxes = [f for f in decision["findings"] if f["box"]]
        findings = [Finding(f["label"], f["class_id"], f["score"], tuple(f["box"])) for f in boxes]
        tiles.append((annotate(frames[number], findings), f"{decision['verdict']}: {decision['cause']}"))
    return tiles


def _frames(clip: Path, numbers: set[int]) -> dict[int, Image]:
    found: dict[int, Image] = {}
    video = cv2.VideoCapture(str(clip))
    for number in range(max(numbers, default=-1) + 1):
        if not video.grab():
            break
        if number in numbers:
            found[number] = np.asarray(video.retrieve()[1], np.uint8)
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="A clip becomes decisions on MQTT; needs no broker, camera or account."
    )
    parser.add_argument("--clip", type=Path, help="any video, instead of the rendered one")
    parser.add_argument("--bundle", help=f"any model bundle, instead of the shipped {SHIPPED}")
    parser.add_argument("--per", choices=("object", "frame"), help="what a decision is about (default: by the bundle)")
    parser.add_argument("--seed", type=int, default=7, help="of the rendered clip")
    parser.add_argument("--seconds", type=float, default=40.0, help="length of the rendered clip")
    parser.add_argument("--python", default=sys.executable, help="what runs the daemon; default: this Python")
    parser.add_argument(
        "--pace", choices=("real_time", "max_speed"), default="real_time", help="max_speed: every frame"
    )
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="where clip, log and pictures go")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
