"""A command line made of a config's own knobs: one flag each, explained by the sentence under it.

Knows dataclasses and YAML files; no particular command.
"""

from __future__ import annotations

import argparse
import ast
import inspect
from collections.abc import Sequence
from itertools import pairwise
from textwrap import dedent
from typing import TypeVar

from configs.loader import load, overrides_of

T = TypeVar("T")


def parser(into: type, prog: str, description: str, config: str) -> argparse.ArgumentParser:
    """`--config` (default `config`) and a flag for every knob of the dataclass `into`."""
    made = argparse.ArgumentParser(prog=prog, description=description)
    made.add_argument("--config", default=config, help="YAML file of knobs; flags win over it")
    for knob, sentence in sentences(into).items():
        flag = "--" + knob.replace("_", "-")
        made.add_argument(flag, dest=knob, metavar="VALUE", help=sentence.replace("%", "%%"))
    return made


def resolve(into: type[T], parsed: argparse.Namespace) -> T:
    """The config of a parsed command line: the file's values, then the flags'. Raises ConfigError."""
    asked = vars(parsed)
    given = [f"{knob}={asked[knob]}" for knob in sentences(into) if asked[knob] is not None]
    return load(asked["config"], into, overrides_of(given))


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
