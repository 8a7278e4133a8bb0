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
_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
_NAME_WORDS = "letters, digits and _ . - (a letter or digit first), 64 at most"
Name = Annotated[str, StringConstraints(pattern=_NAME_PATTERN)]


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
        text = path.read_text(encoding="utf-8-sig")  # Windows editors begin a file with a mark
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}): give a readable UTF-8 TOML file") from error
    except ValueError as error:
        raise ConfigError(f"{path}: is not UTF-8 text ({error}): give a readable UTF-8 TOML file") from error
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {_toml_fault(str(error), text)}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, arrays in arrays in arrays
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
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
        if isinstance(node, DaemonConfig) and node.profile is not None and node.profile.endswith(".toml"):
            found["profile"] = str(folder / node.profile)
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
    """One line per fault: path = value: what is allowed. The branches of a union say theirs in one line."""
    lines: dict[str, list[str]] = {}
    for fault in error.errors():
        head, allowed = _line(fault, tree)
        lines.setdefault(head, []).append(allowed)
    return [f"{head}: {', or '.join(dict.fromkeys(allowed))}" for head, allowed in lines.items()]


def _line(fault: Any, tree: dict[str, Any]) -> tuple[str, str]:
    """(path = value, what is allowed) of one fault."""
    message = str(fault["msg"]).removeprefix("Value error, ")
    if message.startswith("@"):  # a cross-check that names its own path
        head, _, allowed = message[1:].partition(": ")
        return head, allowed
    kind, loc, value, context = fault["type"], fault["loc"], fault.get("input"), fault.get("ctx", {})
    path = _path(loc, tree, absent=kind == "missing")
    if kind == "extra_forbidden":
        return path, f"unknown key{_meant(str(loc[-1]), loc[:-1])}"
    if kind == "missing":
        return path, "missing: add it"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        key = context["discriminator"].strip("'")
        names = re.findall(r"'([^']*)'", context.get("expected_tags", "")) or _tags(loc, key)
        if kind == "union_tag_invalid":
            return f"{path}.{key} = {_show(context['tag'])}", _one_of(context["tag"], names)
        slip = difflib.get_close_matches(key, value if isinstance(value, dict) else (), n=1)
        return f"{path}.{key}", (f"missing; {slip[0]!r} stands there: " if slip else "missing: ") + _one_of("", names)
    if loc and loc[-1] == "[key]":
        return path, f"not allowed as a name: {_NAME_WORDS}"
    if kind == "string_pattern_mismatch" and context.get("pattern") == _NAME_PATTERN:
        message = _NAME_WORDS
    if kind in ("dict_type", "model_type", "model_attributes_type"):
        return f"{path} = {_show(value)}", "expected a table"
    return (path if isinstance(value, dict | list) else f"{path} = {_show(value)}"), message


def _one_of(value: str, names: list[str]) -> str:
    near = difflib.get_close_matches(value, names, n=1, cutoff=0.6)
    return f"allowed are {', '.join(names)}" + (f"; did you mean {near[0]!r}?" if near else "")


def _tags(loc: tuple[int | str, ...], key: str) -> list[str]:
    """The values that tell the members of a union apart."""
    return [str(leaf["properties"][key]["const"]) for leaf in _leaves(loc) if key in leaf.get("properties", {})]


def _path(loc: tuple[int | str, ...], tree: Any, absent: bool) -> str:
    """`cameras.gate.fps`: the location without tags of unions; `absent`: its last step is the missing key."""
    out = ""
    at: Any = tree
    tagged = False  # the tag of the union at this place has gone by: it may be spelt like a key, as zone is
    for position, step in enumerate(loc):
        last = position == len(loc) - 1
        if isinstance(at, dict) and not tagged and step in (at.get("driver"), at.get("kind")):
            tagged = True
            continue
        if isinstance(at, list):
            inside = isinstance(step, int) and step < len(at)
        else:
            inside = isinstance(at, dict) and step in at
        if not inside and not (last and absent):
            continue  # the tag of another union
        out += f"[{step}]" if isinstance(step, int) else f"{'.' if out else ''}{step}"
        at, tagged = (at[step] if inside else None), False
    return out or "configuration"


def _show(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


def _meant(key: str, parent: tuple[int | str, ...]) -> str:
    """The nearest known key, looked for in the schema node that the path leads to."""
    known = _known_keys(parent)
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; allowed are {', '.join(sorted(known))}" if known else "; remove it"


def _known_keys(parent: tuple[int | str, ...]) -> list[str]:
    return [key for leaf in _leaves(parent) for key in leaf.get("properties", {})]


def _leaves(parent: tuple[int | str, ...]) -> list[dict[str, Any]]:
    """The schemas that a location may have, unions taken apart."""
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
    return [leaf for node in nodes for leaf in options(node)]


def _tag_is(leaf: dict[str, Any], tag: str) -> bool:
    return any(tag in (p.get("const"), p.get("default")) for p in leaf.get("properties", {}).values())
