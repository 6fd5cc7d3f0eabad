"""Options from models: names, kinds, refusals in one sentence."""

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from vgen_fast.options import Refused, changed, help_text, options_of, parse


class Inner(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    learning_rate: float = Field(0.1, gt=0)
    """How far a step goes."""
    betas: tuple[float, float] = (0.0, 0.9)


@dataclass(frozen=True)
class Part:
    share: tuple[float, float] = (1.0, 2.0)


@dataclass(frozen=True)
class Square:
    name: Literal["square"] = "square"
    side: int = 3
    streams: Literal[1, 2] = 2
    rows: tuple[int, ...] = (1, 2)
    part: Part = Part()

    def __post_init__(self):
        if self.side % 2 == 0:
            raise ValueError(f"side {self.side} is even")


@dataclass(frozen=True)
class Disc:
    name: Literal["disc"] = "disc"
    radius: float | None = None


class Outer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    size: int = 3
    """How large."""
    name: str | None = None
    fast: bool = False
    kind: Literal["a", "b"] = "a"
    table: tuple[int, ...] = (1, 2)
    optim: Inner = Inner()
    system: Annotated[Square | Disc, Field(discriminator="name")] = Square()


OPTIONS = list(options_of(Outer()))


def given(*words):
    return changed(Outer(), parse(list(words), OPTIONS))


def test_plain_fields_have_options_and_tables_have_none():
    names = [option.name for option in OPTIONS]
    of_system = ["--system.side", "--system.streams", "--system.part.share"]
    assert names == ["--size", "--name", "--fast", "--kind", "--optim.learning-rate", "--optim.betas", *of_system]
    assert [option.name for option in options_of(Outer(system=Disc()))][-1] == "--system.radius"
    assert OPTIONS[-1].help == "See tests/test_options.py."


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ([], Outer()),
        (["--size", "5"], Outer(size=5)),
        (["--size=5", "--fast"], Outer(size=5, fast=True)),
        (["--no-fast", "--name", "x y"], Outer(name="x y")),
        (["--name=a=b"], Outer(name="a=b")),
        (["--optim.learning-rate", "2", "--kind", "b"], Outer(kind="b", optim=Inner(learning_rate=2))),
        (["--optim.betas", "0.5", "0.7"], Outer(optim=Inner(betas=(0.5, 0.7)))),
        (["--system.side", "5", "--system.streams", "1"], Outer(system=Square(side=5, streams=1))),
        (["--system.part.share", "3", "4"], Outer(system=Square(part=Part((3.0, 4.0))))),
    ],
)
def test_words_change_their_field_and_no_other(words, wanted):
    assert given(*words) == wanted


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--sise", "5"], "there is no option --sise; the nearest is --size"),
        (["--siz", "5"], "there is no option --siz; the nearest is --size"),
        (["5"], "'5' follows no option"),
        (["--size"], "--size wants INT, got nothing"),
        (["--size", "--fast"], "--size wants INT, got nothing"),
        (["--size", "1", "2"], "'2' follows no option"),
        (["--size", "x"], "--size should be a valid integer"),
        (["--fast=1"], "--fast takes no value"),
        (["--fast", "--no-fast"], "is given twice"),
        (["--kind", "c"], "--kind should be 'a' or 'b', got 'c'"),
        (["--optim.betas", "0.5"], "--optim.betas wants FLOAT FLOAT, got 0.5"),
        (["--optim.learning-rate", "0"], "--optim.learning-rate should be greater than 0"),
        (["--table", "3"], "there is no option --table"),
        (["--system.sied", "3"], "there is no option --system.sied; the nearest is --system.side"),
        (["--system.rows", "3"], "there is no option --system.rows"),
        (["--system.name", "disc"], "there is no option --system.name"),
        (["--system.side", "x"], "--system.side should be a valid integer"),
        (["--system.streams", "3"], "--system.streams should be 1 or 2, got '3'"),
        (["--system.side", "4"], "side 4 is even"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(words, sentence):
    with pytest.raises(Refused) as refused:
        given(*words)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_help_has_every_option_with_its_kind_default_and_text():
    text = help_text("run", "Intro.", OPTIONS, "examples:\n  run --size 4")
    for part in ("--size INT", "How large. (default: 3)", "--kind {a,b}", "--optim.betas FLOAT FLOAT", "--fast\n"):
        assert part in text
    assert text.endswith("run --size 4")
