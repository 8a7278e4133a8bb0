"""Reads lineside.toml: TOML, then the tables of lineside.config, then paths that count from the file's folder."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

from lineside.checked import Table, Unfit, checked, json_schema
from lineside.config import Config, DaemonConfig
from lineside.config.faults import lines
from lineside.config.stations import StationConfig
from lineside.errors import ConfigError


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
        return checked(Config, tree)
    except Unfit as error:
        raise ConfigError(*(f"{origin}: {line}" for line in lines(error.faults, tree))) from error


def schema() -> str:
    """JSON Schema (draft 2020-12) of lineside.toml, for editors."""
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps({"$schema": dialect, **json_schema(Config), "title": "lineside.toml"}, indent=2)


def _anchored(node: Any, folder: Path) -> Any:
    """The same tree with every relative path counted from `folder`; a bundle's name stays unless a folder has it."""
    if isinstance(node, Table):
        found = {name: _anchored(value, folder) for name, value in node.values().items()}
        if isinstance(node, StationConfig) and (folder / node.bundle).is_dir():
            found["bundle"] = str(folder / node.bundle)
        if isinstance(node, DaemonConfig) and node.profile is not None and node.profile.endswith(".toml"):
            found["profile"] = str(folder / node.profile)
        return replace(node, **found)
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
