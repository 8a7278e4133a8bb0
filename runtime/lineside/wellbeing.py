"""How the box is, in few words: what the health message says beside docs/metrics.md's numbers. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lineside.exposition import Family

DISK_LOW = 0.05  # of its size


def brief(families: Iterable[Family]) -> dict[str, float]:
    """Name with labels -> number, as on the metrics endpoint; of a histogram sum, count and quantiles."""
    return {name: int(value) if value == int(value) else value for f in families for name, value in f.brief()}


def problems(status: Mapping[str, Any]) -> list[str]:
    """A sentence for each thing that a person should look at, from the answer of `lineside status`."""
    found = []
    for name, camera in status["cameras"].items():
        if camera["state"] not in ("streaming", "ended") and camera["last_error"]:  # without one it just begins
            found.append(f"camera {name} is {camera['state']}: {camera['last_error']}")
    for name, station in status["stations"].items():
        if not station["device"]["up"]:
            found.append(f"station {name}: the device is down: {station['device']['last_error']}")
        for one in station["passed_over"]:
            if one["file"]:  # its runtime is installed, and it may not run here all the same
                found.append(f"station {name} runs on {station['backend']}, not on {one['backend']}: {one['why']}")
        if station["proof"]["state"] == "unproven":
            found.append(f"station {name}: the model {station['proof']['told']}")
    journal = status["journal"]
    if journal.get("state") == "refusing":
        found.append(f"the journal's disk refuses: {journal['last_error']}")
    for name, sink in status.items():
        if isinstance(sink, Mapping) and sink.get("connected") is False:
            found.append(f"{name} is not connected: {sink.get('last_error') or 'connecting'}")
    disk = status.get("disk", {})
    if disk and disk["free_bytes"] < DISK_LOW * disk["size_bytes"]:
        found.append(f"{disk['path']}: only {disk['free_bytes'] // 1_000_000} MB of the disk are free")
    temperature = status.get("temperature", {})
    if temperature.get("state") in ("warn", "critical"):
        found.append(f"the board is at {temperature['hottest_c']:g} degrees Celsius ({temperature['state']})")
    workers = status["health"].get("workers", {})
    found += [f"worker {name} shows no sign of life" for name, worker in workers.items() if worker["state"] == "stale"]
    return found
