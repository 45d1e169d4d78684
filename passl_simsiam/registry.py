"""Names in recipes to the classes they stand for, and the check of a node's arguments against a constructor.

A component is registered where it is defined:

    @BACKBONES.register
    class ResNet18(ResNet): ...

and found by `BACKBONES.get("ResNet18")`, or, out of tree, by `BACKBONES.get("my_package.module:MyNet")`. A registry
imports the modules that define its components at the first look-up, so that `--help` pays for none of them.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from passl_simsiam.errors import UserError, suggest

Component = TypeVar("Component", bound=Callable[..., Any])


class Registry:
    """One kind of component.

    Args:
        kind: what error messages call it, for instance "backbone".
        home: the module or modules whose import registers the built-in components.
        supplied: constructor parameters that the builder passes itself (an input width, a number of steps); a recipe
            cannot set them.
    """

    def __init__(self, kind: str, home: str | Iterable[str], supplied: Iterable[str] = ()) -> None:
        self.kind = kind
        self.supplied = frozenset(supplied)
        self._home = (home,) if isinstance(home, str) else tuple(home)
        self._components: dict[str, Callable[..., Any]] = {}

    def register(self, component: Component) -> Component:
        """Class or function decorator: register it under its own name. Raises ValueError when the name is taken."""
        name = component.__name__
        if name in self._components:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._components[name] = component
        return component

    def names(self) -> list[str]:
        for module in self._home:
            importlib.import_module(module)
        return sorted(self._components)

    def get(self, name: str) -> Callable[..., Any]:
        """The component called `name`, or the object at `package.module:attribute`. Raises UserError."""
        if ":" in name:
            return self._import(name)
        names = self.names()
        if name not in names:
            raise UserError(
                f"unknown {self.kind} {name!r}; {suggest(name, names)}, or your own as package.module:Class"
            )
        return self._components[name]

    def _import(self, name: str) -> Callable[..., Any]:
        module_name, _, attribute = name.partition(":")
        try:
            component = getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise UserError(f"{self.kind} {name!r} cannot be imported: {error}") from error
        if not callable(component):
            raise UserError(f"{self.kind} {name!r} is not a class or function")
        return component

    def parameters(self, name: str) -> frozenset[str]:
        """The names of all parameters of the component's constructor, supplied ones included. Raises UserError."""
        return frozenset(inspect.signature(self.get(name)).parameters)

    def check(self, name: str, arguments: Mapping[str, Any], where: str, *, complete: bool = True) -> dict[str, Any]:
        """Check a node's arguments against the constructor's signature and type hints.

        Args:
            name: the component's name.
            arguments: the node without its `name`.
            where: the node's place in the recipe, for messages ("Model.backbone").
            complete: refuse a node that leaves out an argument without default.

        Returns:
            The arguments, converted to the annotated types (a YAML list to a tuple, for instance).

        Raises:
            UserError: for an unknown name, an unknown or missing argument, a wrong type or a value out of range.
        """
        try:
            component = self.get(name)
        except UserError as error:
            raise UserError(f"{where}.name: {error}") from error
        model = signature_model(component, self.supplied)
        try:
            # As JSON, because strict mode then still takes a YAML list for a tuple, but no "3" for a 3.
            checked = model.model_validate_json(json.dumps({_field(k): v for k, v in arguments.items()}), strict=True)
        except ValidationError as error:
            problems = [p for p in error.errors() if complete or p["type"] != "missing"]
            if problems:
                raise UserError(_explain(problems[0], name, model, where)) from error
            return dict(arguments)
        return {key: getattr(checked, _field(key)) for key in arguments}


def _field(parameter: str) -> str:
    """Pydantic reserves some field names (`schema`, `model_...`, `_...`); a prefix keeps every parameter usable."""
    return f"arg_{parameter}"


def signature_model(component: Callable[..., Any], supplied: frozenset[str] = frozenset()) -> type[BaseModel]:
    """A pydantic model with one strict field for each parameter of `component` that a recipe may set."""
    function = component.__init__ if inspect.isclass(component) else component
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError:
        # Annotations that only a type checker can resolve, as on the __init__ that a paddle.nn.Layer inherits.
        hints = {}
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(component).parameters.values():
        if parameter.name in supplied or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[_field(parameter.name)] = (hints.get(parameter.name, Any), default)
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False, protected_namespaces=())
    return create_model(getattr(component, "__name__", "component"), __config__=config, **fields)


def _explain(first: Mapping[str, Any], name: str, model: type[BaseModel], where: str) -> str:
    """One of pydantic's problems as one line."""
    path = [str(part) for part in first["loc"]]
    argument = path[0].removeprefix("arg_")
    place = ".".join([where, argument, *(part for part in path[1:] if part.isdigit())])
    if first["type"] == "extra_forbidden":
        choices = [field.removeprefix("arg_") for field in model.model_fields]
        return f"{place}: {name} takes no argument {argument!r}; {suggest(argument, choices)}"
    if first["type"] == "missing":
        return f"{place}: {name} needs this argument, and the recipe does not give it"
    return f"{place}: {describe(first['input'])} is not valid for {name}: {first['msg']}"


def describe(value: Any) -> str:
    """A recipe value with its YAML type, cut to a readable length, for error messages."""
    text = repr(value)
    text = text if len(text) <= 80 else text[:77] + "..."
    kinds = {str: "string", bool: "boolean", int: "integer", float: "number", list: "list", dict: "mapping"}
    return "null" if value is None else f"{text} ({kinds.get(type(value), type(value).__name__)})"


METHODS = Registry("method", "passl_simsiam.models", supplied=("backbone", "neck", "head"))
BACKBONES = Registry("backbone", "passl_simsiam.models", supplied=("image_size",))
NECKS = Registry("neck", "passl_simsiam.models", supplied=("in_channels",))
HEADS = Registry("head", "passl_simsiam.models", supplied=("in_channels",))
LOSSES = Registry("loss", "passl_simsiam.models")
OPTIMIZERS = Registry("optimizer", "passl_simsiam.optim", supplied=("groups",))
SCHEDULES = Registry("schedule", "passl_simsiam.optim", supplied=("base_rate", "epochs", "steps_per_epoch"))
DATASETS = Registry("dataset", "passl_simsiam.data")
TRANSFORMS = Registry("transform", "passl_simsiam.data")
