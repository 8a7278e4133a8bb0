"""Every message against its schema, and the checker against jsonschema."""

from __future__ import annotations

import copy
import functools
import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deliveries import FINDING, decision, event, journal
from lineside.clock import SystemClock
from lineside.commands.subscribe import _line
from lineside.deliver import messages
from lineside.deliver.audit import Audit
from lineside.deliver.ledger import Ledger
from lineside.deliver.openparts import Mark, Origin, in_doubt
from lineside.deliver.tally import Tally
from lineside.deliver.validate import KINDS, faults, schema
from lineside.records import Finding, Note

SAFE = 2**53 - 1


def whole(body: bytes, kind: str, **delivery: Any) -> dict[str, Any]:
    head = {"station": "gate", "epoch": "e1", "seq": 7, "decided_late": False, "backfill": False, "age_ms": 3}
    message: dict[str, Any] = json.loads(messages.message(body, kind=kind, **{**head, **delivery}))
    return message


def kept_fields() -> dict[str, Any]:
    frame = {"number": 4, "file": "4.png", "shape": [2, 3, 3], "dtype": "uint8", "pixels": "sha256:" + "0" * 64}
    return {
        "state": "kept",
        "decision": "gate-1",
        "why": "reject",
        "folder": "gate/x",
        "recipe": "sha256:" + "1" * 64,
        "frames": [frame],
        "frames_missing": 0,
        "faces": "none",
        "files": {"4.png": {"sha256": "sha256:" + "2" * 64, "bytes": 7}},
        "removed": [],
        "lost": 0,
        "cause": "defect: scratch 0.91",
    }


def a_message(kind: str) -> dict[str, Any]:
    if kind == "decision":
        return whole(messages.body(decision(), True), kind)
    if kind == "event":
        return whole(messages.body(event(), False), kind)
    if kind == "gap":
        return whole(messages.gap_body(3, "the journal was full", 4, 6, 10**18), kind)
    if kind == "recipe":
        fields = {"digest": "sha256:" + "0" * 64, "recipe": {"lineside": "1"}, "cause": "the daemon started"}
        return whole(messages.body(Note("r1", "recipe", "gate", fields, 1, 10**18), True), kind)
    if kind == "checkpoint":
        return a_checkpoint()
    if kind == "health":
        numbers = {'lineside_decisions_total{station="gate",verdict="reject"}': 4.0, "odd": math.nan}
        health: dict[str, Any] = json.loads(messages.health("box-1", "1", 1, True, 30.0, ["it is hot"], numbers))
        return health
    if kind == "doctor":
        probe: dict[str, Any] = json.loads(messages.probe("box-1", 1, "ab12-1"))
        return probe
    if kind == "evidence":
        return whole(messages.body(Note("e1", "evidence", "gate", kept_fields(), 1, 10**18), True), kind)
    if kind == "in_doubt":
        origin = Origin("gate", "run-1", "cam", "boot-1")
        return whole(messages.body(in_doubt(origin, Mark("p1", 7, 1, 10**18), "killed", SystemClock()), True), kind)
    if kind == "audit":
        told: list[Note] = []
        Audit("box-1", SystemClock(), told.append).done({"command": "resend", "client": "mes"}, {"station": "gate"})
        return whole(messages.body(told[0], True), kind)
    if kind == "reply":
        run = {"first_seq": 1, "last_seq": 2, "reason": "pruned"}
        asked = {"station": "gate", "epoch": "e1", "from": 1, "to": 4, "count": 2, "missing": [run], "next": 5}
        reply: dict[str, Any] = json.loads(messages.reply("box-1", "resend", "c1", "", asked))
        return reply
    fields = {
        "at": messages.rfc3339(10**18),
        "clock_synchronized": True,
        "heartbeat_s": 10.0,
        "epoch": "e1",
        "last_seq": {"gate": 7},
        "previous": {"epoch": "e0", "last_seq": {"gate": 40}},
        "pending": 0,
        "instance": "9f86d081884c7d65",
        "connection": 1,
        "stations": ["gate"],
        "resend_topic": "lineside/plant/l1/box-1/resend",
        "command_topic": None,
        "twins": [{"box": "box-2", "instance": "60303ae22b998861", "shares": "station 'gate'"}],
    }
    status: dict[str, Any] = json.loads(messages.online("box-1", "0.1.0", fields))
    return status


@functools.cache
def signed() -> bytes:
    """A checkpoint of a real store."""
    with TemporaryDirectory() as folder:
        opened = journal(Path(folder), ledger=Ledger(Path(folder) / "identity", "box-1", SystemClock()))
        opened.put(decision(1))
        assert opened.seal(10)
        opened.stop()
        return opened.documents()["checkpoint"]


def a_checkpoint() -> dict[str, Any]:
    message: dict[str, Any] = json.loads(signed())
    return message


@pytest.mark.parametrize("kind", KINDS)
def test_every_message_fits_its_schema_and_the_schema_knows_every_field(kind: str) -> None:
    message = a_message(kind)
    jsonschema.Draft202012Validator.check_schema(schema(kind))
    jsonschema.validate(message, schema(kind), jsonschema.Draft202012Validator)
    assert faults(message) == []
    known = set(schema(kind)["properties"])
    assert set(message) <= known, "a field that the schema does not tell of"
    assert known - set(message) <= {"reason"}, "a field that no message carries"


def test_subscribe_says_which_parts_are_in_doubt() -> None:
    message = a_message("in_doubt")
    assert "gate #7  in doubt: part p1  killed" in _line(message, True)
    assert "in doubt: 3 parts" in _line({**message, "part": None, "parts": 3}, True)
    assert "in doubt: parts that cannot be named" in _line({**message, "part": None, "parts": None}, True)


def test_the_last_will_fits_the_schema() -> None:
    assert faults(json.loads(messages.offline("box-1", "connection lost"))) == []


def test_a_decision_says_what_was_decided() -> None:
    made = decision(4, late=True, escalated=True, revision=2)
    message = whole(messages.body(made, True), "decision", decided_late=True)
    assert message["part"] == {"id": "part-4", "number": 4, "serial": "S1", "lot": None, "product": None}
    assert (message["verdict"], message["output"], message["cause"]) == ("reject", "reject", "defect: scratch 0.91")
    assert (message["late"], message["decided_late"], message["backfill"]) == (True, True, False)
    assert (message["escalated"], message["revision"], message["score"]) == (True, 2, 0.91)
    box = {"label": "scratch", "class_id": 3, "score": 0.91, "box": [1.5, 2.0, 30.25, 40.0]}
    assert message["findings"] == [box]
    assert message["model"] == {"name": "caps", "version": "3", "digest": "sha256:" + "ab" * 32}
    assert message["latency_ms"] == 5.0
    assert message["captured_at"] < message["decided_at"]


def test_a_backfill_message_is_late_whatever_the_decision_was() -> None:
    message = whole(messages.body(decision(), True), "decision", backfill=True, age_ms=None)
    assert (message["late"], message["decided_late"], message["backfill"], message["age_ms"]) == (
        True,
        False,
        True,
        None,
    )


def test_times_are_rfc_3339_in_utc_with_microseconds() -> None:
    assert messages.rfc3339(1_795_233_170_123_456_789) == "2026-11-21T03:52:50.123456Z"
    assert messages.rfc3339(0) == "1970-01-01T00:00:00.000000Z"
    assert messages.rfc3339(-5) == "1970-01-01T00:00:00.000000Z"
    assert messages.rfc3339(2**63) == "2262-04-11T23:47:16.854775Z"


anything = st.floats(allow_nan=True, allow_infinity=True)
texts = st.text(max_size=30)
boxes = st.none() | st.tuples(anything, anything, anything, anything)
found = st.builds(Finding, texts, st.integers(0, 1000), anything, boxes)


@settings(max_examples=200, deadline=None)
@given(texts, anything, st.lists(found, max_size=4), texts, st.integers(0, 2**62))
def test_whatever_a_record_holds_the_message_is_valid_json_with_safe_integers(
    cause: str, score: float, findings: list[Finding], serial: str, wall_ns: int
) -> None:
    made = decision(1, cause=cause, score=score, findings=tuple(findings), decided_wall_ns=wall_ns)
    body = messages.body(made, True)
    message = whole(body, "decision")
    assert faults(message) == []
    jsonschema.validate(message, schema("decision"), jsonschema.Draft202012Validator)
    assert message["cause"] == cause
    assert (message["score"] is None) == (not math.isfinite(score))
    assert all(abs(number) <= SAFE for number in integers(message))


def integers(node: Any) -> list[int]:
    if isinstance(node, dict):
        return [number for item in node.values() for number in integers(item)]
    if isinstance(node, list):
        return [number for item in node for number in integers(item)]
    return [node] if isinstance(node, int) else []


odd = (
    st.none()
    | st.booleans()
    | st.integers(-3, 2**54)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.just([])
    | st.just({})
    | st.just([1, 2, 3])
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(KINDS), st.randoms(use_true_random=False), odd, st.booleans())
def test_the_checker_says_what_jsonschema_says(kind: str, chance: Any, value: object, delete: bool) -> None:
    message = copy.deepcopy(a_message(kind))
    node: Any = message
    while True:  # some place in the message
        key = chance.choice(list(node) if isinstance(node, dict) else range(len(node)))
        if isinstance(node[key], dict | list) and node[key] and chance.random() < 0.7:
            node = node[key]
            continue
        if delete and isinstance(node, dict):
            del node[key]
        else:
            node[key] = value
        break
    validator = jsonschema.Draft202012Validator(schema(kind))
    if message.get("kind") == kind:
        assert bool(faults(message)) == (not validator.is_valid(message)), message


@pytest.mark.parametrize("message", [None, [], "x", 3, {}, {"kind": "else"}, {"kind": ["decision"]}])
def test_what_is_no_message_is_named_without_a_traceback(message: object) -> None:
    assert faults(message)


def test_a_fault_names_its_path() -> None:
    message = a_message("decision")
    message["findings"][0]["box"] = [1, 2, 3]
    message["verdict"] = "maybe"
    del message["model"]["digest"]
    lines = faults(message)
    assert [line.split(" ")[0].rstrip(":") for line in lines] == ["verdict", "findings[0].box", "model.digest"]


def test_the_documents_show_messages_that_are_valid() -> None:
    text = (Path(__file__).parents[1] / "docs" / "messages.md").read_text()
    blocks = [block.split("```")[0] for block in text.split("```json\n")[1:]]
    kinds = {json.loads(block)["kind"] for block in blocks}
    assert kinds == set(KINDS)
    for block in blocks:
        assert faults(json.loads(block)) == []


def test_the_table_of_fields_in_the_documents_is_complete() -> None:
    text = (Path(__file__).parents[1] / "docs" / "messages.md").read_text()
    for kind in KINDS:
        for field in schema(kind)["properties"]:
            assert f"`{field}`" in text, f"docs/messages.md does not tell of {kind}.{field}"


def test_a_tally_tells_new_from_twice_and_names_what_is_missing() -> None:
    tally = Tally()
    body = messages.body(decision(findings=(FINDING,)), True)
    for seq in (1, 2, 5, 3, 5, 9, 12):
        tally.is_new(whole(body, "decision", seq=seq))
    assert tally.counts["duplicates"] == 1
    assert tally.missing() == {("gate", "e1"): [(4, 4), (6, 8), (10, 11)]}
    gap = messages.gap_body(3, "the journal was full", 6, 8, 0)
    assert tally.is_new(whole(gap, "gap", seq=11, station="gate"))
    assert tally.is_new(whole(body, "decision", seq=4, backfill=True))
    assert not tally.is_new(a_message("status"))
    assert tally.missing() == {("gate", "e1"): [(10, 10)]}
    assert tally.is_new(whole(body, "decision", seq=5, epoch="e2")), "another epoch counts anew"
