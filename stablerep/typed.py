"""Strict conversion of JSON values to dataclasses, shared by the records and the configuration.

Unknown keys, missing fields and wrong types raise ValueError with the dotted path of the offender. Integers are accepted for floats
(JSON writes 1.0 as 1); floats with an integral value are accepted for integers (KFP delivers 2 as 2.0).
"""

import dataclasses
import difflib
import json
import types
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")


def decode(cls: type[T], value: Any, where: str) -> T:
    """Build `cls` from plain JSON data.

    Raises:
        ValueError: with the dotted path of the first value that does not fit.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object, found {type(value).__name__}")
    data = cast("dict[str, Any]", value)
    hints = get_type_hints(cls)
    names = {f.name for f in dataclasses.fields(cast("Any", cls))}
    for key in data:
        if key not in names:
            raise ValueError(f"{where}: unknown key {key!r}{suggestion(key, names)}")
    return cls(**{key: convert(hints[key], item, f"{where}.{key}") for key, item in data.items()})


def convert(kind: Any, value: Any, where: str) -> Any:
    """Convert one JSON value to the annotated type `kind`; see `decode`."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return decode(cast("type[Any]", kind), value, where)
    if origin in (Union, types.UnionType):
        return None if value is None else convert(next(a for a in arguments if a is not type(None)), value, where)
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{where}: expected one of {', '.join(map(str, arguments))}, found {value!r}")
        return value
    if origin is dict and isinstance(value, dict):
        entries = cast("dict[str, Any]", value)
        return {key: convert(arguments[1], item, f"{where}.{key}") for key, item in entries.items()}
    if origin in (tuple, list) and isinstance(value, (list, tuple)):
        items = cast("list[Any]", value)
        return cast("Any", origin)(convert(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(items))
    return _scalar(kind, value, where)


def object_in(content: bytes) -> dict[str, Any]:
    """The JSON object that some bytes hold, empty where they hold none."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def object_in_file(path: Path) -> dict[str, Any]:
    """The JSON object in a file, empty where there is none."""
    try:
        return object_in(path.read_bytes())
    except OSError:
        return {}


def suggestion(word: str, choices: set[str]) -> str:
    """`, did you mean 'x'?` for the closest choice, else the list of choices."""
    close = difflib.get_close_matches(word, sorted(choices), n=1)
    return f", did you mean {close[0]!r}?" if close else f"; expected one of {', '.join(sorted(choices))}"


def _scalar(kind: Any, value: Any, where: str) -> Any:
    if kind is bool and isinstance(value, bool):
        return value
    if kind is int and isinstance(value, (int, float)) and not isinstance(value, bool) and float(value).is_integer():
        return int(value)
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if kind is str and isinstance(value, str):
        return value
    raise ValueError(f"{where}: expected {getattr(kind, '__name__', kind)}, found {value!r}")
