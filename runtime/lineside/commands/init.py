"""`lineside init`: writes a first commented lineside.toml, by asking or by flags."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tomllib
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", type=Path, default=Path("lineside.toml"), help="default: lineside.toml")
    parser.add_argument("--force", action="store_true", help="overwrite a file that is there")
    parser.add_argument("--yes", action="store_true", help="ask nothing: defaults for what no flag gives")
    parser.add_argument("--site", help="first level of the MQTT topics (default: site)")
    parser.add_argument("--line", help="second level of the MQTT topics (default: line)")
    parser.add_argument("--camera", help="/dev/videoN, rtsp://..., a video file, a folder of images, or synthetic")
    parser.add_argument("--bundle", help="folder of a model bundle, or the name of a shipped one")
    parser.add_argument("--per", choices=("object", "frame", "event"), help="what one decision is about")
    parser.add_argument("--broker", help="HOST[:PORT] of the MQTT broker, or none (default: 127.0.0.1)")


def run(args: argparse.Namespace) -> int:
    from lineside.errors import ConfigError

    if args.output.exists() and not args.force:
        raise ConfigError(f"{args.output}: is there already: give another --output, or --force to overwrite it")
    ask = _silent if args.yes or not sys.stdin.isatty() else _asked
    site = args.site or ask("Site (first level of the topics)", "site")
    line = args.line or ask("Line (second level)", "line")
    camera = args.camera or ask("Camera (/dev/video0, rtsp://..., file, folder, synthetic)", "synthetic")
    bundle = args.bundle or ask("Model bundle (folder or shipped name)", "conveyor-parts")
    labels, task = _labels(bundle)
    per = args.per or ask("One decision per object, frame or event", "object" if task == "detect" else "frame")
    broker = args.broker or ask("MQTT broker (HOST[:PORT] or none)", "127.0.0.1")
    if per == "object" and task != "detect":
        raise ConfigError(f"per object: needs a detector, the bundle {bundle} is for {task}: use frame or event")
    folder = args.output.absolute().parent
    camera, bundle = _seen_from(folder, camera), _seen_from(folder, bundle)
    _write(
        args.output,
        render(site=site, line=line, camera=camera, bundle=bundle, labels=labels, task=task, per=per, broker=broker),
    )
    print(f"wrote {args.output}; next: lineside check {args.output} && lineside run {args.output}")
    return 0


def _write(path: Path, text: str) -> None:
    """Write a configuration that is valid; what stood there before is lost only when the new one is whole."""
    from lineside.config import parse
    from lineside.errors import ConfigError

    try:
        text.encode()
        tree = tomllib.loads(text)
    except ValueError as error:
        raise ConfigError(f"{path}: an answer holds characters that TOML does not take: {error}") from error
    parse(tree, str(path))
    beside = path.with_name(f".{path.name}.new")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise ConfigError(f"{path}: cannot be written ({error.strerror}): give another --output") from error


def _seen_from(folder: Path, place: str) -> str:
    """A path that the user gave from here, as the file that will stand in `folder` must name it."""
    here = Path(place)
    return place if here.is_absolute() or folder == Path.cwd() or not here.exists() else str(here.resolve())


def render(
    *, site: str, line: str, camera: str, bundle: str, labels: tuple[str, ...], task: str, per: str, broker: str
) -> str:
    """The text of a first configuration for these answers. Raises ConfigError."""
    parts = [
        "# lineside.toml: what this box looks at, decides and publishes. Check it with `lineside check`.",
        "# Editors complete it with the schema that `lineside check --schema` prints.",
        f"site = {_quoted([site])}",
        f"line = {_quoted([line])}",
        "",
        "[cameras.cam1]",
        _camera(camera),
        "# rotate_deg = 180          # 0, 90, 180, 270 clockwise",
        "# roi = [0, 0, 640, 360]    # x, y, width, height in pixels: the model sees only this",
        "",
        "[stations.station1]",
        'camera = "cam1"',
        f"bundle = {_quoted([bundle])}",
        '# backend = "onnxruntime"   # default: what the device profile of this board prefers',
        "# deadline_ms = 100         # capture to decision; a slower decision is marked late",
        "",
        "[stations.station1.trigger]",
        f"per = {_quoted([per])} # object: each thing that crosses the line; frame: each picture; event: what changes",
    ]
    if per == "object":
        parts += [
            "line = [[0.5, 0.0], [0.5, 1.0]] # fractions of the picture; aim it with `lineside snapshot`",
            f"track_labels = [{_quoted([label for label in labels if label == 'part'])}]",
        ]
    parts += ["", "[[stations.station1.rules]]", _rule(per, task, labels), ""]
    if per == "object":
        parts += ["[stations.station1.steady]", "min_frames = 2             # a rule must hold in so many frames", ""]
    parts.append(_broker(broker))
    return "\n".join(parts) + "\n"


def _rule(per: str, task: str, labels: tuple[str, ...]) -> str:
    defects = [label for label in labels if label != "part"]
    if task != "detect":
        chosen = ["anomaly"] if task == "anomaly" else defects[:1]
        return f'kind = "threshold"\nlabels = [{_quoted(chosen)}]         # what must not be there\nhigh = 0.5'
    if per == "event":
        return (
            f'kind = "count"\nlabels = [{_quoted(labels[:1])}]         # an event while more than max_count are seen\n'
            "max_count = 0\nmin_score = 0.5"
        )
    return (
        f'kind = "defect"\nlabels = [{_quoted(defects[:12])}]         # any of these rejects\n'
        "min_score = 0.5\nmin_side_px = 0"
    )


def _camera(camera: str) -> str:
    if camera == "synthetic":
        return 'driver = "synthetic"       # rendered parts on a conveyor, to try things out\nfps = 15'
    if camera.startswith(("rtsp://", "rtsps://")):
        return (
            f'driver = "rtsp"\nurl = {_quoted([camera])}\n# username = "viewer"\n# password_file = "camera.password"\n'
            "stall_s = 3                # without a picture for so long, the stream is opened again"
        )
    if camera.startswith("/dev/"):
        return (
            f'driver = "v4l2"\ndevice = {_quoted([camera])} # better: serial or usb_path; a replug moves device\n'
            "width_px = 1280\nheight_px = 720\nfps = 30"
        )
    return f'driver = "clip"\npath = {_quoted([camera])}\npace = "real_time"         # or max_speed\nloop = false'


def _broker(broker: str) -> str:
    if broker == "none":
        return (
            '# [mqtt]                   # decisions stay in the journal until a broker is named\n# host = "127.0.0.1"'
        )
    host, port = _host_port(broker)
    return (
        f'[mqtt]\nhost = {_quoted([host])}\nport = {port}\n# username = "lineside"\n# password_file = "mqtt.password"\n'
        '# tls = { ca_file = "ca.crt", cert_file = "box.crt", key_file = "box.key" }'
    )


def _host_port(broker: str) -> tuple[str, int]:
    """HOST, HOST:PORT, an IPv6 address, or one in brackets with a port. Raises ConfigError."""
    from lineside.errors import ConfigError

    host, colon, port = broker.rpartition(":")
    if not colon or (host.count(":") and not host.endswith("]")):
        host, port = broker, "1883"
    if not port.isdecimal() or not host:
        raise ConfigError(f"--broker {broker}: write HOST or HOST:PORT, [ADDRESS]:PORT for IPv6, or none")
    return host.strip("[]"), int(port)


def _labels(bundle: str) -> tuple[tuple[str, ...], str]:
    from lineside.errors import ConfigError
    from lineside.store.bundle import read_bundle

    try:
        found = read_bundle(bundle)
    except ConfigError as error:
        print(f"lineside: {error}", file=sys.stderr)
        print("lineside: writing the file all the same; put labels and bundle right before you run it", file=sys.stderr)
        return (), "detect"
    return found.labels, found.task


def _quoted(labels: list[str] | tuple[str, ...]) -> str:
    """TOML strings; JSON's are a subset of them."""
    return ", ".join(json.dumps(label, ensure_ascii=False) for label in labels)


def _asked(question: str, default: str) -> str:
    from lineside.errors import ConfigError

    try:
        return input(f"{question} [{default}]: ").strip() or default
    except EOFError:
        raise ConfigError("init: the answers ended; nothing is written. --yes takes the defaults") from None


def _silent(question: str, default: str) -> str:
    return default
