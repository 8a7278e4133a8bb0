"""Tables that come from outside, as frozen dataclasses. pydantic checks them, and is imported when one is checked.

So a process that gets its tables from another one, checked and pickled, saves the 16 MB and 200 ms of pydantic.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from inspect import cleandoc
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, dataclass_transform

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")

_adapters: dict[type[Any], TypeAdapter[Any]] = {}


class Is:
    """In an annotation: what a value is, in words for the schema, and its limits as `pydantic.Field` names them."""

    __is_annotated_types_grouped_metadata__ = True  # what this iterates over stands in its place (annotated_types)

    def __init__(self, words: str | None = None, /, **limits: Any) -> None:
        self._words, self._limits = words, limits

    def __iter__(self) -> Iterator[object]:
        from pydantic import Field

        yield Field(description=self._words, **self._limits)


class Check:
    """In an annotation: a function that gives the value back or raises ValueError."""

    __is_annotated_types_grouped_metadata__ = True

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function

    def __iter__(self) -> Iterator[object]:
        from pydantic import AfterValidator

        yield AfterValidator(self._function)


def _describe(schema: dict[str, Any], kind: type[Any]) -> None:
    schema["description"] = cleandoc(kind.__doc__ or "")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def table(kind: type[T]) -> type[T]:
    """Make a dataclass of a Table, frozen and with keywords only. It compares and shows itself by Table's own methods:
    code made anew for each of forty classes was a good part of a start."""
    return dataclass(frozen=True, kw_only=True, eq=False, repr=False)(kind)


@table
class Table:
    """What a table of a file is made from: it refuses keys that it does not have, and numbers that are none.

    Keys that don't fit each other are a ValueError of `__post_init__`, whoever makes the table; each key by itself
    is looked at only by `checked`.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = {
        "extra": "forbid",
        "allow_inf_nan": False,
        "json_schema_extra": _describe,
    }

    def values(self, without: Collection[str] = ()) -> dict[str, Any]:
        """Its keys and what stands there, tables below it as they are."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name not in without}

    def __eq__(self, other: object) -> bool:
        return self.values() == other.values() if type(self) is type(other) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self.values().values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in self.values().items())})"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a tree."""

    kind: str  # pydantic's name of it: "missing", "unexpected_keyword_argument", "value_error"
    path: tuple[int | str, ...]  # keys and positions, between them the tags of unions
    message: str  # pydantic's words; "Value error, ..." where a Check or __post_init__ raised one
    value: Any  # what stands there; where a key is missing or keys don't fit each other, their table
    context: Mapping[str, Any]


class Unfit(Exception):
    """A tree does not make the table; `faults` is all that is wrong with it."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("\n".join(f"{'.'.join(map(str, fault.path))}: {fault.message}" for fault in faults))
        self.faults = faults


def checked(kind: type[T], tree: object) -> T:
    """The table that a parsed tree makes. Raises Unfit."""
    from pydantic import ValidationError

    try:
        table: T = _adapter(kind).validate_python(tree)
    except ValidationError as error:
        raise Unfit([_fault(found) for found in error.errors(include_url=False)]) from error
    return table


def json_schema(kind: type[Table]) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a table and all that is below it."""
    return _adapter(kind).json_schema()


def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]


def _fault(found: Mapping[str, Any]) -> Fault:
    kind, context, message = found["type"], found.get("ctx", {}), found["msg"]
    if kind == "unexpected_keyword_argument":  # a table is no call
        message = "Extra inputs are not permitted"
    if kind == "dataclass_type":
        message = f"Input should be a valid dictionary or instance of {context['class_name']}"
    return Fault(kind, found["loc"], message, found["input"], context)
