"""A pickle interpreter that can build data and nothing else.

`pickle.Unpickler` with a restricted `find_class` still hashes, allocates and calls what a file asks for: nested tuples
as dictionary keys, arrays of any declared size, a memo index of two billion. Here `pickletools` splits the file into
operations, a table says what each may build, and budgets bound their number and the memory of their strings. Names in
the file are never imported: they are looked up in a table of our own functions.
"""

from __future__ import annotations

import io
import pickletools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

# A ResNet-152 with momentum needs about 100,000; at 1,000,000 a hostile file could take a few hundred MB.
MAX_OPERATIONS = 500_000


class Refused(ValueError):
    """What the file asks for is well-formed, but nothing that a weight file needs; the message says what."""


@dataclass(frozen=True)
class Name:
    """A global that the file mentions, `module.name`, as a value; nothing was imported."""

    path: str


@dataclass(frozen=True)
class Opaque:
    """An object of a known class that is of no interest here (settings of a trainer, say); its content is dropped."""

    path: str


class Buildable:
    """An object whose content arrives after it was made (BUILD)."""

    def build(self, state: Any) -> None:
        raise NotImplementedError


class Unpickler:
    """Reads pickles, one after the other, from `stream`.

    Args:
        stream: the file's bytes.
        size: their number.
        calls: `module.name` to the function that stands for it; called with the arguments in the file, which may be
            anything.
        names: what may appear as a value but not be called.
        ignored: prefixes of `module.name` whose objects become Opaque.
        persistent: makes the object of a persistent id; None refuses them.
    """

    def __init__(
        self,
        stream: io.BytesIO,
        size: int,
        calls: Mapping[str, Callable[..., Any]],
        names: frozenset[str] = frozenset(),
        ignored: tuple[str, ...] = (),
        persistent: Callable[[Any], Any] | None = None,
    ) -> None:
        self._stream, self._calls, self._names, self._ignored = stream, calls, names, ignored
        self._persistent = persistent
        self._operations_left = MAX_OPERATIONS
        # In memory a character takes up to four bytes: one emoji makes a 100 MB string 400 MB.
        self._text_left = 2 * size + (1 << 26)

    def load(self) -> Any:
        """The next object in the stream. Raises ValueError, Refused included, and what `calls` raise."""
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        for operation, argument, _ in pickletools.genops(self._stream):
            self._operations_left -= 1
            if self._operations_left < 0:
                raise Refused(f"it has more than {MAX_OPERATIONS:,} elements")
            if operation.name == "STOP":
                return self._stack.pop()
            if operation.name in _LITERALS:
                self._stack.append(self._literal(argument))
            elif operation.name in _CONSTANTS:
                self._stack.append(_CONSTANTS[operation.name]())
            elif operation.name in _ACTIONS:
                _ACTIONS[operation.name](self, argument)
            else:
                raise Refused(f"it uses the pickle operation {operation.name}")
        raise ValueError("it ends too early")

    def _literal(self, value: Any) -> Any:
        if isinstance(value, str):
            self._text_left -= sys.getsizeof(value)
            if self._text_left < 0:
                raise Refused("its texts take many times the file's size")
        return value

    def _mark(self, _: Any) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _to_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _tuple(self, count: int) -> None:
        if len(self._stack) < count:
            raise ValueError("a tuple lacks items")
        self._stack[-count:] = [tuple(self._stack[-count:])]

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Opaque):
            raise ValueError("items for something that is no list")

    def _add(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, set):
            target.update(map(plain_key, items))
        elif not isinstance(target, Opaque):
            raise ValueError("items for something that is no set")

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, dict) and len(items) % 2 == 0:
            for key, value in zip(items[::2], items[1::2], strict=True):
                target[plain_key(key)] = value
        elif not isinstance(target, Opaque):
            raise ValueError("items for something that is no dictionary")

    def _dict(self) -> None:
        items = self._to_mark()
        self._stack.append({})
        self._set_items(items)

    def _global(self, path: str) -> None:
        if path in self._calls or path in self._names:
            self._stack.append(Name(path))
        elif path.startswith(self._ignored):
            self._stack.append(Opaque(path))
        else:
            raise Refused(f"it refers to {path[:80]!r}, for which a weight file has no use; nothing was run")

    def _stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("a global's name is no text")
        self._global(f"{module}.{name}")

    def _call(self, keywords: bool = False) -> None:
        if keywords and self._stack.pop() != {}:
            raise Refused("it makes an object with keyword arguments")
        arguments, function = self._stack.pop(), self._stack.pop()
        if isinstance(function, Opaque):
            self._stack.append(function)
        elif isinstance(function, Name) and function.path in self._calls and isinstance(arguments, tuple):
            self._stack.append(self._calls[function.path](*arguments))
        else:
            raise ValueError("a call of something that is no function")

    def _build(self) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, Buildable):
            target.build(state)
        elif not isinstance(target, dict | Opaque):  # an OrderedDict's attributes (torch's _metadata) are not needed
            raise ValueError("a state for something that takes none")

    def _persistent_id(self, identity: Any) -> None:
        if self._persistent is None:
            raise Refused("it refers to data outside the file")
        self._stack.append(self._persistent(identity))

    def _memoize(self, index: int | None) -> None:
        self._memo[len(self._memo) if index is None else index] = self._stack[-1]


def plain_key(value: Any) -> Any:
    """`value` if hashing it is cheap: nested tuples take exponential time, huge integers collide at will."""
    if isinstance(value, str | bytes | Name | Opaque | None) or (isinstance(value, int) and abs(value) < 1 << 60):
        return value
    raise Refused(f"it has a dictionary's key of type {type(value).__name__}")


_LITERALS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
}  # fmt: skip
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_ACTIONS: dict[str, Callable[[Unpickler, Any], Any]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "MARK": Unpickler._mark,
    "POP": lambda machine, _: machine._stack.pop(),
    "POP_MARK": lambda machine, _: machine._to_mark(),
    "DUP": lambda machine, _: machine._stack.append(machine._stack[-1]),
    "TUPLE": lambda machine, _: machine._push(tuple(machine._to_mark())),
    "TUPLE1": lambda machine, _: machine._tuple(1),
    "TUPLE2": lambda machine, _: machine._tuple(2),
    "TUPLE3": lambda machine, _: machine._tuple(3),
    "LIST": lambda machine, _: machine._push(machine._to_mark()),
    "DICT": lambda machine, _: machine._dict(),
    "FROZENSET": lambda machine, _: machine._push(frozenset(map(plain_key, machine._to_mark()))),
    "APPEND": lambda machine, _: machine._extend([machine._stack.pop()]),
    "APPENDS": lambda machine, _: machine._extend(machine._to_mark()),
    "ADDITEMS": lambda machine, _: machine._add(machine._to_mark()),
    "SETITEM": lambda machine, _: machine._set_items([machine._stack.pop(-2), machine._stack.pop()]),
    "SETITEMS": lambda machine, _: machine._set_items(machine._to_mark()),
    "GLOBAL": lambda machine, path: machine._global(path.replace(" ", ".", 1)),
    "STACK_GLOBAL": lambda machine, _: machine._stack_global(),
    "REDUCE": lambda machine, _: machine._call(),
    "NEWOBJ": lambda machine, _: machine._call(),
    "NEWOBJ_EX": lambda machine, _: machine._call(keywords=True),
    "BUILD": lambda machine, _: machine._build(),
    "PERSID": Unpickler._persistent_id,
    "BINPERSID": lambda machine, _: machine._persistent_id(machine._stack.pop()),
    "PUT": Unpickler._memoize,
    "BINPUT": Unpickler._memoize,
    "LONG_BINPUT": Unpickler._memoize,
    "MEMOIZE": Unpickler._memoize,
    "GET": lambda machine, index: machine._stack.append(machine._memo[index]),
    "BINGET": lambda machine, index: machine._stack.append(machine._memo[index]),
    "LONG_BINGET": lambda machine, index: machine._stack.append(machine._memo[index]),
}
