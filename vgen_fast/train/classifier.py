"""Trains a classifier of clips, for scores that need one and have no published weights at hand.

Which clips a step sees, and what dropout leaves out of it, are functions of (seed, clips seen): a run that is continued
ends with the same weights.

Legend: B clips, A labels a clip, K classes.
"""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.journal import replace_durably
from ..nets.trained import Trained
from . import seeding
from .loop import Batches

STATE = "state.pt"


@dataclass(frozen=True)
class Plan:
    clips: int
    batch: int
    rate: float  # falls to 0 along half a cosine
    decay: float  # of the weights
    largest: float = 5.0  # norm of a gradient; longer ones are shortened
    seed: int = 0


def drawn(network: nn.Module) -> nn.Module:
    """Weights as He et al. draw them: without norms, torch's own would fade from layer to layer."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    return network


class Fit:
    """The state of a run; `go` trains it to the end, a step at a time."""

    def __init__(self, classifier: Trained, plan: Plan, label: int):
        self.classifier, self.plan, self.label, self.clips_seen = classifier, plan, label, 0
        self.optimizer = torch.optim.AdamW(classifier.parameters(), plan.rate, weight_decay=plan.decay)

    def go(self, batches: Batches) -> Iterator[tuple[int, float, float]]:
        """After each step: clips seen, its loss and its share of right answers."""
        plan, network = self.plan, self.classifier.train()
        while self.clips_seen < plan.clips:
            for group in self.optimizer.param_groups:
                group["lr"] = plan.rate * (1 + math.cos(math.pi * self.clips_seen / plan.clips)) / 2
            torch.manual_seed(seeding.derived(plan.seed, "classifier", self.clips_seen))
            video, labels = batches(torch.arange(self.clips_seen, self.clips_seen + plan.batch), network.facts.size)
            wanted = labels[:, self.label]
            logits = network(video)
            loss = F.cross_entropy(logits, wanted)
            if not loss.isfinite():
                raise FloatingPointError(f"the loss of the classifier is {loss.item()} after {self.clips_seen} clips")
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), plan.largest)
            self.optimizer.step()
            self.clips_seen += plan.batch
            yield self.clips_seen, float(loss.detach()), float((logits.argmax(dim=1) == wanted).float().mean())

    def save(self, folder: Path) -> None:
        """One file, replaced as a whole."""
        out = io.BytesIO()
        state = {"network": self.classifier.inner.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(state | {"clips_seen": self.clips_seen}, out)
        replace_durably(folder / STATE, out.getvalue())

    def restore(self, folder: Path) -> bool:
        """Whether there was something to go on with."""
        if not (folder / STATE).exists():
            return False
        state = torch.load(folder / STATE, weights_only=True)
        self.classifier.inner.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.clips_seen = state["clips_seen"]
        return True


@torch.no_grad()
def answers(classifier: Trained, batches: Batches, count: int, label: int, batch: int = 64) -> tuple[Tensor, Tensor]:
    """Probabilities [count, K] and labels [count] of clips by their position."""
    classifier.eval()
    found = []
    for positions in torch.arange(count).split(batch):
        video, labels = batches(positions, classifier.facts.size)
        found.append((classifier(video).softmax(dim=1), labels[:, label]))
    probabilities, wanted = zip(*found, strict=True)
    return torch.cat(probabilities), torch.cat(wanted)


def accuracy(classifier: Trained, batches: Batches, count: int, label: int) -> float:
    probabilities, wanted = answers(classifier, batches, count, label)
    return float((probabilities.argmax(dim=1) == wanted).double().mean())
