"""Configuration -> objects -> worker table -> stop: the only wiring of the daemon."""

from __future__ import annotations

import gc
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

import cv2

from lineside import __version__, logs
from lineside.cameras.capture import Capture, Tap
from lineside.cameras.orient import Orientation
from lineside.clock import SystemClock
from lineside.config.cameras import CameraConfig
from lineside.config.stations import StationConfig
from lineside.control import ControlServer, default_socket
from lineside.deliver import messages
from lineside.deliver.alone import Alone
from lineside.delivery import Delivery, cache_folder, journal_path, state_folder
from lineside.errors import EXIT_CONFIG, ConfigError, DeviceError, LinesideError
from lineside.hal.board import disk, temperatures
from lineside.health import Health
from lineside.pipeline import Station
from lineside.plan import Plan
from lineside.proof import Prover
from lineside.recipe import Model, open_model, recipe_for
from lineside.registry import driver
from lineside.store import found
from lineside.store.bundle import Bundle

if TYPE_CHECKING:
    from lineside.exporter import Exporter
    from lineside.exposition import Family

_log = logging.getLogger("lineside")

_TICK_S = 0.25
_FINISH_S = 0.6  # a stop finishes the frames in hand within this,
_FLUSH_S = 1.0  # and delivers what they decided within this: two seconds in all
_DRAIN_S = 2.0  # after the last clip has ended: so long without one more delivery
_SWITCH_S = 0.0005  # Python's lock changes hands sooner: a busy thread delays the others by 0.7 instead of 5 ms
_STALE_S = 5.0
_CAMERA_STALE_S = 60.0  # a read that hangs is the capture's own business for so long: it reopens the camera
_ENGINE_BUILD_S = 1800.0  # TensorRT's first build of an engine takes minutes


def run_daemon(plan: Plan) -> int:
    """Run until SIGTERM or SIGINT, or until every clip has ended; the exit status.

    Raises ConfigError or DeviceError if it cannot start. 1 if a worker died: systemd starts the daemon again.
    """
    logs.start(plan.config.daemon.log_level)
    daemon = Daemon(plan)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: daemon.stop())
    return daemon.run()


class Daemon:
    """Owns every worker of the process. `run` blocks; `stop` may come from a signal handler or another thread."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._config = config = plan.config
        self._clock = SystemClock()
        self._health = Health(self._clock)
        self._stopping = threading.Event()
        self._is_hurried = all(map(is_hurried, config.cameras.values()))
        self._died: list[Exception] = []
        self._started_ns = self._clock.monotonic_ns()
        self._state_dir, self._cache_dir = state_folder(config), cache_folder(config)
        self._prover = Prover(self._state_dir, self._cache_dir, self._stopping.is_set)
        self._captures: dict[str, Capture] = {}
        self._delivery: Delivery | None = None
        self._control: ControlServer | None = None
        self._exporter: Exporter | None = None
        self._stations: dict[str, Station] = {}
        self._lanes: list[threading.Thread] = []
        self._models: list[Model] = []

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> int:
        config = self._config
        try:
            self._start_control()  # before all else: a second daemon is refused while it has disturbed nothing
            self._alone = Alone(journal_path(config))
            self._captures = {name: self._capture(name, camera) for name, camera in config.cameras.items()}
            taps = {name: self._tap(station) for name, station in config.stations.items()}
            for capture in self._captures.values():
                capture.start()  # first: a camera opens while the model loads
            delivery = self._delivery = Delivery(
                config,
                self._clock,
                self._health,
                is_hurried=self._is_hurried,
                is_alive=self._sees,
                health=self._health_message,
            )
            delivery.start()
            self._open_stations(taps, delivery)
            self._start_lanes()
            self._watch()
        except DeviceError:
            if not self._stopping.is_set():  # else it was stopped while it opened a model
                raise
        finally:
            self._close()
        if any(isinstance(error, ConfigError) for error in self._died):
            return EXIT_CONFIG  # only a person can mend it: systemd does not try again
        return 1 if self._died else 0

    def status(self) -> dict[str, object]:
        """What `lineside status` shows: JSON values, counters included."""
        return {
            "version": __version__,
            "uptime_s": round((self._clock.monotonic_ns() - self._started_ns) / 1e9, 1),
            "profile": self._plan.profile.name,
            "cameras": {name: dict(capture.status()) for name, capture in self._captures.items()},
            "stations": {name: dict(station.status()) for name, station in self._stations.copy().items()},
            **(self._delivery.status() if self._delivery else {"journal": {}}),
            "disk": disk(self._state_dir),
            "temperature": self._plan.profile.thermal.status(temperatures()),
            **({"metrics": dict(self._exporter.status())} if self._exporter else {}),
            "log_lines_dropped": logs.dropped(),
            "health": dict(self._health.workers()),
        }

    def histograms(self) -> dict[str, dict[str, dict[float, int]]]:
        """Each station's latencies: who asks twice can tell what came between."""
        return {name: station.histograms() for name, station in self._stations.copy().items()}

    def _tell(self, request: Mapping[str, object]) -> Mapping[str, object]:
        """A command of whoever may open the control socket."""
        if self._delivery is None:
            raise DeviceError("the daemon is still starting: try again in a moment")
        return self._delivery.commands.tell(request)

    def measures(self) -> Iterator[Family]:
        """All that is counted, for Prometheus and for health messages."""
        from lineside.measures import Seen, families  # here, as below: not before the first decision

        delivery = self._delivery
        seen = Seen(
            status=self.status(),
            sinks=tuple(delivery.sinks.copy()) if delivery else (),
            latencies={name: station.latencies() for name, station in self._stations.copy().items()},
            commits=delivery.journal.commit_times if delivery else None,
            acks=delivery.round_trips() if delivery else {},
            clock_synchronized=self._clock.synchronized(),
        )
        return families(seen)

    def _health_message(self, box: str, health_s: float) -> bytes | None:
        """What Prometheus would see, for who reads MQTT; None while the stations are being opened."""
        if not self._stations:
            return None
        from lineside.wellbeing import brief, problems

        metrics, faults = brief(self.measures()), problems(self.status())
        at, synchronized = self._clock.wall_ns(), self._clock.synchronized()
        return messages.health(box, __version__, at, synchronized, health_s, faults, metrics)

    # --- wiring

    def _capture(self, name: str, camera: CameraConfig) -> Capture:
        make = driver("camera", camera.driver)
        options = camera.options()
        return Capture(
            name,
            lambda: make(**options),
            mode=camera.mode,
            orientation=Orientation(camera.rotate_deg, camera.flip, camera.roi),
            queue_frames=camera.queue_frames,
            reopen_min_s=camera.reopen_min_s,
            reopen_max_s=camera.reopen_max_s,
            stall_s=getattr(camera, "stall_s", None),
            stale_s=camera.stale_s,
            beat=self._health.worker(f"capture.{name}", _CAMERA_STALE_S),
        )

    def _tap(self, station: StationConfig) -> Tap:
        camera = self._config.cameras[station.camera]
        queue_frames = station.queue_frames if station.frames else camera.queue_frames
        return self._captures[station.camera].tap(station.frames or camera.mode, queue_frames)

    def _sees(self, station: str) -> bool:
        """Whether the station's camera is there."""
        capture = self._captures[self._config.stations[station].camera]
        return capture.status()["state"] not in ("reopening", "failed")

    def _open_stations(self, taps: dict[str, Tap], delivery: Delivery) -> None:
        config, journal, doubts, evidence = self._config, delivery.journal, delivery.doubts, delivery.evidence
        doubts.settle()
        cv2.setNumThreads(1)  # its pool gains nothing on one resize and fights with the runtime's
        shared: dict[object, Model] = {}
        for name, station in config.stations.items():
            bundle = self._plan.bundles[name]
            throughput = is_hurried(config.cameras[station.camera])
            how = (bundle.digest, station.backend, station.device, station.threads, station.slots, station.min_score)
            unsure_from = evidence.unsure_from(station, bundle) if evidence else None
            if (*how, throughput, unsure_from) not in shared:
                with self._health.long_work("executor", _ENGINE_BUILD_S):
                    shared[(*how, throughput, unsure_from)] = self._open_model(bundle, station, throughput, unsure_from)
            model = shared[(*how, throughput, unsure_from)]
            recipe = recipe_for(name, station, model)
            journal.put(recipe.note(name, "the daemon started", self._clock))
            witness = evidence.witness(name, station, recipe, self._plan.bundles) if evidence else None
            self._stations[name] = Station(
                name,
                taps[name],
                recipe,
                witness or journal,
                self._clock,
                lanes=model.executor.slots,
                log_each=config.daemon.log_decisions,
                parts=None if station.trigger.per == "event" else doubts.open_parts(name, station.camera),
                witness=witness,
            )
        doubts.start()
        if evidence is not None:
            evidence.worker.start()
        self._models = list(shared.values())
        self._health.worker("executor").end()

    def _open_model(self, bundle: Bundle, station: StationConfig, throughput: bool, unsure_from: float | None) -> Model:
        """As the bundle's tuning plan says, if this box has one."""
        config = self._config.daemon
        open_ = partial(
            open_model,
            profile=self._plan.profile,
            throughput=throughput,
            alone=len(self._config.stations) == 1,
            cache_dir=self._cache_dir,
            unsure_from=unsure_from,
            prover=self._prover,
        )
        if all(kept.get("plan") is None for kept in found.everything(self._state_dir, bundle.digest)):
            return open_(bundle, station)
        from lineside.tuning.pin import Box, open_pinned  # here: a box that was never tuned pays nothing for it

        box = Box(self._state_dir, self._cache_dir, self._plan.profile, config.profile, self._stopping.is_set)
        one_slot = station.slots == 1 or (station.slots is None and not throughput)
        return open_pinned(bundle, station, box, open_, one_slot=one_slot)

    def _start_control(self) -> None:
        path = self._config.daemon.control_socket or default_socket()
        beat = self._health.worker("control", _STALE_S)
        answers = {"status": lambda _: self.status(), "histograms": lambda _: self.histograms(), "tell": self._tell}
        self._control = ControlServer(path, answers, beat)
        self._control.start()

    def _show_measures(self) -> None:
        """To Prometheus where it may ask, and over MQTT now that there are stations."""
        if self._delivery is not None:
            self._delivery.decides()
        wanted = self._config.metrics
        if wanted is not None:
            from lineside.exporter import Exporter

            beat = self._health.worker("metrics", _STALE_S)
            self._exporter = Exporter(wanted.address, wanted.port, self.measures, beat)
            self._exporter.start()

    def _start_lanes(self) -> None:
        for name, station in self._stations.items():
            for lane in range(station.lanes):
                worker = f"station.{name}" + (f".{lane}" if station.lanes > 1 else "")
                thread = threading.Thread(target=self._lane, args=(station, worker), name=worker, daemon=True)
                self._lanes.append(thread)
                thread.start()

    def _lane(self, station: Station, worker: str) -> None:
        beat = self._health.worker(worker, _STALE_S)
        try:
            station.run_lane(beat)
        except Exception as error:  # a worker ends here: the daemon stops, and systemd starts it again
            self._died.append(error)
            if isinstance(error, LinesideError):
                _log.error("%s: %s", worker, error)
            else:
                _log.exception("%s: unexpected", worker)
            self._stopping.set()
        finally:
            beat.end()

    def _watch(self) -> None:
        """The main thread's work: READY, then feed the watchdog until there is a reason to stop."""
        if not self._is_hurried:
            sys.setswitchinterval(_SWITCH_S)
        self._health.ready()
        _log.info("ready: %s", ", ".join(f"{name} on {s.backend}" for name, s in self._stations.items()))
        shown = False
        while not self._stopping.wait(_TICK_S):
            self._health.tick()
            if not shown:  # now, and not while the first frame waits
                shown = True
                self._show_measures()
            if not gc.isenabled():  # now, and not while the first frame waits
                gc.collect()
                gc.freeze()  # what is here stays: later collections need not walk it
                gc.enable()
            if not any(thread.is_alive() for thread in self._lanes):
                _log.info("every camera has come to its end")
                self._drain()
                return

    def _drain(self) -> None:
        """Nobody waits for this stop, so what clips at full speed have piled up is delivered while that goes on."""
        assert self._delivery is not None
        self._delivery.hurry(_FINISH_S)
        fewest, since = float("inf"), time.monotonic()
        while not self._stopping.wait(0.02):
            self._health.tick()
            pending = self._delivery.waiting()
            if pending == 0 or time.monotonic() - since > _DRAIN_S:
                return
            if pending < fewest:
                fewest, since = pending, time.monotonic()

    def _close(self) -> None:
        """Frames in hand, then the journal, then what the broker can still take: two seconds in all."""
        self._health.stopping()
        for station in self._stations.values():
            station.stop()
        for capture in self._captures.values():
            threading.Thread(target=capture.stop, args=(_FINISH_S,), daemon=True).start()
        deadline = time.monotonic() + _FINISH_S
        for thread in self._lanes:
            thread.join(max(0.0, deadline - time.monotonic()))
        for station in self._stations.values():
            station.abandon()
        if self._delivery is not None:
            self._delivery.stop(_FINISH_S, _FLUSH_S)
        if self._exporter is not None:
            self._exporter.stop()
        if self._control is not None:
            self._control.stop()
        for name, station in self._stations.items():
            _log.info("%s: %s", name, station.summary())


def is_hurried(camera: CameraConfig) -> bool:
    """Its pictures come as fast as they are taken: how many a second matters, not how soon each is decided."""
    return getattr(camera, "pace", "real_time") == "max_speed"
