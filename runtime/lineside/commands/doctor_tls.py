"""`lineside doctor broker`: certificates, the broker's and ours."""

from __future__ import annotations

import socket
import ssl
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lineside.commands.doctor_case import Finding
from lineside.deliver.link import Broker

SOON_S = 30 * 86_400
_EXPIRED, _NOT_YET, _WRONG_NAME, _WRONG_ADDRESS = 10, 9, 62, 64  # X509_V_ERR_... of OpenSSL's x509_vfy.h
_WAIT_S = 5.0
_DOWN = "the box does not connect, and decisions wait in its journal until that is full"


def examine(broker: Broker) -> Iterator[Finding]:
    """The broker's certificate as this box sees it, then ours. Raises OSError where nobody answers at all."""
    if broker.cert_file is not None:
        yield from _dates("our certificate", _read(broker.cert_file), f"renew {broker.cert_file} (mqtt.tls.cert_file)")
    try:
        yield from _dates("the broker's certificate", _shown(broker), "renew the certificate on the broker")
    except ssl.SSLCertVerificationError as error:
        yield _distrusted(broker, error)
    except ssl.SSLError as error:
        reason = str(error.reason or error).replace("_", " ").lower()
        yield Finding("tls", "loses", f"no TLS at {broker} ({reason})", _DOWN, "check mqtt.port and [mqtt.tls]")


def _distrusted(broker: Broker, error: ssl.SSLCertVerificationError) -> Finding:
    certificate = _unverified(broker)
    names = ", ".join(value for _, value in certificate.get("subjectAltName", ())) or "no name at all"
    dates = f"valid from {certificate.get('notBefore', '?')} to {certificate.get('notAfter', '?')}"
    if error.verify_code == _EXPIRED:
        what, remedy = f"the broker's certificate has expired ({dates})", "renew it on the broker, or set this clock"
    elif error.verify_code == _NOT_YET:
        what, remedy = f"the broker's certificate is not valid yet ({dates})", "set this box's clock"
    elif error.verify_code in (_WRONG_NAME, _WRONG_ADDRESS):
        what = f"the broker's certificate is for {names}, not for {broker.host}"
        remedy = "name the broker in mqtt.host as its certificate does, or issue one with this subjectAltName"
    else:
        what = f"the broker's certificate is not trusted ({error.verify_message})"
        remedy = "give the certificate of its authority as mqtt.tls.ca_file"
    return Finding("tls", "loses", what, _DOWN, remedy)


def _dates(whose: str, certificate: dict[str, Any], remedy: str) -> Iterator[Finding]:
    if "notAfter" not in certificate:
        yield Finding("expiry", "unknown", f"the dates of {whose} cannot be read", remedy=remedy)
        return
    left_s = ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()
    until = certificate["notAfter"]
    if left_s < 0:
        yield Finding("expiry", "loses", f"{whose} has expired on {until}", _DOWN, remedy)
    elif left_s < SOON_S:
        days = int(left_s // 86_400)
        yield Finding("expiry", "loses", f"{whose} expires in {days} days, on {until}", f"from then on {_DOWN}", remedy)
    else:
        yield Finding("expiry", "ok", f"{whose} is valid until {until}")


def _shown(broker: Broker) -> dict[str, Any]:
    """The broker's certificate, verified. Raises ssl.SSLError, OSError."""
    context = ssl.create_default_context(cafile=str(broker.ca_file) if broker.ca_file else None)
    with _handshake(broker, context) as secured:
        return dict(secured.getpeercert() or {})


def _unverified(broker: Broker) -> dict[str, Any]:
    """Only to say what is wrong with it; nothing is sent over this connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with _handshake(broker, context) as secured:
            der = secured.getpeercert(binary_form=True)
    except OSError:
        return {}
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(ssl.DER_cert_to_PEM_cert(der or b""))
        file.flush()
        return _read(Path(file.name))


def _handshake(broker: Broker, context: ssl.SSLContext) -> ssl.SSLSocket:
    if broker.cert_file and broker.key_file:
        context.load_cert_chain(broker.cert_file, broker.key_file, password="")
    with socket.create_connection((broker.host, broker.port), _WAIT_S) as sock:
        return context.wrap_socket(sock, server_hostname=broker.host)


def _read(path: Path) -> dict[str, Any]:
    decode = getattr(getattr(ssl, "_ssl", None), "_test_decode_cert", None)  # the standard library has no public way
    try:
        return dict(decode(str(path))) if decode else {}
    except (ssl.SSLError, OSError, ValueError):
        return {}
