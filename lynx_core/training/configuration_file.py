"""Frozen dataclasses from TOML and from `section.key=value` on top of it, and checks of their values.

Every key must be one that something reads: an unknown one is refused with the key that was meant, where that
can be told. All problems are collected and told together.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ..data.text_files import expand_path, find_file, read_text
from ..foreign_text import parse_toml
from ..spec import LynxError

_Settings = TypeVar("_Settings")

RENAMED_KEYS = {
    "base.reference_memory_gb": "base.reference_cache_gb",
    "data.face_encoder": "data.face_recogniser",
    "data.face_pack": "data.face_model_pack",
    "objective.drop_id": "objective.id_dropout",
    "objective.drop_identity": "objective.identity_dropout",
    "objective.drop_reference": "objective.reference_dropout",
    "objective.drop_text": "objective.text_dropout",
    "objective.loss_mean": "objective.loss_reduction",
    "objective.timesteps": "objective.timestep_sampling",
    "optimizer.accumulation": "optimizer.gradient_accumulation_steps",
    "packing.budget": "packing.max_tokens",
}
"""Key of an earlier version -> today's."""


class ConfigurationError(LynxError):
    """A configuration that cannot run; names each key, the value seen, and the way out."""

    def __init__(self, *problems: str) -> None:
        super().__init__(list_problems(problems))
        self.problems = problems

    def named(self, source: str) -> ConfigurationError:
        """The same, which names the file that it was read from."""
        named = ConfigurationError(*self.problems)
        named.args = (f"{source}: {self}",)
        return named


def list_problems(problems: Sequence[str]) -> str:
    """One problem as it is, several as a numbered list."""
    if len(problems) == 1:
        return problems[0]
    lines = (f"\n  {number}. {problem}" for number, problem in enumerate(problems, start=1))
    return f"{len(problems)} problems keep the run from starting:{''.join(lines)}"


class SettingChecks:
    """Collects all wrong values of a section; at the end of its `with` they are refused together.

    Args:
        section: its name, "" for the whole configuration.
        settings: the dataclass; fields that are a `Literal` are checked at once.
    """

    def __init__(self, section: str, settings: Any) -> None:
        self.section, self.settings = section, settings
        self._problems: list[str] = []

    def __enter__(self) -> SettingChecks:
        for name, hint in get_type_hints(type(self.settings)).items():
            if get_origin(hint) is Literal:
                choices = get_args(hint)
                self.check(name, getattr(self.settings, name) in choices, f"one of {', '.join(choices)}")
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None and self._problems:
            raise ConfigurationError(*self._problems)

    def check(self, name: str, is_right: bool, meaning: str, value: Any = None) -> None:
        """Note a problem unless `is_right`: "section.name is <meaning>, got <value>"."""
        if not is_right:
            if value is None:
                value = getattr(self.settings, name)
            shown = str(value) if isinstance(value, Path) else value
            self._problems.append(f"{_join(self.section, name)} is {meaning}, got {shown!r}")

    def at_least(self, least: int, *names: str) -> None:
        for name in names:
            self.check(name, getattr(self.settings, name) >= least, f"{least} or more")

    def above_zero(self, *names: str) -> None:
        for name in names:
            self.check(name, getattr(self.settings, name) > 0, "more than 0")

    def share(self, *names: str) -> None:
        for name in names:
            self.check(name, 0 <= getattr(self.settings, name) <= 1, "a share from 0 to 1")


def read_settings(kind: type[_Settings], path: Path | str, overrides: Sequence[str] = ()) -> _Settings:
    """Read a TOML file as a dataclass of dataclasses, and put overrides on top.

    Args:
        kind: the dataclass.
        path: the file; paths in it are relative to the working directory, and may begin with `~` or an
            environment variable.
        overrides: as `optimizer.learning_rate=2e-5` or `stages.0.steps=100`; the value is TOML,
            or text when it is no TOML.

    Raises:
        ConfigurationError: when the file cannot be read, a key is unknown or missing, or a value is wrong.
    """
    path = find_file(Path(path).expanduser())
    try:
        values = _parse_toml(read_text(path))
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigurationError(f"{path} is no TOML: {error}") from error
    try:
        for override in overrides:
            _override(values, override)
        return parse_settings(kind, values)
    except ConfigurationError as error:
        changed = " with the changes of the command line" if overrides else ""
        raise error.named(f"{path}{changed}") from error


def parse_settings(kind: type[_Settings], values: Mapping[str, Any]) -> _Settings:
    """Make a dataclass from plain tables.

    Raises:
        ConfigurationError: when a key is unknown or missing, or a value is wrong.
    """
    made: _Settings = _build(kind, values, "", dict(_list_keys(kind)))
    return made


def as_plain(settings: Any) -> Any:
    """Turn settings into tables of plain values, which `parse_settings` takes."""
    if dataclasses.is_dataclass(settings):
        pairs = ((field.name, getattr(settings, field.name)) for field in dataclasses.fields(settings))
        return {name: as_plain(value) for name, value in pairs if value is not None}
    if isinstance(settings, Mapping):
        return {str(key): as_plain(value) for key, value in settings.items()}
    if isinstance(settings, (tuple, list)):
        return [as_plain(value) for value in settings]
    return str(settings) if isinstance(settings, Path) else settings


def _parse_toml(text: str) -> dict[str, Any]:
    try:
        return parse_toml(text)
    except ModuleNotFoundError as error:
        raise ConfigurationError("Python 3.10 needs the package tomli: pip install tomli") from error


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


def _list_keys(kind: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every key with its path, as ("decoding.fps", "fps"); those of a list's entries as "stages.0.steps"."""
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint, inner = hints[field.name], _join(path, field.name)
        if get_origin(hint) is tuple and dataclasses.is_dataclass(get_args(hint)[0]):
            hint, inner = get_args(hint)[0], f"{inner}.0"
        if dataclasses.is_dataclass(hint):
            yield from ((inner_path, name) for inner_path, name in _list_keys(hint, inner))
        yield inner, field.name


def _build(kind: type, values: Any, path: str, keys: Mapping[str, str]) -> Any:
    """Make a dataclass of `kind`, its fields by their type hints; `keys` has the name of each path."""
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"{path or 'the file'} is a section of keys, got {values!r}")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    hints = get_type_hints(kind)
    problems: list[str] = []
    converted = {}
    for name, value in values.items():
        if name not in fields:
            problems.append(_refuse_key(path, name, list(fields), keys))
            continue
        try:
            converted[name] = _convert(hints[name], value, _join(path, name), keys)
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


def _refuse_key(path: str, name: str, fields: Sequence[str], keys: Mapping[str, str]) -> str:
    """Say that a key is unknown, and which one is meant: its new name, its section, or a near spelling."""
    key = _join(path, name)
    if key in RENAMED_KEYS:
        return f"{key} is called {RENAMED_KEYS[key]} now; rename it"
    elsewhere = [inner for inner, last in keys.items() if last == name]
    near = [_join(path, match) for match in difflib.get_close_matches(name, fields, n=1, cutoff=0.75)]
    near = near or difflib.get_close_matches(
        key, [k for k in keys if k.count(".") == key.count(".")], 1, 0.85
    )
    meant = " or ".join(elsewhere or near)
    known = f"{'keys of ' + path if path else 'the file has the sections'}: {', '.join(fields)}"
    return f"unknown key {key}; " + (f"did you mean {meant}? " if meant else "") + known


def _convert(hint: Any, value: Any, path: str, keys: Mapping[str, str]) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value, path, keys)
    if origin in (Union, types.UnionType):
        return _convert(next(kind for kind in arguments if kind is not type(None)), value, path, keys)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigurationError(f"{path} is a list, got {value!r}")
        return tuple(_convert(arguments[0], entry, f"{path}.{i}", keys) for i, entry in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigurationError(f"{path} is a table, got {value!r}")
        return {
            str(key): _convert(arguments[1], entry, _join(path, key), keys) for key, entry in value.items()
        }
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
