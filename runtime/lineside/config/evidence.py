"""[evidence] of lineside.toml: which decisions keep their frames, how much memory and disk that may take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from lineside.checked import Is, Table, table


@table
class EvidenceConfig(Table):
    """[evidence]: frames, findings and a picture of every reject, unknown and escalated decision, and of a sample."""

    path: Annotated[Path | None, Is("Folder; default: evidence in $STATE_DIRECTORY, else in /var/lib/lineside")] = None
    accept_share: Annotated[float, Is("Of the accepts, the share that keeps its evidence", ge=0, le=1)] = 0.01
    events: Annotated[bool, Is("Event pipelines: keep evidence of each start, change and end")] = True
    ring_mb: Annotated[int, Is("Memory of each station for its last frames, uncompressed", ge=1, le=65_536)] = 64
    queue_mb: Annotated[int, Is("Memory for frames that wait to be written", ge=1, le=65_536)] = 128
    most_frames: Annotated[int, Is("Of one decision, the newest so many frames are kept", ge=1, le=1000)] = 120
    event_frames: Annotated[int, Is("Frames kept of an event's start, change or end", ge=1, le=1000)] = 16
    cap_mb: Annotated[int, Is("Disk that evidence may take; then the oldest goes", ge=1, le=100_000_000)] = 10_000
    min_free_mb: Annotated[int, Is("Disk that stays free, whatever cap_mb says ...", ge=0, le=100_000_000)] = 1000
    min_free_percent: Annotated[float, Is("... and this share of it", ge=0, le=100)] = 5.0
    labelled_grace_s: Annotated[
        float, Is("A piece that an operator labelled is announced so long before it goes for want of room", ge=0)
    ] = 3600.0
    nice: Annotated[int, Is("Of the thread that writes: 19 yields to everything else", ge=0, le=19)] = 19
    keep_unblurred: Annotated[
        bool, Is("Where faces are blurred: keep the frames all the same, encrypted to public_key")
    ] = False
    public_key: Annotated[Path | None, Is("File made by `lineside evidence keys`; the box cannot read it back")] = None

    def __post_init__(self) -> None:
        if self.keep_unblurred and self.public_key is None:
            raise ValueError(
                "keep_unblurred = true needs public_key: make a pair with `lineside evidence keys` on another machine"
            )
        if self.public_key is not None and not self.keep_unblurred:
            raise ValueError("public_key is for keep_unblurred = true: add it, or remove public_key")

    def problems(self) -> list[str]:
        """Files that cannot be used, a complete line each."""
        lines = []
        if self.path is not None and self.path.exists() and not self.path.is_dir():
            lines.append(f"evidence.path = {str(self.path)!r}: is not a folder: name one that lineside may write")
        if self.public_key is not None and not self.public_key.is_file():
            lines.append(
                f"evidence.public_key = {str(self.public_key)!r}: no such file: make it with `lineside evidence keys`"
            )
        return lines

    def keeping(self) -> dict[str, Any]:
        """Keyword arguments of deliver.evidence.worker.EvidenceWorker: how much room there is."""
        return {
            "queue_bytes": self.queue_mb * 1_000_000,
            "cap_bytes": self.cap_mb * 1_000_000,
            "min_free_bytes": self.min_free_mb * 1_000_000,
            "min_free_percent": self.min_free_percent,
            "grace_s": self.labelled_grace_s,
            "nice": self.nice,
        }

    def witnessing(self) -> dict[str, Any]:
        """Keyword arguments of deliver.evidence.witness.Witness: what asks for evidence."""
        return {
            "accept_share": self.accept_share,
            "events": self.events,
            "ring_bytes": self.ring_mb * 1_000_000,
            "event_frames": self.event_frames,
            "most_frames": self.most_frames,
        }
