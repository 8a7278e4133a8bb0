"""No answer unproven: before a file of a bundle decides on a box, it is tried there, once, and the result is kept.

Every command that answers with a model (`run`, `infer`, `bench`, `replay`, `snapshot`) asks a Prover, and it asks the
state folder first: a trial is made once for each digest, file, backend, options, processor and version of the runtime.
The trial itself is proving.py, in a process of its own: a runtime that dies or hangs takes nothing else with it.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from lineside import __version__
from lineside.errors import ConfigError, DeviceError
from lineside.hal.board import read
from lineside.hal.fingerprint import facts, fingerprint
from lineside.hal.processor import features
from lineside.hal.profile import Candidate, Profile
from lineside.records import Artefact
from lineside.registry import driver
from lineside.store.bundle import Bundle
from lineside.store.found import Found
from lineside.store.golden import picture

_log = logging.getLogger(__name__)

_TRIAL_S = 300.0
_ENGINE_BUILD_S = 1800.0  # TensorRT's first build of an engine takes minutes; GPUs and NPUs compile, too
_POLL_S = 0.05
_SIGNALS: dict[int, str] = {
    signal.SIGILL: "an illegal instruction (SIGILL): the runtime's package needs a newer processor",
    signal.SIGSEGV: "a fault in the runtime (SIGSEGV)",
    signal.SIGABRT: "an abort of the runtime (SIGABRT)",
    signal.SIGKILL: "SIGKILL: the system ran out of memory (`journalctl -k` says so), or somebody ended it",
}


State: TypeAlias = Literal["golden", "consistent", "unproven", "wrong", "broken"]


@dataclass(frozen=True, slots=True)
class Proof:
    """What a trial found. golden: it gives the bundle's golden answers; consistent: it agrees with a second way to run
    the model; unproven: there is neither; wrong: its answers are; broken: it does not run."""

    state: State
    told: str  # one sentence

    @property
    def may_run(self) -> bool:
        return self.state in ("golden", "consistent", "unproven")

    def __str__(self) -> str:
        return self.told


UNASKED = Proof("unproven", "not proven on this machine: --unproven")


class NotProven(ConfigError):
    """This way to run a bundle answers wrong here, or does not run."""


class Prover:
    """Proves ways to run bundles on this box. `state_dir` None: nothing is kept.

    `is_stopping` ends a trial that runs.
    """

    def __init__(
        self, state_dir: Path | None, cache_dir: Path | None = None, is_stopping: Callable[[], bool] = lambda: False
    ) -> None:
        self._state_dir, self._cache_dir, self._is_stopping = state_dir, cache_dir, is_stopping
        self._known: dict[tuple[str, str], Proof] = {}

    def check(self, bundle: Bundle, artefact: Artefact, candidate: Candidate) -> Proof:
        """The proof. Raises NotProven where it is none, DeviceError where the device is absent."""
        proof = self.prove(bundle, artefact, candidate)
        if not proof.may_run:
            raise NotProven(f"{Path(artefact.path).name} {proof.told}")
        return proof

    def prove(self, bundle: Bundle, artefact: Artefact, candidate: Candidate, *, again: bool = False) -> Proof:
        """What is kept of it, else a trial; `again`: a trial in any case.

        Raises ConfigError where a golden picture is not as it was packed, DeviceError where the device is absent or no
        process can be started.
        """
        packages: tuple[str, ...] = getattr(driver("backend", candidate.name), "packages", ())
        if bundle.golden is None and not packages:
            return Proof("consistent", "needs no proof: there is no runtime in it")
        key = _key(artefact, candidate)
        known = self._known.get((bundle.digest, key))
        found = self._found(bundle, packages)
        if known is None and found is not None:
            known = _kept(found, key)
        if known is None or again:
            known, is_lasting = self._try(bundle, artefact, candidate)
            if found is not None and is_lasting:
                _keep(found, key, known)
        self._known[bundle.digest, key] = known
        return known

    def passing(self, bundle: Bundle, profile: Profile) -> Iterator[str]:
        """ "openvino:cpu" and such: the profile's ways that run this bundle here and answer right."""
        for candidate in profile.backend:
            formats = driver("backend", candidate.name).formats(candidate.device)
            for artefact in (one for one in bundle.artefacts if one.format in formats):
                try:
                    self.check(bundle, artefact, candidate)
                except (ConfigError, DeviceError):
                    continue
                yield f"{candidate.name}:{candidate.device}"
                break

    def _found(self, bundle: Bundle, packages: tuple[str, ...]) -> Found | None:
        if self._state_dir is None:
            return None
        told = {**facts(read(), packages), "lineside": __version__}
        return Found(self._state_dir, bundle.digest, fingerprint(told))

    def _try(self, bundle: Bundle, artefact: Artefact, candidate: Candidate) -> tuple[Proof, bool]:
        """The proof, and whether to keep it: a busy moment or want of memory tells nothing of the next start."""
        for case in bundle.golden.cases if bundle.golden else ():
            picture(bundle.folder, case)  # a damaged bundle is no fault of this way to run it
        limit_s = _TRIAL_S if candidate.device == "cpu" else _ENGINE_BUILD_S
        asked = {
            "folder": str(bundle.folder),
            "file": Path(artefact.path).name,
            "candidate": asdict(candidate),
            "cache_dir": None if self._cache_dir is None else str(self._cache_dir),
            "parent": os.getpid(),
        }
        began_s = time.monotonic()
        told = _apart(asked, limit_s, self._is_stopping)
        if "features" in told and tuple(told["features"]) != features():
            raise DeviceError(f"the trial of {_key(artefact, candidate)} ran on another processor than this process")
        if told["state"] == "absent":
            raise DeviceError(str(told["told"]))
        proof = Proof(told["state"], str(told["told"]))
        took_s = time.monotonic() - began_s
        _log.info("%s %s: %s %s (%.1f s)", bundle.name, bundle.version, _key(artefact, candidate), proof, took_s)
        return proof, not told.get("passing", False)


def state_folder() -> Path | None:
    """Where commands without a configuration keep what they find out: the service's folder where this user may write
    it, else the user's own. None where there is neither."""
    service = Path(os.environ.get("STATE_DIRECTORY") or "/var/lib/lineside")
    if os.access(service, os.W_OK):
        return service
    own = os.environ.get("XDG_STATE_HOME")
    try:
        return (Path(own) if own else Path.home() / ".local" / "state") / "lineside"
    except RuntimeError:  # no home
        return None


def _key(artefact: Artefact, candidate: Candidate) -> str:
    options = f" with {json.dumps(candidate.options, sort_keys=True)}" if candidate.options else ""
    return f"{Path(artefact.path).name} on {candidate.name}:{candidate.device}{options}"


def _kept(found: Found, key: str) -> Proof | None:
    proofs = found.read().get("proofs")
    told = proofs.get(key) if isinstance(proofs, dict) else None
    if not isinstance(told, dict) or told.get("state") not in get_args(State):
        return None
    return Proof(told["state"], str(told.get("told")))


def _keep(found: Found, key: str, proof: Proof) -> None:
    kept = found.read().get("proofs")
    try:
        found.put(proofs={**(kept if isinstance(kept, dict) else {}), key: asdict(proof)})
    except OSError as error:
        _log.warning("%s: cannot be written (%s): the next start tries again", found.path, error.strerror)


def _apart(asked: Mapping[str, object], limit_s: float, is_stopping: Callable[[], bool]) -> dict[str, Any]:
    """What `python -m lineside.proving` answers; of one that dies or hangs, that. Raises DeviceError."""
    try:
        return _tried(asked, limit_s, is_stopping)
    except (OSError, ValueError) as error:  # no room for the answer, or only for a part of it
        raise DeviceError(f"a model cannot be tried: its answer cannot be written or read ({error})") from error


def _tried(asked: Mapping[str, object], limit_s: float, is_stopping: Callable[[], bool]) -> dict[str, Any]:
    ends_s = time.monotonic() + limit_s
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as said:
        command = [sys.executable, "-P", "-m", "lineside.proving", str(answer.fileno()), json.dumps(asked)]
        try:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, pass_fds=[answer.fileno()]
            )
        except OSError as error:
            raise DeviceError(f"no process can be started to try a model in ({error.strerror})") from error
        with child:
            while True:
                try:
                    status = child.wait(_POLL_S)
                    break
                except subprocess.TimeoutExpired:
                    if is_stopping():
                        child.kill()
                        raise DeviceError("stopped while a model was being tried") from None
                    if time.monotonic() > ends_s:
                        child.kill()
                        late = f"does not end: no answer within {limit_s:.0f} s"
                        return {"state": "broken", "told": late, "passing": True}
                except BaseException:
                    child.kill()
                    raise
        answer.seek(0)
        text = answer.read()
        if text:
            told: dict[str, Any] = json.loads(text)
            return told
        said.seek(0)
        last = said.read().decode(errors="replace").strip().splitlines()[-1:]
    if status < 0:
        name = _SIGNALS.get(-status, f"signal {-status}")
        return {"state": "broken", "told": f"kills its process: {name}", "passing": -status == signal.SIGKILL}
    told_last = "".join(last)[:300]
    return {"state": "broken", "told": f"ends its process with exit status {status}: {told_last}", "passing": True}
