"""Files that were packed into a bundle beside its model, named by their SHA-256 in model.toml."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TypeVar

from lineside.checked import Table, Unfit, checked
from lineside.errors import ConfigError

T = TypeVar("T", bound=Table)


def read_packed(kind: type[T], folder: Path, file: str, sha256: str, packer: str) -> T:
    """The JSON file of the bundle in `folder` as a table; `packer` is the command that makes it. Raises ConfigError."""
    path = folder / file
    where = f"bundle {folder}: {file}"
    try:
        text = path.read_bytes()
        if hashlib.sha256(text).hexdigest() != sha256:
            raise ConfigError(f"{where}: is not the file that was packed: copy the bundle again")
        return checked(kind, json.loads(text))
    except OSError as error:
        raise ConfigError(f"{where}: cannot be read ({error.strerror}): copy the whole folder") from error
    except ValueError as error:
        raise ConfigError(f"{where}: is not JSON ({error}): copy the bundle again") from error
    except Unfit as error:
        raise ConfigError(f"{where}: {error}: pack it again with `{packer}`") from error
