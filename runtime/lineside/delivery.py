"""The wiring from the journal outwards: what keeps decisions and carries them away, opened first and closed last."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lineside import __version__
from lineside.config import Config
from lineside.contracts import Clock, Sink
from lineside.deliver.audit import Audit
from lineside.deliver.commands import Client, Commands
from lineside.deliver.doubts import Doubts
from lineside.deliver.journal import Journal
from lineside.deliver.ledger import Ledger
from lineside.errors import ConfigError
from lineside.health import Health
from lineside.metrics import Latency
from lineside.registry import driver

if TYPE_CHECKING:
    from lineside.deliver.desk import Desk
    from lineside.deliver.mqtt import MqttSink
    from lineside.evidence import Evidence

_STALE_S = 5.0
_LINGER_S = 0.05  # a commit at full speed gathers so long: nobody waits for one decision, and commits cost frames
_EVIDENCE_S = 0.2  # of a stop, for evidence that waits


class Delivery:
    """Journal, sinks, commands and evidence of one daemon.

    `is_alive` says whether a station's camera is there; `health` makes the health message of a box, None while there
    is nothing to tell.
    """

    def __init__(
        self,
        config: Config,
        clock: Clock,
        workers: Health,
        *,
        is_hurried: bool,
        is_alive: Callable[[str], bool],
        health: Callable[[str, float], bytes | None],
    ) -> None:
        self._config, self._clock, self._workers = config, clock, workers
        self._state_dir = state_folder(config)
        self._is_alive, self._health = is_alive, health
        self.box = box_name(config)
        self.journal = Journal(
            journal_path(config),
            clock,
            **config.journal.options(),
            ledger=Ledger(self._state_dir / "identity", self.box, clock, config.ledger.checkpoint_s),
            linger_s=_LINGER_S if is_hurried else 0.0,
            beat=workers.worker("journal", _STALE_S),
        )
        self.doubts = Doubts(self.journal, clock, config.journal.durable)
        self.sinks: dict[str, Sink] = {}
        self.evidence: Evidence | None = None
        self._mqtt: MqttSink | None = None
        self._health_topic = ""
        self._desk: Desk | None = None
        clients = {
            name: Client(client.key(), frozenset(client.may)) for name, client in config.commands.clients.items()
        }
        audit = Audit(self.box, clock, self.journal.put)
        self.commands = Commands(self.box, clients, audit, clock, max_age_s=config.commands.max_age_s)

    def start(self) -> None:
        """The journal first, then whoever reads it. Raises ConfigError."""
        config = self._config
        self.journal.start()
        if config.evidence is not None:
            from lineside.evidence import Evidence  # here: a line without it pays nothing for it

            self.evidence = Evidence(config, config.evidence, self.journal, self._state_dir)
        self.commands.register("missed_defect", self.evidence.missed if self.evidence else _without_evidence)
        if config.mqtt is not None:
            self._open_mqtt()
        if config.sparkplug is not None:
            self.sinks["sparkplug"] = driver("sink", "sparkplug")(
                self.journal,
                devices=config.sparkplug.device_ids(config.stations),
                version=__version__,
                state_dir=self._state_dir,
                is_alive=self._is_alive,
                beat=self._workers.worker("sparkplug", _STALE_S),
                **config.sparkplug.options(config.mqtt),
            )
        for sink in self.sinks.values():
            sink.start()

    def decides(self) -> None:
        """Stations are there: the health message can be told."""
        if self._mqtt is not None:
            self._mqtt.changed(self._health_topic)

    def status(self) -> dict[str, object]:
        return {
            "journal": dict(self.journal.status()),
            "open_parts": dict(self.doubts.status()),
            **({"evidence": dict(self.evidence.status())} if self.evidence else {}),
            **{name: dict(sink.status()) for name, sink in self.sinks.copy().items()},
            "desk": self._desk.status() if self._desk else {},
        }

    def round_trips(self) -> dict[str, Latency]:
        """From publish to acknowledgement, of each sink that has such."""
        sinks = self.sinks.copy().items()
        return {name: feed.inflight.round_trip for name, sink in sinks if (feed := getattr(sink, "feed", None))}

    def waiting(self) -> int:
        """What is decided and not yet delivered or kept as evidence."""
        pending = [sink.status().get("pending") for sink in self.sinks.values()]
        kept = self.evidence.worker.waiting() if self.evidence else 0
        return kept + sum(count for count in pending if isinstance(count, int))

    def hurry(self, timeout_s: float) -> None:
        """Commit what waits, and let evidence be written at once."""
        if self.evidence is not None:
            self.evidence.worker.hurry()
        self.journal.flush(timeout_s)

    def stop(self, seal_s: float, flush_s: float) -> None:
        """Evidence, then the journal, then what the other sides can still take."""
        if self.evidence is not None:
            self.evidence.worker.stop(_EVIDENCE_S)
        if self._desk is not None:
            self._desk.stop()
        self.journal.seal(seal_s)
        for sink in self.sinks.values():
            sink.stop(flush_s)
        self.journal.stop()
        self.doubts.stop()

    def _open_mqtt(self) -> None:
        from lineside.deliver.desk import Desk  # with paho, which a daemon without a broker does not need

        config, mqtt = self._config, self._config.mqtt
        assert mqtt is not None
        self.sinks["mqtt"] = self._mqtt = sink = driver("sink", "mqtt")(
            self.journal,
            site=config.site,
            line=config.line,
            version=__version__,
            beat=self._workers.worker("mqtt", _STALE_S),
            **mqtt.options(),
        )
        self._health_topic = mqtt.health_topic.format(site=config.site, line=config.line, box=sink.box)
        sink.keep(self._health_topic, partial(self._health, sink.box, mqtt.health_s), mqtt.health_s)
        stations = tuple(config.stations)
        self._desk = Desk(sink, self.journal, self.commands, stations=stations, resend=config.commands.resend)
        self._desk.start()


def _without_evidence(request: Mapping[str, object]) -> Mapping[str, object]:
    """Instead of evidence.Evidence.missed. Raises ConfigError."""
    raise ConfigError("[evidence] is absent: add it to lineside.toml, so that the last frames are kept")


def box_name(config: Config) -> str:
    """How messages call this box."""
    return (config.mqtt.box if config.mqtt else None) or platform.node() or "box"


def state_folder(config: Config) -> Path:
    """Where the journal and what this box finds out are kept."""
    return config.daemon.state_dir or Path(os.environ.get("STATE_DIRECTORY") or "/var/lib/lineside")


def journal_path(config: Config) -> Path:
    return config.journal.path or state_folder(config) / "journal.db"


def cache_folder(config: Config) -> Path:
    """Where compiled engines are kept."""
    return config.daemon.cache_dir or Path(os.environ.get("CACHE_DIRECTORY") or state_folder(config) / "cache")
