"""lineside.toml and `lineside check`: each fault is a line with path, value, what is allowed, never a traceback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lineside.cli import main
from lineside.commands.check import problems
from lineside.config import load, parse, schema
from lineside.errors import ConfigError
from rig import fake_bundle, lineside, pictures

EXAMPLES = sorted((Path(__file__).parents[1] / "docs" / "examples").glob("*.toml"))
GOOD = {
    "cameras": {"gate": {"driver": "v4l2", "device": "/dev/video0"}},
    "stations": {"s1": {"camera": "gate", "bundle": "models/demo"}},
}


def faults(**changes: Any) -> list[str]:
    """What is said of a good configuration with these tables put in."""
    with pytest.raises(ConfigError) as caught:
        parse({**GOOD, **changes}, "lineside.toml")
    return list(caught.value.lines)


def refused(call: Callable[[], object]) -> tuple[str, ...]:
    """The lines of the ConfigError, at least one; empty when all is well. Any other error goes through."""
    try:
        call()
    except ConfigError as error:
        return error.lines or ("",)
    return ()


def gate(**keys: Any) -> list[str]:
    return faults(cameras={"gate": {"driver": "v4l2", "device": "/dev/video0", **keys}})


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (lambda: gate(fps=400), ["lineside.toml: cameras.gate.fps = 400: v4l2 allows at most 240"]),
        (lambda: gate(fp=30), ["lineside.toml: cameras.gate.fp: unknown key; did you mean 'fps'?"]),
        (
            lambda: faults(sites="a"),
            ["lineside.toml: sites: unknown key; did you mean 'site'?"],
        ),
        (
            lambda: faults(mqtt={"host": "a", "tls": {"cafile": "x"}}),
            ["lineside.toml: mqtt.tls.cafile: unknown key; did you mean 'ca_file'?"],
        ),
        (
            lambda: gate(exposure_us="3ms"),
            [
                'lineside.toml: cameras.gate.exposure_us = "3ms": Input should be a valid integer, '
                "unable to parse string as an integer, or Input should be 'auto'"
            ],
        ),
        (
            lambda: faults(cameras={"gate": {"driver": "v4l"}}),
            [
                'lineside.toml: cameras.gate.driver = "v4l": allowed are clip, v4l2, rtsp, synthetic; '
                "did you mean 'v4l2'?"
            ],
        ),
        (
            lambda: faults(cameras={"gate": {"drivr": "clip", "path": "x"}}),
            [
                "lineside.toml: cameras.gate.driver: missing; 'drivr' stands there: "
                "allowed are clip, v4l2, rtsp, synthetic"
            ],
        ),
        (lambda: faults(cameras={"gate": {"driver": "clip"}}), ["lineside.toml: cameras.gate.path: missing: add it"]),
        (
            lambda: faults(stations={"s1": {"camera": "gates", "bundle": "b"}}),
            ["lineside.toml: stations.s1.camera = 'gates': no such camera; [cameras] has gate"],
        ),
        (lambda: gate(roi=[0, 0]), [f"lineside.toml: cameras.gate.roi[{i}]: missing: add it" for i in (2, 3)]),
        (lambda: faults(cameras=3), ["lineside.toml: cameras = 3: expected a table"]),
        (lambda: faults(cameras={"gate": 3}), ["lineside.toml: cameras.gate = 3: expected a table"]),
        (
            lambda: faults(stations={"a b": {"camera": "gate", "bundle": "b"}}),
            [
                "lineside.toml: stations.a b: not allowed as a name: letters, digits and _ . - "
                "(a letter or digit first), 64 at most"
            ],
        ),
        (
            lambda: faults(site="plant/1"),
            ['lineside.toml: site = "plant/1": letters, digits and _ . - (a letter or digit first), 64 at most'],
        ),
        (
            lambda: faults(mqtt={"host": "a", "port": 70000}),
            ["lineside.toml: mqtt.port = 70000: Input should be less than or equal to 65535"],
        ),
    ],
)
def test_a_fault_is_one_line_with_path_value_and_what_is_allowed(
    lines: Callable[[], list[str]], expected: list[str]
) -> None:
    assert lines() == expected


def test_every_fault_is_told_at_once() -> None:
    lines = faults(site="", mqtt={"host": ""}, journal={"cap_mb": 1}, cameras={"gate": {"driver": "clip", "x": 1}})
    heads = [line.removeprefix("lineside.toml: ").partition(" ")[0].rstrip(":") for line in lines]
    assert sorted(heads) == ["cameras.gate.path", "cameras.gate.x", "journal.cap_mb", "mqtt.host", "site"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[cameras.gate]\ndriver = "clip"\n[cameras.gate]\n', ["line 3", "[cameras.gate] stands twice"]),
        ('[stations.s1]\ncamera = "a"\n[stations.s1]\n', ["line 3", "[stations.s1] stands twice", "name of its own"]),
        ('site = "a"\nsite = "b"\n', ["line 2", "sets a key a second time"]),
        ("site = plant1\n", ["not valid TOML", "line 1"]),
        ('site = "unclosed\n', ["not valid TOML"]),
        ("x = 1" + "0" * 5000, ["not valid TOML"]),
        ("x = " + "[" * 5000, ["not valid TOML"]),
        ("", ["cameras: missing"]),
    ],
    ids=["camera twice", "station twice", "key twice", "bare word", "unclosed", "huge number", "deep", "empty"],
)
def test_a_broken_file_says_where(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "lineside.toml"
    path.write_text(text)
    lines = problems(path)
    assert lines
    assert lines[0].startswith(f"{path}: ")
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize(
    "content", [None, b"\xff\xfe\x00\x01", b"\x7fELF\x02\x01\x01" + bytes(range(256)), b"\0" * 100]
)
def test_a_file_that_is_none_is_a_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "lineside.toml"
    path.mkdir() if content is None else path.write_bytes(content)
    (line,) = problems(path)
    assert line.startswith(f"{path}: ")


DAMAGE = ("[", "]]", "= =", '"', "= {}", "= [[]]", "= -1", "= 1e400", "\n[x]\n")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(EXAMPLES),
    st.integers(0, 2000),
    st.integers(0, 60),
    st.one_of(st.text(max_size=8), st.sampled_from(DAMAGE)),
)
def test_no_damage_to_a_file_is_a_traceback(tmp_path: Path, example: Path, at: int, cut: int, put: str) -> None:
    text = example.read_text()
    path = tmp_path / "lineside.toml"
    path.write_bytes((text[:at] + put + text[at + cut :]).encode("utf-8", "surrogatepass"))
    for line in refused(lambda: load(path)):
        assert line.startswith(f"{path}: ")
        assert len(line) > len(f"{path}: ")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
PLACES = [
    ("cameras",),
    ("cameras", "gate"),
    ("cameras", "gate", "driver"),
    ("cameras", "gate", "fps"),
    ("cameras", "gate", "roi"),
    ("stations",),
    ("stations", "s1"),
    ("stations", "s1", "trigger"),
    ("stations", "s1", "zones"),
    ("stations", "s1", "rules"),
    ("stations", "s1", "steady"),
    ("mqtt",),
    ("journal",),
    ("daemon",),
    ("site",),
]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(PLACES), JSON)
def test_no_value_anywhere_is_a_traceback(place: tuple[str, ...], value: Any) -> None:
    tree = json.loads(json.dumps(GOOD))
    node = tree
    for step in place[:-1]:
        node = node[step]
    node[place[-1]] = value
    for line in refused(lambda: parse(tree, "lineside.toml")):
        assert line.startswith("lineside.toml: ")
        assert ": " in line.removeprefix("lineside.toml: ")


def test_relative_paths_count_from_the_files_folder(tmp_path: Path) -> None:
    (tmp_path / "bundles" / "x").mkdir(parents=True)
    path = tmp_path / "lineside.toml"
    path.write_text(
        '[daemon]\nprofile = "board.toml"\nstate_dir = "state"\n[cameras.a]\ndriver = "clip"\npath = "v.mp4"\n'
        '[stations.s]\ncamera = "a"\nbundle = "bundles/x"\n'
        '[mqtt]\nhost = "h"\nusername = "u"\npassword_file = "secret"\n[mqtt.tls]\nca_file = "/etc/ca.crt"\n'
    )
    config = load(path)
    assert config.daemon.profile == str(tmp_path / "board.toml")
    assert config.daemon.state_dir == tmp_path / "state"
    assert config.cameras["a"].options()["path"] == tmp_path / "v.mp4"
    assert config.stations["s"].bundle == str(tmp_path / "bundles" / "x")
    assert config.mqtt is not None
    assert config.mqtt.options()["password_file"] == tmp_path / "secret"
    assert config.mqtt.options()["ca_file"] == Path("/etc/ca.crt")


def test_a_file_of_a_windows_editor_is_read(tmp_path: Path) -> None:
    path = tmp_path / "lineside.toml"
    text = '[cameras.a]\ndriver = "synthetic"\n[stations.s]\ncamera = "a"\nbundle = "b"\n'
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert list(load(path).stations) == ["s"]


# --- check


def checked(tmp_path: Path, *, camera: str = "", daemon: str = "", station: str = "", after: str = "") -> list[str]:
    clip = tmp_path / "clip"
    if not clip.exists():
        pictures(clip, 1)
    path = tmp_path / "lineside.toml"
    path.write_text(
        f'[daemon]\n{daemon}\n[cameras.cam]\ndriver = "clip"\npath = "{clip}"\n{camera}\n'
        f'[stations.s1]\ncamera = "cam"\nbundle = "{fake_bundle()}"\n{station}\n{after}\n'
    )
    return [line.removeprefix(f"{path}: ") for line in problems(path)]


def test_a_good_configuration_has_no_fault(tmp_path: Path) -> None:
    assert checked(tmp_path) == []


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"daemon": 'profile = "jetson"'}, ["daemon.profile", "'jetson'", "jetson-orin"]),
        (
            {"station": 'backend = "tensorflow"'},
            ["stations.s1.backend = 'tensorflow'", "allowed are auto, onnxruntime"],
        ),
        ({"station": 'fallback = ["litert"]'}, ["stations.s1.fallback = 'litert'", "backend:device"]),
        ({"station": 'fallback = ["auto:cpu"]'}, ["stations.s1.fallback = 'auto:cpu'", "backends are onnxruntime"]),
        (
            {"station": '[[stations.s1.rules]]\nkind = "threshold"\nhigh = 0.5\nlabels = ["bend3"]'},
            ["stations.s1.rules[0].labels", "'bend3'", "did you mean 'band3'?"],
        ),
        (
            {"station": '[stations.s1.trigger]\nper = "object"\nline = [[0.5, 0], [0.5, 1]]'},
            ["stations.s1.trigger.per", "needs a detector"],
        ),
        ({"after": '[mqtt]\nhost = "h"\nusername = "u"\npassword_file = "nope"'}, ["mqtt.password_file", "nope"]),
        (
            {"after": '[mqtt]\nhost = "h"\n[mqtt.tls]\nca_file = "nope.crt"'},
            ["mqtt.tls.ca_file", "nope.crt", "cannot be read", "give the path of a readable file"],
        ),
    ],
)
def test_check_finds_what_needs_no_hardware(tmp_path: Path, tables: dict[str, str], words: list[str]) -> None:
    (line,) = checked(tmp_path, **tables)
    for word in words:
        assert word in line


def test_check_says_what_is_wrong_with_certificates(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    (line,) = checked(tmp_path, after='[mqtt]\nhost = "h"\n[mqtt.tls]\nca_file = "ca.crt"')
    assert line.startswith("mqtt.tls.ca_file = ")
    assert "no PEM certificate" in line


def test_check_finds_a_missing_clip_and_bundle(tmp_path: Path) -> None:
    path = tmp_path / "lineside.toml"
    path.write_text('[cameras.a]\ndriver = "clip"\npath = "no.mp4"\n[stations.s]\ncamera = "a"\nbundle = "no-bundle"\n')
    clip, bundle = problems(path)
    assert f"cameras.a.path = '{tmp_path}/no.mp4': no such file or folder" in clip
    assert "stations.s.bundle: bundle no-bundle: does not exist: give a folder" in bundle


@pytest.mark.parametrize("damage", ["truncated model", "empty model", "changed labels", "no manifest", "foreign"])
def test_check_finds_a_damaged_bundle(tmp_path: Path, damage: str) -> None:
    import shutil

    folder = tmp_path / "bundle"
    shutil.copytree(fake_bundle(), folder)
    model = folder / "nothing.onnx"
    if damage == "truncated model":
        model.write_bytes(model.read_bytes()[:-5])
    elif damage == "empty model":
        model.write_bytes(b"")
    elif damage == "changed labels":
        (folder / "labels.txt").write_text("")
    elif damage == "no manifest":
        (folder / "model.toml").unlink()
    else:
        (folder / "model.toml").write_bytes(os.urandom(500))
    lines = checked(tmp_path, station=f'threads = 1\n[stations.s2]\ncamera = "cam2"\nbundle = "{folder}"',
                    after='[cameras.cam2]\ndriver = "synthetic"')  # fmt: skip
    assert len(lines) == 1, lines
    assert lines[0].startswith("stations.s2.bundle: ")
    assert str(folder) in lines[0]


def test_check_exits_with_78_and_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert checked(tmp_path) == []
    assert main(["check", str(tmp_path / "lineside.toml")]) == 0
    assert "valid" in capsys.readouterr().out
    (tmp_path / "lineside.toml").write_text("site = 1\nline = 2\n")
    assert main(["check", str(tmp_path / "lineside.toml")]) == 78
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 4
    assert all(re.match(r"/.*lineside\.toml: [a-z]+( = |: )", line) for line in told)


def test_a_file_that_this_user_may_not_read_is_a_line(tmp_path: Path) -> None:
    path = tmp_path / "lineside.toml"
    path.write_text("site = 'a'\n")
    path.chmod(0)
    if os.geteuid() == 0:
        code = "import sys; from lineside.cli import main; sys.exit(main(sys.argv[1:]))"
        import shutil
        import sys

        if not shutil.which("setpriv"):
            pytest.skip("no setpriv")
        for folder in (tmp_path, *tmp_path.parents):
            if str(folder).startswith("/tmp/"):
                folder.chmod(folder.stat().st_mode | 0o011)
        nobody = [
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--inh-caps=-all",
            sys.executable,
            "-c",
        ]
        done = subprocess.run([*nobody, "pass"], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"nobody may not run this Python: {done.stderr.strip()[-200:]}")
        done = subprocess.run([*nobody, code, "check", str(path)], capture_output=True, text=True)
        if "No module named" in done.stderr:
            pytest.skip("nobody may not read this checkout")
        told, code_ = done.stderr, done.returncode
    else:
        done = lineside("check", path)
        told, code_ = done.stderr, done.returncode
    assert (told, code_) == (f"{path}: cannot be read (Permission denied): give a readable UTF-8 TOML file\n", 78)


# --- the schema for editors


def test_the_schema_is_one_and_takes_every_example() -> None:
    document = json.loads(schema())
    jsonschema.Draft202012Validator.check_schema(document)
    validator = jsonschema.Draft202012Validator(document)
    assert len(EXAMPLES) >= 5
    for example in EXAMPLES:
        errors = [error.message for error in validator.iter_errors(tomllib.loads(example.read_text()))]
        assert not errors, (example.name, errors)


def _tables(node: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    found = [path] if isinstance(node, dict) else []
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return found + [inner for key, value in items for inner in _tables(value, (*path, key))]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_schema_and_the_parser_refuse_a_misspelt_key_in_any_table(example: Path) -> None:
    validator = jsonschema.Draft202012Validator(json.loads(schema()))
    for place in _tables(tomllib.loads(example.read_text())):
        if place and place[-1] in ("cameras", "stations", "zones"):
            continue  # a new key there is a new name
        tree = tomllib.loads(example.read_text())
        node: Any = tree
        for step in place:
            node = node[step]
        node["misspelt_key"] = 1
        assert not validator.is_valid(tree), place
        with pytest.raises(ConfigError, match="misspelt_key"):
            parse(tree)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_parses_as_it_stands(example: Path) -> None:
    assert load(example).stations


def test_a_state_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    lines = checked(tmp_path, daemon='state_dir = "state"')
    assert any("daemon.state_dir" in line and "is not a folder" in line for line in lines), lines
