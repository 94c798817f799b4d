"""A command line made of a config's own knobs: one flag each, explained by the sentence under it.

Knows dataclasses and YAML files; no particular command.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import sys
from collections.abc import Sequence
from dataclasses import MISSING, fields
from itertools import pairwise
from pathlib import Path
from textwrap import dedent
from typing import TypeVar

from configs.loader import ConfigError, load, overrides_of, read

T = TypeVar("T")


class _Parser(argparse.ArgumentParser):
    """Takes --save_every for --save-every: TRL's own flags have lines where ours have hyphens."""

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        given = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args([_hyphened(word) for word in given], namespace)


def _hyphened(word: str) -> str:
    name, sign, value = word.partition("=")
    return name.replace("_", "-") + sign + value if name.startswith("--") else word


def parser(into: type, prog: str, description: str, config: str) -> argparse.ArgumentParser:
    """`--config` (default `config`) and a flag for every knob of the dataclass `into`."""
    made = _Parser(prog=prog, description=description)
    made.epilog = f"In brackets: what holds without a flag, from {config} where that says so."
    told = "YAML file of knobs; flags win over it (default: %(default)s)"
    made.add_argument("--config", default=config, help=told)
    standing = _standing(into, config)
    for knob, sentence in sentences(into).items():
        flag, value = "--" + knob.replace("_", "-"), _spelled(standing.get(knob, "must be given"))
        help = f"{sentence.replace('%', '%%')} [{value.replace('%', '%%')}]"
        made.add_argument(flag, dest=knob, metavar="VALUE", help=help)
    return made


def resolve(into: type[T], parsed: argparse.Namespace) -> T:
    """The config of a parsed command line: the file's values, then the flags'. Raises ConfigError."""
    asked = vars(parsed)
    given = [f"{knob}={asked[knob]}" for knob in sentences(into) if asked[knob] is not None]
    return load(asked["config"], into, overrides_of(given))


def _standing(into: type, config: str) -> dict[str, object]:
    """What holds where nobody says otherwise: the default file's values, else the dataclass's own."""
    own = {field.name: field.default for field in fields(into) if field.default is not MISSING}
    try:
        return {**own, **(read(config) if Path(config).is_file() else {})}
    except ConfigError:  # told when the file is read in earnest, if it is
        return own


def _spelled(value: object) -> str:
    """A value as a flag takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def sentences(config: type) -> dict[str, str]:
    """Each knob of a dataclass with the sentence written under it."""
    described = {}
    for knob, sentence in pairwise(_body(config)):
        if not (isinstance(knob, ast.AnnAssign) and isinstance(knob.target, ast.Name)):
            continue
        if isinstance(sentence, ast.Expr) and isinstance(sentence.value, ast.Constant):
            described[knob.target.id] = str(sentence.value.value)
    return described


def _body(config: type) -> Sequence[ast.stmt]:
    (defined,) = ast.parse(dedent(inspect.getsource(config))).body
    return defined.body if isinstance(defined, ast.ClassDef) else ()
