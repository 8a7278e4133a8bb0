"""docs/alerts, docs/grafana and docs/metrics.md against Prometheus' own tools and a live daemon."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import parser

from broker import Mosquitto, free_port
from lineside.measures import Seen, families
from prometheus import Prometheus, promtool
from rig import Daemon, fake_bundle, fake_profile, pictures, until
from test_exporter import scrape

DOCS = Path(__file__).parents[1] / "docs"
RULES = DOCS / "alerts" / "lineside.rules.yml"
DASHBOARD = json.loads((DOCS / "grafana" / "lineside.json").read_text())
ALERTS = re.findall(r"- alert: (\w+)", RULES.read_text())
BOX = 'instance="box:9464",job="lineside"'
S = f'{BOX},station="gate"'

# alert -> (series -> values a minute, from the minute at which it must fire); _x: repeat, +: rise
FIRES: dict[str, tuple[dict[str, str], int]] = {
    "LinesideDown": ({f"up{{{BOX}}}": "1 1 0x20"}, 4),
    "LinesideRestarts": ({f"process_start_time_seconds{{{BOX}}}": "1 1 2 3 4x20"}, 5),
    "LinesideWorkerStale": ({f'lineside_worker_stale{{{BOX},worker="journal"}}': "0 0 1x20"}, 2),
    "LinesideCameraDown": ({f'lineside_camera_up{{{BOX},camera="cam"}}': "1 1 0x20"}, 3),
    "LinesideFramesLost": ({f'lineside_camera_frames_lost_total{{{BOX},camera="cam"}}': "0 0 3x20"}, 3),
    "LinesideDeviceDown": ({f"lineside_device_up{{{S}}}": "1 1 0x20"}, 3),
    "LinesidePartsMissed": ({f'lineside_parts_missed_total{{{S},reason="lost_before_line"}}': "0 0 1x20"}, 3),
    "LinesidePartsUnaccounted": ({f"lineside_parts_unaccounted{{{S}}}": "0 0 1x20"}, 4),
    "LinesideDecisionsLate": ({f"lineside_decisions_late_total{{{S}}}": "0 0 1x20"}, 3),
    "LinesideManyUnknown": (
        {
            f'lineside_decisions_total{{{S},verdict="unknown"}}': "0+10x40",
            f'lineside_decisions_total{{{S},verdict="accept"}}': "0+90x40",
        },
        15,
    ),
    "LinesideJournalRefused": ({f"lineside_journal_up{{{BOX}}}": "1 1 0x20"}, 3),
    "LinesideRecordsLost": ({f'lineside_journal_pruned_total{{{BOX},delivered="no"}}': "0 0 512x20"}, 3),
    "LinesideJournalSetAside": ({f"lineside_journal_set_aside_stores{{{BOX}}}": "0 0 1x20"}, 2),
    "LinesideCommitsSlow": (
        {
            f'lineside_journal_commit_seconds_bucket{{{BOX},le="0.1"}}': "0+50x40",
            f'lineside_journal_commit_seconds_bucket{{{BOX},le="0.2"}}': "0+100x40",
            f'lineside_journal_commit_seconds_bucket{{{BOX},le="+Inf"}}': "0+100x40",
        },
        15,
    ),
    "LinesideBrokerDown": ({f'lineside_sink_up{{{BOX},sink="mqtt"}}': "1 1 0x20"}, 5),
    "LinesideBacklog": ({f'lineside_sink_oldest_pending_seconds{{{BOX},sink="mqtt"}}': "0+60x30"}, 12),
    "LinesideRefused": ({f'lineside_sink_refused_total{{{BOX},sink="mqtt"}}': "0 0 1x20"}, 3),
    "LinesideConnectionFlaps": ({f'lineside_sink_disconnects_total{{{BOX},sink="mqtt"}}': "0+1x20"}, 6),
    "LinesideDiskFull": (
        {f"lineside_disk_free_bytes{{{BOX}}}": "40 40 4x20", f"lineside_disk_size_bytes{{{BOX}}}": "100x22"},
        8,
    ),
    "LinesideDiskFills": ({f"lineside_disk_free_bytes{{{BOX}}}": "1000000-600x500"}, 480),
    "LinesideHot": (
        {
            f'lineside_temperature_celsius{{{BOX},zone="cpu"}}': "60 60 85x20",
            f'lineside_temperature_celsius{{{BOX},zone="nvme"}}': "50x22",
            f"lineside_temperature_warn_celsius{{{BOX}}}": "80x22",
        },
        8,
    ),
    "LinesideClockLoose": ({f"lineside_clock_synchronized{{{BOX}}}": "1 1 0x30"}, 18),
    "LinesideLogLost": ({f"lineside_log_lines_dropped_total{{{BOX}}}": "0 0 9x20"}, 3),
    "LinesideEvidenceRefused": ({f"lineside_evidence_up{{{BOX}}}": "1 1 0x20"}, 4),
    "LinesideEvidenceLost": ({f"lineside_evidence_lost_total{{{BOX}}}": "0 0 2x20"}, 3),
    "LinesideLedgerUnsigned": ({f"lineside_ledger_up{{{BOX}}}": "1 1 0x20"}, 5),
    "LinesideLedgerDoubt": ({f"lineside_ledger_doubt{{{BOX}}}": "0 0 1x20"}, 2),
    "LinesideTwin": ({f"lineside_twins{{{BOX}}}": "0 0 1x20"}, 4),
    "LinesideCommandsRefused": ({f'lineside_commands_total{{{BOX},outcome="refused"}}': "0 0 1x20"}, 3),
}


def run_rules(tmp_path: Path, tests: list[dict[str, Any]]) -> Any:
    file = tmp_path / "tests.yml"  # JSON is YAML
    file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    return promtool("test", "rules", file)


def test_the_rules_are_valid_and_each_alert_is_tested_and_explained() -> None:
    done = promtool("check", "rules", RULES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(ALERTS) == sorted(FIRES)
    explained = re.findall(r"^\| `(Lineside\w+)` \| .+ \| .+ \|$", (DOCS / "metrics.md").read_text(), re.MULTILINE)
    assert sorted(explained) == sorted(ALERTS)


@pytest.fixture(scope="module")
def fired(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What promtool says to rule tests that all expect silence: it lists what fires instead."""
    tests = [
        {
            "name": name,
            "interval": "1m",
            "input_series": [{"series": series, "values": values} for series, values in inputs.items()],
            "alert_rule_test": [{"eval_time": f"{minute}m", "alertname": name, "exp_alerts": []}],
        }
        for name, (inputs, minute) in FIRES.items()
    ]
    done = run_rules(tmp_path_factory.mktemp("rules"), tests)
    assert done.returncode == 1, "silence, although everything is wrong"
    return str(done.stdout + done.stderr)


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_fires_for_its_cause(fired: str, name: str) -> None:
    got = re.search(rf"alertname: {name}, time: .*?\n\s+exp:\[\s*\],?\s*\n?\s+got:\[(.*?)\n\s+\]", fired, re.DOTALL)
    assert got, fired
    assert f'alertname="{name}"' in got[1]
    assert 'severity="' in got[1]
    assert "summary=" in got[1]


def test_no_alert_fires_on_a_box_that_is_well(tmp_path: Path) -> None:
    well = {
        f"up{{{BOX}}}": "1x60",
        f"process_start_time_seconds{{{BOX}}}": "7x60",
        f'lineside_worker_stale{{{BOX},worker="journal"}}': "0x60",
        f'lineside_camera_up{{{BOX},camera="cam"}}': "1x60",
        f'lineside_camera_frames_lost_total{{{BOX},camera="cam"}}': "0x60",
        f"lineside_device_up{{{S}}}": "1x60",
        f'lineside_parts_missed_total{{{S},reason="lost_before_line"}}': "3x60",
        f'lineside_parts_missed_total{{{S},reason="wrong_direction"}}': "0+1x60",
        f"lineside_parts_unaccounted{{{S}}}": "0 1 0x58",
        f"lineside_decisions_late_total{{{S}}}": "2x60",
        f'lineside_decisions_total{{{S},verdict="unknown"}}': "0+1x60",
        f'lineside_decisions_total{{{S},verdict="accept"}}': "0+99x60",
        f"lineside_journal_up{{{BOX}}}": "1x60",
        f"lineside_journal_lost_total{{{BOX}}}": "0x60",
        f'lineside_journal_pruned_total{{{BOX},delivered="yes"}}': "0+500x60",
        f'lineside_journal_pruned_total{{{BOX},delivered="no"}}': "0x60",
        f"lineside_journal_set_aside_stores{{{BOX}}}": "0x60",
        f'lineside_journal_commit_seconds_bucket{{{BOX},le="0.1"}}': "0+100x60",
        f'lineside_journal_commit_seconds_bucket{{{BOX},le="+Inf"}}': "0+100x60",
        f'lineside_sink_up{{{BOX},sink="mqtt"}}': "1x60",
        f'lineside_sink_oldest_pending_seconds{{{BOX},sink="mqtt"}}': "2x60",
        f'lineside_sink_refused_total{{{BOX},sink="mqtt"}}': "0x60",
        f'lineside_sink_disconnects_total{{{BOX},sink="mqtt"}}': "1x60",
        f"lineside_disk_free_bytes{{{BOX}}}": "50x60",
        f"lineside_disk_size_bytes{{{BOX}}}": "100x60",
        f'lineside_temperature_celsius{{{BOX},zone="cpu"}}': "60x60",
        f"lineside_temperature_warn_celsius{{{BOX}}}": "80x60",
        f"lineside_clock_synchronized{{{BOX}}}": "1x60",
        f"lineside_log_lines_dropped_total{{{BOX}}}": "0x60",
        f"lineside_evidence_up{{{BOX}}}": "1x60",
        f"lineside_evidence_lost_total{{{BOX}}}": "0x60",
        f"lineside_ledger_up{{{BOX}}}": "1x60",
        f"lineside_ledger_checkpoints_missed_total{{{BOX}}}": "0x60",
        f"lineside_ledger_doubt{{{BOX}}}": "0x60",
        f"lineside_twins{{{BOX}}}": "0x60",
        f'lineside_commands_total{{{BOX},outcome="done"}}': "0+1x60",
        f'lineside_commands_total{{{BOX},outcome="refused"}}': "0x60",
    }
    series = [{"series": name, "values": values} for name, values in well.items()]
    silence = [{"eval_time": f"{at}m", "alertname": name, "exp_alerts": []} for name in ALERTS for at in (5, 30, 59)]
    done = run_rules(tmp_path, [{"interval": "1m", "input_series": series, "alert_rule_test": silence}])
    assert done.returncode == 0, done.stdout + done.stderr


# --- against a daemon that runs


def expressions() -> list[tuple[str, str]]:
    """(title, expression) of each query of the dashboard, its variables filled in."""
    found = []
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            filled = re.sub(r"\$__rate_interval", "5s", target["expr"])
            found.append((panel["title"], re.sub(r"\$(instance|station)", ".*", filled)))
    return found


def names_in(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:lineside|process)_\w+", expression))


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The endpoint of a daemon that decides, has temperatures and loses nothing."""
    folder = tmp_path_factory.mktemp("live")
    port = free_port()
    clip = pictures(folder / "clip", 10)
    with Mosquitto(folder / "broker") as broker:
        config = f"""
[daemon]
profile = "{fake_profile(folder / "fake.toml")}"
[cameras.cam]
driver = "clip"
path = "{clip}"
loop = true
fps = 50
[stations.s1]
camera = "cam"
bundle = "{fake_bundle()}"
[metrics]
port = {port}
[evidence]
[mqtt]
host = "127.0.0.1"
port = {broker.port}
"""
        with Daemon(folder, config) as daemon:
            daemon.ready()
            until(lambda: daemon.station("s1").get("decisions", 0) > 10, what="decisions")
            until(lambda: daemon.status().get("metrics", {}).get("listens"), what="the endpoint")
            yield port


def exported(port: int) -> dict[str, str]:
    """Sample name -> family, of what the endpoint has now; with what only shows in trouble or on a board."""
    _, body = scrape(port)
    return {s.name: family.name for family in parser.text_string_to_metric_families(body) for s in family.samples}


RARE = {  # refusals; boards with sensors; a disk that was full of evidence
    "lineside_sink_refused_by_code_total",
    "lineside_temperature_celsius",
    "lineside_evidence_removed_total",
}


def test_dashboard_and_rules_name_only_what_the_endpoint_has(live: int) -> None:
    known = set(exported(live)) | RARE
    for title, expression in expressions():
        assert names_in(expression) <= known, title
    for line in RULES.read_text().splitlines():
        if "expr:" in line:
            assert names_in(line) <= known, line


def test_prometheus_scrapes_it_answers_each_panel_and_stays_calm(tmp_path: Path, live: int) -> None:
    with Prometheus(tmp_path / "prometheus", live, RULES) as server:
        until(lambda: server.query('count_over_time(up{job="lineside"}[1m]) > 3'), 30, "four scrapes")
        assert [sample["value"][1] for sample in server.query('up{job="lineside"}')] == ["1"]
        empty = [title for title, expression in expressions() if not server.query(expression)]
        assert set(empty) <= {"Temperature", "Share of rejects and unknowns"} | _without_sensors(live)
        firing = {rule["name"] for rule in server.rules() if rule["state"] == "firing"}
        assert firing <= {"LinesideDiskFull", "LinesideHot"}, "that is for this machine to mend"
        assert len(server.rules()) == len(ALERTS)
        assert all(rule["health"] in ("ok", "unknown") for rule in server.rules())


def _without_sensors(port: int) -> set[str]:
    return set() if "lineside_temperature_celsius" in exported(port) else {"Temperature"}


def test_the_page_lists_every_metric_with_its_kind_and_words(live: int) -> None:
    text = (DOCS / "metrics.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (counter|gauge|histogram) \| (.*?) \| (.*) \|$", text, re.MULTILINE)
    _, body = scrape(live)
    told = {name: (kind, words) for name, kind, _, words in rows}
    heads = re.findall(r"^# HELP (\S+) (.*)\n# TYPE \S+ (\S+)$", body, re.MULTILINE)
    for name, words, kind in heads:
        assert told.get(name) == (kind, words), f"docs/metrics.md does not tell of {name} as the endpoint does"
    assert set(told) - {name for name, _, _ in heads} <= RARE
    labels = {name: set(re.findall(r"`(\w+)`", found)) for name, _, found, _ in rows}
    for family in parser.text_string_to_metric_families(body):
        used = {label for sample in family.samples for label in sample.labels} - {"le"}
        name = family.name + ("_total" if family.type == "counter" else "")
        assert used == labels[name], name


def test_what_is_not_yet_known_is_left_out() -> None:
    """Before the journal opens and the first camera answers."""
    status = {
        "version": "1", "profile": "p", "cameras": {}, "stations": {}, "journal": {}, "health": {},
        "log_lines_dropped": 0,
    }  # fmt: skip
    found = {family.name for family in families(Seen(status=status, sinks=("mqtt",), latencies={})) if family.values}
    assert "lineside_build_info" in found
    assert not any(name.startswith(("lineside_journal", "lineside_disk")) for name in found)
