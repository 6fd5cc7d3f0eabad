"""Anybody's functions, by name: `package.module:function`."""

import importlib
from collections.abc import Callable


class BadPlug(ValueError):
    """A function that was plugged in cannot be had, or gives something else than it should."""


def plugged(name: str, known: dict[str, Callable]) -> Callable:
    """What one of ours makes, or `package.module:function`."""
    if name in known:
        return known[name]()
    module, colon, function = name.partition(":")
    if not colon:
        raise BadPlug(f"{name!r} is neither {' nor '.join(known)} nor package.module:function")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise BadPlug(f"{name!r} cannot be imported: {error}") from error
