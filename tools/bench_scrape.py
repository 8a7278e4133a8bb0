"""What a scrape of the metrics endpoint does to the frame path: windows with scrapes and windows without, in turn.

    python tools/bench_scrape.py                      (about 4 minutes)

One daemon with a rendered belt at 30 fps, its journal and a mosquitto on loopback, so both kinds of window are of the
same process; the path's latencies are its own histogram, asked over the control socket between two windows.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path
from statistics import median

from lineside.errors import RemoteError
from lineside.metrics import quantile
from peers import FAST, Broker, Lineside, until

ROOT = Path(__file__).resolve().parents[1]
SHARES = (0.5, 0.9, 0.99)


def main() -> None:
    args = _arguments()
    folder = Path(tempfile.mkdtemp(prefix="lineside-scrape-"))
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = int(sock.getsockname()[1])
    try:
        with Broker(folder / "broker", *FAST) as broker:
            daemon = Lineside(folder, _config(args, broker.port, port))
            try:
                until(lambda: _decides(daemon), 60, "decisions")
                kinds = _windows(args, daemon, port)
                answer = daemon.status()["metrics"]
                print(f"scrapes: {answer['scrapes']}, the last took {answer['last_scrape_ms']} ms")
            finally:
                daemon.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _report(args, kinds)


def _config(args: argparse.Namespace, broker: int, port: int) -> str:
    return f"""
[cameras.belt]
driver = "synthetic"
fps = 30
[stations.gate]
camera = "belt"
bundle = "{args.bundle}"
backend = "{args.backend}"
trigger.per = "frame"
[metrics]
port = {port}
[mqtt]
host = "127.0.0.1"
port = {broker}
"""


def _decides(daemon: Lineside) -> bool:
    daemon.check_alive()
    try:
        return int(daemon.status()["stations"].get("gate", {}).get("decisions", 0)) > 60
    except RemoteError:
        return False  # it starts


def _windows(args: argparse.Namespace, daemon: Lineside, port: int) -> dict[bool, list[Counter[float]]]:
    kinds: dict[bool, list[Counter[float]]] = {False: [], True: []}
    for number in range(2 * args.windows):
        scrapes = bool(number % 2) ^ bool(number // 2 % 2)  # ABBA: a drift of the machine falls on both
        before = daemon.frame_path_ms("gate")
        end = time.monotonic() + args.window_s
        while time.monotonic() < end:
            if scrapes:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                    answer.read()
            time.sleep(args.every_s)
        between = daemon.frame_path_ms("gate")
        between.subtract(before)
        kinds[scrapes].append(between)
    return kinds


def _quantile(window: Counter[float], share: float) -> float:
    return quantile({edge: window[edge] for edge in sorted(window)}, share)


def _report(args: argparse.Namespace, kinds: dict[bool, list[Counter[float]]]) -> None:
    for scrapes, windows in kinds.items():
        whole: Counter[float] = Counter()
        for window in windows:
            whole.update(window)
        total = ", ".join(f"p{share * 100:g} {_quantile(whole, share):.2f}" for share in SHARES)
        p99s = sorted(_quantile(window, 0.99) for window in windows)
        spread = f"{p99s[0]:.2f} to {p99s[-1]:.2f}, median {median(p99s):.2f}"
        name = f"a scrape every {args.every_s:g} s" if scrapes else "no scrape"
        print(f"{name}: {whole.total()} frames, {total} ms; p99 of {len(windows)} windows {spread} ms")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=16, help="of each kind (default: 16)")
    parser.add_argument("--window-s", type=float, default=7.0, help="length of one (default: 7)")
    parser.add_argument("--every-s", type=float, default=1.0, help="between two scrapes (default: 1)")
    parser.add_argument("--bundle", default=str(ROOT / "models" / "conveyor-parts"))
    parser.add_argument("--backend", default="onnxruntime")
    return parser.parse_args()


if __name__ == "__main__":
    main()
