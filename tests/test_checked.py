"""Tables that are dataclasses: what is checked when, and that what was checked travels without pydantic."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest

from lineside.checked import Check, Is, Table, Unfit, checked
from lineside.config import load, schema
from lineside.hal import profile
from lineside.resources import shipped
from lineside.store.bundle import read_bundle

EXAMPLES = sorted((Path(__file__).parents[1] / "docs" / "examples").glob("*.toml"))


def even(number: int) -> int:
    if number % 2:
        raise ValueError("must be even")
    return number


@dataclass(frozen=True, kw_only=True)
class Window(Table):
    """From low to high."""

    low: Annotated[int, Is("Where it begins", ge=0), Check(even)] = 0
    high: Annotated[int, Is(le=100)]
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.high < self.low:
            raise ValueError("high is below low")


def faults(**keys: Any) -> list[tuple[tuple[int | str, ...], str]]:
    with pytest.raises(Unfit) as caught:
        checked(Window, keys)
    return [(fault.path, fault.message.removeprefix("Value error, ")) for fault in caught.value.faults]


def test_a_tree_that_fits_is_the_dataclass_itself() -> None:
    assert checked(Window, {"low": 4, "high": 9}) == Window(low=4, high=9)
    assert Window(low=4, high=9).values(without=("weight",)) == {"low": 4, "high": 9}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"high": 101}, [(("high",), "Input should be less than or equal to 100")]),
        ({"high": 8, "low": 3}, [(("low",), "must be even")]),
        ({"high": 8, "low": -3}, [(("low",), "Input should be greater than or equal to 0")]),
        ({"high": 2, "low": 4}, [((), "high is below low")]),
        ({"high": 2, "weight": float("nan")}, [(("weight",), "Input should be a finite number")]),
        ({"hight": 2}, [(("high",), "Field required"), (("hight",), "Extra inputs are not permitted")]),
    ],
)
def test_every_fault_has_its_path_and_words(keys: dict[str, Any], said: list[tuple[Any, str]]) -> None:
    assert faults(**keys) == said


def test_keys_that_do_not_fit_each_other_are_refused_however_the_table_is_made() -> None:
    with pytest.raises(ValueError, match="high is below low"):
        Window(low=4, high=2)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_a_configuration_survives_the_way_to_another_process(example: Path) -> None:
    config = load(example)
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize("name", [one.name for one in profile.known()])
def test_a_profile_survives_the_way_to_another_process(name: str) -> None:
    found = profile.find(name)
    assert pickle.loads(pickle.dumps(found)) == found


def test_a_bundle_survives_the_way_to_another_process() -> None:
    for folder in shipped("models").iterdir():
        bundle = read_bundle(folder)
        assert pickle.loads(pickle.dumps(bundle)) == bundle


def test_a_process_that_gets_its_tables_checked_never_imports_pydantic() -> None:
    config, board, bundle = load(EXAMPLES[-1]), profile.GENERIC, read_bundle(next(shipped("models").iterdir()))
    code = (
        "import pickle, sys\n"
        "import lineside.config, lineside.hal.profile, lineside.store.bundle\n"
        "loaded = {'pydantic', 'ssl', 'difflib'} & set(sys.modules)\n"
        "import lineside.daemon\n"
        "config, board, bundle = pickle.loads(sys.stdin.buffer.read())\n"
        "for camera in config.cameras.values(): camera.options()\n"
        "for station in config.stations.values(): station.rule_options(64, 48), station.trigger_options(64, 48)\n"
        "loaded |= {'pydantic'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(loaded)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps((config, board, bundle)), capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr.decode()


def test_the_schema_says_what_every_table_is() -> None:
    tables = json.loads(schema())["$defs"]
    assert len(tables) >= 15
    assert [name for name, table in tables.items() if not table.get("description")] == []
    assert tables["MqttConfig"]["properties"]["port"]["description"] == "default: 1883, with [mqtt.tls] 8883"
