"""A cache as a data set: to leave clips out of it, to split it, or to make its pictures or clips smaller."""

from functools import lru_cache
from pathlib import Path

import numpy as np

from .cache import Cache, Clip, read_index
from .sources import Listing, Source


@lru_cache(maxsize=2)
def opened(root: Path) -> tuple[Cache, dict[str, list]]:
    return Cache(root), read_index(root)["clips"]


def index(root: Path, split: str | None = None) -> Listing:
    cache, clips = opened(root)
    mine = cache.of(split).tolist()
    sources = (Source(clips["id"][i], ".", "clip", i, label=clips["label"][i], split=clips["split"][i]) for i in mine)
    return Listing(tuple(sources), cache.labels)


def clip(root: Path, number: int) -> tuple[Clip, np.ndarray]:
    """What is known of a clip, and its frames."""
    cache, clips = opened(root)
    known = {name: clips[name][number] for name in Clip.__dataclass_fields__ if name in clips}
    return Clip(**known), cache.read(number)
