"""Looking components up and checking their arguments."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import Field

from passl_simsiam.errors import UserError
from passl_simsiam.registry import BACKBONES, Registry

SHAPES = Registry("shape", home=(), supplied=("where",))


@SHAPES.register
class Circle:
    def __init__(
        self,
        where: str,
        radius: Annotated[float, Field(gt=0)],
        colour: Literal["red", "blue"] = "red",
        dashes: tuple[int, ...] = (),
    ) -> None:
        self.radius = radius


def refusal(arguments: dict[str, object], name: str = "Circle") -> str:
    with pytest.raises(UserError) as caught:
        SHAPES.check(name, arguments, "Picture.shape")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_checked_arguments_have_the_annotated_types() -> None:
    assert SHAPES.check("Circle", {"radius": 2, "dashes": [1, 2]}, "x") == {"radius": 2.0, "dashes": (1, 2)}


def test_unknown_name_lists_choices_and_intent() -> None:
    message = refusal({}, name="circel")
    assert message.startswith("Picture.shape.name: unknown shape 'circel'; did you mean 'Circle'?")


def test_unknown_argument_names_the_likely_one() -> None:
    message = refusal({"radius": 1, "color": "red"})
    assert "Picture.shape.color: Circle takes no argument 'color'; did you mean 'colour'?" in message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"radius": "2"}, "Picture.shape.radius: '2' (string) is not valid for Circle"),
        ({"radius": -1.0}, "Picture.shape.radius: -1.0 (number)"),
        ({"radius": True}, "Picture.shape.radius: True (boolean)"),
        ({"radius": 1, "colour": "green"}, "'red' or 'blue'"),
        ({"radius": 1, "dashes": [1, "x"]}, "Picture.shape.dashes.1: 'x' (string)"),
        ({}, "Picture.shape.radius: Circle needs this argument"),
        ({"radius": 1, "where": "here"}, "Circle takes no argument 'where'"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], words: str) -> None:
    assert words in refusal(arguments)


def test_incomplete_nodes_pass_where_the_builder_completes_them() -> None:
    assert SHAPES.check("Circle", {}, "x", complete=False) == {}
    with pytest.raises(UserError, match="colour"):
        SHAPES.check("Circle", {"colour": "green"}, "x", complete=False)


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="twice"):
        SHAPES.register(Circle)


def test_third_party_component_by_module(tmp_path, monkeypatch) -> None:
    (tmp_path / "my_shapes.py").write_text("class Square:\n    def __init__(self, side: int = 1): self.side = side\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert SHAPES.get("my_shapes:Square")(3).side == 3
    assert SHAPES.check("my_shapes:Square", {"side": 2}, "x") == {"side": 2}
    with pytest.raises(UserError, match="Squares"):
        SHAPES.get("my_shapes:Squares")
    with pytest.raises(UserError, match="no_such_module"):
        SHAPES.get("no_such_module:Square")


def test_annotations_that_cannot_be_resolved_check_names_only(tmp_path, monkeypatch) -> None:
    text = "import paddle\nclass Plain(paddle.nn.Layer):\n    pass\n"
    text += "def odd(side: 'Nowhere' = 1): return side\n"
    (tmp_path / "odd_shapes.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    assert SHAPES.check("odd_shapes:Plain", {}, "x") == {}
    assert SHAPES.check("odd_shapes:odd", {"side": 2}, "x") == {"side": 2}
    with pytest.raises(UserError, match="takes no argument 'sides'"):
        SHAPES.check("odd_shapes:odd", {"sides": 2}, "x")


def test_home_is_imported_at_the_first_look_up() -> None:
    assert {"ResNet18", "ResNet34", "ResNet50", "ResNet101", "ResNet152"} <= set(BACKBONES.names())
