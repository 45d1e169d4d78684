"""From a recipe's file and `-o` overrides to a checked `Config`, with errors that say which line or option is wrong."""

from __future__ import annotations

import copy
import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from passl_simsiam.config.schema import Config
from passl_simsiam.config.yaml12 import parse
from passl_simsiam.errors import UserError, suggest
from passl_simsiam.registry import describe

Places = dict[str, str]


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a recipe.

    Args:
        path: a YAML file; `_base_: other.yaml` in it names one file, relative to it, that it changes.
        overrides: `Section.key=value`, the value read as YAML, list items by index; later ones win.

    Raises:
        UserError: anything wrong with the file, the overrides or the values, in one line that names the place.
    """
    raw, places = _read(Path(path), seen=())
    for override in overrides:
        _apply(raw, override, places)
    _refuse_none_strings(raw, "", places)
    _inherit_dataset(raw)
    try:
        # As JSON, because strict mode then still takes a YAML list for a tuple, but no "3" for a 3.
        return Config.model_validate_json(json.dumps(raw), strict=True)
    except ValidationError as error:
        raise UserError(_explain(error, raw, places, str(path))) from error


def to_yaml(config: Config) -> str:
    """The resolved recipe as YAML; `load_config` reads it back to an equal `Config`."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _read(path: Path, seen: tuple[Path, ...]) -> tuple[dict[str, Any], Places]:
    """A file merged over its base, and where each key was said."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(_missing(path)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a recipe: {error}") from error
    data, places = parse(text, str(path))
    if not isinstance(data, dict):
        raise UserError(f"{path}: a recipe is a mapping of sections, but this file holds {describe(data)}")
    base = data.pop("_base_", None)
    if base is None:
        return data, places
    if not isinstance(base, str):
        raise UserError(f"{places['_base_']}: _base_ takes one file name, got {describe(base)}")
    base_path = path.parent / base
    if base_path.resolve() in [p.resolve() for p in (*seen, path)]:
        raise UserError(f"{places['_base_']}: _base_ {base!r} leads back to itself")
    base_data, base_places = _read(base_path, (*seen, path))
    return merge(base_data, data), {**base_places, **places}


def _missing(path: Path) -> str:
    recipes = sorted(p.name for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
    if not recipes:
        return f"{path}: no such file" + ("" if path.parent.is_dir() else f", and no such folder as {path.parent}")
    close = difflib.get_close_matches(path.name, recipes, n=1)
    intent = f"did you mean {path.parent / close[0]}? " if close else ""
    return f"{path}: no such file; {intent}recipes there: {', '.join(recipes)}"


def merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """`base` with `change` over it, key by key; a node of another `name` replaces the whole node."""
    if "name" in base and "name" in change and base["name"] != change["name"]:
        return copy.deepcopy(change)
    result = dict(base)
    for key, value in change.items():
        old = result.get(key)
        result[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else copy.deepcopy(value)
    return result


def _apply(raw: dict[str, Any], override: str, places: Places) -> None:
    """Set one `Section.key=value` in `raw`. A key no schema or constructor knows is refused later, by their check."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    where = f"-o {override}"
    if not equals or not all(parts):
        raise UserError(f"{where}: an override is Section.key=value, for instance Global.epochs=5")
    value, _ = parse(text, where)
    node: Any = raw
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if isinstance(node, list):
            if not part.isdigit() or int(part) >= len(node):
                raise UserError(
                    f"{where}: {'.'.join(parts[:depth])} is a list of {len(node)}; its items are 0 to {len(node) - 1}"
                )
            part = int(part)  # type: ignore[assignment]
        elif not isinstance(node, dict):
            raise UserError(f"{where}: {'.'.join(parts[:depth])} is {describe(node)}: it has no keys")
        if last:
            node[part] = value
        elif isinstance(node, dict) and node.get(part) is None:
            node[part] = {}
        if not last:
            node = node[part]
    stale = [place for place in places if place == key or place.startswith(key + ".")]
    for place in stale:
        del places[place]
    places[key] = where


def _refuse_none_strings(node: Any, prefix: str, places: Places) -> None:
    """Python's None written in YAML is the string "None", which no argument here can mean."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        path = f"{prefix}.{key}" if prefix else str(key)
        if value == "None":
            raise UserError(f"{_place(path, places)}{path}: 'None' is a string in YAML; nothing is written null")
        _refuse_none_strings(value, path, places)


def _inherit_dataset(raw: dict[str, Any]) -> None:
    """Let DataLoader.Eval.dataset take from DataLoader.Train.dataset what it does not say (see the schema)."""
    try:
        train, evaluation = (raw["DataLoader"][split]["dataset"] for split in ("Train", "Eval"))
        if evaluation.get("name", train["name"]) == train["name"]:
            inherited = {key: value for key, value in train.items() if key not in ("transform", "subset")}
            raw["DataLoader"]["Eval"]["dataset"] = {**inherited, **evaluation}
    except (KeyError, TypeError, AttributeError):
        return  # a section is missing or malformed: the schema's check says so


def _place(path: str, places: Places) -> str:
    """Where `path` was said, or else the first thing in it, or the nearest node around it; as a message's prefix."""
    inside = (place for key, place in places.items() if key.startswith(path + "."))
    while path:
        place = places.get(path) or next(inside, None)
        if place:
            return f"{place}: "
        path = path.rpartition(".")[0]
    return ""


def _explain(error: ValidationError, raw: dict[str, Any], places: Places, source: str) -> str:
    """The first problem as one line: unknown keys first, since a misspelt key also makes a required one missing."""
    problem = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    location = [str(part) for part in problem["loc"] if str(part) != "[key]"]
    path, key = ".".join(location), location[-1] if location else ""
    place = _place(path, places) or f"{source}: "
    if problem["type"] == "extra_forbidden":
        parent = _section_at(location[:-1])
        kind = "section" if len(location) == 1 else "key"
        choices = suggest(key, parent.model_fields) if parent else ""
        return f"{place}{path}: unknown {kind} {key!r}; {choices}"
    if problem["type"] == "missing":
        kind = "section" if len(location) == 1 else "key"
        return f"{place}{path}: this {kind} is needed, and the recipe does not give it"
    return f"{place}{path}: {describe(problem['input'])} is not valid: {problem['msg']}"


def _section_at(location: Sequence[str]) -> type[BaseModel] | None:
    """The schema's class for the section at `location`."""
    section: type[BaseModel] = Config
    for part in location:
        field = section.model_fields.get(part)
        if field is None:
            return None
        annotation = field.annotation
        candidates = [annotation, *get_args(annotation), *(a for g in get_args(annotation) for a in get_args(g))]
        found = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not found:
            return None
        section = found[0]
    return section
