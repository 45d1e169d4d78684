"""The architecture, held by its imports: they go down only, and only few modules know the config or Paddle."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

LAYERS = [
    {"errors", "registry", "runtime", "watchdog", "distributed", "log"},
    {"config"},
    {"models", "data", "optim", "checkpoint", "evaluation"},
    {"engine", "build", "zoo", "export"},
    {"tasks"},
    {"api", "commands"},
]
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}
#: Beside the layers below them, foundations may use each other in this order.
FOUNDATIONS = ["errors", "registry", "runtime", "watchdog", "distributed", "log"]
COMMANDS = sorted(path.stem for path in Path(__file__).parents[1].glob("passl_simsiam/commands/*.py"))
MODULES = sorted(Path(__file__).parents[1].joinpath("passl_simsiam").rglob("*.py"))


def part_of(path: Path) -> str:
    relative = path.relative_to(Path(__file__).parents[1] / "passl_simsiam")
    return relative.parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The parts of the project that a module imports anywhere, for type checking too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("passl_simsiam"):
            dotted = (node.module or "").split(".")
            found |= {dotted[1]} if len(dotted) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("passl_simsiam.")}
    return {name for name in found if name in LEVEL}


@pytest.mark.parametrize("path", [p for p in MODULES if part_of(p) != "__init__"], ids=lambda p: str(p.name))
def test_imports_go_down_only(path: Path) -> None:
    part = part_of(path)
    assert part in LEVEL, f"{part} has no place in the architecture: give it one here"
    for other in imported(path) - {part}:
        if part in FOUNDATIONS and other in FOUNDATIONS:
            assert FOUNDATIONS.index(other) < FOUNDATIONS.index(part), f"{path.name} imports {other}"
        else:
            assert LEVEL[other] < LEVEL[part], f"{path.name} imports {other}, which is not below it"


def test_only_build_tasks_and_commands_know_the_config() -> None:
    knowing = {part_of(path) for path in MODULES if "config" in imported(path)} - {"config"}
    assert knowing <= {"build", "tasks", "commands"}


@pytest.mark.parametrize(
    "module",
    [
        "passl_simsiam",
        *(f"passl_simsiam.commands.{name}" for name in COMMANDS),
        "passl_simsiam.data",
        "passl_simsiam.config",
    ],
)
def test_light_modules_import_no_paddle(module: str) -> None:
    heavy = "paddle" if module == "passl_simsiam.data" else "paddle cv2 sklearn matplotlib visualdl"
    code = f"import {module}, sys; print([m for m in '{heavy}'.split() if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
