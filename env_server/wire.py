"""What travels between server and client: JSON read strictly, fields checked, replies spelled once.

Knows the words of the protocol and no family; a family's own pydantic models are found by
being there, in the module `wire` beside it.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from math import isfinite
from typing import Any, Final, Literal, NoReturn, cast

from pydantic import BaseModel, ConfigDict, create_model
from pydantic_core import to_json

from env_server import registry
from env_server.contract import (
    NOTHING,
    Action,
    BadSplit,
    Episode,
    Family,
    JsonObject,
    Refusal,
    RefusalKind,
    RoundsError,
    Split,
    Step,
    Task,
    clamp_score,
    did_you_mean,
    nearest,
    options_of,
    read_options,
)

RewardStyle = Literal["signed", "bounded"]

MAX_FRAME: Final = 64 * 1024  # bytes of one message or body
MAX_SEED: Final = 2**63 - 1
MAX_ID: Final = 255  # characters of an identifier
MAX_WHY: Final = 4000  # characters of a refusal's reason: an episode keeps it as long as it lives
MAX_PLAYED: Final = 10_000  # actions of a snapshot
REFUSAL_KINDS: Final = ("malformed", "truncated", "illegal", "budget", "empty")
RESET_FIELDS: Final = ("task_id", "seed", "split", "episode_id")
_SNAPSHOT_FIELDS: Final = ("family", "version", *RESET_FIELDS, "actions", "steps", "done")


class BadMessage(RoundsError, ValueError):
    """What arrived is not a message of this protocol. Nothing was done; the session lives."""


# -- reading ----------------------------------------------------------------------------------


def read_object(raw: str | bytes, limit: int = MAX_FRAME) -> JsonObject:
    """One JSON object of at most `limit` bytes. Raises BadMessage on anything else, NaN and Infinity included."""
    size = len(raw)
    if size <= limit < 4 * size and isinstance(raw, str):
        size = len(raw.encode("utf-8", "surrogatepass"))
    if size > limit:
        raise BadMessage(f"message of {size} bytes; the limit is {limit}")
    try:
        given = raw if isinstance(raw, str) else raw.decode()
        value = _DECODER.decode(given)
        # a lone surrogate is legal JSON but cannot be encoded again
        if "\\u" in given and "\\ud" in given.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise BadMessage("JSON nested too deeply") from None
    except ValueError as error:  # also UnicodeError, and whole numbers of thousands of digits
        raise BadMessage(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadMessage(f"a message is a JSON object, not {_json_type(value)}")
    return value


def _not_json(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not isfinite(number):
        raise ValueError(f"{digits[:20]} is beyond the range of a number")
    return number


# made once: json.loads and json.dumps make one a call where they are given arguments
_DECODER: Final = json.JSONDecoder(parse_constant=_not_json, parse_float=_finite)
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _json_type(value: object) -> str:
    if isinstance(value, list):
        return "an array"
    return {bool: "a boolean", str: "a string", type(None): "null"}.get(type(value), "a number")


def only(data: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    """Raise BadMessage on the first key of `data` that `where` does not have."""
    for key in data:
        if key not in known:
            wrong = key[:60]
            raise BadMessage(
                f"{where} has no field {wrong!r}{nearest(wrong, known)}; fields: {', '.join(known)}"
            )


def text(data: Mapping[str, Any], key: str) -> str | None:
    """The identifier under `key`, or None. Raises BadMessage on another type."""
    value = data.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not value or len(value) > MAX_ID:
        raise BadMessage(f"{key} must be a string of 1 to {MAX_ID} characters, not {shown(value)}")
    return value


def shown(value: object) -> str:
    """`value` short enough for an error."""
    spelled = value if isinstance(value, str) else json.dumps(value)
    return repr(spelled[:60]) if isinstance(value, str) else spelled[:60]


@dataclass(frozen=True, slots=True)
class Begin:
    """Which case to play."""

    task: Task
    seed: int
    split: Split
    episode_id: str | None  # None: the episode's own
    options: Mapping[str, Any] = field(default_factory=lambda: NOTHING)  # the family's own, checked


def read_begin(family: Family, data: Mapping[str, Any]) -> Begin:
    """The fields of a reset. A missing seed is drawn. Raises BadMessage, UnknownTask, BadSplit or BadOption."""
    choices = tuple(options_of(family))
    only(data, (*RESET_FIELDS, *choices), "reset")
    task = registry.task(family, text(data, "task_id"))
    split = text(data, "split") or "train"
    if split not in task.splits:
        raise BadSplit(did_you_mean(f"{task.name} split", split, task.splits))
    options = read_options(family, {name: data[name] for name in choices if name in data})
    return Begin(task, _seed(data.get("seed")), split, text(data, "episode_id"), options)


def _seed(value: object) -> int:
    if value is None:
        return secrets.randbelow(2**31)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SEED:
        raise BadMessage(f"seed must be a whole number from 0 to {MAX_SEED}, not {shown(value)}")
    return value


def read_action(family: Family, data: object) -> Action | Refusal:
    """An action, a refusal that the client reports, or the refusal that reading it ended in."""
    if isinstance(data, Mapping) and "refusal" in data and set(data) <= {"refusal", "metadata"}:
        return _read_refusal(data["refusal"])
    return family.action_from_json(data)


def _read_refusal(data: object) -> Refusal:
    if not isinstance(data, Mapping):
        raise BadMessage(f"refusal must be an object with kind and why, not {shown(data)}")
    only(data, ("kind", "why"), "refusal")
    kind, why = data.get("kind"), data.get("why")
    if kind not in REFUSAL_KINDS or not isinstance(why, str):
        raise BadMessage(
            f"refusal needs a kind of {', '.join(REFUSAL_KINDS)} and a why, not {shown(data)}"
        )
    if len(why) > MAX_WHY:
        raise BadMessage(f"refusal.why of {len(why)} characters; the limit is {MAX_WHY}")
    return Refusal(cast(RefusalKind, kind), why)


def spelled(action: Action | Refusal) -> JsonObject:
    """`action` as `read_action` reads it."""
    return {"refusal": action.to_json()} if isinstance(action, Refusal) else action.to_json()


def read_snapshot(family: Family, data: object) -> tuple[Begin, list[JsonObject]]:
    """The case of a snapshot and the actions played. Raises BadMessage, UnknownTask or BadSplit."""
    if not isinstance(data, Mapping):
        raise BadMessage(f"snapshot must be an object, not {shown(data)}")
    case = (*RESET_FIELDS, *options_of(family))
    only(data, (*_SNAPSHOT_FIELDS, *options_of(family)), "snapshot")
    made_by = (data.get("family", family.name), data.get("version", family.version))
    if made_by != (family.name, family.version):
        raise BadMessage(
            f"a snapshot of {shown(made_by[0])} version {shown(made_by[1])} cannot be played on: "
            f"this is {family.name} {family.version}"
        )
    actions = data.get("actions", [])
    if not isinstance(actions, list) or len(actions) > MAX_PLAYED:
        raise BadMessage(f"snapshot.actions must be a list of at most {MAX_PLAYED} actions")
    for at, action in enumerate(actions):
        if not isinstance(action, dict):
            raise BadMessage(f"snapshot.actions[{at}] must be an object, not {shown(action)}")
    if data.get("seed") is None:
        raise BadMessage("a snapshot has a seed")
    return read_begin(family, {key: data[key] for key in case if key in data}), actions


# -- replying ---------------------------------------------------------------------------------


def begun(episode: Episode, style: RewardStyle, options: Mapping[str, Any] = NOTHING) -> JsonObject:
    """The reply to a reset: OpenEnv's three fields, then what a client needs to play the same again.

    `options` is there where any were chosen.
    """
    chosen = {"options": dict(options)} if options else {}
    return _styled(
        {
            "observation": episode.observe().to_json(),
            "reward": None,
            "done": episode.done,
            "episode_id": episode.episode_id,
            "task": dict(_described(episode.task)),
            "seed": episode.seed,
            "split": episode.split,
            **chosen,
        },
        style,
    )


@cache
def _described(task: Task) -> JsonObject:
    return asdict(task)


def stepped(step: Step, episode: Episode, style: RewardStyle) -> JsonObject:
    """The reply to a step: all of `Step`; at the end also score, outcome and state."""
    body = step.to_json()
    if step.done:
        body["score"] = episode.score()
        body["outcome"] = dict(episode.outcome())
        body["state"] = episode.state()
    return _styled(body, style)


def _styled(body: JsonObject, style: RewardStyle) -> JsonObject:
    if style == "signed":
        return body
    # the published environment showed every reward inside (0.001, 0.999); parts stay as they are
    if body["reward"] is not None:
        body["reward"] = clamp_score(body["reward"])
    observation = body["observation"]
    if isinstance(observation.get("shaped_reward"), (int, float)):
        body["observation"] = {
            **observation,
            "shaped_reward": clamp_score(observation["shaped_reward"]),
        }
    return body


def encoded(body: object) -> bytes:
    """`body` as compact JSON in UTF-8. Raises ValueError on NaN, infinity or what is no JSON at all."""
    spelled: bytes = to_json(body, inf_nan_mode="constants")
    if b"NaN" in spelled or b"Infinity" in spelled:  # perhaps a word of a text
        _ENCODER.encode(body)
    return spelled


def dumps(body: object) -> str:
    """`encoded`, as text."""
    return encoded(body).decode()


# -- schemas ----------------------------------------------------------------------------------


def model(family: Family, name: Literal["Action", "Observation", "State"]) -> type[BaseModel]:
    """The family's pydantic model of that name, or an open one where it ships none."""
    package = type(family).__module__.rpartition(".")[0]
    if package and find_spec(f"{package}.wire") is not None:
        shipped: type[BaseModel] = getattr(import_module(f"{package}.wire"), name)
        return shipped
    title = "".join(word.title() for word in family.name.split("_"))
    return create_model(f"{title}{name}", __config__=ConfigDict(extra="allow"))


def schemas(family: Family) -> JsonObject:
    """What `/schema` answers: action, observation and state."""
    return {
        "action": family.action_schema(),
        "observation": family.observation_schema(),
        "state": model(family, "State").model_json_schema(),
    }
