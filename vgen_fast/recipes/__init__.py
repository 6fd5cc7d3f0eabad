"""Recipes by name: functions that return a Config; the docstring says what it trains, what it costs, what to expect."""

from collections.abc import Callable

from ..config import Config
from . import progressive, shapes

RECIPES: dict[str, Callable[[], Config]] = {
    "shapes": shapes.shapes,
    "shape-motion": shapes.shape_motion,
    "progressive-ucf101-128": progressive.ucf101_128,
    "progressive-golf-128": progressive.golf_128,
    "progressive-aeroplane-128": progressive.aeroplane_128,
    "progressive-trailerfaces-256": progressive.trailerfaces_256,
}
