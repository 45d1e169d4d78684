"""YAML as people expect it: PyYAML's safe loader, with the scalars of YAML 1.2 and with places for error messages."""

from __future__ import annotations

import re
from typing import Any

import yaml

from passl_simsiam.errors import UserError


class Loader(yaml.SafeLoader):
    """PyYAML follows YAML 1.1: `1e-4` is a string, `off` false and `1:30` 90. Here it is a number, and strings."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  a class attribute of PyYAML's, replaced whole

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is there twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9][0-9_]*", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("merge", r"<<", "<"),
):
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))


def _construct_float(loader: Loader, node: yaml.ScalarNode) -> float:
    return float(loader.construct_scalar(node).lower().replace(".inf", "inf").replace(".nan", "nan"))


def _construct_int(loader: Loader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))


Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)
Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def parse(text: str, source: str) -> tuple[Any, dict[str, str]]:
    """Read YAML text.

    Returns:
        The data, and for each dotted key ("Global.epochs", "Evaluation.ks.0") its place as "source:line".

    Raises:
        UserError: broken YAML, with line and column.
    """
    loader = Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, {}
        places: dict[str, str] = {}
        _collect_places(node, "", source, places)
        return loader.construct_document(node), places
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"{place}: broken YAML: {problem}") from error
    finally:
        loader.dispose()


def _collect_places(node: yaml.Node, prefix: str, source: str, places: dict[str, str]) -> None:
    if prefix:
        places[prefix] = f"{source}:{node.start_mark.line + 1}"
    children: list[tuple[str, yaml.Node, yaml.Node]] = []
    if isinstance(node, yaml.MappingNode):
        children = [(str(key.value), key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        children = [(str(i), value, value) for i, value in enumerate(node.value)]
    for name, at, value in children:
        path = f"{prefix}.{name}" if prefix else name
        _collect_places(value, path, source, places)
        places[path] = f"{source}:{at.start_mark.line + 1}"
