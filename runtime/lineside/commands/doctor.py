"""`lineside doctor broker`: what would lose messages between this box and a subscriber, and what to do about it."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lineside.commands.doctor_case import Case, Finding
    from lineside.config import Config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("broker",), help="what to examine")
    parser.add_argument("config", type=Path, help="the station's lineside.toml")
    parser.add_argument("--json", action="store_true", help="the findings as one JSON object")
    parser.add_argument(
        "--queue",
        type=int,
        metavar="N",
        help="messages for an absent subscriber (default: 1500; while the daemon runs 0: others would get them, too)",
    )
    parser.add_argument(
        "--absent-s", type=int, default=86_400, help="how long a subscriber may be away (default: a day)"
    )
    parser.add_argument("--watch-s", type=float, default=3.0, help="how long to wait for a second client with our id")
    parser.add_argument("--patience-s", type=float, default=3.0, help="how long a message may take to come back")
    listener = parser.add_argument_group("listen as another user, where the box may not read its own topics")
    listener.add_argument("--subscriber-username")
    listener.add_argument("--subscriber-password-file", type=Path)
    listener.add_argument("--subscriber-cert-file", type=Path)
    listener.add_argument("--subscriber-key-file", type=Path)


def run(args: argparse.Namespace) -> int:
    """0 when nothing was found that loses messages, else 1. Raises ConfigError."""
    from lineside.config import load
    from lineside.errors import ConfigError

    config = load(args.config)
    if config.mqtt is None:
        raise ConfigError(f"{args.config}: has no [mqtt]: there is no broker to examine")
    case = _case(config, args)
    findings: list[Finding] = []
    if not args.json:
        print(f"{case.broker} as {case.broker.client_id}")
    for finding in _findings(case):
        findings.append(finding)
        if not args.json:
            print("\n".join(finding.lines()), flush=True)
    loses = sum(finding.state == "loses" for finding in findings)
    if args.json:
        found = [asdict(finding) for finding in findings]
        print(json.dumps({"broker": str(case.broker), "ok": not loses, "findings": found}, indent=2))
    else:
        print(f"{loses} of {len(findings)} findings lose messages" if loses else "nothing found that loses messages")
    return 1 if loses else 0


def _findings(case: Case) -> Iterator[Finding]:
    from lineside.commands import doctor_broker, doctor_tls
    from lineside.commands.doctor_case import Finding

    if case.broker.tls:
        try:
            seen = list(doctor_tls.examine(case.broker))
        except OSError as error:
            why = "nothing is published; decisions wait in the journal until it is full"
            yield Finding(
                "reach", "loses", f"{case.broker}: {error}", why, "check mqtt.host, mqtt.port and mqtt.tls files"
            )
            return
        yield from seen
        if any((finding.check, finding.state) == ("tls", "loses") for finding in seen):
            return
    yield from doctor_broker.examine(case)


def _case(config: Config, args: argparse.Namespace) -> Case:
    from lineside.commands.doctor_case import Case
    from lineside.control import ask, default_socket
    from lineside.deliver.link import Broker
    from lineside.deliver.topics import Topics
    from lineside.errors import RemoteError

    assert config.mqtt is not None
    options = config.mqtt.options()
    box = config.mqtt.box or platform.node() or "box"
    names = (
        "host",
        "port",
        "protocol",
        "username",
        "password_file",
        "tls",
        "ca_file",
        "cert_file",
        "key_file",
        "keepalive_s",
    )
    broker = Broker(**{name: options[name] for name in names}, client_id=config.mqtt.client_id or f"lineside-{box}")
    other = {
        name: given
        for name in ("username", "password_file", "cert_file", "key_file")
        if (given := getattr(args, f"subscriber_{name}")) is not None
    }
    try:
        ask(config.daemon.control_socket or default_socket(), "status")
        running = True
    except RemoteError:
        running = False
    topics = Topics(config.mqtt.topic, config.mqtt.status_topic, config.site, config.line, box)
    health = config.mqtt.health_topic.format(site=config.site, line=config.line, box=box)
    return Case(
        broker=broker,
        subscriber=replace(broker, **other),
        topics=topics,
        documents=(topics.document("checkpoint"), health),
        stations=list(config.stations),
        box=box,
        inflight=config.mqtt.inflight,
        running=running,
        queue=args.queue if args.queue is not None else 0 if running else 1500,
        absent_s=args.absent_s,
        watch_s=args.watch_s,
        patience_s=args.patience_s,
    )
