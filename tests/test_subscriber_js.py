"""docs/examples/subscriber.mjs as it stands, with npm's mqtt client, a real broker and a real box."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from broker import Mosquitto
from conftest import ROOT
from desks import Asking, Box

Eventually = Callable[..., None]
MODULES = ROOT / "tests" / "js" / "node_modules"


def node() -> str:
    """The program; a test that needs it skips without, except in CI."""
    found = shutil.which("node")
    if found and (MODULES / "mqtt").is_dir():
        return found
    missing = "node or tests/js/node_modules is absent: apt install nodejs npm, then `npm ci` in tests/js"
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)


def test_the_example_in_javascript_handles_each_message_once_and_asks_for_what_is_missing(
    tmp_path: Path, eventually: Eventually
) -> None:
    program = node()
    shutil.copy(ROOT / "docs" / "examples" / "subscriber.mjs", tmp_path)
    (tmp_path / "node_modules").symlink_to(MODULES)
    out = tmp_path / "out"

    def handled() -> list[dict[str, Any]]:
        lines = out.read_text().split("\n")[:-1]
        return [message for line in lines if (message := json.loads(line))["station"] == "gate"]

    with Mosquitto(tmp_path / "broker", crash_safe=False) as broker, Box(tmp_path / "box", broker.port) as box:
        box.listening().decide(1, 150)  # before anybody listens
        eventually(lambda: box.sink.status()["acked"] == 150)
        command = [program, "subscriber.mjs", f"mqtt://127.0.0.1:{broker.port}", "lineside/plant/#", "mes-js"]
        with out.open("w") as file:
            subscriber = subprocess.Popen(command, cwd=tmp_path, stdout=file, stderr=subprocess.PIPE)
        try:
            eventually(lambda: "mes-js" in broker.log(), within_s=20, what="the subscriber's connection")
            eventually(lambda: len(handled()) == 150, within_s=30, what="what came before it")
            broker.kill()  # with what it had for the subscriber
            box.decide(151, 200)
            broker.start()
            box.listening().decide(201, 230)
            eventually(lambda: len(handled()) == 230, within_s=30, what="the rest")
            again = Asking(broker.port)
            for message in handled():
                again.client.publish("lineside/plant/l1/gate/decision", json.dumps(message), 1).wait_for_publish(10)
            again.close()
            box.decide(231, 231)
            eventually(lambda: handled()[-1]["seq"] == 231, what="a message after those that came twice")
        finally:
            subscriber.kill()
            _, errors = subscriber.communicate(timeout=10)
        assert sorted(message["seq"] for message in handled()) == list(range(1, 232)), "one came twice"
        assert errors == b""
        assert box.desk.status()["resent"]
