"""lineside.toml: `load` gives a validated Config or a ConfigError with one complete line per fault."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from lineside.config.cameras import CameraConfig
from lineside.config.delivery import JournalConfig, MqttConfig
from lineside.config.stations import StationConfig
from lineside.errors import ConfigError

# A name becomes an MQTT topic level, a log field and a file name.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class DaemonConfig(BaseModel):
    """The process itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    control_socket: Path | None = Field(
        None, description="Unix socket of `lineside status`; default: $RUNTIME_DIRECTORY/control.sock"
    )
    state_dir: Path | None = Field(
        None, description="Journal and what this box finds out; default: $STATE_DIRECTORY, else /var/lib/lineside"
    )
    cache_dir: Path | None = Field(
        None, description="Compiled engines; default: $CACHE_DIRECTORY, else state_dir/cache"
    )
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$")
    log_decisions: bool = Field(True, description="One log line a decision, with its id")
    profile: str | None = Field(None, description="Device profile to use instead of the one that matches the board")


class Config(BaseModel):
    """The whole of lineside.toml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    site: Name = "site"
    line: Name = "line"
    daemon: DaemonConfig = DaemonConfig()
    cameras: dict[Name, CameraConfig] = Field(min_length=1)
    stations: dict[Name, StationConfig] = Field(min_length=1)
    journal: JournalConfig = JournalConfig()
    mqtt: MqttConfig | None = None

    @model_validator(mode="after")
    def _names_fit(self) -> Config:
        for name, station in self.stations.items():
            if station.camera not in self.cameras:
                known = ", ".join(self.cameras)
                raise ValueError(f"@stations.{name}.camera = {station.camera!r}: no such camera; [cameras] has {known}")
        return self


def load(path: Path) -> Config:
    """Read and validate a configuration file; raises ConfigError. Relative paths in it count from its folder."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}): give a readable UTF-8 TOML file") from error
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {_toml_fault(str(error), text)}") from error
    config: Config = _anchored(parse(tree, str(path)), path.resolve().parent)
    return config


def parse(tree: dict[str, Any], origin: str = "configuration") -> Config:
    """Validate a parsed tree; `origin` opens every line of the ConfigError."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(*(f"{origin}: {line}" for line in _lines(error, tree))) from error


def schema() -> str:
    """JSON Schema (draft 2020-12) of lineside.toml, for editors."""
    tree = Config.model_json_schema()
    tree = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "lineside.toml", **tree}
    return json.dumps(tree, indent=2)


def _anchored(node: Any, folder: Path) -> Any:
    """The same tree with every relative path counted from `folder`; a bundle's name stays unless a folder has it."""
    if isinstance(node, BaseModel):
        found = {name: _anchored(getattr(node, name), folder) for name in type(node).model_fields}
        if isinstance(node, StationConfig) and (folder / node.bundle).is_dir():
            found["bundle"] = str(folder / node.bundle)
        return node.model_copy(update=found)
    if isinstance(node, dict):
        return {key: _anchored(value, folder) for key, value in node.items()}
    return folder / node if isinstance(node, Path) else node


def _toml_fault(message: str, text: str) -> str:
    twice = re.search(r"Cannot declare \((.*?)\) twice.*?line (\d+)", message)
    if twice:
        path = ".".join(part.strip().strip("'") for part in twice[1].split(",") if part.strip())
        return f"line {twice[2]}: [{path}] stands twice: give each camera and station a name of its own"
    again = re.search(r"Cannot overwrite a value.*?line (\d+)", message)
    if again:
        line = text.splitlines()[int(again[1]) - 1].strip()
        return f"line {again[1]}: {line!r} sets a key a second time: keep one of them"
    return f"not valid TOML: {message}"


def _lines(error: ValidationError, tree: dict[str, Any]) -> list[str]:
    """One line per fault: path = value: what is allowed."""
    lines: list[str] = []
    for fault in error.errors():
        message = str(fault["msg"]).removeprefix("Value error, ")
        if message.startswith("@"):  # a cross-check that names its own path
            lines.append(message[1:])
            continue
        path = _path(fault["loc"], tree, absent=fault["type"] == "missing")
        if fault["type"] == "extra_forbidden":
            parent = fault["loc"][:-1]
            lines.append(f"{path}: unknown key{_meant(str(fault['loc'][-1]), parent)}")
        elif fault["type"] == "missing":
            lines.append(f"{path}: missing: {_allowed(fault) or 'add it'}")
        elif isinstance(fault.get("input"), dict | list):
            lines.append(f"{path}: {message}")
        else:
            lines.append(f"{path} = {_show(fault.get('input'))}: {message}")
    return lines


def _path(loc: tuple[int | str, ...], tree: Any, absent: bool) -> str:
    """`cameras.gate.fps`: the location without tags of unions; `absent`: its last step is a missing key, no tag."""
    out = ""
    at: Any = tree
    for position, step in enumerate(loc):
        last = position == len(loc) - 1
        inside = (isinstance(at, dict) and step in at) or (isinstance(at, list) and isinstance(step, int))
        if not inside and not (last and absent):
            continue  # the tag of a discriminated union
        if not inside and last and isinstance(step, str) and not isinstance(at, dict):
            continue
        out += f"[{step}]" if isinstance(step, int) else f"{'.' if out else ''}{step}"
        at = at[step] if inside else None
    return out or "configuration"


def _show(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


def _allowed(fault: Any) -> str:
    return "" if fault["msg"] == "Field required" else str(fault["msg"])


def _meant(key: str, parent: tuple[int | str, ...]) -> str:
    """The nearest known key, looked for in the schema node that the path leads to."""
    known = _known_keys(parent)
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; allowed are {', '.join(sorted(known))}" if known else "; remove it"


def _known_keys(parent: tuple[int | str, ...]) -> list[str]:
    document = Config.model_json_schema()
    definitions = document.get("$defs", {})

    def options(node: dict[str, Any]) -> list[dict[str, Any]]:
        if "$ref" in node:
            return options(definitions[node["$ref"].rsplit("/", 1)[1]])
        for word in ("anyOf", "oneOf", "allOf"):
            if word in node:
                return [leaf for branch in node[word] for leaf in options(branch)]
        return [node]

    nodes = [document]
    for step in parent:
        leaves = [leaf for node in nodes for leaf in options(node)]
        found: list[dict[str, Any]] = []
        for leaf in leaves:
            if isinstance(step, str) and step in leaf.get("properties", {}):
                found.append(leaf["properties"][step])
            elif isinstance(step, int) and "items" in leaf:
                found.append(leaf["items"])
            elif isinstance(step, str) and isinstance(leaf.get("additionalProperties"), dict):
                found.append(leaf["additionalProperties"])
            elif isinstance(step, str) and isinstance(leaf.get("patternProperties"), dict):
                found += leaf["patternProperties"].values()
        if not found and isinstance(step, str):  # the tag of a union: keep the member with that constant
            found = [leaf for leaf in leaves if _tag_is(leaf, step)] or leaves
        nodes = found
    return [key for node in nodes for leaf in options(node) for key in leaf.get("properties", {})]


def _tag_is(leaf: dict[str, Any], tag: str) -> bool:
    return any(tag in (p.get("const"), p.get("default")) for p in leaf.get("properties", {}).values())
