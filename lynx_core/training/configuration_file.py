"""Reads a configuration: TOML, and `section.key=value` on top of it.

Every key must be one that something reads: an unknown one is refused with the nearest name.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ..data.text_files import expand_path, find_file, read_text
from .configuration import ConfigurationError, TrainingConfig


def read_configuration(path: Path | str, overrides: Sequence[str] = ()) -> TrainingConfig:
    """Read a TOML file and put overrides on top.

    Args:
        path: the file; paths in it are relative to the working directory, and may begin with `~` or an
            environment variable.
        overrides: as `optimizer.learning_rate=2e-5` or `stages.0.steps=100`; the value is TOML,
            or text when it is no TOML.

    Raises:
        ConfigurationError: when the file cannot be read, a key is unknown, or a value is wrong.
    """
    path = find_file(Path(path).expanduser())
    try:
        values = _parse_toml(read_text(path))
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigurationError(f"{path} is no TOML: {error}") from error
    for override in overrides:
        _override(values, override)
    return parse_configuration(values)


def parse_configuration(values: Mapping[str, Any]) -> TrainingConfig:
    """Make a configuration from plain tables.

    Raises:
        ConfigurationError: when a key is unknown or missing, or a value is wrong.
    """
    return _build(TrainingConfig, values, "")


def as_plain(config: Any) -> Any:
    """Turn a configuration into tables of plain values, which `parse_configuration` takes."""
    if dataclasses.is_dataclass(config):
        pairs = ((field.name, getattr(config, field.name)) for field in dataclasses.fields(config))
        return {name: as_plain(value) for name, value in pairs if value is not None}
    if isinstance(config, Mapping):
        return {str(key): as_plain(value) for key, value in config.items()}
    if isinstance(config, (tuple, list)):
        return [as_plain(value) for value in config]
    return str(config) if isinstance(config, Path) else config


def _parse_toml(text: str) -> dict[str, Any]:
    name = "tomllib" if sys.version_info >= (3, 11) else "tomli"
    try:
        return importlib.import_module(name).loads(text)
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"Python 3.10 needs the package {name}: pip install {name}") from error


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise ConfigurationError(f"an override is section.key=value, got {override!r}")
    try:
        value = _parse_toml(f"value = {text}")["value"]
    except ValueError:
        value = text.strip()
    table: Any = values
    for name in names[:-1]:
        table = _entry(table, name, key)
    if isinstance(table, list):
        raise ConfigurationError(f"{key} names a whole entry of a list; name a key of it")
    if not isinstance(table, dict):
        raise ConfigurationError(f"{key}: {'.'.join(names[:-1])} is a value, not a section")
    if value == "":
        table.pop(names[-1], None)
    else:
        table[names[-1]] = value


def _entry(table: Any, name: str, key: str) -> Any:
    if isinstance(table, list):
        if not name.isdigit() or int(name) >= len(table):
            raise ConfigurationError(f"{key}: there are {len(table)} entries, numbered from 0; got {name!r}")
        return table[int(name)]
    if not isinstance(table, dict):
        raise ConfigurationError(f"{key}: what lies before {name!r} is a value, not a section")
    return table.setdefault(name, {})


def _build(kind: type, values: Any, path: str) -> Any:
    """Make a dataclass of `kind`, its fields by their type hints."""
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"{path or 'the file'} is a section of keys, got {values!r}")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    hints = get_type_hints(kind)
    problems: list[str] = []
    converted = {}
    for name, value in values.items():
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1, cutoff=0.0)
            problems.append(
                f"unknown key {_join(path, name)}; did you mean {_join(path, near[0])}? There "
                f"{'are' if len(fields) > 1 else 'is'}: {', '.join(fields)}"
            )
            continue
        try:
            converted[name] = _convert(hints[name], value, _join(path, name))
        except ValueError as error:  # sections of other modules, as [packing], have errors of their own
            problems += error.problems if isinstance(error, ConfigurationError) else [str(error)]
    is_whole = all(name in converted for name in values if name in fields)
    for name, field in fields.items():
        has_default = field.default is not dataclasses.MISSING or (
            field.default_factory is not dataclasses.MISSING
        )
        if name not in values and not has_default:
            problems.append(f"{_join(path, name)} is missing; every run needs it")
            is_whole = False
    made = None
    if is_whole:
        try:
            made = kind(**converted)
        except ValueError as error:
            problems += error.problems if isinstance(error, ConfigurationError) else [str(error)]
    if problems:
        raise ConfigurationError(*problems)
    return made


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value, path)
    if origin in (Union, types.UnionType):
        return _convert(next(kind for kind in arguments if kind is not type(None)), value, path)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigurationError(f"{path} is a list, got {value!r}")
        return tuple(_convert(arguments[0], entry, f"{path}.{i}") for i, entry in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigurationError(f"{path} is a table, got {value!r}")
        return {str(key): _convert(arguments[1], entry, _join(path, key)) for key, entry in value.items()}
    if origin is Literal:
        return value  # the dataclass knows its choices
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Path and isinstance(value, str):
        return _read_path(value, path)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise ConfigurationError(f"{path} is {_type_shown(hint)}, got {value!r}")
    return value


def _read_path(value: str, key: str) -> Path:
    if not value.strip():
        raise ConfigurationError(f"{key} is an empty path; take the key out, or name a place")
    path, unset = expand_path(value)
    if unset:
        raise ConfigurationError(
            f"{key} names the environment variable {unset[0]}, which is not set: {value!r}"
        )
    return find_file(path)


def _type_shown(hint: type) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", Path: "a path in quotes"}
    return names.get(hint, "text in quotes")


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
