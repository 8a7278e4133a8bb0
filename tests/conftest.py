"""What every test may ask for: the shared data, and polling instead of sleeping."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lineside.cameras import ffmpeg

ROOT = Path(__file__).resolve().parents[1]

ffmpeg.prepare()  # as every camera does: FFmpeg reads its log level once, whichever test opens the first video


def data_folder() -> Path:
    return Path(os.environ.get("LINESIDE_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real datasets, videos and models; a test that needs it skips without, except in CI."""
    folder = data_folder()
    if not (folder / "models").is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"LINESIDE_DATA: {folder} is absent, and in CI the tests on real data must run")
        pytest.skip(f"no data at {folder}: set LINESIDE_DATA")
    return folder


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Poll a condition until it holds: eventually(lambda: ..., within_s=10)."""

    def wait(condition: Callable[[], object], within_s: float = 10.0, what: str = "the condition") -> None:
        deadline = time.monotonic() + within_s
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"{what} did not hold within {within_s} s")
            time.sleep(0.01)

    return wait
