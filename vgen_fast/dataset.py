"""The clips that a run is trained on, from its configuration."""

from collections.abc import Callable
from pathlib import Path

from .config import Config
from .data.cache import BadCache, Cache
from .data.loader import CachedClips, Window
from .data.pool import Holes
from .data.sources import NoDataSet
from .data.strips import Strips
from .data.synthetic import MovingShapes
from .options import refuse
from .train import report
from .train.loop import Batches


def dataset(
    config: Config, complain: Callable[[str], None] = report.complain, size: tuple[int, int, int] | None = None
) -> Batches:
    """By position in the endless stream of clips, of the size of the system's without another one."""
    clips, labels = opened(config, complain, size)
    if config.system.classes and config.system.classes != labels:
        have, want = (", ".join(map(str, counts)) or "no" for counts in (labels, config.system.classes))
        refuse(f"{config.data} has {have} classes, the system {want}")
    return clips


def opened(
    config: Config, complain: Callable[[str], None] = report.complain, size: tuple[int, int, int] | None = None
) -> tuple[Batches, tuple[int, ...]]:
    """The clips, and how many values each of their labels has."""
    size, path = size or config.system.sizes[-1], Path(config.data)
    if config.data != "shapes" and not path.is_dir():
        refuse(f'--data {config.data}: neither a folder nor "shapes"')
    try:
        if config.data == "shapes":
            clips = MovingShapes(size, config.seed)
            labels = tuple(len(values) for values in clips.labels.values())
        elif path.suffix == ".vgc":
            window = Window(size[0], config.strides, config.mirror, config.short, config.left, size[2])
            clips = CachedClips(Cache(path), window, config.seed, config.split)
            labels = tuple(len(values) for values in clips.labels.values())
            shown = (clips.cache.size[0], size[2]) if config.left else clips.cache.size
            if any(have % want for have, want in zip(shown, size[1:], strict=True)):
                have, want = ("x".join(map(str, pair)) for pair in (shown, size[1:]))
                refuse(f"{config.data} holds frames of {have}, no multiple of the system's {want}")
        else:
            clips = Strips(path, size, config.seed, complain, config.shrink)
            labels = (len(clips.classes),)
    except (NoDataSet, BadCache, Holes) as error:
        refuse(str(error))
    return clips, labels
