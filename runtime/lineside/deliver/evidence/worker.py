"""The thread that writes evidence: after the decision, at the lowest priority, and never in its way.

What does not fit its queue, or what the disk refuses, is dropped, counted in `status` and told in the journal once
evidence is written again. Nobody waits for this thread, and the watchdog does not: a disk that hangs stops no line.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from lineside.contracts import Clock, RecordStore, Status
from lineside.deliver.evidence import folder
from lineside.deliver.evidence.keeper import Keeper, Piece
from lineside.deliver.evidence.ring import Job, bytes_of
from lineside.deliver.evidence.sealed import Seal
from lineside.deliver.evidence.writer import About, Writer, Written, note_fields
from lineside.errors import ConfigError, DeviceError
from lineside.records import Frame, Note

STOPPED = "the daemon stopped before it was written"
_IDLE_S = 0.5
_RETRY_MAX_S = 30.0
_BREATH_S = 0.001  # between two slices: the frame path needs Python's lock more
_STOP_S = 0.2
_TOLD_S = 5.0  # how long a record may take to be committed before the piece is told of again at the next start

log = logging.getLogger(__name__)


class _StoppedError(Exception):
    """A stop has waited long enough for the piece in hand."""


class Ledger(RecordStore, Protocol):
    """What the worker needs of the journal."""

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything that was put before is committed."""


class EvidenceWorker:
    """`offer` may be called from any thread and returns at once. `about` holds each station's part of the evidence."""

    def __init__(
        self,
        root: Path,
        journal: Ledger,
        clock: Clock,
        about: Mapping[str, About],
        *,
        machine: str,
        version: str,
        queue_bytes: int,
        cap_bytes: int,
        min_free_bytes: int,
        min_free_percent: float,
        grace_s: float,
        nice: int = 19,
        seal: Seal | None = None,
    ) -> None:
        self.root = root
        self._journal, self._clock, self._about = journal, clock, about
        self._queue_bytes = queue_bytes
        self._keeper = Keeper(
            root,
            cap_bytes=cap_bytes,
            min_free_bytes=min_free_bytes,
            min_free_percent=min_free_percent,
            grace_s=grace_s,
            announce=self._announce,
            removed=self._remember_gone,
        )
        self._writer = Writer(root, machine, version, seal, self._breathe)
        self._jobs: deque[Job] = deque()
        self._held: Counter[tuple[str, int]] = Counter()  # (camera, number) of each frame that jobs hold -> jobs
        self._held_bytes = 0
        self._changed = threading.Condition()
        self._counts: Counter[str] = Counter()
        self._why: Counter[str] = Counter()  # written, by why
        self._lost: Counter[tuple[str, str]] = Counter()  # (station, cause) that no record has told of yet
        self._removed: dict[str, list[str]] = {}  # station -> ids that went
        self._error = ""
        self._retry_s, self._retry_at = 0.5, 0.0
        self._ready = False  # what earlier runs left is looked at
        self._slices = 0  # of the job in hand that are done
        self._stop_at: float | None = None
        self._nice = nice
        self._hurried = False
        self._thread = threading.Thread(target=self._run_nicely, name="evidence", daemon=True)

    # --- for stations and the daemon

    def start(self) -> None:
        self._thread.start()

    def hurry(self) -> None:
        """Nobody decides any more: write what waits at the process's own priority, without pauses. Called once."""
        self._nicely, self._hurried = self._thread, True
        with self._changed:
            self._changed.notify()
        self._thread = threading.Thread(target=self._run_on, name="evidence", daemon=True)
        self._thread.start()  # here: a thread inherits the priority of the one that starts it, and cannot raise it

    def stop(self, timeout_s: float) -> None:
        """Write what waits, within the time; the rest is lost, and the journal is told so."""
        with self._changed:
            self._stop_at = time.monotonic() + timeout_s
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout_s + 0.5)
        with self._changed:
            for job in self._jobs:
                self._lose(job, STOPPED)
            self._jobs.clear()
        self._tell_losses()

    def waiting(self) -> int:
        """Slices of work that are left: 0 once all that was asked for is written."""
        with self._changed:
            left = sum(2 * len(job.entries) + 3 for job in self._jobs)
            return max(left - self._slices, 1) if self._jobs else 0

    def offer(self, job: Job) -> bool:
        """Take a job; False, and counted, where the frames that wait to be written are too many already."""
        with self._changed:
            fresh = [entry.frame for entry in job.entries if not self._held[_key(entry.frame)]]
            size = sum(map(bytes_of, fresh))
            labelled = job.kind == "missed"  # an operator's word counts more than memory, once at a time and station
            busy = any(o.kind == "missed" and o.station == job.station for o in self._jobs) if labelled else self._jobs
            if self._stop_at is not None or (busy and (labelled or self._held_bytes + size > self._queue_bytes)):
                self._lose(job, "too much evidence waited to be written")
                return False
            for entry in job.entries:
                self._held[_key(entry.frame)] += 1
            self._held_bytes += size
            self._jobs.append(job)
            self._changed.notify()
        return True

    def status(self) -> Status:
        return {
            "state": "refusing" if self._error else "ok",
            "last_error": self._error,
            "path": str(self.root),
            "written": self._counts["written"],
            "why": dict(self._why),
            "waiting": len(self._jobs),
            "waiting_mb": round(self._held_bytes / 1e6, 1),
            "lost": self._counts["lost"],
            "frames_missing": self._counts["frames_missing"],
            "failures": self._counts["failures"],
            "unfinished": self._counts["unfinished"],
            "kept": self._keeper.count(),
            "used_mb": round(self._keeper.used_bytes / 1e6, 1),
            "removed": dict(self._keeper.counts),
        }

    # --- the thread

    def _run_on(self) -> None:
        self._nicely.join()
        self._run()

    def _run_nicely(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._nice)
        self._run(lambda: self._hurried)

    def _run(self, is_over: Callable[[], bool] = lambda: False) -> None:
        while not is_over():
            with self._changed:
                if not self._jobs and self._stop_at is None and not is_over():
                    self._changed.wait(_IDLE_S)
                job = self._jobs[0] if self._jobs else None
                self._slices = 0
            if self._stop_at is not None and (job is None or time.monotonic() > self._stop_at):
                return
            try:
                self._round(job)
            except _StoppedError:
                if job is not None:
                    self._lose(job, STOPPED)
            except Exception:  # this worker goes on: a fault of one piece must not end evidence, nor the line
                log.exception("evidence: unexpected")
                self._fail(job, "a fault of lineside: the log says more")
            finally:
                if job is not None:
                    self._let_go(job)

    def _round(self, job: Job | None) -> None:
        if not self._ready and time.monotonic() >= self._retry_at:
            try:
                self._begin()
            except (OSError, DeviceError) as error:
                self._fail(None, str(error))
        if job is None:
            return
        if time.monotonic() < self._retry_at:
            self._lose(job, self._error)
            return
        try:
            written = self._write(job)
        except (OSError, DeviceError) as error:
            self._fail(job, str(error))
            return
        if self._error:
            log.warning("evidence %s: works again", self.root)
        self._error, self._retry_s = "", 0.5
        self._counts["written"] += 1
        self._counts["frames_missing"] += job.frames_missing
        self._why[job.why] += 1
        self._keeper.add(written.path, written.new_bytes)
        self._tell_losses()
        self._tell(job.station, job.id, written.fields)
        if self._journal.flush(_TOLD_S if self._stop_at is None else _STOP_S):
            self._writer.told(f"{job.station}/{written.path.name}")

    def _begin(self) -> None:
        """What an earlier run left: half a piece goes, a whole one that the journal may not know is told of."""
        self.root.mkdir(parents=True, exist_ok=True)
        self._counts["unfinished"] += self._writer.sweep()
        self._keeper.look()
        for name in self._writer.untold():
            try:
                kept = folder.read(self.root / name)
            except ConfigError:
                pass  # it never got into its place, or went since
            else:
                files = {**kept.told["files"], folder.MANIFEST: _about(kept)}
                self._tell(str(kept.told["station"]), kept.id, note_fields(name, kept.told, files))
                if not self._journal.flush(_TOLD_S):
                    continue
            self._writer.told(name)
        self._ready = True

    def _write(self, job: Job) -> Written:
        need = sum(entry.frame.image.nbytes for entry in job.entries) * 5 // 4 + 200_000  # even if nothing packs
        try:
            self._keeper.make_room(need)
            return self._writer.write(job, self._about[job.station])
        finally:
            for station, ids in self._removed.items():
                self._put(station, str(uuid.uuid4()), {"state": "removed", "removed": ids, "cause": "room for newer"})
            self._removed = {}

    def _fail(self, job: Job | None, why: str) -> None:
        self._counts["failures"] += 1
        if why != self._error:
            log.error("evidence %s: %s; decisions go on without", self.root, why)
        self._error = why
        self._retry_at = time.monotonic() + self._retry_s
        self._retry_s = min(self._retry_s * 2, _RETRY_MAX_S)
        if job is not None:
            self._lose(job, why)

    def _lose(self, job: Job, why: str) -> None:
        with self._changed:
            self._counts["lost"] += 1
            self._lost[job.station, why] += 1
        if self._counts["lost"].bit_count() == 1:  # at 1, 2, 4, 8, ...: loud, and no flood
            log.error(
                "evidence: %d pieces lost so far, the last of %s %s: %s", self._counts["lost"], job.kind, job.id, why
            )

    def _let_go(self, job: Job) -> None:
        with self._changed:
            if self._jobs and self._jobs[0] is job:
                self._jobs.popleft()
            for entry in job.entries:
                key = _key(entry.frame)
                self._held[key] -= 1
                if not self._held[key]:
                    del self._held[key]
                    self._held_bytes -= bytes_of(entry.frame)

    def _breathe(self) -> None:
        self._slices += 1
        if self._stop_at is None and not self._hurried:
            time.sleep(_BREATH_S)
        elif self._stop_at is not None and time.monotonic() > self._stop_at:
            raise _StoppedError

    # --- for the journal

    def _tell(self, station: str, piece_id: str, fields: Mapping[str, object]) -> None:
        """The same id however often a piece is told of, so that a receiver knows it for the same."""
        self._put(station, str(uuid.uuid5(uuid.NAMESPACE_URL, f"lineside:evidence:{piece_id}")), fields)

    def _tell_losses(self) -> None:
        with self._changed:
            lost, self._lost = self._lost, Counter()
        for (station, why), count in lost.items():
            self._put(station, str(uuid.uuid4()), {"state": "lost", "lost": count, "cause": why})

    def _announce(self, piece: Piece, grace_s: float) -> None:
        log.warning("evidence %s: labelled, and will go in %.0f s: copy it, or make room", piece.path, grace_s)
        cause = f"no room: this labelled piece goes in {grace_s:.0f} s unless there is some by then"
        name = f"{piece.path.parent.name}/{piece.path.name}"
        self._put(piece.path.parent.name, str(uuid.uuid4()), {"state": "leaving", "folder": name, "cause": cause})

    def _remember_gone(self, piece: Piece) -> None:
        self._removed.setdefault(piece.path.parent.name, []).append(piece.id)

    def _put(self, station: str, id_: str, fields: Mapping[str, object]) -> None:
        whole = {**_NOTHING, **fields}
        self._journal.put(Note(id_, "evidence", station, whole, self._clock.monotonic_ns(), self._clock.wall_ns()))


_NOTHING: Mapping[str, object] = {
    "decision": None,
    "why": None,
    "folder": None,
    "recipe": None,
    "frames": [],
    "frames_missing": 0,
    "faces": None,
    "files": {},
    "removed": [],
    "lost": 0,
}


def _key(frame: Frame) -> tuple[str, int]:
    return frame.camera, frame.number


def _about(kept: folder.Kept) -> dict[str, object]:
    return {"sha256": kept.manifest_sha256, "bytes": (kept.folder / folder.MANIFEST).stat().st_size}
