"""What the server is told when it starts: flags, or the same from the environment, as containers are.

Knows names, kinds and defaults of what may be chosen; nothing of what comes of it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

FAMILY: Final = "polypharmacy"
PORT: Final = 7860
SAYS: Final = "(default: %(default)s)"
# a service called rounds makes Kubernetes set ROUNDS_PORT to something else
FLAGS_ALONE: Final = ("host", "port")
OTHER_NAMES: Final = {"agent": "SUGGEST_AGENT"}  # all others: ROUNDS_ and the flag
ON, OFF = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


class _Parser(argparse.ArgumentParser):
    """Says of a mistake where it may come from."""

    taken: tuple[str, ...] = ()  # variables that were set

    def error(self, message: str) -> NoReturn:
        where = f" (from the environment: {', '.join(self.taken)})" if self.taken else ""
        super().error(message + where)


def read(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """What was chosen, flags before variables. Ends the process with usage on a mistake."""
    asked = parser()
    said = [(name, dest) for name, dest in variables().items() if os.environ.get(name)]
    asked.taken = tuple(name for name, _ in said)
    # variables go first, so that a flag takes their place
    words = [word for name, dest in said for word in _words(asked, name, dest)]
    return asked.parse_args([*words, *(sys.argv[1:] if argv is None else argv)])


def variables() -> dict[str, str]:
    """The variables that are read, and what each chooses."""
    dests = vars(parser().parse_args([]))
    return {
        OTHER_NAMES.get(dest, f"ROUNDS_{dest.upper()}"): dest
        for dest in dests
        if dest not in FLAGS_ALONE
    }


def _words(asked: _Parser, name: str, dest: str) -> list[str]:
    """The words of a command line that say what the variable says."""
    flag, value = "--" + dest.replace("_", "-"), os.environ[name].strip()
    default = asked.get_default(dest)
    if default is False:
        if value.lower() not in (*ON, *OFF):
            asked.error(f"{name} is {value[:60]!r}; it takes 1 or 0")
        return [flag] if value.lower() in ON else []
    return [f"{flag}={one}" for one in (value.split() if isinstance(default, list) else [value])]


def parser() -> _Parser:
    """All flags, with their defaults."""
    parser = _Parser(
        prog="python -m env_server.app",
        description="Serve the environments over HTTP and sockets.",
        epilog="What is not given is read from the environment: --idle-s from ROUNDS_IDLE_S and so on, "
        "--agent from SUGGEST_AGENT; not --host and --port. ROUNDS_CORS may name several, with spaces.",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help=f"0.0.0.0 opens it to the network {SAYS}"
    )
    parser.add_argument("--port", type=_port, default=PORT, help=f"0 takes a free port {SAYS}")
    parser.add_argument("--family", default=FAMILY, help=f"the family at the root {SAYS}")
    parser.add_argument(
        "--tables", metavar="DIR", help="a hospital's own tables for that family (default: shipped)"
    )
    parser.add_argument(
        "--reward-style",
        choices=("signed", "bounded"),
        default="signed",
        help=f"bounded clamps every reward shown into (0.001, 0.999) {SAYS}",
    )
    parser.add_argument(
        "--capacity", type=_positive, default=256, help=f"sessions at one time {SAYS}"
    )
    parser.add_argument(
        "--idle-s",
        type=_seconds,
        default=1800.0,
        help=f"seconds after which an unused session ends {SAYS}",
    )
    parser.add_argument(
        "--agent",
        help="who answers /agent/suggest, as in eval.compare (default: the heuristic)",
    )
    parser.add_argument(
        "--bandit",
        metavar="DIR",
        help="the trained bandit behind /bandit, e.g. runs/bandit/review_easy (default: the demo's)",
    )
    _add_limits(parser.add_argument_group("limits"))
    _add_keeping(parser.add_argument_group("who may, and what is written down"))
    return parser


def _add_limits(group: argparse._ArgumentGroup) -> None:
    for name, default, words in (
        ("begin", 55.0, "seconds a case may take to build, then the reset is refused"),
        ("step", 30.0, "seconds one step may take, then its episode is dropped"),
        ("send", 15.0, "seconds a socket may leave what it is sent unread, then it is dropped"),
        ("ping", 30.0, "seconds of silence after which a socket is asked whether it is there"),
        ("pong", 60.0, "seconds it has to answer that, then it is dropped"),
        ("drain", 5.0, "seconds for answers under way once told to stop"),
    ):
        flag = f"--{name}-s"
        help = f"{words} (default: {default:g})"
        group.add_argument(flag, type=_seconds, default=default, metavar="S", help=help)
    group.add_argument(
        "--max-body",
        type=_positive,
        default=65536,
        metavar="BYTES",
        help=f"of a frame or a body {SAYS}",
    )
    group.add_argument(
        "--rate",
        type=_rate,
        default=0.0,
        metavar="N",
        help="requests a second from one address, frames a second from one socket (default: any)",
    )


def _add_keeping(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--token",
        help="asked of whoever changes more than one session; better in the environment, as ROUNDS_TOKEN",
    )
    group.add_argument(
        "--cors",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="a site whose pages may call this server, e.g. https://example.org; may be repeated",
    )
    group.add_argument(
        "--debug-latent",
        action="store_true",
        help="open /debug/latent, which tells what episodes hide; never for training or measuring",
    )
    group.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="warning", help=SAYS
    )
    group.add_argument(
        "--log-format", choices=("text", "json"), default="text", help=f"on standard error {SAYS}"
    )


def _port(given: str) -> int:
    if not given.isdecimal() or int(given) > 65535:
        raise argparse.ArgumentTypeError(f"{given!r} is no port; ports are 0 to 65535")
    return int(given)


def _seconds(given: str) -> float:
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds <= 1e6:
        raise argparse.ArgumentTypeError(f"{given!r} is not a number of seconds above 0")
    return seconds


def _rate(given: str) -> float:
    try:
        rate = float(given)
    except ValueError:
        rate = -1.0
    if not 0.0 <= rate <= 1e6:
        raise argparse.ArgumentTypeError(f"{given!r} is no number of requests a second; 0 is any")
    return rate


def _positive(given: str) -> int:
    if not given.isdecimal() or int(given) < 1:
        raise argparse.ArgumentTypeError(f"{given!r} is not a whole number of 1 or more")
    return int(given)
