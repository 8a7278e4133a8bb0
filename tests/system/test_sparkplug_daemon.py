"""The daemon with both sinks on: MQTT subscribers and Sparkplug hosts get the same decisions."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker import Mosquitto
from deliveries import decision, journal
from lineside.deliver.sparkplug.sink import SparkplugSink
from lineside.deliver.tables import Row
from rig import Daemon, Subscriber, fake_bundle, fake_profile, lineside, pictures, until
from sparkplug import Host, running, sparkplug_sink


def toml(folder: Path, port: int, sparkplug: str = "") -> str:
    return f"""
site = "plant"
[daemon]
profile = "{fake_profile(folder / "fake.toml")}"
[cameras.cam]
driver = "clip"
path = "{pictures(folder / "clip", 10)}"
loop = true
fps = 20
[stations.s1]
camera = "cam"
bundle = "{fake_bundle()}"
[mqtt]
host = "127.0.0.1"
port = {port}
box = "box-both"
[sparkplug]
group_id = "plant"
edge_node_id = "box1"
devices = {{ s1 = "Station 1" }}
{sparkplug}
"""


def test_a_daemon_serves_mqtt_and_sparkplug_and_dies_in_good_order(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "broker") as broker, Subscriber(broker.port) as witness, Host(broker.port) as host:
        with Daemon(tmp_path, toml(tmp_path, broker.port)) as daemon:
            daemon.ready()
            until(lambda: len(host.seqs("Station 1")) >= 20, what="decisions at the host")
            status = daemon.status()
            assert (status["sparkplug"]["born"], status["mqtt"]["connected"]) == (True, True)
            assert status["sparkplug"]["acked"] > 0
            assert set(status["journal"]["pending"]) == {"mqtt", "sparkplug"}
            code, _ = daemon.stop()
            assert code == 0, daemon.log()
        until(lambda: host.of("NDEATH"), what="the node's death")
        said = {m["values"]["Record/Seq"]: m["values"] for m in host.of("DDATA", "Station 1")}
        until(lambda: len(witness.by_seq()) == sum(v["Record/Kind"] == "decision" for v in said.values()))
        for seq, message in witness.by_seq().items():
            assert (said[seq]["Decision/Id"], said[seq]["Decision/Part/Number"]) == (
                message["id"],
                message["part"]["number"],
            )
        assert host.broken == []
    assert (tmp_path / "state" / "sparkplug-bdseq").read_text() == "0\n"


def test_a_killed_daemon_is_dead_for_the_host_and_sends_the_rest_after_the_restart(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "broker") as broker, Host(broker.port) as host:
        config = toml(tmp_path, broker.port)
        for life in range(2):
            with Daemon(tmp_path, config) as daemon:
                daemon.ready(times=life + 1)
                seen = len(host.seqs("Station 1"))
                until(lambda seen=seen: len(host.seqs("Station 1")) >= seen + 10, what="decisions at the host")
                daemon.kill()
                until(lambda life=life: len(host.of("NDEATH")) == life + 1, what="the will")
        assert [m["bdSeq"] for m in host.of("NBIRTH")] == [m["bdSeq"] for m in host.of("NDEATH")] == [0, 1]
        seqs = host.seqs("Station 1")
        assert host.broken == []
        assert set(range(1, max(seqs))) <= set(seqs), "the second life sent what the first left"


class HastySink(SparkplugSink):
    """Deliberately broken: takes sending for delivery."""

    def send(self, row: Row, backfill: bool, age_ms: int | None) -> int | None:
        packet = super().send(row, backfill, age_ms)
        self.feed.cursor.deliver(row.id)
        return packet


@pytest.mark.parametrize("kind", [SparkplugSink, HastySink])
def test_a_killed_broker_loses_nothing_behind_a_primary_host(tmp_path: Path, kind: type[SparkplugSink]) -> None:
    """The broken sink must fail: else this test would not see a loss."""
    opened = journal(tmp_path / "state", durable=False)
    broker = Mosquitto(tmp_path / "broker", crash_safe=False)
    broker.start()
    put = 0
    made = sparkplug_sink(opened, broker.port, tmp_path, kind, primary_host="scada", settle_s=2.0)
    with Host(broker.port, "scada") as host, running(made):
        host.say("online")
        for _ in range(3):
            seen = len(host.seqs())
            for _ in range(1000):
                put += 1
                opened.put(decision(put))
            until(lambda seen=seen: len(host.seqs()) > seen + 50, what="data at the host")
            broker.kill()
            until(lambda: not made.status()["connected"], what="the cut")
            broker.start()
        if kind is HastySink:
            until(lambda: made.status()["born"] and made.status()["pending"] == 0, what="the backlog")
        else:
            until(lambda: set(host.seqs()) == set(range(1, put + 1)), 40, what="every decision at the host")
            until(lambda: made.status()["pending"] == 0, what="the last answer")
            # a connection that waited for the host when the broker died left no trace but its number
            assert [rule for rule in host.broken if not rule.startswith("bdSeq goes from")] == []
        missing = set(range(1, put + 1)) - set(host.seqs())
    opened.stop()
    broker.close()
    assert bool(missing) == (kind is HastySink)


def test_check_names_what_is_wrong_with_the_table(tmp_path: Path) -> None:
    path = tmp_path / "lineside.toml"
    path.write_text(toml(tmp_path, 1883, 'primary_host = "a/b"'))
    done = lineside("check", str(path))
    assert done.returncode == 78
    assert 'sparkplug.primary_host = "a/b": a Sparkplug id may hold no + # /' in done.stdout + done.stderr
