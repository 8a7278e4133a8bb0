"""Prometheus' own programs for tests: promtool, and a server that scrapes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from broker import free_port
from rig import until


def program(name: str) -> str:
    """A test that needs it skips without, except in CI."""
    found = shutil.which(name)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is absent, and in CI the tests with it must run: apt install prometheus")
        pytest.skip(f"{name} is absent: apt install prometheus")
    return found


def promtool(*words: str | Path, given: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [program("promtool"), *map(str, words)]
    return subprocess.run(command, input=given, capture_output=True, text=True, timeout=60)


class Prometheus:
    """A server on loopback that scrapes one endpoint every second, with the rules of docs/alerts."""

    def __init__(self, folder: Path, target: int, rules: Path) -> None:
        self.port = free_port()
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(rules)],
            "scrape_configs": [
                {"job_name": "lineside", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]},
            ],
        }
        (folder / "prometheus.yml").write_text(json.dumps(settings))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Prometheus:
        command = [
            program("prometheus"),
            f"--config.file={self._folder}/prometheus.yml",
            f"--storage.tsdb.path={self._folder}/data",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        until(self._answers, 30, "Prometheus")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(20)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an instant query."""
        return list(self._get("query", query=expression)["result"])

    def rules(self) -> list[dict[str, Any]]:
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def _get(self, what: str, **words: str) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self.port}/api/v1/{what}?{urllib.parse.urlencode(words)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            found = json.loads(answer.read())
        assert found["status"] == "success", found
        return dict(found["data"])

    def _answers(self) -> bool:
        try:
            return bool(self._get("query", query="1"))
        except OSError:
            return False
