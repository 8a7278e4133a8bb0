"""`lineside doctor broker` against real mosquittos, each of which loses messages in a way of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from broker import ALWAYS, Mosquitto, free_port
from deliveries import Subscriber
from lineside.cli import main
from lineside.commands.doctor_topics import largest_bytes
from lineside.deliver.validate import faults

OPEN = "allow_anonymous true"
GATE = "lineside/site/line/gate"
SAFE = ("max_queued_messages 0",)


def config(folder: Path, port: int, mqtt: str = "", name: str = "lineside.toml") -> Path:
    """A station at that broker; the doctor reads no bundle and opens no camera."""
    path = folder / name
    path.write_text(
        f'[daemon]\ncontrol_socket = "{folder}/none.sock"\n[cameras.cam]\ndriver = "synthetic"\n'
        '[stations.gate]\ncamera = "cam"\nbundle = "none"\n'
        f'[mqtt]\nhost = "127.0.0.1"\nport = {port}\nbox = "box-1"\n{mqtt}\n'
    )
    return path


def doctor(path: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, dict[str, str]]]:
    """(exit status, the worst finding of each check)."""
    status = main(["doctor", "broker", str(path), "--json", "--watch-s", "0.1", "--patience-s", "0.6", *words])
    answer = json.loads(capsys.readouterr().out)
    worst: dict[str, dict[str, str]] = {}
    for finding in sorted(answer["findings"], key=lambda f: ("ok", "note", "unknown", "loses").index(f["state"])):
        worst[finding["check"]] = finding
    assert answer["ok"] == (status == 0) == all(finding["state"] != "loses" for finding in answer["findings"])
    assert all(finding["why"] and finding["remedy"] for finding in answer["findings"] if finding["state"] == "loses")
    return status, worst


class Bare(Mosquitto):
    """mosquitto with its own defaults, not those of the tests."""

    def __init__(self, folder: Path, *lines: str, safe: bool = True) -> None:
        super().__init__(folder, *lines, *(SAFE if safe else ()), crash_safe=False)
        path = folder / "mosquitto.conf"
        kept = [line for line in path.read_text().splitlines() if line not in ALWAYS or (line in SAFE and safe)]
        path.write_text("\n".join(kept) + "\n")


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_crash_safe_broker_is_found_well_and_nothing_is_left_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], eventually: Callable[..., None], protocol: str
) -> None:
    with Mosquitto(tmp_path / "b", OPEN) as broker:
        witness = Subscriber(broker.port, "lineside/#")
        status, found = doctor(config(tmp_path, broker.port, f'protocol = "{protocol}"'), capsys, "--queue", "300")
        assert (status, [check for check, f in found.items() if f["state"] == "loses"]) == (0, [])
        assert {"reach", "client_id", "echo", "documents", "size", "retain", "will", "queue"} <= {
            check for check, finding in found.items() if finding["state"] == "ok"
        }
        assert ("protocol" in found) == (protocol == "3.1.1")
        probes = [message for _, message in witness.got]
        assert {message["kind"] for message in probes} == {"doctor", "status"}
        assert [fault for message in probes for fault in faults(message)] == []
        assert all(message["late"] for message in probes if message["kind"] == "doctor")
        witness.close()
        later = Subscriber(broker.port, "#")
        eventually(lambda: later.retained)
        later.close()
        kept = [message["state"] for _, message in later.retained]
        assert kept == ["offline"], "what it left retained is the truth: the box does not run"


@pytest.mark.parametrize(("protocol", "said"), [("5", "reason code 135"), ("3.1.1", "dropped by an access rule")])
def test_an_access_rule_that_forbids_the_decision_topic_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], protocol: str, said: str
) -> None:
    rules = [f"{GATE}/{kind}" for kind in ("event/#", "gap/#", "recipe/#", "evidence/#", "in_doubt/#")]
    acl = tmp_path / "acl"
    acl.write_text("\n".join(f"topic readwrite {topic}" for topic in [*rules, "lineside/site/line/box-1/#"]))
    acl.chmod(0o644)
    with Bare(tmp_path / "b", OPEN, f"acl_file {acl}") as broker:
        path = config(tmp_path, broker.port, f'protocol = "{protocol}"')
        status, found = doctor(path, capsys, "--queue", "0")
    assert status == 1
    assert found["echo"]["what"].startswith(f"{GATE}/decision, {GATE}/decision/backfill: ")
    assert said in found["echo"]["what"]
    assert f"topic readwrite {GATE}/#" in found["echo"]["remedy"]
    assert found["retain"]["state"] == found["will"]["state"] == found["documents"]["state"] == "ok"


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_an_access_rule_that_forbids_checkpoints_is_noted_and_no_loss_of_decisions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], protocol: str
) -> None:
    acl = tmp_path / "acl"
    box = "lineside/site/line/box-1"
    acl.write_text(
        "\n".join(
            f"topic readwrite {topic}"
            for topic in (f"{GATE}/#", *(f"{box}/{kind}" for kind in ("audit/#", "status", "health")))
        )
    )
    acl.chmod(0o644)
    with Bare(tmp_path / "b", OPEN, f"acl_file {acl}") as broker:
        status, found = doctor(config(tmp_path, broker.port, f'protocol = "{protocol}"'), capsys, "--queue", "0")
    assert (status, found["echo"]["state"], found["documents"]["state"]) == (0, "ok", "note")
    assert found["documents"]["what"] == f"{box}/checkpoint did not come through"
    assert f"topic readwrite {box}/#" in found["documents"]["remedy"]


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_box_that_may_not_read_is_told_from_one_that_may_not_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], protocol: str
) -> None:
    users, acl, password = tmp_path / "users", tmp_path / "acl", tmp_path / "password"
    for number, user in enumerate(("box", "mes")):
        create = [] if number else ["-c"]
        subprocess.run(["mosquitto_passwd", "-b", *create, str(users), user, "right"], check=True, capture_output=True)
    acl.write_text(f"user box\ntopic write {GATE}/#\ntopic write lineside/site/line/box-1/#\nuser mes\ntopic read #\n")
    for file in (users, acl):
        file.chmod(0o600)
    password.write_text("right\n")
    with Bare(tmp_path / "b", "allow_anonymous false", f"password_file {users}", f"acl_file {acl}") as broker:
        mqtt = f'protocol = "{protocol}"\nusername = "box"\npassword_file = "{password}"'
        status, found = doctor(config(tmp_path, broker.port, mqtt), capsys, "--queue", "0")
        assert status == 0, "nothing is lost, though not all is proven"
        assert found["echo"]["state"] == found["will"]["state"] == found["retain"]["state"] == "unknown"
        assert "--subscriber-username" in found["echo"]["remedy"]
        listen = ("--subscriber-username", "mes", "--subscriber-password-file", str(password))
        status, found = doctor(config(tmp_path, broker.port, mqtt), capsys, "--queue", "30", *listen)
        assert (status, found["echo"]["state"], found["queue"]["state"]) == (0, "ok", "ok")
        password.write_text("wrong\n")
        status, found = doctor(config(tmp_path, broker.port, mqtt), capsys)
        assert (status, found["reach"]["state"], list(found)) == (1, "loses", ["reach"])


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
@pytest.mark.parametrize(
    ("line", "check", "said"),
    [
        ("max_packet_size 4000", "size", str(largest_bytes())),
        ("message_size_limit 4000", "size", "did not come through"),
        ("max_qos 0", "qos", "QoS"),
        ("retain_available false", "retain", "retained"),
        ("retain_available false", "will", "does not come about"),
        ("max_queued_messages 2", "queue", "kept 2 of 40"),
    ],
)
def test_a_setting_that_loses_messages_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, check: str, said: str, protocol: str
) -> None:
    with Bare(tmp_path / "b", OPEN, line, safe=False) as broker:
        path = config(tmp_path, broker.port, f'protocol = "{protocol}"')
        status, found = doctor(path, capsys, "--queue", "40" if check == "queue" else "0")
    assert status == 1
    assert found[check]["state"] == "loses"
    assert said in found[check]["what"]
    assert line.split()[0] in found[check]["remedy"]


def test_mosquittos_default_queue_is_found_without_being_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Bare(tmp_path / "b", OPEN, safe=False) as broker:
        status, found = doctor(config(tmp_path, broker.port), capsys)
    assert (status, found["queue"]["state"]) == (1, "loses")
    assert "kept 1000 of 1500 messages" in found["queue"]["what"]


def test_another_client_with_our_id_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Bare(tmp_path / "b", OPEN) as broker:
        twin = Client(CallbackAPIVersion.VERSION2, client_id="lineside-box-1", protocol=MQTTv5)
        twin.reconnect_delay_set(1, 1)
        twin.connect("127.0.0.1", broker.port)
        twin.loop_start()
        status, found = doctor(config(tmp_path, broker.port), capsys, "--queue", "0", "--watch-s", "10")
        twin.disconnect()
        twin.loop_stop()
    assert (status, found["client_id"]["state"]) == (1, "loses")
    assert "lineside-box-1" in found["client_id"]["what"]


def test_a_running_daemon_is_not_disturbed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], eventually: Callable[..., None]
) -> None:
    from rig import Daemon, fake_bundle, fake_profile

    with Mosquitto(tmp_path / "b", OPEN) as broker:
        text = config(tmp_path, broker.port).read_text().replace('bundle = "none"', f'bundle = "{fake_bundle()}"')
        profile = fake_profile(tmp_path / "fake.toml")
        with Daemon(tmp_path, text.replace("[daemon]\n", f'[daemon]\nprofile = "{profile}"\n')) as daemon:
            daemon.socket = tmp_path / "none.sock"
            daemon.ready()
            eventually(lambda: daemon.status()["mqtt"]["acked"] > 0)
            witness = Subscriber(broker.port, "lineside/site/line/box-1/status")
            status, found = doctor(daemon.config, capsys)
            assert daemon.status()["mqtt"]["disconnects"] == 0
            assert status == 0
            assert found["client_id"]["state"] == found["queue"]["state"] == "unknown"
            assert found["retain"]["state"] == found["will"]["state"] == "ok"
            assert {message["state"] for _, message in witness.got} <= {"online"}
            witness.close()


# --- certificates


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and certificates for 127.0.0.1 that differ in their dates and names."""
    folder = tmp_path_factory.mktemp("pki")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    new = ("-newkey", "rsa:2048", "-nodes")
    openssl("req", "-x509", *new, "-days", "3650", "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.crt")
    openssl("req", "-x509", *new, "-days", "3650", "-subj", "/CN=no", "-keyout", "no.key", "-out", "stranger.crt")
    (folder / "index").touch()
    (folder / "serial").write_text("01\n")
    (folder / "ca.cnf").write_text(
        "[ca]\ndefault_ca = us\n[us]\ndatabase = index\nserial = serial\nnew_certs_dir = .\ndefault_md = sha256\n"
        "policy = any\ncopy_extensions = copy\nunique_subject = no\n[any]\ncommonName = supplied\n"
    )
    now = datetime.now(UTC)
    dates = {
        "server": (-1, 400),
        "old": (-9, -2),
        "soon": (-1, 10),
        "early": (5, 50),
        "elsewhere": (-1, 400),
        "box": (-1, 400),
    }
    for name, (first, last) in dates.items():
        host = "DNS:elsewhere.example" if name == "elsewhere" else "IP:127.0.0.1"
        openssl(
            "req",
            *new,
            "-subj",
            f"/CN={name}",
            "-addext",
            f"subjectAltName={host}",
            "-keyout",
            f"{name}.key",
            "-out",
            f"{name}.csr",
        )
        when = [f"{now + timedelta(days=days):%Y%m%d%H%M%SZ}" for days in (first, last)]
        signed = ("-config", "ca.cnf", "-cert", "ca.crt", "-keyfile", "ca.key", "-batch")
        openssl("ca", *signed, "-startdate", when[0], "-enddate", when[1], "-in", f"{name}.csr", "-out", f"{name}.crt")
    for file in folder.iterdir():
        file.chmod(0o644)
    return folder


@pytest.mark.parametrize(
    ("server", "ours", "check", "state", "said"),
    [
        ("server", "box", "expiry", "ok", "is valid until"),
        ("old", "box", "tls", "loses", "the broker's certificate has expired"),
        ("early", "box", "tls", "loses", "is not valid yet"),
        ("soon", "box", "expiry", "loses", "the broker's certificate expires in 9 days"),
        ("elsewhere", "box", "tls", "loses", "is for elsewhere.example, not for 127.0.0.1"),
        ("server", "stranger", "tls", "loses", "is not trusted"),
        ("server", "old", "expiry", "loses", "our certificate has expired"),
        ("server", "none", "reach", "loses", "closed"),
    ],
)
def test_a_certificate_that_keeps_the_box_out_or_soon_will_is_named(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    pki: Path,
    server: str,
    ours: str,
    check: str,
    state: str,
    said: str,
) -> None:
    lines = (
        f"cafile {pki}/ca.crt",
        f"certfile {pki}/{server}.crt",
        f"keyfile {pki}/{server}.key",
        "require_certificate true",
        OPEN,
    )
    authority = "stranger.crt" if ours == "stranger" else "ca.crt"
    cert = "box" if ours == "stranger" else ours
    mqtt = f'tls.ca_file = "{pki}/{authority}"\n'
    if cert != "none":
        mqtt += f'tls.cert_file = "{pki}/{cert}.crt"\ntls.key_file = "{pki}/{cert}.key"\n'
    with Bare(tmp_path / "b", *lines) as broker:
        status, found = doctor(config(tmp_path, broker.port, mqtt), capsys, "--queue", "0")
    assert status == (0 if state == "ok" else 1)
    assert found[check]["state"] == state
    assert said in found[check]["what"]
    assert ("echo" in found) == (state == "ok" or server == "soon"), "what cannot be told is not asked"


def test_no_tls_where_it_is_asked_for_and_no_broker_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Bare(tmp_path / "b", OPEN) as broker:
        status, found = doctor(config(tmp_path, broker.port, "tls = {}"), capsys)
        assert (status, list(found)) == (1, ["tls"]) or "reach" in found
    for mqtt in ("", "tls = {}"):
        status, found = doctor(config(tmp_path, free_port(), mqtt), capsys)
        assert (status, found["reach"]["state"]) == (1, "loses")
        assert "mqtt.port" in found["reach"]["remedy"]


def test_people_read_lines_and_a_configuration_without_a_broker_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config(tmp_path, free_port())
    assert main(["doctor", "broker", str(path)]) == 1
    shown = capsys.readouterr().out
    assert "LOSES  reach: mqtt://127.0.0.1" in shown
    assert "remedy: check mqtt.host" in shown
    path.write_text(path.read_text().partition("[mqtt]")[0])
    assert main(["doctor", "broker", str(path)]) == 78
    assert "has no [mqtt]" in capsys.readouterr().err
