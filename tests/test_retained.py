"""Checkpoints on a real broker: retained, from a clean stop too, and never in the way of decisions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from broker import Mosquitto
from deliveries import Subscriber, decision, sink
from ledgers import by_hand, look, signed_journal
from lineside.deliver.topics import Topics
from lineside.deliver.validate import faults

Eventually = Callable[..., None]
CHECKPOINT = "lineside/plant/l1/box/checkpoint"
ACL = """
topic write lineside/plant/l1/gate/#
topic write lineside/plant/l1/box/status

user all
topic readwrite #
"""


def test_checkpoints_are_published_retained_until_the_last_of_a_clean_stop(
    tmp_path: Path, eventually: Eventually
) -> None:
    with Mosquitto(tmp_path / "broker", crash_safe=False) as broker:
        subscriber = Subscriber(broker.port, CHECKPOINT)
        opened = signed_journal(tmp_path / "state", every_s=3600.0)
        made = sink(opened, broker.port)
        opened.put(decision(1))
        assert opened.seal(10)
        eventually(lambda: subscriber.records("checkpoint"), what="the first checkpoint")
        opened.put(decision(2))
        assert opened.seal(10)
        made.stop(2.0)
        opened.stop(10)
        eventually(lambda: subscriber.records("checkpoint")[-1]["row"] == 2, what="the last checkpoint")
        got = subscriber.records("checkpoint")
        assert [faults(message) for message in got] == [[]] * len(got)
        report = look(tmp_path / "state", against=[json.dumps(message) for message in got])
        assert report.is_clean
        assert report.outside_row == 2
        with by_hand(tmp_path / "state") as db:
            db.execute("DELETE FROM row WHERE id = 2")
        assert not look(tmp_path / "state", against=[json.dumps(message) for message in got]).is_clean
        late = Subscriber(broker.port, CHECKPOINT)
        eventually(lambda: late.retained, what="the retained one")
        assert late.retained == [(CHECKPOINT, got[-1])]
        late.close()
        subscriber.close()


def test_a_broker_that_forbids_checkpoints_gets_the_decisions_all_the_same(
    tmp_path: Path, eventually: Eventually
) -> None:
    acl = tmp_path / "acl"
    acl.write_text(ACL)
    acl.chmod(0o600)
    with Mosquitto(tmp_path / "broker", "allow_anonymous true", f"acl_file {acl}") as broker:
        opened = signed_journal(tmp_path / "state")
        opened.put(decision(0))
        assert opened.seal(10)
        made = sink(opened, broker.port)
        eventually(lambda: made.status()["refused"] or made.status()["disconnects"], what="the refusal")
        for number in range(1, 200):
            opened.put(decision(number))
        eventually(lambda: made.status()["pending"] == 0, what="the decisions")
        assert int(str(made.status()["disconnects"])) <= 2, "one refusal, and not one after each connection"
        made.stop(2.0)
        opened.stop(10)


def test_a_document_stands_beside_the_status() -> None:
    usual = Topics("{station}/{kind}", "lineside/{site}/{line}/{box}/status", "s", "l", "b")
    own = Topics("{station}/{kind}", "acme/{box}", "s", "l", "b")
    assert usual.document("checkpoint") == "lineside/s/l/b/checkpoint"
    assert own.document("checkpoint") == "acme/b/checkpoint"
