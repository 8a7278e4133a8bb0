"""A function in a forked child: its result and its errors come back, what it imported does not."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading

import pytest

from lineside.apart import Apart
from lineside.errors import ConfigError


def alone(program: str) -> str:
    """In a process of its own, which has one thread: its output."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_the_function_imports_goes_away_with_the_child() -> None:
    program = """
        import sys
        from lineside.apart import Apart

        def work(size):
            import decimal
            return [str(decimal.Decimal(size))] * size

        got = Apart(work, 300_000).result()  # more than a pipe holds
        print(len(got), got[0], "decimal" in sys.modules)
    """
    assert alone(program).split() == ["300000", "300000", "False"]


def test_an_error_of_the_function_is_raised_where_its_result_is_asked_for() -> None:
    program = """
        from lineside.apart import Apart
        from lineside.errors import ConfigError

        def work():
            raise ConfigError("a.toml: one fault", "a.toml: another")

        apart = Apart(work)
        try:
            apart.result()
        except ConfigError as error:
            print(error.lines)
    """
    assert alone(program).strip() == "('a.toml: one fault', 'a.toml: another')"


def test_an_error_that_cannot_travel_is_told_in_words() -> None:
    program = """
        from lineside.apart import Apart

        def work():
            raise OSError(lambda: None)

        try:
            Apart(work).result()
        except RuntimeError as error:
            print(error)
    """
    assert alone(program).startswith("OSError(")


def test_a_child_that_is_killed_is_an_error_and_no_wait_without_end() -> None:
    program = """
        import os, signal
        from lineside.apart import Apart
        from lineside.errors import DeviceError

        try:
            Apart(lambda: os.kill(os.getpid(), signal.SIGKILL)).result()
        except DeviceError as error:
            print(error)
    """
    assert "without an answer" in alone(program)


def test_where_no_other_process_may_start_it_runs_here() -> None:
    program = """
        import os, resource
        from lineside.apart import Apart

        os.setuid(65534) if os.geteuid() == 0 else None  # root may always fork
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        print(Apart(os.getpid).result() == os.getpid())
    """
    assert alone(program).strip() == "True"


def test_beside_other_threads_nothing_is_forked() -> None:
    done = threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()
    try:
        here: list[int] = []
        Apart(here.append, 1).result()
        assert here == [1]
        with pytest.raises(ConfigError, match="two"):
            Apart(_refuse, "two").result()
    finally:
        done.set()
        other.join()


def _refuse(why: str) -> None:
    raise ConfigError(why)
