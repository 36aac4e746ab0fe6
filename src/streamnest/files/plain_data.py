"""Checks plain data from a file, containers of numbers and text only, against a dataclass."""

from __future__ import annotations

import difflib
import math
import types
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from streamnest.errors import UserError

SchemaT = TypeVar("SchemaT")
Limits = Mapping[str, tuple[float, float]]

# Far above the size of any config; they also stop containers that contain themselves.
MAX_DEPTH, MAX_VALUES, MAX_ENTRIES, MAX_NAME = 24, 1_000_000, 1000, 200
# Largest absolute value of a number without its own limits.
_LARGEST = 1e15


@contextmanager
def of_file(path: str | Path) -> Iterator[None]:
    """Adds the file to every `UserError`, and turns any other error that its content causes into one."""
    try:
        yield
    except UserError as error:
        raise error if str(error).startswith(str(path)) else UserError(f"{path}: {error}") from None
    except Exception as error:
        raise UserError(f"{path}: its content is not valid ({type(error).__name__}: {first_line(error)})") from None


def first_line(error: BaseException) -> str:
    """Returns the first line of an error message, shortened; the name of the error if it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def require_plain(value: Any, name: str, interpolations: bool = False) -> None:
    """Refuses everything except containers of text, numbers, true, false and null.

    Args:
        value: content of a file.
        name: name of the content in messages.
        interpolations: accept text with `${`, which is then plain text.

    Raises:
        UserError: naming the position in `value`; also for data that is nested too deeply or has too many values.
    """
    waiting, seen = [(name, value, 0)], 0
    while waiting:
        location, one, depth = waiting.pop()
        seen += 1
        size = len(one) if type(one) in (dict, list) else 0
        if depth > MAX_DEPTH or seen + len(waiting) + size > MAX_VALUES:
            raise UserError(f"{name} has more than {MAX_DEPTH} levels or more than {MAX_VALUES} values")
        if type(one) is dict:
            waiting += [(f"{location}.{_key(key, location)}", inner, depth + 1) for key, inner in one.items()]
        elif type(one) is list:
            waiting += [(f"{location}[{index}]", inner, depth + 1) for index, inner in enumerate(one)]
        elif type(one) is str:
            if "${" in one and not interpolations:
                raise UserError(
                    f"{location}={short(one)} has an interpolation (${{...}}), which is not supported in files"
                )
        elif one is not None and type(one) not in (bool, int, float):
            raise UserError(f"{location} is of type {type(one).__name__}, which is not plain data")


def _key(key: Any, location: str) -> str:
    if type(key) is not str or "${" in key or len(key) > MAX_NAME or not key.isprintable():
        raise UserError(f"{location} has the key {short(key)}, which is not a name")
    return key


def typed(schema: type[SchemaT], values: Any, location: str, limits: Limits | None = None) -> SchemaT:
    """Builds a dataclass from a mapping whose keys, types and sizes are checked; missing keys have their defaults.

    Args:
        schema: dataclass with fields that are scalars, lists, mappings and dataclasses.
        values: plain data.
        location: name of the data in messages.
        limits: lowest and highest value of numbers, by the name of the field.

    Raises:
        UserError: naming the key.
    """
    hints = hints_of(schema)  # type: ignore[arg-type]  # a class is hashable
    require_known(values, hints, location)
    checked = {key: check_value(hints[key], value, f"{location}.{key}", limits or {}) for key, value in values.items()}
    return schema(**checked)


def require_known(values: Any, known: Iterable[str], location: str) -> None:
    """Refuses anything but a mapping, and unknown keys, naming the most similar one."""
    if not isinstance(values, Mapping):
        raise UserError(f"{location}={short(values)} must be a mapping of names to values")
    if unknown := [key for key in values if key not in set(known)]:
        near = difflib.get_close_matches(str(unknown[0]), known, 1)
        hint = f": did you mean {near[0]}?" if near else ""
        raise UserError(f"{location}.{short(unknown[0], '')} is not a known key{hint}")


def check_value(kind: Any, value: Any, location: str, limits: Limits) -> Any:
    """Checks a value of a dataclass field and returns it, with dataclasses built; see `typed`."""
    if kind is Any:
        return value
    if get_origin(kind) in (Union, types.UnionType):
        inner = [one for one in get_args(kind) if one is not type(None)]
        return None if value is None else check_value(inner[0], value, location, limits)
    if is_dataclass(kind):
        return typed(kind, value, location, limits)  # type: ignore[arg-type]  # a dataclass of a hint is a type
    if get_origin(kind) in (list, dict):
        return _container(kind, value, location, limits)
    if kind in (int, float):
        return _number(kind, value, location, limits.get(location.rpartition(".")[2].partition("[")[0]))
    if type(value) is not kind:
        raise UserError(f"{location}={short(value)} must be of type {kind.__name__}")
    return value


def _container(kind: Any, value: Any, location: str, limits: Limits) -> Any:
    if type(value) is not get_origin(kind) or len(value) > MAX_ENTRIES:
        name = get_origin(kind).__name__
        raise UserError(f"{location}={short(value)} must be a {name} of at most {MAX_ENTRIES} entries")
    inner = get_args(kind)[-1]
    if isinstance(value, dict):
        return {key: check_value(inner, one, f"{location}.{key}", limits) for key, one in value.items()}
    return [check_value(inner, one, f"{location}[{index}]", limits) for index, one in enumerate(value)]


def _number(kind: type, value: Any, location: str, limits: tuple[float, float] | None) -> Any:
    low, high = limits or (-_LARGEST, _LARGEST)
    if type(value) not in {int, kind} or not low <= value <= high or not math.isfinite(value):
        what = "a whole number" if kind is int else "a number"
        raise UserError(f"{location}={short(value)} must be {what} from {low:g} to {high:g}")
    return value


def short(value: Any, quote: str = "'") -> str:
    """Formats a value for a message, without line ends and control characters, shortened."""
    text = f"{quote}{value}{quote}" if type(value) is str else type(value).__name__
    if value is None or type(value) in (bool, float) or (type(value) is int and abs(value) < 10**30):
        text = str(value)
    return printable(text[:80]) + ("..." if len(text) > 80 else "")


def printable(text: str) -> str:
    """Replaces control characters, which could change what a terminal shows."""
    return "".join(c if c.isprintable() else "?" for c in text)


@cache
def hints_of(schema: Any) -> dict[str, Any]:
    """Returns the types of the fields of a dataclass."""
    hints = get_type_hints(schema)
    return {field.name: hints[field.name] for field in fields(schema)}
