"""The metrics endpoint: a real daemon and broker, read by Prometheus' own parsers and tools."""

from __future__ import annotations

import contextlib
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import openmetrics, parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from broker import Mosquitto, free_port
from lineside.checked import Unfit, checked
from lineside.config.metrics import MetricsConfig
from lineside.deliver.validate import faults
from lineside.exporter import Exporter
from lineside.exposition import EDGES_S, Family, text, wanted
from lineside.hal.board import disk
from lineside.metrics import Latency, Stages
from lineside.wellbeing import problems
from prometheus import promtool
from rig import Daemon, Subscriber, fake_bundle, fake_profile, pictures, until

Eventually = Callable[..., None]
OPEN = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


def scrape(port: int, accept: str = "", path: str = "/metrics") -> tuple[str, str]:
    """(content type, body)."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Accept": accept} if accept else {})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def values(body: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parser.text_string_to_metric_families(body)
        for sample in family.samples
    }


def value(body: str, name: str, **labels: str) -> float:
    return values(body)[name, frozenset(labels.items())]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, int]]:
    """A daemon that has decided 40 pictures and looks at a live camera still, with broker and endpoint."""
    folder = tmp_path_factory.mktemp("metrics")
    port = free_port()
    clip = pictures(folder / "clip", 40)
    config = f"""
[daemon]
profile = "{fake_profile(folder / "fake.toml")}"
[cameras.cam]
driver = "clip"
path = "{clip}"
pace = "real_time"
fps = 50
mode = "every"
[cameras.belt]
driver = "synthetic"
fps = 20
[stations.s1]
camera = "cam"
bundle = "{fake_bundle()}"
[[stations.s1.rules]]
kind = "threshold"
labels = ["band0"]
high = 0.5
[stations.press-shop]
camera = "belt"
bundle = "{fake_bundle()}"
[metrics]
port = {port}
[mqtt]
host = "127.0.0.1"
port = {{broker}}
box = "box-1"
health_s = 1
"""
    with Mosquitto(folder / "broker") as broker, Daemon(folder, config.format(broker=broker.port)) as daemon:
        daemon.broker = broker.port  # type: ignore[attr-defined]
        daemon.ready()
        until(lambda: daemon.station("s1").get("decisions") == 40, what="40 decisions")
        until(lambda: daemon.status()["journal"]["last_seq"].get("s1") == 41, what="all on disk")
        until(lambda: daemon.status()["mqtt"]["acked"] >= 40, what="40 acknowledgements")
        until(lambda: daemon.status().get("metrics", {}).get("listens"), what="the endpoint")
        yield daemon, port


def test_the_numbers_are_those_of_lineside_status(running: tuple[Daemon, int]) -> None:
    daemon, port = running
    _, body = scrape(port)
    status = daemon.status()
    station = status["stations"]["s1"]
    for verdict in ("accept", "reject", "unknown"):
        assert value(body, "lineside_decisions_total", station="s1", verdict=verdict) == station[verdict]
    assert value(body, "lineside_decisions_total", station="s1", verdict="reject") == 4
    assert value(body, "lineside_camera_frames_total", camera="cam") == 40
    assert value(body, "lineside_parts_total", station="s1") == 40
    assert value(body, "lineside_parts_unaccounted", station="s1") == 0
    assert value(body, "lineside_triggers_total", station="s1") == station["parts"]["triggers"] == 40
    assert value(body, "lineside_frame_path_seconds_count", station="s1") == 40
    assert value(body, "lineside_frame_path_seconds_bucket", station="s1", le="+Inf") == 40
    for stage in ("take", "see", "conclude"):
        assert value(body, "lineside_stage_seconds_count", station="s1", stage=stage) == 40
    commits = daemon.status()["journal"]["commits"]  # asked later: it may have grown
    assert 0 < value(body, "lineside_journal_commit_seconds_count") <= commits
    assert value(body, "lineside_sink_up", sink="mqtt") == 1
    assert value(body, "lineside_sink_acked_total", sink="mqtt") >= 40
    assert value(body, "lineside_journal_last_seq", station="s1") == 41, "40 decisions and a recipe"
    assert value(body, "lineside_disk_size_bytes") == status["disk"]["size_bytes"]
    assert value(body, "lineside_build_info", **build(status)) == 1
    assert value(body, "process_resident_memory_bytes") > 10e6
    assert {dict(labels)["worker"] for (name, labels) in values(body) if name == "lineside_worker_stale"} >= {
        "journal",
        "mqtt",
        "metrics",
        "control",
    }
    assert not any(number for (name, _), number in values(body).items() if name == "lineside_worker_stale")


def build(status: dict[str, Any]) -> dict[str, str]:
    import platform

    return {"version": status["version"], "python": platform.python_version(), "profile": "fake"}


def test_prometheus_own_checker_and_both_parsers_take_it(running: tuple[Daemon, int]) -> None:
    _, port = running
    kind, body = scrape(port)
    assert kind == "text/plain; version=0.0.4; charset=utf-8"
    checked_ = promtool("check", "metrics", given=body)
    assert (checked_.returncode, checked_.stdout + checked_.stderr) == (0, "")
    kind, open_body = scrape(port, OPEN)
    assert kind == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    families = {family.name: family for family in openmetrics_parser.text_string_to_metric_families(open_body)}
    assert families["lineside_decisions"].type == "counter"
    assert families["lineside_frame_path_seconds"].type == "histogram"
    plain = {name for name, _ in values(body)}
    assert plain == {sample.name for family in families.values() for sample in family.samples}
    assert openmetrics.exposition.CONTENT_TYPE_LATEST.startswith("application/openmetrics-text")


def test_the_health_message_has_the_same_numbers(running: tuple[Daemon, int], eventually: Eventually) -> None:
    daemon, port = running

    def there() -> set[str]:
        return {name for name in witness.all("health")[-1]["metrics"] if "quantile=" not in name}

    def here() -> set[str]:
        lines = [line for line in scrape(port)[1].splitlines() if not line.startswith("#") and "_bucket" not in line]
        return {line.rsplit(" ", 1)[0] for line in lines}

    with Subscriber(daemon.broker, "lineside/site/line/box-1/health") as witness:  # type: ignore[attr-defined]
        eventually(lambda: witness.all("health"), what="a retained health message")
        eventually(lambda: here() == there(), what="the same names at both")
    message = witness.all("health")[-1]
    assert [fault for message in witness.all("health") for fault in faults(message)] == []
    assert (message["box"], message["problems"]) == ("box-1", [])
    metrics = message["metrics"]
    assert metrics['lineside_decisions_total{station="s1",verdict="reject"}'] == 4
    assert metrics['lineside_frame_path_seconds{station="s1",quantile="0.99"}'] > 0


WELL: dict[str, Any] = {
    "backend": "openvino:cpu",
    "device": {"up": True},
    "passed_over": [{"backend": "litert:cpu", "file": "", "why": "litert is not installed"}],
    "proof": {"state": "golden", "told": ""},
}


@pytest.mark.parametrize(
    ("where", "fields", "says"),
    [
        (
            "cameras",
            {"cam": {"state": "waiting", "last_error": "no such device"}},
            "camera cam is waiting: no such device",
        ),
        (
            "stations",
            {"s": {**WELL, "device": {"up": False, "last_error": "gone"}}},
            "station s: the device is down: gone",
        ),
        (
            "stations",
            {"s": {**WELL, "passed_over": [{"backend": "litert:cpu", "file": "a.tflite", "why": "it is wrong"}]}},
            "station s runs on openvino:cpu, not on litert:cpu: it is wrong",
        ),
        (
            "stations",
            {"s": {**WELL, "proof": {"state": "unproven", "told": "is unproven on this machine"}}},
            "station s: the model is unproven on this machine",
        ),
        ("journal", {"state": "refusing", "last_error": "disk full"}, "the journal's disk refuses: disk full"),
        ("mqtt", {"connected": False, "last_error": "refused"}, "mqtt is not connected: refused"),
        ("disk", {"path": "/x", "free_bytes": 4_000_000, "size_bytes": 1e8}, "/x: only 4 MB of the disk are free"),
        ("temperature", {"state": "critical", "hottest_c": 95.0}, "the board is at 95 degrees Celsius (critical)"),
        ("health", {"workers": {"journal": {"state": "stale"}}}, "worker journal shows no sign of life"),
    ],
)
def test_a_problem_is_said_in_words(where: str, fields: dict[str, Any], says: str) -> None:
    well: dict[str, Any] = {
        "cameras": {"cam": {"state": "streaming"}},
        "stations": {"s": WELL},
        "journal": {"state": "ok"},
        "mqtt": {"connected": True},
        "disk": {"path": "/", "free_bytes": 50, "size_bytes": 100},
        "temperature": {"state": "ok"},
        "health": {"workers": {"journal": {"state": "fresh"}}},
    }
    assert problems(well) == []
    assert problems({**well, where: fields}) == [says]


def test_counters_only_rise_and_every_metric_has_words(running: tuple[Daemon, int]) -> None:
    _, port = running
    first, second = scrape(port)[1], scrape(port)[1]
    rising = {
        (sample.name, frozenset(sample.labels.items()))
        for family in parser.text_string_to_metric_families(first)
        for sample in family.samples
        if family.type == "counter" or sample.name.endswith(("_bucket", "_count"))
    }
    before, after = values(first), values(second)
    assert len(rising) > 100
    assert [key for key in rising if after[key] < before[key]] == []
    assert all(family.documentation for family in parser.text_string_to_metric_families(first))


def test_what_is_asked_wrongly_is_answered_and_counted(running: tuple[Daemon, int], eventually: Eventually) -> None:
    daemon, port = running
    before = daemon.status()["metrics"]["refused"]
    with pytest.raises(urllib.error.HTTPError, match="404"):
        scrape(port, path="/metricsx")
    with pytest.raises(urllib.error.HTTPError, match="405"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", data=b"x", timeout=10)
    for junk in (b"\r\n\r\n", b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port)) as peer:
            peer.sendall(junk)
            assert b" 40" in peer.recv(100)
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.sendall(b"GET /metrics HTTP/1.1\r\n" + b"X: " + b"y" * 20_000)
        with contextlib.suppress(ConnectionResetError):
            assert peer.recv(100) == b""
    eventually(lambda: daemon.status()["metrics"]["refused"] == before + 5)
    assert value(scrape(port)[1], "lineside_camera_up", camera="cam") == 1, "it still answers"


def test_a_head_request_gets_the_head(running: tuple[Daemon, int]) -> None:
    with socket.create_connection(("127.0.0.1", running[1])) as peer:
        peer.sendall(b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        got = b""
        while chunk := peer.recv(4096):
            got += chunk
    head, _, body = got.partition(b"\r\n\r\n")
    assert body == b""
    assert b"Content-Length: 0" not in head


def test_a_port_that_is_taken_is_said_and_taken_later(eventually: Eventually, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lineside.exporter._RETRY_S", 0.1)
    holder = socket.create_server(("127.0.0.1", 0))
    port = holder.getsockname()[1]
    exporter = Exporter("127.0.0.1", port, lambda: [])
    exporter.start()
    eventually(lambda: "name another port" in str(exporter.status()["last_error"]))
    assert exporter.status()["listens"] == ""
    holder.close()
    eventually(lambda: exporter.status()["listens"])
    assert exporter.status()["last_error"] == ""
    assert scrape(port)[1] == ""
    exporter.stop()


def test_labels_and_numbers_are_written_as_the_format_asks() -> None:
    odd = 'quote " slash \\ line\nend é'
    family = Family("odd", "gauge", "words \\ and\nlines")
    for number in (1.5, float("inf"), float("-inf"), 1e300, True, 2**53):
        family.add(number, name=odd, number=repr(number))
    family.add(None, name="nobody knows")
    body = "".join(text([family, Family("empty", "gauge", "nothing")], "prometheus"))
    samples = next(iter(parser.text_string_to_metric_families(body))).samples
    found = {sample.labels["number"]: sample for sample in samples}
    assert {sample.labels["name"] for sample in samples} == {odd}
    assert found["inf"].value == float("inf")
    assert found["True"].value == 1
    assert found[repr(2**53)].value == 2**53
    assert len(found) == 6
    assert "empty" not in body


@pytest.mark.parametrize(
    ("accept", "form"),
    [("", "prometheus"), ("*/*", "prometheus"), (OPEN, "openmetrics"), ("text/plain", "prometheus")],
)
def test_the_accept_header_chooses_the_form(accept: str, form: str) -> None:
    assert wanted(accept) == form


def test_a_histogram_counts_what_was_at_most_its_edge() -> None:
    latency = Latency()
    for value_ms in (0.05, 0.9, 1.5, 30, 30, 20_000):
        latency.add(int(value_ms * 1e6))
    below = dict(zip(EDGES_S, latency.below(EDGES_S), strict=True))
    assert (below[0.0001], below[0.001], below[0.002], below[0.02], below[0.05], below[10.0]) == (1, 2, 3, 3, 5, 5)
    family = Family("f_seconds", "histogram", "x", latencies=[({}, latency)])
    samples = dict(family.samples())
    assert samples["f_seconds_count"] == samples['f_seconds_bucket{le="+Inf"}'] == 6
    assert samples["f_seconds_sum"] == pytest.approx(20.06245)


def test_a_stage_is_measured_when_it_raises_too() -> None:
    stages = Stages("see")

    def fails() -> None:
        raise ValueError("the model broke")

    with pytest.raises(ValueError, match="the model broke"):
        stages.timed("see", fails)()
    assert stages.latencies["see"].count == 1


def test_the_disk_of_a_folder_that_is_not_there_yet_is_that_above_it(tmp_path: Path) -> None:
    assert disk(tmp_path / "a" / "b")["size_bytes"] == disk(tmp_path)["size_bytes"]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"address": "localhost"}, "must be an IP address"),
        ({"port": 0}, "greater than or equal to 1"),
        ({"adress": "::1"}, "not permitted"),
    ],
)
def test_a_wrong_table_is_refused(table: dict[str, object], says: str) -> None:
    with pytest.raises(Unfit, match=says):
        checked(MetricsConfig, table)
    assert checked(MetricsConfig, {"address": "::1"}).address == "::1"
