"""Signed commands: who may, what is refused and why, and that each leaves a note in the journal."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker import Mosquitto
from deliveries import SteppedClock
from desks import COMMAND, RESEND, Asking, Box, Mes
from lineside.checked import Unfit, checked
from lineside.cli import main
from lineside.clock import SystemClock
from lineside.config.commands import CommandsConfig
from lineside.control import ControlServer
from lineside.deliver import commands as module
from lineside.deliver.audit import BURST, Audit
from lineside.deliver.commands import Client, Commands
from lineside.deliver.resend import Refused
from lineside.deliver.validate import faults
from lineside.errors import DeviceError
from lineside.records import Note
from lineside.subscriber import Signer
from lineside.subscriber import canonical as kit_canonical

Eventually = Callable[..., None]
SIGNER = Signer("mes", bytes(range(32)))
STRANGER = Signer("mes", bytes(32))
TO = "lineside/plant/l1/box/command"


class Told(list[Note]):
    """The journal's put."""

    def last(self) -> Mapping[str, Any]:
        return self[-1].fields


def desk(clock: SystemClock | None = None, **fields: Any) -> tuple[Commands, Told]:
    told = Told()
    clock = clock or SystemClock()
    clients = {"mes": Client(base64.b64decode(SIGNER.public_key), frozenset({"missed_defect", "resend"}))}
    made = Commands(TO, clients, Audit("box", clock, told.append), clock, **fields)
    made.register("missed_defect", lambda args: {"saved": args.get("parts", 0)})
    return made, told


def altered(payload: bytes, **fields: Any) -> bytes:
    return json.dumps({**json.loads(payload), **fields}).encode()


def test_a_signed_command_is_carried_out_answered_and_audited() -> None:
    made, told = desk()
    command = made.admit(SIGNER.command(TO, "missed_defect", {"parts": 3, "why": "ä scratch"}))
    assert made.carry_out(command) == {"saved": 3}
    assert (told.last()["command"], told.last()["client"], told.last()["outcome"]) == ("missed_defect", "mes", "done")
    assert told.last()["args"] == {"parts": 3, "why": "ä scratch"}
    assert (told[-1].station, told[-1].kind) == ("box", "audit")
    assert told.last()["nonce"] == command.nonce
    assert made.status() == {"done": 1, "failed": 0, "refused": 0}


def test_the_kit_signs_what_the_box_checks() -> None:
    fields = {"args": {"ä": [1, {"b": None, "a": True}]}, "to": "x", "signature": "s"}
    assert kit_canonical(fields) == module.canonical(fields)


good = SIGNER.command(TO, "missed_defect", {"parts": 1})
refusals: list[tuple[bytes, str]] = [
    (b"", "malformed: not JSON"),
    (b"{" + b" " * 20_000, "oversized: 20001 bytes"),
    (b"[" * 16_000, "malformed"),
    (b"3", "malformed: not a JSON object"),
    (altered(good, client=None), "malformed: client must be a text"),
    (altered(good, nonce="n" * 200), "malformed: nonce must be a text"),
    (altered(good, args=[1]), "malformed: args must be an object"),
    (SIGNER.command(TO, "missed_defect", {"parts": 1.5}), "without fractions"),
    (altered(good, client="plc"), "unknown client 'plc'"),
    (STRANGER.command(TO, "missed_defect", {}), "bad signature"),
    (altered(good, args={"parts": 2}), "bad signature"),
    (altered(good, signature="@@@"), "bad signature"),
    (altered(good, more=1), "bad signature"),
    (SIGNER.command("lineside/plant/l1/box-2/command", "missed_defect", {}), "is for 'lineside/plant/l1/box-2/"),
    (SIGNER.command(TO, "missed_defect", {}, issued_at="2020-01-01T00:00:00Z"), "stale: issued at 2020"),
    (SIGNER.command(TO, "missed_defect", {}, issued_at="2120-01-01T00:00:00Z"), "stale: issued at 2120"),
    (SIGNER.command(TO, "missed_defect", {}, issued_at="2026-11-21T10:00:00"), "must be an RFC 3339 time"),
    (SIGNER.command(TO, "missed_defect", {}, issued_at="yesterday"), "must be an RFC 3339 time"),
    (b'{"args": ' + b'{"a":' * 2000 + b"1" + b"}" * 2000 + b"}", "malformed"),
]


@pytest.mark.parametrize(("payload", "why"), refusals, ids=[why for _, why in refusals])
def test_a_command_that_may_not_be_is_refused_counted_and_audited(payload: bytes, why: str) -> None:
    made, told = desk()
    with pytest.raises(Refused, match=why.replace("(", r"\(")):
        made.admit(payload)
    assert made.status()["refused"] == 1
    assert told.last()["outcome"] == "refused"
    assert why in told.last()["cause"]
    made.carry_out(made.admit(SIGNER.command(TO, "missed_defect", {})))


def test_a_client_that_may_not_is_told_so_and_which_line_would_let_it() -> None:
    made, told = desk()
    with pytest.raises(Refused, match=r"client 'mes' may not 'recipe': add it to its `may` in \[commands.clients\]"):
        made.admit(SIGNER.command(TO, "recipe", {}))
    assert (told.last()["outcome"], told.last()["client"], told.last()["command"]) == ("refused", "mes", "recipe")


words = st.text(max_size=8)


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=300) | st.dictionaries(st.text(max_size=8), st.text(max_size=8) | st.integers()).map(json.dumps)
)
def test_no_bytes_are_more_than_a_refusal(payload: bytes | str) -> None:
    made, _ = desk()
    with pytest.raises(Refused):
        made.admit(payload if isinstance(payload, bytes) else payload.encode())


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(good) - 1), st.integers(0, 7))
def test_no_flipped_bit_of_a_signed_command_goes_unnoticed(place: int, bit: int) -> None:
    made, _ = desk()
    payload = bytearray(SIGNER.command(TO, "missed_defect", {"parts": 1}))
    before = json.loads(payload)
    payload[place % len(payload)] ^= 1 << bit
    try:
        same = json.loads(payload) == before  # such as another kind of space
    except ValueError:
        same = False
    if not same:
        with pytest.raises(Refused):
            made.admit(bytes(payload))


def test_a_command_is_good_once_and_a_restart_does_not_forget_it() -> None:
    made, told = desk()
    payload = SIGNER.command(TO, "missed_defect", {})
    made.carry_out(made.admit(payload))
    with pytest.raises(Refused, match="replayed"):
        made.admit(payload)
    again, _ = desk(remembered=lambda: [note.fields for note in told])
    with pytest.raises(Refused, match="replayed"):
        again.admit(payload)
    fresh, _ = desk()
    fresh.admit(payload)


def test_nonces_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NONCES_MAX", 5)
    clock = SteppedClock()
    made, _ = desk(clock)
    for _ in range(5):
        made.admit(SIGNER.command(TO, "missed_defect", {}))
    with pytest.raises(Refused, match="too many: 5 commands"):
        made.admit(SIGNER.command(TO, "missed_defect", {}))
    clock.step_s = 300
    later = SIGNER.command(TO, "missed_defect", {}, issued_at=module.rfc3339(clock.wall_ns()))
    made.admit(later)


@pytest.mark.parametrize("step_s", [365 * 86400, -365 * 86400])
def test_a_clock_that_jumps_a_year_refuses_and_says_both_times_and_recovers(step_s: float) -> None:
    clock = SteppedClock()
    made, _ = desk(clock)
    clock.step_s = step_s
    with pytest.raises(Refused, match=r"stale: .* from this box's clock \(20.*set the clocks"):
        made.admit(SIGNER.command(TO, "missed_defect", {}))
    clock.step_s = 0
    made.admit(SIGNER.command(TO, "missed_defect", {}))


def test_what_fails_is_answered_and_audited_and_the_next_goes_on() -> None:
    made, told = desk()

    def no_disk(args: Mapping[str, object]) -> Mapping[str, object]:
        raise DeviceError("evidence: the disk is full")

    def broken(args: Mapping[str, object]) -> Mapping[str, object]:
        raise KeyError("x")

    for call, why in ((no_disk, "the disk is full"), (broken, "the box's log says more")):
        made.register("missed_defect", call)
        with pytest.raises(Refused, match=why):
            made.carry_out(made.admit(SIGNER.command(TO, "missed_defect", {})))
        assert told.last()["outcome"] == "refused"
    assert made.tell({"name": "reboot", "args": {}})["reason"].startswith("unknown command 'reboot': this box carries")
    made.register("missed_defect", lambda args: {})
    assert made.tell({"name": "missed_defect", "args": {}}) == {"ok": True, "reason": "", "result": {}}
    assert told.last()["client"] == "control socket"
    assert not made.tell({"name": 3})["ok"]


def test_a_flood_of_refusals_is_told_in_few_notes_that_say_how_many() -> None:
    made, told = desk()
    for _ in range(500):
        with pytest.raises(Refused):
            made.admit(b"x")
    assert BURST <= len(told) < BURST + 10
    made.audit._credit = 5.0
    with pytest.raises(Refused):
        made.admit(b"x")
    assert sum(note.fields["count"] for note in told) == 501


def test_resends_to_one_asker_are_told_together() -> None:
    _, told = desk()
    audit = Audit("box", SystemClock(), told.append)
    for _ in range(100):
        audit.resent("t/mes", "gate", {"command": "resend"})
    audit.resent("t/other", "gate", {"command": "resend"})
    assert [note.fields["count"] for note in told] == [1, 1]
    audit._resends = {key: (untold, at - 100) for key, (untold, at) in audit._resends.items()}
    audit.tick()
    assert [note.fields["count"] for note in told] == [1, 1, 99]
    for number in range(1000):
        audit.resent(f"t/{number}", "gate", {"command": "resend"})
    assert len(told) < 300, "whoever invents names fills no journal"


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ({"clients": {"mes": {"public_key": "short", "may": ["resend"]}}}, "must be an Ed25519 public key"),
        ({"clients": {"mes": {"public_key": "@" * 44, "may": ["resend"]}}}, "must be an Ed25519 public key"),
        ({"clients": {"mes": {"public_key": SIGNER.public_key, "may": []}}}, "at least 1"),
        ({"clients": {"mes": {"public_key": SIGNER.public_key, "may": ["reboot"]}}}, "missed_defect"),
        ({"clients": {"m/#": {"public_key": SIGNER.public_key, "may": ["resend"]}}}, "pattern"),
        ({"resend": "nobody"}, "anyone"),
        ({"max_age_s": 0}, "greater than"),
    ],
)
def test_a_wrong_commands_table_is_refused(table: dict[str, Any], why: str) -> None:
    with pytest.raises(Unfit, match=why):
        checked(CommandsConfig, table)


# --- by the control socket


def test_lineside_command_tells_the_daemon_and_says_what_became_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, told = desk()
    made.register("missed_defect", lambda args: {"heard": dict(args)})
    path = tmp_path / "control.sock"
    server = ControlServer(path, {"tell": made.tell}, lambda: None)
    server.start()
    try:
        where = ["command", "--socket", str(path)]
        assert main([*where, "missed_defect", "station=gate", "frames=3", "why=a scratch"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert said == {"heard": {"station": "gate", "frames": 3, "why": "a scratch"}}
        assert told.last()["client"] == "control socket"
        assert main([*where, "reboot"]) == 1
        assert "reboot: refused: unknown command 'reboot'" in capsys.readouterr().err
        assert main([*where, "missed_defect", "station"]) == 78
        assert "'station': write KEY=VALUE" in capsys.readouterr().err
    finally:
        server.stop()


# --- over a broker


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path_factory.mktemp("broker"), crash_safe=False) as running:
        yield running


@pytest.fixture
def asking(broker: Mosquitto) -> Iterator[Asking]:
    made = Asking(broker.port)
    yield made
    made.close()


CLIENTS = {"mes": Client(base64.b64decode(SIGNER.public_key), frozenset({"missed_defect", "resend"}))}


def test_a_command_over_the_broker_is_replied_to_and_survives_a_restart_as_used(
    tmp_path: Path, broker: Mosquitto, asking: Asking, eventually: Eventually
) -> None:
    payload = SIGNER.command(COMMAND, "missed_defect", {"parts": 2})
    for start in (1, 2):
        with Box(tmp_path / "box", broker.port, clients=CLIENTS) as box:
            box.commands.register("missed_defect", lambda args: {"saved": args["parts"]})
            box.listening()
            count = len(asking.replies())
            asking.ask(payload, COMMAND)
            eventually(lambda count=count: len(asking.replies()) > count)
            if start == 1:
                eventually(lambda box=box: box.journal.last_seq().get("box") == 1)
    first, second = asking.replies()
    assert (first["ok"], first["result"], first["command"]) == (True, {"saved": 2}, "missed_defect")
    assert not second["ok"]
    assert "replayed" in second["reason"]
    for reply in (first, second):
        del reply["topic"]
        assert faults(reply) == []


def test_where_only_signed_requests_are_answered_the_receiver_signs_them(
    tmp_path: Path, broker: Mosquitto, asking: Asking, eventually: Eventually
) -> None:
    with Box(tmp_path / "box", broker.port, clients=CLIENTS, resend="signed") as box:
        box.listening().decide(1, 100)
        eventually(lambda: box.sink.status()["acked"] == 100)
        asking.ask({"station": "gate", "epoch": box.epoch, "from": 1, "to": 100}, RESEND)
        mes = Mes(tmp_path, broker.port, signer=SIGNER, client_id="signing")
        eventually(lambda: len(mes.booked()) == 100, within_s=20, what=str(mes.receiver.status()))
        mes.stop()
        eventually(lambda: box.desk.status()["commands"]["done"])  # type: ignore[index]
        assert {answer["topic"] for answer in asking.answers} == {f"{COMMAND}/signing"}, "nobody listens on .../resend"
        box.desk._commands.clients = {"mes": Client(CLIENTS["mes"].public_key, frozenset({"recipe"}))}
        (tmp_path / "other").mkdir()
        mes = Mes(tmp_path / "other", broker.port, signer=SIGNER, client_id="may-not")
        eventually(lambda: mes.receiver.status()["refused"])
        assert "may not 'resend'" in str(mes.receiver.status()["refusals"])
        mes.stop()


def test_a_refusal_reaches_a_client_of_mqtt_3_1_1(tmp_path: Path, broker: Mosquitto, eventually: Eventually) -> None:
    asking = Asking(broker.port, "3.1.1")
    with Box(tmp_path / "box", broker.port, clients=CLIENTS) as box:
        box.listening()
        where = {"response_topic": f"{COMMAND}/plc", "correlation": "p1"}
        asking.ask(STRANGER.command(COMMAND, "missed_defect", {}, **where), COMMAND)
        eventually(asking.replies)
        (reply,) = asking.replies()
        assert (reply["topic"], reply["correlation"], reply["ok"]) == (f"{COMMAND}/plc", "p1", False)
        asking.ask(SIGNER.command(COMMAND, "resend", {"station": "gate"}, **where), COMMAND)
        eventually(lambda: len(asking.replies()) == 2)
        assert "malformed: epoch" in asking.replies()[1]["reason"]
        eventually(lambda: box.journal.last_seq()["box"] == 2, what="both audited")
    asking.close()


def test_too_many_commands_and_a_retained_one_are_refused(
    tmp_path: Path, broker: Mosquitto, asking: Asking, eventually: Eventually
) -> None:
    with Box(tmp_path / "box", broker.port, clients=CLIENTS) as box:
        leave = threading.Event()
        box.commands.register("missed_defect", lambda args: {"left": leave.wait(20)})
        box.listening()
        for _ in range(100):
            asking.ask(SIGNER.command(COMMAND, "missed_defect", {}), COMMAND)
        eventually(lambda: any("busy: 64 commands wait" in reply["reason"] for reply in asking.replies()))
        leave.set()
        eventually(lambda: len(asking.replies()) == 100, within_s=20)
        assert sum(reply["ok"] for reply in asking.replies()) >= 64
    asking.client.publish(COMMAND, SIGNER.command(COMMAND, "missed_defect", {}), 1, retain=True).wait_for_publish(10)
    with Box(tmp_path / "box", broker.port, clients=CLIENTS) as box:
        eventually(lambda: "retained" in asking.replies()[-1]["reason"])
        assert box.commands.status()["done"] == 0
    asking.client.publish(COMMAND, b"", 1, retain=True).wait_for_publish(10)
