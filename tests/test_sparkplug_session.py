"""What an edge node says, without a network: sequence numbers, aliases, present values and the count of connections."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveries import decision, journal
from lineside.checked import Unfit, checked
from lineside.config import Config, delivery, parse
from lineside.config.sparkplug import SparkplugConfig
from lineside.deliver import messages
from lineside.deliver.sparkplug.metrics import DEVICE, OF_KIND, values
from lineside.deliver.sparkplug.payload import _payload_class
from lineside.deliver.sparkplug.session import NODE, REBIRTH, Birthdays, PrimaryHost, Session
from lineside.deliver.sparkplug.sink import SparkplugSink
from lineside.deliver.tables import Row
from lineside.errors import ConfigError
from sparkplug import sparkplug_sink

DATA = {"Record/Kind": "decision", "Record/Seq": 1}


def read(data: bytes) -> Any:
    payload = _payload_class()()
    payload.ParseFromString(data)
    return payload


def session(folder: Path) -> Session:
    made = Session(Birthdays(folder / "bdseq"), "1")
    made.connect()
    return made


@given(
    steps=st.lists(st.sampled_from(["nbirth", "dbirth", "ddata", "ndata", "ddeath", "connect", "unsay"]), max_size=600)
)
def test_seq_starts_at_zero_with_each_nbirth_and_counts_every_message_after_it(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    made = session(tmp_path_factory.mktemp("s"))
    assert read(made.nbirth({"Journal/Pending": 0}, 1)).seq == 0
    made.dbirth("a", 1)
    expected, pending = 1, 0
    for step in steps:
        pending += 1
        if step == "nbirth":
            assert read(made.nbirth({"Journal/Pending": pending}, 1)).seq == 0
            expected = 0
            continue
        if step == "connect":
            last = made.bdseq
            made.connect()
            assert made.bdseq == (last + 1) % 256
            continue
        if step == "unsay":
            made.ddata("a", DATA, 1, 1, False)
            made.unsay()
            continue
        expected = (expected + 1) % 256
        said = {
            "dbirth": lambda: made.dbirth("a", 1),
            "ddata": lambda: made.ddata("a", DATA, 1, 1, False),
            "ndata": lambda pending=pending: made.ndata({"Journal/Pending": pending}, 1),
            "ddeath": lambda: made.ddeath("a", 1),
        }[step]()
        assert said is not None
        assert read(said).seq == expected


def test_a_death_is_bdseq_alone_and_a_birth_repeats_it(tmp_path: Path) -> None:
    made = session(tmp_path)
    death = read(made.ndeath(5))
    assert not death.HasField("seq")
    assert [(m.name, m.datatype, m.long_value) for m in death.metrics] == [("bdSeq", 4, 0)]
    born = {m.name: m for m in read(made.nbirth({}, 6)).metrics}
    assert born["bdSeq"].long_value == 0
    assert (born[REBIRTH].datatype, born[REBIRTH].boolean_value, born[REBIRTH].HasField("alias")) == (11, False, False)
    again = {m.name: m for m in read(made.nbirth({}, 7)).metrics}
    assert again["bdSeq"].long_value == 0, "a rebirth is no new connection"
    made.connect()
    assert read(made.ndeath(8)).metrics[0].long_value == 1


def test_aliases_are_unique_in_the_node_and_stay_the_same(tmp_path: Path) -> None:
    made = session(tmp_path)

    def aliases() -> dict[tuple[str, str], int]:
        births = {"": made.nbirth({}, 1), "a": made.dbirth("a", 1), "b": made.dbirth("b", 1)}
        return {
            (device, m.name): m.alias
            for device, data in births.items()
            for m in read(data).metrics
            if m.name != REBIRTH
        }

    first = aliases()
    assert len(set(first.values())) == len(first) == 2 * len(DEVICE) + 1 + 2
    made.connect()
    assert aliases() == first


def test_a_birth_has_every_metric_with_its_present_value_and_history_changes_none(tmp_path: Path) -> None:
    made = session(tmp_path)
    made.nbirth({}, 1)
    born = read(made.dbirth("a", 50))
    assert [m.name for m in born.metrics] == list(DEVICE)
    assert all(m.is_null and m.timestamp == 50 for m in born.metrics)
    made.ddata("a", {"Record/Seq": 7}, 60, 61, False)
    old = read(made.ddata("a", {"Record/Seq": 3}, 20, 62, True))
    assert [(m.is_historical, m.timestamp, m.long_value) for m in old.metrics] == [(True, 20, 3)]
    (seq,) = [m for m in read(made.dbirth("a", 70)).metrics if m.name == "Record/Seq"]
    assert (seq.long_value, seq.timestamp, seq.is_null) == (7, 60, False)


def test_no_two_metric_names_differ_only_in_upper_and_lower_case() -> None:
    for names in (DEVICE, [*NODE, "bdSeq", REBIRTH]):
        assert len({name.lower() for name in names}) == len(names)


def test_ndata_has_what_changed_and_nothing_when_nothing_did(tmp_path: Path) -> None:
    made = session(tmp_path)
    made.nbirth({"Journal/Epoch": "e", "Journal/Pending": 1}, 1)
    assert made.ndata({"Journal/Epoch": "e", "Journal/Pending": 1}, 2) is None
    changed = made.ndata({"Journal/Epoch": "e", "Journal/Pending": 2}, 3)
    assert changed is not None
    assert [m.long_value for m in read(changed).metrics] == [2]
    assert made.ndata({"Journal/Epoch": "e", "Journal/Pending": 2}, 4) is None
    assert set(NODE) == {"Properties/Software", "Properties/Version", "Journal/Epoch", "Journal/Pending"}


@pytest.mark.parametrize("text", ["", "x", "-1", "256", "1.5", "\x00"])
def test_a_damaged_count_of_connections_begins_again(tmp_path: Path, text: str) -> None:
    (tmp_path / "bdseq").write_text(text)
    assert Birthdays(tmp_path / "bdseq").next() == 0


def test_the_count_of_connections_is_on_disk_before_it_is_used(tmp_path: Path) -> None:
    birthdays = Birthdays(tmp_path / "deep" / "bdseq")
    for number in range(300):
        assert birthdays.next() == number % 256
        assert Birthdays(tmp_path / "deep" / "bdseq").last == number % 256


def test_the_primary_host_is_online_when_its_newest_state_says_so() -> None:
    host = PrimaryHost("scada")
    assert (host.topic, host.is_online) == ("spBv1.0/STATE/scada", False)
    assert host.hear(b'{"online":true,"timestamp":10}')
    assert host.is_online
    assert not host.hear(b'{"online":false,"timestamp":9}'), "older than what it said last"
    assert host.is_online
    assert host.hear(b'{"online":false,"timestamp":10}')
    assert not host.is_online
    host.hear(b'{"online":true,"timestamp":11}')
    host.forget()
    assert not host.is_online, "a new connection must be told again"
    assert not host.hear(b'{"online":true,"timestamp":10}')


@pytest.mark.parametrize("kind", ["decision", "event", "gap", "recipe"])
def test_a_row_becomes_the_metrics_of_its_kind(kind: str) -> None:
    made = decision(1)
    bodies = {"decision": messages.body(made, True), "gap": messages.gap_body(3, "pruned", 5, 7, 10**18)}
    body = bodies.get(kind, b'{"id":"x","decided_at":"2026-11-21T10:00:00.000000Z"}')
    row = Row(1, "gate", "e", 9, kind, "b", 0, 0, False, body)
    found = values(row, b'{"whole":1}', True)
    assert set(found) == {name for name in DEVICE if name.startswith("Record/")} | set(OF_KIND.get(kind, ()))
    assert (found["Record/Seq"], found["Record/Late"], found["Record/JSON"]) == (9, True, '{"whole":1}')
    if kind == "gap":
        assert [found[name] for name in OF_KIND["gap"]] == [3, 5, 7, "pruned"]
    if kind == "decision":
        captured_ms = found["Decision/Captured at"]
        assert isinstance(captured_ms, int)
        assert abs(captured_ms - made.captured_wall_ns / 1_000_000) <= 1
        nan = row._replace(body=messages.body(replace(made, score=float("nan")), True))
        assert values(nan, b"{}", False)["Decision/Score"] is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json",
        b"\xff\xfe",
        b"[" * 100_000,
        b"[1]",
        b'{"part":3,"model":null,"score":"high","revision":true,"cause":7,"decided_at":"noon","captured_at":5}',
        b'{"revision":-1,"part":{"number":-5},"score":1e400,"decided_at":"9999-12-31T23:59:59.999999Z"}',
        b'{"revision":99999999999999999999,"part":{"number":99999999999999999999999}}',
    ],
)
@pytest.mark.parametrize("kind", ["decision", "event", "gap"])
def test_a_body_that_somebody_spoilt_becomes_nulls_and_stops_nothing(tmp_path: Path, body: bytes, kind: str) -> None:
    made = session(tmp_path)
    made.nbirth({}, 1)
    made.dbirth("gate", 1)
    row = Row(1, "gate", "e", 9, kind, "b", 0, -5, False, body)
    payload = read(made.ddata("gate", values(row, b"\xff" + body, False), 1, 1, False))
    assert len(payload.metrics) == 5 + len(OF_KIND[kind])
    assert payload.metrics[2].long_value == 9
    assert read(made.dbirth("gate", 2)).seq == 3


# --- configuration

GOOD = {"group_id": "plant", "edge_node_id": "box1"}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"group_id": "a/b"}, "no + # /"),
        ({"edge_node_id": "a+"}, "no + # /"),
        ({"edge_node_id": ""}, "not be empty"),
        ({"devices": {"s1": "#"}}, "no + # /"),
        ({"primary_host": "x/y"}, "no + # /"),
        ({"port": 1883}, "go with a host"),
        ({"tls": {}}, "go with a host"),
        ({"host": "b", "password_file": "x"}, "needs a username"),
        ({"inflight": 500}, "less than or equal to 120"),
        ({"reconnect_min_s": 10, "reconnect_max_s": 1}, "at least reconnect_min_s"),
        ({"qos": 1}, "Extra inputs"),
    ],
)
def test_a_wrong_option_is_refused_with_what_is_allowed(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(Unfit) as caught:
        checked(SparkplugConfig, {**GOOD, **fields})
    assert said in str(caught.value)


def config(**tables: Any) -> Config:
    stations = {name: {"camera": "cam", "bundle": "conveyor-parts"} for name in ("s1", "s2")}
    return parse({"cameras": {"cam": {"driver": "synthetic"}}, "stations": stations, **tables})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "sparkplug.host: name the broker here, or in [mqtt]"),
        ({"host": "b", "devices": {"s3": "x"}}, "no such station"),
        ({"host": "b", "devices": {"s1": "S2"}}, "two stations are device 's2'"),
    ],
)
def test_what_does_not_fit_the_rest_of_the_file_is_said(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(sparkplug={**GOOD, **fields})
    assert said in str(caught.value)


def test_the_broker_is_that_of_mqtt_or_its_own(tmp_path: Path) -> None:
    shared = config(mqtt={"host": "m", "username": "u", "tls": {}}, sparkplug=GOOD)
    assert shared.sparkplug is not None
    options = shared.sparkplug.options(shared.mqtt)
    assert (options["host"], options["port"], options["username"], options["tls"]) == ("m", 8883, "u", True)
    own = config(mqtt={"host": "m", "username": "u"}, sparkplug={**GOOD, "host": "s", "devices": {"s2": "Gate 2"}})
    assert own.sparkplug is not None
    options = own.sparkplug.options(own.mqtt)
    assert (options["host"], options["port"], options["username"], options["protocol"]) == ("s", 1883, None, "5")
    waits = checked(SparkplugConfig, {**GOOD, "host": "b", "primary_host": "scada"})
    assert (options["settle_s"], waits.options(None)["settle_s"]) == (2.0, 60.0)
    assert own.sparkplug.device_ids(own.stations) == {"s1": "s1", "s2": "Gate 2"}
    opened = journal(tmp_path)
    SparkplugSink(opened, devices={}, version="0", state_dir=tmp_path, **options)
    opened.stop()
    missing = checked(SparkplugConfig, {**GOOD, "host": "b", "username": "u", "password_file": tmp_path / "absent"})
    (line,) = missing.problems()
    assert line.startswith("sparkplug.password_file =")
    assert delivery.problems(own.journal, own.mqtt) == []


def test_json_of_the_status_is_plain(tmp_path: Path) -> None:
    opened = journal(tmp_path)
    made = sparkplug_sink(opened, 1, tmp_path, primary_host="h")
    assert json.loads(json.dumps(made.status()))["primary_host_online"] is False
    opened.stop()
