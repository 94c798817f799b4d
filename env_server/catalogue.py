"""The catalogue of environments in Markdown, written from the families themselves.

`python -m env_server.catalogue > docs/environments.md`; a test fails where the page is stale.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

from env_server import registry
from env_server.contract import Family, JsonObject


def catalogue() -> str:
    """Every family with its tasks, actions, what is observed, and its agents."""
    lines = [
        "# Environments",
        "",
        "Written by `python -m env_server.catalogue`; do not edit by hand.",
    ]
    for name in registry.names():
        lines += _family(registry.get(name))
    return "\n".join(lines) + "\n"


def _family(family: Family) -> Iterator[str]:
    yield from ("", f"## {family.name} {family.version}", "", family.summary, "")
    yield from _table(
        ("task", "difficulty", "steps at most", "splits", "what it asks"),
        [
            (
                f"`{t.name}`" + (" (default)" if t.name == family.default_task else ""),
                t.difficulty,
                str(t.max_steps),
                ", ".join(t.splits),
                t.summary,
            )
            for t in family.tasks.values()
        ],
    )
    yield from ("", "### Actions", "")
    yield from _table(("form", "fields"), list(_forms(family.action_schema())))
    yield from ("", "### What is observed", "")
    observed = family.observation_schema()["properties"]
    yield from _table(
        ("field", "meaning"),
        [(f"`{name}`", spec.get("description", "")) for name, spec in observed.items()],
    )
    yield from ("", "### Agents", "")
    yield from _table(
        ("agent", "role", "tasks", "what it does"),
        [
            (f"`{c.name}`", c.role, ", ".join(c.tasks) or "all", c.summary)
            for c in family.agents.values()
        ],
    )


def _forms(schema: JsonObject) -> Iterator[tuple[str, str]]:
    for form in schema.get("oneOf", [schema]):
        required = set(form.get("required", ()))
        fields = []
        for name, spec in form["properties"].items():
            if "const" in spec:
                continue
            values = f" ({', '.join(spec['enum'])})" if "enum" in spec else ""
            fields.append(f"`{name}`{values}" + ("" if name in required else ", optional"))
        yield f"`{form.get('title', schema.get('title', ''))}`", "; ".join(fields) or "none"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"


def main(argv: Sequence[str] | None = None) -> int:
    argparse.ArgumentParser(prog="python -m env_server.catalogue", description=__doc__).parse_args(
        argv
    )
    sys.stdout.write(catalogue())
    return 0


if __name__ == "__main__":
    sys.exit(main())
