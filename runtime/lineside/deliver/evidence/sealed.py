"""Sealed files: encrypted to a public key, so that the box which writes them cannot read them back (libsodium's sealed
box: X25519, XSalsa20, Poly1305). Keys are 32 bytes, Base64 in a text file of one line.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from lineside.errors import ConfigError
from lineside.registry import vendor

SUFFIX = ".sealed"


class Seal:
    """`public_key` is the file of a public key. Raises ConfigError."""

    def __init__(self, public_key: Path) -> None:
        nacl = vendor("nacl.public")
        self._box = nacl.SealedBox(nacl.PublicKey(_key(public_key, "evidence.public_key")))

    def close(self, payload: bytes) -> bytes:
        return bytes(self._box.encrypt(payload))


class Opener:
    """`private_key` is the file of the private key. Raises ConfigError."""

    def __init__(self, private_key: Path) -> None:
        self._nacl = vendor("nacl.public")
        self._path = private_key
        self._box = self._nacl.SealedBox(self._nacl.PrivateKey(_key(private_key, "--key")))

    def open(self, sealed: bytes, name: str) -> bytes:
        """Raises ConfigError when it was sealed for another key, or changed."""
        try:
            return bytes(self._box.decrypt(sealed))
        except vendor("nacl.exceptions").CryptoError as error:
            raise ConfigError(
                f"{name}: --key {self._path} does not open it: it was sealed for another key, or changed"
            ) from error


def new_pair() -> tuple[str, str]:
    """(private, public) key, Base64."""
    nacl = vendor("nacl.public")
    key = nacl.PrivateKey.generate()
    return base64.b64encode(bytes(key)).decode(), base64.b64encode(bytes(key.public_key)).decode()


def _key(path: Path, where: str) -> bytes:
    try:
        key = base64.b64decode(path.read_text().strip(), validate=True)
    except OSError as error:
        raise ConfigError(f"{where} = {str(path)!r}: cannot be read: {error.strerror}") from error
    except (ValueError, binascii.Error) as error:
        raise ConfigError(
            f"{where} = {str(path)!r}: is no key: want 32 bytes in Base64 (`lineside evidence keys`)"
        ) from error
    if len(key) != 32:
        raise ConfigError(f"{where} = {str(path)!r}: holds {len(key)} bytes, a key has 32 (`lineside evidence keys`)")
    return key
