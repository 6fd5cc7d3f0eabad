"""Scores of a run while it trains: what `evaluate` measures with a classifier that was trained on its data."""

from collections.abc import Callable
from pathlib import Path

from . import sides
from .config import Config
from .metrics import presets
from .metrics.protocol import to_json
from .metrics.scores import Scores, features_folder
from .models.system import System
from .nets import trained
from .nets.weights import BadWeights


class Scoring:
    """Of an averaged generator at the last level, `config.scores.clips` of each side. The real ones are looked at once.

    The clips are those of `evaluate RUN --clips N`, so the numbers are too.
    """

    def __init__(self, config: Config):
        self.config, self.count = config, config.scores.clips
        classifier = trained.load(Path(config.scores.classifier))
        self.label, size = classifier.facts.label, config.system.sizes[-1]
        if classifier.facts.size[0] > size[0]:
            raise BadWeights(f"{classifier.name} takes {classifier.facts.size[0]} frames, this run makes {size[0]}")
        self.real = sides.of_its_data(config, 0, self.label)
        if self.real.there is not None and self.real.there < 2 * self.count:
            raise BadWeights(f"{self.real.about} has {self.real.there} clips, scores take twice {self.count}")
        metrics = presets.own(classifier, size, bool(config.system.classes), 0)
        self.names = tuple(metric.name for metric in metrics)
        self.scores = Scores(metrics, f"{self.real.about}/seed 0", features_folder())

    def __call__(
        self, system: System, clips_seen: int, go_on: Callable[[], None]
    ) -> tuple[dict[str, dict], dict[str, float]]:
        """The scores for a file, and of each valid one the amount. `go_on` is asked after each batch, and may raise."""
        ask = lambda done: go_on()  # noqa: E731
        if not self.scores.count["real"]:
            stream = self.real.stream()
            for side in ("real", "other"):
                sides.show(self.scores, side, stream, self.count, ask)
        self.scores.forget("fake")
        fake = sides.of_system(system, self.config, clips_seen, 0, self.label)
        sides.show(self.scores, "fake", fake.stream(), self.count, ask)
        found = self.scores.compute()
        return to_json(found), {name: score.amount for name, score in found.items() if not score.invalid}
