"""The configurations of docs/brokers.md, run as they stand there but for paths, host and port."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from broker import Mosquitto
from lineside.commands.doctor_peer import Peer, Refused
from lineside.deliver.link import Broker
from test_doctor import doctor

Eventually = Callable[..., None]
PAGE = (Path(__file__).parents[1] / "docs" / "brokers.md").read_text()
GATE = "lineside/hamburg/line1/gate/decision"


def block(language: str) -> str:
    """The one block of the page in that language."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


class AsOnThePage(Mosquitto):
    """mosquitto with the page's mosquitto.conf and acl."""

    def __init__(self, folder: Path, pki: Path) -> None:
        super().__init__(folder)
        (folder / "acl").write_text(block("acl"))
        (folder / "acl").chmod(0o644)
        text = block("conf").replace("listener 8883", f"listener {self.port} 127.0.0.1\nuser root")
        text = text.replace("/etc/mosquitto/certs/", f"{pki}/").replace("/etc/mosquitto/acl", f"{folder}/acl")
        (folder / "mosquitto.conf").write_text(text.replace("/var/lib/mosquitto/", f"{folder}/"))


@dataclass
class Plant:
    broker: AsOnThePage
    pki: Path
    folder: Path

    def client(self, name: str) -> Broker:
        files = {
            "ca_file": self.pki / "ca.crt",
            "cert_file": self.pki / f"{name}.crt",
            "key_file": self.pki / f"{name}.key",
        }
        return Broker("127.0.0.1", self.broker.port, "5", tls=True, **files)


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    folder = tmp_path_factory.mktemp("plant")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *new, "-days", "90", "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.crt")
    openssl("req", "-x509", *new, "-days", "90", "-subj", "/CN=box-17", "-keyout", "forged.key", "-out", "forged.crt")
    (folder / "ext").write_text("subjectAltName=IP:127.0.0.1\n")
    for name in ("server", "box-17", "box-18", "mes"):
        openssl("req", *new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        signed = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "ext", "-days", "90")
        openssl("x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.crt")
    for file in folder.iterdir():
        file.chmod(0o644)
    with AsOnThePage(folder / "broker", folder) as broker:
        yield Plant(broker, folder, folder)


def config(plant: Plant, folder: Path, box: str) -> Path:
    """The page's lineside.toml, of that box."""
    text = block("toml").replace('"broker.example"', f'"127.0.0.1"\nport = {plant.broker.port}')
    text = text.replace("/etc/lineside/", f"{plant.pki}/").replace("box-17", box)
    stations = '[cameras.cam]\ndriver = "synthetic"\n[stations.gate]\ncamera = "cam"\nbundle = "none"\n'
    path = folder / f"{box}.toml"
    path.write_text(f'{text}\n[daemon]\ncontrol_socket = "{folder}/none.sock"\n{stations}')
    return path


def test_the_doctor_finds_nothing_wrong_with_the_page(
    plant: Plant, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, found = doctor(config(plant, tmp_path, "box-17"), capsys, "--queue", "200")
    assert status == 0, found
    worked = {check for check, finding in found.items() if finding["state"] == "ok"}
    assert worked >= {"reach", "expiry", "client_id", "echo", "size", "retain", "will", "session", "queue"}
    assert "receive_maximum" not in found


def test_a_box_cannot_write_another_ones_topics(
    plant: Plant, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, found = doctor(config(plant, tmp_path, "box-18"), capsys, "--queue", "0")
    assert (status, found["echo"]["state"]) == (1, "loses")
    assert "reason code 135" in found["echo"]["what"]


def test_a_reader_reads_and_does_not_write(plant: Plant) -> None:
    reader, box = Peer(plant.client("mes"), "reader"), Peer(plant.client("box-17"), "writer")
    reader.connect()
    box.connect()
    reader.subscribe([GATE])
    assert box.publish(GATE, b'{"kind": "doctor"}') == 0
    assert reader.wait_for(len)
    assert reader.publish(GATE, b'{"kind": "decision"}') == 0x87
    box.close()
    reader.close()


@pytest.mark.parametrize("who", ["forged", ""])
def test_who_has_no_certificate_of_the_authority_stays_out(plant: Plant, who: str) -> None:
    as_whom = (
        plant.client("forged")
        if who
        else Broker("127.0.0.1", plant.broker.port, tls=True, ca_file=plant.pki / "ca.crt")
    )
    with pytest.raises(Refused):
        Peer(as_whom, "stranger").connect()


def test_what_was_written_survives_kill_9(plant: Plant, eventually: Eventually) -> None:
    absent = Peer(plant.client("mes"), "absent", session_s=3600, clean=False)
    absent.connect()
    absent.subscribe([GATE])
    absent.close()
    store = plant.broker._folder / "mosquitto.db"
    box = Peer(plant.client("box-17"), "writer")
    box.connect()
    for number in range(20):
        assert box.publish(GATE, json.dumps({"kind": "doctor", "number": number}).encode(), expiry_s=None) == 0
    eventually(lambda: store.exists() and b'"number": 19' in store.read_bytes(), what="the last message on disk")
    plant.broker.kill()
    box.vanish()
    plant.broker.start()
    back = Peer(plant.client("mes"), "absent", session_s=3600, clean=False)
    assert back.connect().session_present
    assert back.wait_for(lambda got: len(got) == 20)
    assert [json.loads(message.payload)["number"] for message in back.got] == list(range(20))
    back.close()
