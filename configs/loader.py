"""A YAML file, read strictly into the frozen dataclass that documents its knobs.

An unknown key, a wrong type or a doubled key is an error that names file, key and value. Knows no
command and no room: the dataclass says everything.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, asdict, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

T = TypeVar("T")
_WRONG = object()

# Scalars as YAML 1.2 reads them. PyYAML follows 1.1, where `no` is false, 1e-3 is a string, 1:30 is 90
# and 2026-01-01 a date: four ways for a setting to become something else than what was typed.
_SCALARS: tuple[tuple[str, str, str], ...] = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
)


class ConfigError(ValueError):
    """A file or an override says something the command does not know: what, where, and what it could be."""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (PyYAML's own class attribute)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012


for _kind, _pattern, _first in _SCALARS:
    for _yaml in (_Loader, _Dumper):
        _yaml.add_implicit_resolver(
            f"tag:yaml.org,2002:{_kind}",
            re.compile(rf"^(?:{_pattern})$"),
            [c if c != "\0" else "" for c in _first],
        )


def _int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)  # 0123 is 123: YAML 1.2 knows no bare octals
    return int(text, base)


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key, _ in node.value:
        name = str(key.value)
        if name in seen:
            raise ConfigError(f"line {key.start_mark.line + 1}: {name!r} is set twice; keep one")
        seen.add(name)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:int", _int)
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def load(path: str | Path, into: type[T], overrides: Mapping[str, object] | None = None) -> T:
    """Read `path` into the dataclass `into`; `overrides` (dotted keys) win over the file.

    Raises ConfigError, naming file, key and value, for anything the dataclass does not have or hold.
    """
    values = read(path)
    for key, value in (overrides or {}).items():
        _set(values, key, value, str(path))
    return build(into, values, source=str(path))


def read(path: str | Path) -> dict[str, Any]:
    """The mapping that the YAML file holds, untyped; an empty file is an empty mapping."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror or error}; {_neighbours(Path(path))}"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start})"
        ) from error
    values = parse(text, str(path))
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds {_name_of(values)} {values!r}, not `key: value` lines")
    return values


def overrides_of(settings: Iterable[str]) -> dict[str, object]:
    """`["optimizer.lr=1e-3", "steps=60"]` as overrides, each value read as YAML would read it."""
    parsed: dict[str, object] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"override {setting!r} is not key=value")
        parsed[key.strip()] = parse(value, f"override {setting!r}")
    return parsed


def build(into: type[T], values: Mapping[str, Any], source: str = "values") -> T:
    """The dataclass `into` with these values, every one checked against its field's type."""
    return _build(into, values, source, prefix="")


def dump(config: Any) -> str:
    """The resolved config as YAML that `load` reads back to an equal dataclass."""
    # escaped beyond ASCII: PyYAML writes U+0085 and U+2028 bare, and reads them back as line breaks
    text: str = yaml.dump(_plain(asdict(config)), Dumper=_Dumper, sort_keys=False)
    return text


def parse(text: str, source: str) -> Any:
    """What the YAML `text` holds; `source` is named in the error if it cannot be read."""
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader, in spite of the name
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not YAML: {' '.join(str(error).split())}") from error
    except ValueError as error:
        raise ConfigError(f"{source}: a value cannot be read: {error}") from error


def _build(into: type[T], values: Mapping[str, Any], source: str, prefix: str) -> T:
    known = {field.name: field for field in fields(into) if field.init}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ConfigError(
                f"{source}: unknown key {prefix + str(key)!r}{_near(str(key), tuple(known))}"
            )
    missing = [
        prefix + name for name, field in known.items() if name not in values and _required(field)
    ]
    if missing:
        raise ConfigError(
            f"{source}: {', '.join(missing)} must be set; {into.__name__} has no default"
        )
    hints = get_type_hints(into)
    typed = {
        key: _checked(hints[key], value, source, prefix + str(key)) for key, value in values.items()
    }
    try:
        return into(**typed)
    except ConfigError:
        raise
    except (ValueError, TypeError) as error:  # a knob's own limits, from __post_init__
        where = f" in {prefix.rstrip('.')}" if prefix else ""
        raise ConfigError(f"{source}{where}: {error}") from error


def _checked(hint: Any, value: Any, source: str, key: str) -> Any:
    fitted = _fit(hint, value, source, key)
    if fitted is _WRONG:
        raise ConfigError(
            f"{source}: {key} is {value!r} ({_name_of(value)}); expected {_name_of_type(hint)}"
        )
    return fitted


def _fit(hint: Any, value: Any, source: str, key: str) -> Any:
    """`value` as the type `hint`, or _WRONG. Widens int to float and list to tuple, nothing else."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _fit_union(arguments, value, source, key)
    if origin is Literal:
        same = [a for a in arguments if a == value and type(a) is type(value)]
        return same[0] if same else _WRONG
    if is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, hint):
            return value
        return _build(hint, value, source, f"{key}.") if isinstance(value, Mapping) else _WRONG
    if origin in (list, tuple, Sequence):
        return _fit_list(origin, arguments, value, source, key)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            return _WRONG
        return {
            _checked(arguments[0], k, source, f"a key of {key}"): _checked(
                arguments[1], v, source, f"{key}.{k}"
            )
            for k, v in value.items()
        }
    return _fit_plain(hint, value)


def _fit_union(arguments: tuple[Any, ...], value: Any, source: str, key: str) -> Any:
    if value is None:
        return None if type(None) in arguments else _WRONG
    exact = [a for a in arguments if a is type(value)]  # 1 in `float | int` stays an int
    for argument in exact + [a for a in arguments if a is not type(None)]:
        fitted = _fit(argument, value, source, key)
        if fitted is not _WRONG:
            return fitted
    return _WRONG


def _fit_list(origin: Any, arguments: tuple[Any, ...], value: Any, source: str, key: str) -> Any:
    if not isinstance(value, list | tuple):
        return _WRONG
    one_kind = origin is not tuple or arguments[-1] is Ellipsis
    hints = [arguments[0]] * len(value) if one_kind else list(arguments)
    if len(hints) != len(value):
        return _WRONG
    items = [
        _checked(h, v, source, f"{key}[{i}]")
        for i, (h, v) in enumerate(zip(hints, value, strict=True))
    ]
    return items if origin is list else tuple(items)


def _fit_plain(hint: Any, value: Any) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is type(None):
        return None if value is None else _WRONG
    if isinstance(value, bool) and hint is not bool:
        return _WRONG
    return value if isinstance(hint, type) and isinstance(value, hint) else _WRONG


def _set(values: dict[str, Any], key: str, value: object, source: str) -> None:
    *parents, last = key.split(".")
    here: Any = values
    for parent in parents:
        here = here.setdefault(parent, {})
        if not isinstance(here, dict):
            raise ConfigError(
                f"{source}: override {key!r} goes into {parent!r}, which holds {here!r}"
            )
    here[last] = value


def _required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _near(key: str, known: tuple[str, ...]) -> str:
    close = get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{hint} keys: {', '.join(known)}"


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}"
    there = sorted(p.name for p in path.parent.glob("*.yaml"))
    return f"{path.parent} holds: {', '.join(there) or 'no .yaml file'}"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def _name_of(value: object) -> str:
    return "nothing" if value is None else type(value).__name__


def _name_of_type(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is type(None):
        return "nothing"
    if origin is Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join(map(_name_of_type, arguments))
    if isinstance(hint, type) and origin is None:
        return "a mapping" if is_dataclass(hint) else hint.__name__
    return str(hint).replace("typing.", "").replace("collections.abc.", "")
