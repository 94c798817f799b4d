"""The house around the code keeps its own promises: rooms, doors, commands, pins, and nothing of one machine."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from env_server import flags, registry

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SCRIPTS: dict[str, str] = PYPROJECT["project"]["scripts"]
PACKAGED: list[str] = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
ROOMS = [*PACKAGED, "bench"]


def python(*args: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run this interpreter from the repository root, as a user does."""
    return subprocess.run(
        [sys.executable, *args],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def tracked() -> list[Path]:
    """Files of the project: what git holds, or in an unpacked archive what lies there."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    names = listed.stdout.split("\0") if listed.returncode == 0 else []
    found = [ROOT / name for name in names if name]
    loose = (
        p for p in ROOT.rglob("*") if not set(p.relative_to(ROOT).parts) & {".venv", ".git", "runs"}
    )
    return [p for p in (found or loose) if p.is_file()]


def text_of(path: Path) -> str:
    return path.read_bytes().decode("utf-8", errors="replace")


def sources(*rooms: str) -> list[Path]:
    return [path for room in rooms for path in sorted((ROOT / room).rglob("*.py"))]


# --- rooms and layers


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_opens_with_what_it_is(room: str) -> None:
    init = ROOT / room / "__init__.py"
    assert ast.get_docstring(ast.parse(text_of(init))), (
        f"{room}/__init__.py says nothing of its room"
    )


def test_every_folder_with_code_is_a_room_or_known_not_to_be_one() -> None:
    folders = {
        p.relative_to(ROOT).parts[0] for p in tracked() if p.suffix == ".py" and p.parent != ROOT
    }
    assert folders - set(ROOMS) <= {"tests", "scripts", "space_trainer", "docs"}


def test_the_layers_name_every_room() -> None:
    linter = PYPROJECT["tool"]["importlinter"]
    named = set(re.findall(r"\w+", " ".join(linter["contracts"][0]["layers"])))
    assert set(ROOMS) <= named
    assert set(ROOMS) <= set(linter["root_packages"])


def test_tests_are_flat_and_not_a_package() -> None:
    assert not (ROOT / "tests" / "__init__.py").exists()
    assert not [p for p in (ROOT / "tests").glob("*/*.py") if "__pycache__" not in p.parts]


# --- doors that other tools look for


def manifest() -> dict[str, object]:
    read: dict[str, object] = yaml.safe_load(text_of(ROOT / "openenv.yaml"))
    return read


def test_the_manifest_lists_exactly_the_tasks_of_polypharmacy() -> None:
    family = registry.get("polypharmacy")
    listed = manifest()["tasks"]
    assert isinstance(listed, list)
    assert {t["id"]: t["difficulty"] for t in listed} == {
        t.name: t.difficulty for t in family.tasks.values()
    }
    assert all(t["description"].strip() for t in listed)
    assert manifest()["default_task"] == family.default_task


def test_the_manifest_and_the_package_have_one_version() -> None:
    assert manifest()["version"] == PYPROJECT["project"]["version"]


@pytest.mark.slow  # imports openenv, which loads gradio and pandas
def test_openenv_finds_every_door_it_looks_for() -> None:
    answer = python("-m", "openenv.cli", "validate", ".", timeout=120)
    assert answer.returncode == 0, answer.stdout + answer.stderr


# --- commands


@pytest.mark.parametrize("target", sorted(set(SCRIPTS.values())))
def test_every_verb_answers_help(target: str) -> None:
    module, _, function = target.partition(":")
    assert function == "main"
    answer = python("-m", module, "--help")
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert "usage:" in answer.stdout


def test_make_help_lists_every_target() -> None:
    makefile = text_of(ROOT / "Makefile")
    described = set(re.findall(r"^([a-z]+):.*## \S", makefile, re.M))
    phony = re.search(r"^\.PHONY: (.+)$", makefile, re.M)
    assert phony
    assert described == set(phony[1].split()) == set(re.findall(r"^([a-z]+):", makefile, re.M))


def test_the_ci_machine_runs_what_the_readme_says() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert os.access(ROOT / "scripts" / "bootstrap", os.X_OK)
    assert "make test" in text_of(ROOT / ".ci" / "run")


def test_the_server_side_imports_no_learning_library_and_no_openenv() -> None:
    heavy = ("torch", "transformers", "trl", "openenv", "gradio", "pandas", "openai", "wandb")
    code = (
        "import sys; from env_server import registry; [registry.get(n) for n in registry.names()];"
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    answer = python("-c", code)
    assert answer.stdout.strip() == "[]", answer.stdout + answer.stderr


# --- what is written down agrees with what is there


def variables_read(tree: ast.AST) -> set[str]:
    """Names of environment variables that Python code reads: os.environ[...], .get(...), os.getenv(...)."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"os.environ.get", "os.getenv"}:
            found |= {str(a.value) for a in node.args[:1] if isinstance(a, ast.Constant)}
        if (
            isinstance(node, ast.Subscript)
            and isinstance(node.ctx, ast.Load)
            and ast.unparse(node.value) == "os.environ"
            and isinstance(node.slice, ast.Constant)
        ):
            found.add(str(node.slice.value))
    return found


def test_env_example_lists_exactly_the_variables_that_are_read() -> None:
    read = {"ROUNDS_PROFILE", "PYTHON"}  # by scripts/bootstrap
    assert all(f"${{{name}:-" in text_of(ROOT / "scripts" / "bootstrap") for name in read)
    for path in [*sources(*ROOMS), *ROOT.glob("*.py")]:
        read |= variables_read(ast.parse(text_of(path)))
    read |= set(flags.variables())  # the server's flags by other names
    read -= {"RANK", "WORLD_SIZE"}  # launchers set them; nobody writes them down
    listed = re.findall(r"^([A-Z_0-9]+)=", text_of(ROOT / ".env.example"), re.M)
    assert set(listed) == read
    assert len(listed) == len(set(listed))


def test_no_file_names_one_machine_or_a_package_index_of_its_own() -> None:
    foreign = re.compile(
        r"(?<![\w.:/-])/(?:home|Users|root|opt|mnt|srv)/\w|file://|--(?:extra-)?index-url|--find-links"
    )
    guilty = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in tracked()
        if path != Path(__file__).resolve()
        for match in foreign.finditer(text_of(path))
    ]
    assert guilty == []


def test_the_lock_names_the_default_index_and_no_other() -> None:
    lock = tomllib.loads(text_of(ROOT / "uv.lock"))
    named = {p["source"].get("registry") for p in lock["package"]} - {None}  # None: this project
    assert named == {"https://pypi.org/simple"}
    hosts = set(re.findall(r"https://([^/\"]+)", text_of(ROOT / "uv.lock")))
    assert hosts == {"pypi.org", "files.pythonhosted.org"}


def test_the_lock_is_of_this_project_and_holds_the_versions_that_are_pinned() -> None:
    locked: dict[str, set[str]] = {}
    lock = tomllib.loads(text_of(ROOT / "uv.lock"))
    for entry in lock["package"]:
        locked.setdefault(entry["name"], set()).add(entry["version"])
    project = PYPROJECT["project"]
    extras = [r for group in project["optional-dependencies"].values() for r in group]
    ours = next(entry for entry in lock["package"] if entry["name"] == project["name"])
    assert {package(r) for r in project["dependencies"] + extras} == {
        r["name"] for r in ours["metadata"]["requires-dist"]
    }, "run scripts/pin"
    pinned = {**pins("env"), **pins("cpu"), **pins("dev")}
    assert {n: v for n, v in pinned.items() if n in locked and v not in locked[n]} == {}


# --- pins


def pins(name: str) -> dict[str, str]:
    lines = re.findall(
        r"^([A-Za-z0-9._-]+)==(\S+)", text_of(ROOT / "requirements" / f"{name}.txt"), re.M
    )
    return dict(lines)


def direct(name: str) -> set[str]:
    """Packages that requirements/<name>.in asks for itself or through another file."""
    found: set[str] = set()
    for line in text_of(ROOT / "requirements" / f"{name}.in").splitlines():
        if line.startswith("-r "):
            found |= direct(line[3:].removesuffix(".in"))
        elif line and not line.startswith("#"):
            found.add(package(line))
    return found


def package(requirement: str) -> str:
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


@pytest.mark.parametrize("profile", ["env", "cpu", "gpu"])
def test_a_profile_and_the_development_tools_pin_the_same_versions(profile: str) -> None:
    ours, dev = pins(profile), pins("dev")
    assert {n: v for n, v in ours.items() if n in dev} == {
        n: v for n, v in dev.items() if n in ours
    }


@pytest.mark.parametrize("name", ["env", "cpu", "gpu", "dev"])
def test_every_requirement_is_pinned(name: str) -> None:
    assert direct(name) <= set(pins(name))


def test_the_server_needs_no_torch_and_the_cpu_no_cuda() -> None:
    assert "torch" not in pins("env")
    assert not [n for n in pins("cpu") if re.match(r"nvidia|cuda|triton", n)]


@pytest.mark.parametrize(("extra", "name"), [("train", "cpu"), ("gpu", "gpu"), ("dev", "dev")])
def test_an_extra_asks_for_what_its_requirements_file_asks_for(extra: str, name: str) -> None:
    project = PYPROJECT["project"]
    asked = {package(r) for r in project["optional-dependencies"][extra]}
    base = {package(r) for r in project["dependencies"]}
    assert base == direct("env")
    assert asked == direct(name) - base
