"""The layouts that `data build --layout` reads: by name, what lists a data set's videos."""

from . import (
    bair,
    cached,
    faceforensics,
    folder,
    kinetics,
    landscape,
    moving_mnist,
    sky,
    strips,
    tinyvideo,
    ucf101,
)
from .sources import Index

LAYOUTS: dict[str, Index] = {
    "folder": folder.index,
    "pictures": folder.single,
    "strips": strips.index,
    "ucf101": ucf101.index,
    "kinetics": kinetics.index,
    "bair": bair.index,
    "sky": sky.index,
    "landscape": landscape.index,
    "tinyvideo": tinyvideo.index,
    "faceforensics": faceforensics.index,
    "moving-mnist": moving_mnist.index,
    "cache": cached.index,
}
