"""`lineside probe`: this board, the profile that fits it, and which backends and devices are here, or why not."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument(
        "--root",
        type=Path,
        default=Path("/"),
        metavar="DIR",
        help="read /proc, /sys and /dev below DIR: a recorded board",
    )


def run(args: argparse.Namespace) -> int:
    found = probe(args.root)
    print(json.dumps(found, indent=2, sort_keys=True) if args.json else table(found))
    return 0


def probe(root: Path = Path("/")) -> dict[str, Any]:
    """What `--json` prints."""
    from lineside.hal import board, present, processor, profile

    seen = board.read(root)
    matched = profile.match(seen)
    state, hottest_c = matched.thermal.state(board.temperatures(root))
    return {
        "board": {**asdict(seen), "pci": sorted(seen.pci), "usb": sorted(seen.usb), "dev": sorted(seen.dev)},
        "processor": {"features": list(processor.features()), "saturates_int8": processor.saturates_int8()}
        if root == Path("/")
        else None,  # a recorded board does not tell
        "profile": {
            "name": matched.name,
            "title": matched.title,
            "backends": [asdict(one) for one in matched.backend],
            "thermal": asdict(matched.thermal),
            "camera": asdict(matched.camera),
        },
        "thermal": {"state": state, "hottest_c": hottest_c},
        "devices": [asdict(one) for one in present.devices(seen)],
    }


def table(found: dict[str, Any]) -> str:
    """The same for people."""
    board, profile, thermal = found["board"], found["profile"], found["thermal"]
    order = ", ".join(f"{one['name']}:{one['device']}" for one in profile["backends"])
    limits = profile["thermal"]
    heat = f"{thermal['hottest_c']:.0f} C" if thermal["hottest_c"] is not None else "no sensor is readable"
    lines = [
        f"board    {board['model'] or 'unknown'} ({board['arch']})",
        f"cpu      {board['cpu']}, {board['cores_allowed']} of {board['cores']} cores allowed",
        *([f"int8     {_int8(found['processor'])}"] if found["processor"] else []),
        f"memory   {board['memory_allowed_mb']} of {board['memory_mb']} MB allowed",
        f"heat     {heat} ({thermal['state']}; warns at {limits['warn_c']:.0f} C, critical {limits['critical_c']:.0f})",
        f"profile  {profile['name']}: {profile['title']}",
        f"order    {order}",
        "",
    ]
    names = [f"{one['backend']}:{one['device']}" for one in found["devices"]]
    width = max(map(len, names))
    for name, one in zip(names, found["devices"], strict=True):
        lines.append(f"{name:<{width}}  {'present' if one['present'] else 'absent '}  {one['detail']}")
        if one["remedy"]:
            lines.append(f"{'':<{width}}           {one['remedy']}")
    return "\n".join(lines)


def _int8(processor: dict[str, Any]) -> str:
    """What exact INT8 costs on this processor."""
    known = [name for name in ("avx2", "avx512", "vnni", "dotprod") if name in processor["features"]]
    if processor["saturates_int8"]:
        return f"{' '.join(known) or 'no AVX2'}, no VNNI: onnxruntime and openvino take slower kernels to stay exact"
    return f"{' '.join(known) or 'plain'}: exact in every backend"
