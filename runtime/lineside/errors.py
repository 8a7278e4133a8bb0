"""The three errors of lineside, named by who must act. A message says what, where and what to do.

LinesideError
  ConfigError   the person who wrote the configuration, bundle or command; exit 78, systemd does not restart
  DeviceError   the box: a camera, accelerator or disk; lineside reopens it with backoff and says so
  RemoteError   the other end of a network; lineside retries later and loses nothing
"""

EXIT_CONFIG = 78  # sysexits.h EX_CONFIG


class LinesideError(Exception):
    """What a user is shown without a traceback."""


class ConfigError(LinesideError):
    """The configuration, bundle or command is wrong; `lines` holds one complete message per fault."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class DeviceError(LinesideError):
    """A device of this box is absent, was lost or misbehaves."""


class RemoteError(LinesideError):
    """A peer over the network refused, closed or did not answer."""
