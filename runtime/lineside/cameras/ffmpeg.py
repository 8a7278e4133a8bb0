"""OpenCV's FFmpeg reader as clip and rtsp share it: quiet, one decoding thread, never freed under a running read."""

from __future__ import annotations

import os
from threading import Condition, Lock
from typing import Any

from lineside.errors import DeviceError
from lineside.records import Image

_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"  # OpenCV reads it from the environment in every open


def prepare() -> None:
    """Put the variables in place; called by constructors, before threads run, as growing the environment is unsafe."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # else one line on stderr per damaged packet
    os.environ.setdefault(_OPTIONS, "")


class _OptionsGate:
    """Lets opens run side by side as long as they want the same options of the environment."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._inside = 0

    def enter(self, options: str) -> None:
        with self._changed:
            while self._inside and os.environ.get(_OPTIONS) != options:
                self._changed.wait(1.0)
            os.environ[_OPTIONS] = options
            self._inside += 1

    def leave(self) -> None:
        with self._changed:
            self._inside -= 1
            if not self._inside:
                os.environ[_OPTIONS] = ""  # whoever else opens a video in this process gets OpenCV's own defaults
            self._changed.notify_all()


_gate = _OptionsGate()


def _quieten(cv2: Any) -> None:
    """No warnings of OpenCV on standard error; where the call is depends on its version, some have none."""
    logging = getattr(cv2.utils, "logging", None)
    if logging is not None:
        logging.setLogLevel(logging.LOG_LEVEL_ERROR)
    elif hasattr(cv2, "setLogLevel"):  # 4.x
        cv2.setLogLevel(2)  # LOG_LEVEL_ERROR of core/utils/logger.defines.hpp


class Reader:
    """One open video. `read` and `position_s` belong to one thread; `close` may come from any."""

    def __init__(
        self, source: str, options: str = "", open_timeout_s: float = 30.0, read_timeout_s: float = 30.0
    ) -> None:
        """Raises DeviceError if FFmpeg cannot make a video out of `source` (the message does not repeat it)."""
        import cv2

        _quieten(cv2)
        self._cv2 = cv2
        self._reading = Lock()
        self._closed = False
        parameters = [
            cv2.CAP_PROP_N_THREADS, 1,  # frame threads cost 40 % more CPU and hold frames back
            cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(open_timeout_s * 1000),
            cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(read_timeout_s * 1000),
        ]  # fmt: skip
        _gate.enter(options)
        try:
            self._video: Any = cv2.VideoCapture(source, cv2.CAP_FFMPEG, parameters)
        except cv2.error as error:
            raise DeviceError(f"FFmpeg cannot open it: {error}") from error
        finally:
            _gate.leave()
        if not self._video.isOpened():
            self._video.release()
            raise DeviceError("FFmpeg cannot open it")

    def fps(self) -> float:
        """Pictures per second as the container states them; 0.0 if it does not."""
        return float(self._video.get(self._cv2.CAP_PROP_FPS))

    def pictures(self) -> int:
        """How many pictures the container states or its length lets expect; 0 if it does not say."""
        return max(0, int(self._video.get(self._cv2.CAP_PROP_FRAME_COUNT)))

    def position_s(self) -> float:
        """When the picture that was grabbed last is shown, from the start of the video."""
        return float(self._video.get(self._cv2.CAP_PROP_POS_MSEC)) / 1000

    def grab(self) -> bool:
        """Decode the next picture; False at the end, at a damaged packet, on a timeout and after close."""
        with self._reading:
            grabbed = not self._closed and bool(self._video.grab())
        if self._closed:
            self._release()
        return grabbed and not self._closed

    def retrieve(self) -> Image | None:
        """The grabbed picture as BGR, in memory of its own; None if it cannot be converted."""
        with self._reading:
            if self._closed:
                return None
            found, image = self._video.retrieve()
        return image if found and image.ndim == 3 and image.shape[2] == 3 else None

    def close(self) -> None:
        """Free the video now, or as soon as the read in another thread has ended (freeing under it would crash)."""
        self._closed = True
        self._release()

    def _release(self) -> None:
        if self._reading.acquire(blocking=False):
            try:
                self._video.release()
            finally:
                self._reading.release()
