"""Command-line options from configuration models: one for each field that is a plain value, help from its docstring.

Nested models join by dots (--optim.generator-lr), and so do dataclasses, a system's (--system.latents), whose help is
the name of their file. Tables (rows of a network, phases of a schedule) belong to recipes and have no option, nor has a
system's name. Whatever is wrong with an option is said in one sentence, as a Refused.
"""

import difflib
import textwrap
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError


class Refused(ValueError):
    """A command line that cannot be carried out; the text says why in one sentence."""


@dataclass(frozen=True)
class Option:
    path: tuple[str, ...]  # of fields
    kind: Any  # the annotation, without None
    default: Any
    help: str

    @property
    def name(self) -> str:
        return "--" + ".".join(self.path).replace("_", "-")

    @property
    def values(self) -> int:
        """How many words follow; 0 for a switch."""
        if self.kind is bool:
            return 0
        return len(get_args(self.kind)) if get_origin(self.kind) is tuple else 1

    def shape(self) -> str:
        if get_origin(self.kind) is Literal:
            return "{" + ",".join(map(str, get_args(self.kind))) + "}"
        if self.values != 1:
            return " ".join(kind.__name__.upper() for kind in get_args(self.kind))
        return getattr(self.kind, "__name__", "value").upper()


def without_none(kind: Any) -> Any:
    kinds = [k for k in get_args(kind) if k is not type(None)] if get_origin(kind) in (Union, types.UnionType) else []
    kind = kinds[0] if len(kinds) == 1 else kind
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def plain(kind: Any) -> bool:
    if get_origin(kind) is tuple:
        return Ellipsis not in get_args(kind) and all(plain(k) for k in get_args(kind))
    return get_origin(kind) is Literal or (isinstance(kind, type) and issubclass(kind, (bool, int, float, str)))


def options_of(model: BaseModel, path: tuple[str, ...] = ()) -> Iterator[Option]:
    for name, field in type(model).model_fields.items():
        value, kind = getattr(model, name), without_none(field.annotation)
        if isinstance(value, BaseModel):
            yield from options_of(value, (*path, name))
        elif is_dataclass(value):
            yield from options_of_record(value, (*path, name))
        elif plain(kind):
            yield Option((*path, name), kind, value, field.description or "")


def options_of_record(record: object, path: tuple[str, ...]) -> Iterator[Option]:
    """Of a dataclass; without its name, which says which one it is."""
    told, hints = f"See {type(record).__module__.replace('.', '/')}.py.", get_type_hints(type(record))
    for name, value in vars(record).items():
        kind = without_none(hints[name])
        if is_dataclass(value):
            yield from options_of_record(value, (*path, name))
        elif plain(kind) and name != "name":
            yield Option((*path, name), kind, value, told)


def nearest(word: str, known: Iterable[str]) -> str:
    return difflib.get_close_matches(word, list(known), n=1, cutoff=0)[0]


def refuse(text: str) -> NoReturn:
    raise Refused(text)


def parse(words: list[str], options: list[Option]) -> dict[tuple[str, ...], Any]:
    """The values given, by field; words as typed, except switches."""
    known = {option.name: option for option in options}
    switches = {"--no-" + option.name[2:]: option for option in options if option.kind is bool}
    found: dict[tuple[str, ...], Any] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if not name.startswith("--"):
            refuse(f"{word!r} follows no option (--help lists them)")
        option = known.get(name) or switches.get(name)
        if option is None:
            refuse(f"there is no option {name}; the nearest is {nearest(name, [*known, *switches])}")
        if option.path in found:
            refuse(f"{name} is given twice")
        if option.kind is bool:
            if equals:
                refuse(f"{name} takes no value, got {value!r}; --no-{option.name[2:]} switches it off")
            found[option.path] = name in known
            continue
        taken = [value] if equals else []
        while len(taken) < option.values and rest and not rest[0].startswith("--"):
            taken.append(rest.pop(0))
        if len(taken) < option.values:
            refuse(f"{name} wants {option.shape()}, got {' '.join(taken) or 'nothing'}")
        found[option.path] = taken if get_origin(option.kind) is tuple else chosen(taken[0], option.kind)
    return found


def chosen(word: str, kind: Any) -> Any:
    """Of a Literal the value that is written so, which need not be a word."""
    return {str(value): value for value in get_args(kind)}.get(word, word) if get_origin(kind) is Literal else word


def changed(model: BaseModel, values: dict[tuple[str, ...], Any]) -> BaseModel:
    """The model with these fields set, validated again as a whole."""
    tree = model.model_dump()
    for path, value in values.items():
        place = tree
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value
    try:
        return type(model).model_validate(tree)
    except ValidationError as error:
        refuse(sentence(error, tree))


def sentence(error: ValidationError, tree: dict[str, Any]) -> str:
    """The first thing wrong with a configuration; of a whole system or all of it, what its own check says."""
    first = error.errors()[0]
    text = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    names, place = [], tree
    for part in first["loc"]:
        if not isinstance(place, dict) or part in place:  # else the tag of a union
            names.append(str(part))
            place = place[part]
    return f"--{'.'.join(names).replace('_', '-')} {text}, got {place!r}" if not isinstance(place, dict) else text


def help_text(usage: str, intro: str, options: list[Option], examples: str) -> str:
    lines = [f"usage: {usage}", "", intro, "", "options:"]
    for option in options:
        default = "" if option.default in (None, "") or option.kind is bool else f" (default: {option.default})"
        head = f"  {option.name} {option.shape()}" if option.kind is not bool else f"  {option.name}"
        lines.append(head)
        lines.extend(wrapped(" ".join(option.help.split()) + default))
    return "\n".join([*lines, "", examples])


def wrapped(text: str, width: int = 92) -> list[str]:
    return textwrap.wrap(text, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
