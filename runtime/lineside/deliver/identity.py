"""The device key: an Ed25519 pair that is made at the first start and never leaves the box.

`device.key` (0600) holds seed and public key, so that a damaged file is noticed; `device.pub` is for those who verify.
PyNaCl is imported when a key is used: it costs about a megabyte and ten milliseconds.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from lineside.errors import ConfigError, DeviceError

_HEADER = "lineside-device-key-1"


@dataclass(frozen=True, slots=True)
class DeviceKey:
    """What this box signs with."""

    public: bytes  # 32 bytes
    _secret: bytes = field(repr=False)  # 64 bytes: seed and public key, as libsodium has it

    @property
    def id(self) -> str:
        return key_id(self.public)

    def sign(self, message: bytes) -> bytes:
        """64 bytes."""
        from nacl.bindings import crypto_sign

        return bytes(crypto_sign(message, self._secret)[:64])


def key_id(public: bytes) -> str:
    """How messages name a key."""
    return "ed25519:" + sha256(public).hexdigest()[:16]


def is_signed(message: bytes, signature: bytes, public: bytes) -> bool:
    """Whether the key's owner signed exactly this message."""
    from nacl.bindings import crypto_sign_open
    from nacl.exceptions import CryptoError

    if len(signature) != 64:
        return False
    try:
        crypto_sign_open(signature + message, public)
    except (CryptoError, ValueError):
        return False
    return True


def device_key(folder: Path) -> DeviceKey:
    """The key of this box; made, on disk before it is used, where there is none.

    Raises DeviceError for a file that cannot be read or made, and for one that holds no key.
    """
    path = folder / "device.key"
    try:
        if not path.exists():
            _make(path)
        key = _read(path)
        _publish(folder / "device.pub", key)
    except OSError as error:
        raise DeviceError(
            f"device key {path}: {error.strerror or error}: let the user that lineside runs as read and write {folder}"
        ) from error
    return key


def public_key(text: str) -> bytes:
    """A public key from what `lineside ledger key` prints, or from a file that holds it. Raises ConfigError."""
    path = Path(text)
    try:
        is_file = path.is_file()
        words = (path.read_text() if is_file else text).split()
    except (OSError, ValueError) as error:
        raise ConfigError(f"public key {text}: cannot be read ({error})") from error
    raw = _decoded(words[0]) if words else b""
    if len(raw) != 32:
        raise ConfigError(
            f"public key {text!r}: is no Ed25519 public key: give the 44 characters that `lineside ledger key` prints, "
            "or the path of a device.pub"
        )
    return raw


def written(public: bytes) -> str:
    """A public key as text."""
    return base64.b64encode(public).decode()


def _make(path: Path) -> None:
    from nacl.bindings import crypto_sign_seed_keypair

    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    seed = os.urandom(32)
    public, _ = crypto_sign_seed_keypair(seed)
    fresh = path.with_name(f"device.key.{os.getpid()}.new")
    fresh.unlink(missing_ok=True)
    _write(fresh, f"{_HEADER} {written(seed)} {written(public)}\n", 0o600)
    try:
        os.link(fresh, path)  # not a rename: a key that another process made meanwhile stays
    except FileExistsError:
        pass
    finally:
        fresh.unlink()
    _sync_folder(path.parent)


def _read(path: Path) -> DeviceKey:
    from nacl.bindings import crypto_sign_seed_keypair

    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        path.chmod(0o600)
    words = path.read_text(errors="replace").split()
    seed, public = (_decoded(word) for word in words[1:]) if len(words) == 3 and words[0] == _HEADER else (b"", b"")
    if len(seed) == 32:
        made, secret = crypto_sign_seed_keypair(seed)
        if made == public:
            return DeviceKey(public, secret)
    raise DeviceError(
        f"device key {path}: holds no key of lineside, or a damaged one: put it back from a backup, or remove it: "
        "a new one is made at the next start, and whoever verifies must learn its public key"
    )


def _publish(path: Path, key: DeviceKey) -> None:
    text = f"{written(key.public)} {key.id}\n"
    if path.exists() and path.read_text(errors="replace") == text:
        return
    fresh = path.with_name(f"device.pub.{os.getpid()}.new")
    fresh.unlink(missing_ok=True)
    _write(fresh, text, 0o644)
    os.replace(fresh, path)
    _sync_folder(path.parent)


def _write(path: Path, text: str, mode: int) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _decoded(word: str) -> bytes:
    try:
        return base64.b64decode(word, validate=True)
    except (binascii.Error, ValueError):
        return b""
