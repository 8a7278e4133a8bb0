"""What the daemon's status says, as metric families: the endpoint and the MQTT health messages show the same numbers.

docs/metrics.md lists them. Base units; `_total` counts up since the daemon started.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from lineside.exposition import Family
from lineside.metrics import Latency

Table: TypeAlias = tuple[tuple[str, str, str], ...]  # key of a status, metric, help

_CAMERA: Table = (
    ("frames", "lineside_camera_frames_total", "Pictures that the camera gave."),
    ("skipped", "lineside_camera_frames_skipped_total", "Pictures passed over for a newer one, as configured."),
    ("lost", "lineside_camera_frames_lost_total", "Pictures lost because the path was slower than the camera."),
    ("bad", "lineside_camera_frames_bad_total", "Pictures that did not decode."),
    ("dropped", "lineside_camera_frames_dropped_total", "Pictures for which the driver had no room."),
    ("reopens", "lineside_camera_reopens_total", "Times that the camera was lost and opened anew."),
    ("stalls", "lineside_camera_stalls_total", "Reads that hung and were cut off."),
    ("abandoned", "lineside_camera_reads_abandoned_total", "Reads that never came back."),
)
_STATION: Table = (
    ("frames", "lineside_frames_total", "Pictures that the station concluded."),
    ("events", "lineside_events_total", "Events of free-running pipelines: starts, changes and ends."),
    ("late", "lineside_decisions_late_total", "Decisions made after the part's due time."),
    ("frames_without_device", "lineside_frames_without_device_total", "Pictures without an answer of the model."),
)
_TRIGGER: Table = (
    ("parts", "lineside_parts_total", "Parts that the trigger announced; each ends in a decision."),
    ("tracks", "lineside_tracks_total", "Objects that were followed long enough to count."),
    ("crossed_unconfirmed", "lineside_tracks_unconfirmed_total", "Objects that crossed the line, seen too seldom."),
    ("frames_forgotten", "lineside_observations_forgotten_total", "Observations beyond a part's max_frames."),
    ("boxes_unfollowed", "lineside_boxes_unfollowed_total", "Boxes of tracked labels that started no track."),
    ("open", "lineside_parts_open", "Objects still before the line."),
)
_PARTS: Table = (
    ("triggers", "lineside_triggers_total", "Parts that the station came to know of: decided, missed or still open."),
    ("in_doubt", "lineside_parts_in_doubt_total", "Parts that a stop left open; told by in_doubt messages."),
)
_MISSES = ("lost_before_line", "appeared_after_line", "wrong_direction")  # ends of a track without a part
_DEVICE: Table = (
    ("failures", "lineside_device_failures_total", "Times that the accelerator failed."),
    ("reopened", "lineside_device_reopens_total", "Times that it was opened anew."),
)
_JOURNAL: Table = (
    ("committed", "lineside_journal_records_total", "Records committed to the journal since the daemon started."),
    ("commits", "lineside_journal_commits_total", "Transactions; one holds whatever had gathered."),
    ("failures", "lineside_journal_failures_total", "Times that the disk refused."),
    ("lost", "lineside_journal_lost_total", "Records that never got a place on disk; told by gap messages."),
    ("checkpoint_failures", "lineside_journal_checkpoint_failures_total", "Checkpoints of the log that failed."),
    ("waiting", "lineside_journal_waiting_records", "Records in memory that are not yet on disk."),
    ("bytes", "lineside_journal_size_bytes", "Size of the journal on disk."),
)
_SINK: Table = (
    ("published", "lineside_sink_published_total", "Messages sent, repeats included."),
    ("acked", "lineside_sink_acked_total", "Messages acknowledged with a success code."),
    ("backfilled", "lineside_sink_backfilled_total", "Messages sent later than live."),
    ("connects", "lineside_sink_connects_total", "Connections that came about."),
    ("disconnects", "lineside_sink_disconnects_total", "Connections that broke."),
    ("ack_timeouts", "lineside_sink_ack_timeouts_total", "Connections given up because no acknowledgement came."),
    ("inflight", "lineside_sink_inflight_messages", "Messages sent and not yet acknowledged."),
)
_OPEN_PARTS: Table = (
    ("told_in_doubt", "lineside_parts_told_in_doubt_total", "Parts of earlier runs that this start told as in_doubt."),
    ("failures", "lineside_open_parts_failures_total", "Times that the marks of open parts did not get to disk."),
)
_LEDGER: Table = (
    ("made", "lineside_ledger_checkpoints_total", "Checkpoints signed since the daemon started."),
    ("missed", "lineside_ledger_checkpoints_missed_total", "Checkpoints that were due and could not be signed."),
    ("row", "lineside_ledger_sealed_row", "Newest row of the journal behind a signed checkpoint."),
)
_EVIDENCE: Table = (
    ("written", "lineside_evidence_written_total", "Parts whose evidence was written."),
    ("lost", "lineside_evidence_lost_total", "Parts whose evidence found no room in memory or on disk."),
    ("frames_missing", "lineside_evidence_frames_missing_total", "Pictures that were gone before they were written."),
    ("failures", "lineside_evidence_failures_total", "Times that the disk refused evidence."),
    ("waiting", "lineside_evidence_waiting_parts", "Parts whose evidence waits in memory."),
    ("kept", "lineside_evidence_kept_parts", "Parts whose evidence is on disk."),
)
_DESK: Table = (
    ("requests", "lineside_resend_requests_total", "Requests for a resend."),
    ("resent", "lineside_resent_records_total", "Records sent again because somebody asked."),
    ("refused", "lineside_resend_refused_total", "Requests that were malformed, too many, or of someone who may not."),
    ("unanswered", "lineside_resend_unanswered_total", "Requests that named no usable place for the answer."),
)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What is to be shown, gathered by the daemon at one moment."""

    status: Mapping[str, Any]  # that of `lineside status`
    sinks: Collection[str]  # which keys of it are sinks
    latencies: Mapping[str, Mapping[str, Latency]]  # station -> frame_path, capture_to_decision, stages
    commits: Latency | None = None
    acks: Mapping[str, Latency] = field(default_factory=dict)  # sink -> sent to acknowledged
    clock_synchronized: bool = False


def families(seen: Seen) -> Iterator[Family]:
    """Every metric of the daemon, a family at a time."""
    status = seen.status
    build = Family("lineside_build_info", "gauge", "Always 1; what runs here.")
    build.add(1, version=str(status["version"]), python=platform.python_version(), profile=str(status["profile"]))
    yield build
    yield _one("lineside_clock_synchronized", "Whether NTP or PTP keeps the clock.", seen.clock_synchronized)
    yield from _cameras(status["cameras"])
    yield from _stations(status["stations"])
    yield from _timings(seen)
    yield from _journal(status["journal"])
    yield from _proof(status)
    yield from _sinks({name: status[name] for name in seen.sinks if name in status})
    yield from _desk(status.get("desk", {}))
    yield from _box(status)
    yield from _workers(status)
    yield from _process()


def _cameras(cameras: Mapping[str, Mapping[str, Any]]) -> Iterator[Family]:
    up = Family("lineside_camera_up", "gauge", "Whether pictures come, or the clip has come to its end.")
    for name, camera in cameras.items():
        up.add(camera["state"] in ("streaming", "ended"), camera=name)
    yield up
    yield from _from_table(_CAMERA, cameras, "camera")


def _stations(stations: Mapping[str, Mapping[str, Any]]) -> Iterator[Family]:
    info = Family("lineside_station_info", "gauge", "Always 1; what the station decides with.")
    decisions = Family("lineside_decisions_total", "counter", "Decisions by verdict.")
    for name, station in stations.items():
        device = str(station["device"]["device"])
        info.add(1, station=name, model=station["model"], backend=station["backend"], device=device)
        for verdict in ("accept", "reject", "unknown"):
            decisions.add(station[verdict], station=name, verdict=verdict)
    yield info
    yield decisions
    yield from _from_table(_STATION, stations, "station")
    triggers = {name: station["trigger"] for name, station in stations.items() if "trigger" in station}
    missed = Family("lineside_parts_missed_total", "counter", "Objects that left no decision, by what became of them.")
    astray = Family("lineside_parts_unaccounted", "gauge", "Parts that are in no count: anything but 0 is a fault.")
    for name, trigger in triggers.items():
        for reason in _MISSES:
            missed.add(trigger.get(reason), station=name, reason=reason)
        astray.add(stations[name]["parts"]["unaccounted"], station=name)
    yield missed
    yield astray
    yield from _from_table(_PARTS, {name: station["parts"] for name, station in stations.items()}, "station")
    yield from _from_table(_TRIGGER, triggers, "station")
    devices = {name: station["device"] for name, station in stations.items()}
    up = Family("lineside_device_up", "gauge", "Whether the accelerator answers.")
    for name, device in devices.items():
        up.add(device["up"], station=name)
    yield up
    yield from _from_table(_DEVICE, devices, "station")


def _timings(seen: Seen) -> Iterator[Family]:
    path = Family("lineside_frame_path_seconds", "histogram", "From a decoded picture to its record in the journal.")
    whole = Family("lineside_capture_to_decision_seconds", "histogram", "From the exposure to the same.")
    stages = Family(
        "lineside_stage_seconds", "histogram", "take: waits for its lane; see: model and its pre- and postprocessing."
    )
    for station, latencies in seen.latencies.items():
        for name, latency in latencies.items():
            if name == "frame_path":
                path.latencies.append(({"station": station}, latency))
            elif name == "capture_to_decision":
                whole.latencies.append(({"station": station}, latency))
            else:
                stages.latencies.append(({"station": station, "stage": name}, latency))
    yield from (path, whole, stages)
    commit = Family(
        "lineside_journal_commit_seconds", "histogram", "A transaction, with its fsync where it is durable."
    )
    if seen.commits is not None:
        commit.latencies.append(({}, seen.commits))
    yield commit
    acks = Family("lineside_sink_acknowledge_seconds", "histogram", "From sending a message to its acknowledgement.")
    acks.latencies.extend(({"sink": sink}, latency) for sink, latency in seen.acks.items())
    yield acks


def _journal(journal: Mapping[str, Any]) -> Iterator[Family]:
    if not journal:
        return
    yield _one("lineside_journal_up", "Whether the disk takes records.", journal["state"] == "ok")
    yield from _from_table(_JOURNAL, {"": journal}, "")
    pruned = Family("lineside_journal_pruned_total", "counter", "Records removed to stay within the cap.")
    pruned.add(journal["pruned"], delivered="yes")
    pruned.add(journal["pruned_undelivered"], delivered="no")
    yield pruned
    last = Family("lineside_journal_last_seq", "gauge", "Newest seq of the station in this epoch.")
    for station, seq in journal["last_seq"].items():
        last.add(seq, station=station)
    yield last
    stores = len(journal["set_aside"])
    yield _one("lineside_journal_set_aside_stores", "Corrupt stores set aside since the daemon started.", stores)


def _proof(status: Mapping[str, Any]) -> Iterator[Family]:
    """Ledger, open parts and evidence, where there are any."""
    if open_parts := status.get("open_parts"):
        yield from _from_table(_OPEN_PARTS, {"": open_parts}, "")
    if ledger := status.get("journal", {}).get("ledger"):
        yield _one("lineside_ledger_up", "Whether checkpoints can be signed.", not ledger["last_error"])
        words = "Whether the store was found altered or cut off; `lineside ledger verify` says where."
        yield _one("lineside_ledger_doubt", words, ledger["doubt"] is not None)
        yield from _from_table(_LEDGER, {"": ledger}, "")
    if evidence := status.get("evidence"):
        yield _one("lineside_evidence_up", "Whether the disk takes evidence.", evidence["state"] == "ok")
        yield from _from_table(_EVIDENCE, {"": evidence}, "")
        yield _one("lineside_evidence_size_bytes", "Evidence on disk.", evidence["used_mb"] * 1e6)
        removed = Family(
            "lineside_evidence_removed_total", "counter", "Parts whose evidence was removed, by what kept it."
        )
        for why, count in evidence["removed"].items():
            removed.add(count, why=why)
        yield removed


def _desk(desk: Mapping[str, Any]) -> Iterator[Family]:
    """What others asked of this box over MQTT."""
    if not desk:
        return
    yield from _from_table(_DESK, {"": desk}, "")
    commands = Family("lineside_commands_total", "counter", "Signed commands, by what became of them.")
    for outcome, count in desk["commands"].items():
        commands.add(count, outcome=outcome)
    yield commands
    yield _one("lineside_twins", "Other daemons that publish as this box or for its stations.", len(desk["twins"]))


def _sinks(sinks: Mapping[str, Mapping[str, Any]]) -> Iterator[Family]:
    up = Family("lineside_sink_up", "gauge", "Whether the connection stands.")
    pending = Family("lineside_sink_pending_records", "gauge", "Records not yet delivered.")
    oldest = Family(
        "lineside_sink_oldest_pending_seconds",
        "gauge",
        "Age of the oldest undelivered record; 0: none that is a second old.",
    )
    refused = Family("lineside_sink_refused_total", "counter", "Messages that the other side refused.")
    codes = Family("lineside_sink_refused_by_code_total", "counter", "The same by MQTT reason code.")
    for name, sink in sinks.items():
        up.add(sink.get("connected"), sink=name)
        pending.add(sink.get("pending"), sink=name)
        oldest.add(sink.get("oldest_pending_s") or 0, sink=name)
        refusals = sink.get("refused", {})
        refused.add(sum(refusals.values()), sink=name)  # there from the start, so that an increase from 0 shows
        for code, count in refusals.items():
            codes.add(count, sink=name, code=str(code))
    yield from (up, pending, oldest, refused, codes)
    yield from _from_table(_SINK, sinks, "sink")


def _box(status: Mapping[str, Any]) -> Iterator[Family]:
    disk, temperature = status.get("disk", {}), status.get("temperature", {})
    yield _one("lineside_disk_free_bytes", "Room where the journal is.", disk.get("free_bytes"))
    yield _one("lineside_disk_size_bytes", "Size of that disk.", disk.get("size_bytes"))
    zones = Family("lineside_temperature_celsius", "gauge", "Thermal zones of the board's profile.")
    for zone, celsius in temperature.get("zones_c", {}).items():
        zones.add(celsius, zone=zone)
    yield zones
    yield _one("lineside_temperature_warn_celsius", "From here on the board is warm.", temperature.get("warn_c"))
    yield _one("lineside_temperature_critical_celsius", "From here on it sheds work.", temperature.get("critical_c"))


def _workers(status: Mapping[str, Any]) -> Iterator[Family]:
    age = Family("lineside_worker_heartbeat_age_seconds", "gauge", "Since the worker last showed that it is alive.")
    stale = Family("lineside_worker_stale", "gauge", "Whether that is longer than it may be: the watchdog starves.")
    for name, worker in status["health"].get("workers", {}).items():
        if worker["state"] != "ended":
            age.add(worker["age_s"], worker=name)
            stale.add(worker["state"] == "stale", worker=name)
    yield age
    yield stale
    dropped = Family("lineside_log_lines_dropped_total", "counter", "Log lines dropped because nobody read the log.")
    dropped.add(status["log_lines_dropped"])
    yield dropped


def _process() -> Iterator[Family]:
    """Names as every Prometheus client has them."""
    used = os.times()
    cpu = Family("process_cpu_seconds_total", "counter", "Processor time of the daemon.")
    cpu.add(used.user + used.system)
    yield cpu
    resident = int(Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    yield _one("process_resident_memory_bytes", "Resident memory of the daemon.", resident)
    yield _one("process_open_fds", "Open file descriptors.", len(os.listdir("/proc/self/fd")))
    yield _one("process_threads", "Python threads.", threading.active_count())
    ticks = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    started = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks
    yield _one("process_start_time_seconds", "When the daemon started, in seconds since 1970.", round(started, 2))


def _one(name: str, words: str, value: object) -> Family:
    family = Family(name, "gauge", words)
    family.add(value)
    return family


def _from_table(table: Table, statuses: Mapping[str, Mapping[str, Any]], label: str) -> Iterator[Family]:
    for key, name, words in table:
        family = Family(name, "counter" if name.endswith("_total") else "gauge", words)
        for owner, status in statuses.items():
            family.add(status.get(key), **({label: owner} if label else {}))
        yield family
