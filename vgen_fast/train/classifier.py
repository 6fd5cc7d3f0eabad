"""Trains a classifier of clips, for scores that need one and have no published weights at hand.

Which clips a step sees, and what dropout leaves out of it, are functions of (seed, clips seen): a run that is continued
ends with the same weights.

Legend: B clips, A labels a clip, K classes.
"""

import io
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from ..data.journal import replace_durably
from ..nets.trained import Trained
from . import seeding
from .loop import Batches
from .optimizers import SGD, Adam, AdamW

STATE = "state.pt"


@dataclass(frozen=True)
class Plan:
    clips: int
    batch: int
    rate: float
    decay: float  # of the weights
    largest: float = 5.0  # norm of a gradient; longer ones are shortened
    falls_every: int = 0  # steps after which the rate is a tenth; 0: it falls to 0 along half a cosine
    momentum: float | None = None  # of SGD, whose biases have twice the rate and no decay; None is AdamW
    betas: tuple[float, float] = (0.9, 0.999)  # of Adam
    coupled: bool = False  # Adam whose decay is added to the gradients, and of weights alone, in AdamW's place
    last: float = 1.0  # factor on the rate of the last layer
    augmented: bool = False  # every second clip mirrored, and a window of 7/8 of each
    seed: int = 0

    def rate_after(self, clips: int) -> float:
        if self.falls_every:
            return self.rate * 0.1 ** (clips // self.batch // self.falls_every)
        return self.rate * (1 + math.cos(math.pi * clips / self.clips)) / 2


# Of C3D, LRCN and VGAN's critic as their authors trained them, and of C3D as S1's augmentation study tunes it; frames
# are prepared as `trained.prepare` does it.
PLANS = {
    "own": Plan(6_000, 20, 1e-3, 1e-2),
    "c3d-finetune": Plan(20_000 * 30, 30, 1e-4, 5e-4, math.inf, 5_000, 0.9, augmented=True),
    "c3d-scratch": Plan(60_000 * 30, 30, 3e-3, 5e-3, math.inf, 20_000, 0.9, augmented=True),
    "c3d-augment": Plan(5_000 * 10, 10, 1e-4, 5e-4, math.inf, 5_000, coupled=True, last=10.0),
    "vgan": Plan(1_000 * 256, 256, 2e-4, 0.0, math.inf, 1_000, betas=(0.5, 0.999)),
    "lrcn": Plan(30_000 * 24, 24, 1e-3, 5e-3, 5.0, 10_000, 0.9, augmented=True),
}


def optimizer_of(network: nn.Module, plan: Plan) -> Optimizer:
    wanted = [(name, value) for name, value in network.named_parameters() if value.requires_grad]
    if plan.coupled:
        groups = []
        for name, value in wanted:
            decay = {"weight_decay": 0.0} if "bias" in name else {}
            groups.append({"params": [value], "factor": plan.last if "fc8." in name else 1.0, **decay})
        return Adam(groups, plan.rate, betas=plan.betas, weight_decay=plan.decay)
    if plan.momentum is None:
        return AdamW([value for _, value in wanted], plan.rate, betas=plan.betas, weight_decay=plan.decay)
    biases = [value for name, value in wanted if "bias" in name]
    others = [value for name, value in wanted if "bias" not in name]
    groups = [{"params": others, "factor": 1.0}, {"params": biases, "factor": 2.0, "weight_decay": 0.0}]
    return SGD(groups, plan.rate, momentum=plan.momentum, weight_decay=plan.decay)


def augmented(video: Tensor) -> Tensor:
    """A window of 7/8 of the height and width, somewhere, and every second clip, drawn at random, left to right."""
    height, width = (side - side // 8 for side in video.shape[3:])
    found = []
    for clip in video:
        top, left = (
            int(torch.randint(had - kept + 1, ())) for had, kept in zip(clip.shape[2:], (height, width), strict=True)
        )
        window = clip[:, :, top : top + height, left : left + width]
        found.append(window.flip(-1) if torch.rand(()) < 0.5 else window)
    return torch.stack(found)


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
        self.device = next(classifier.parameters()).device
        self.optimizer = optimizer_of(classifier, plan)

    def go(self, batches: Batches) -> Iterator[tuple[int, float, float]]:
        """After each step: clips seen, its loss and its share of right answers."""
        plan, network = self.plan, self.classifier.train()
        while self.clips_seen < plan.clips:
            for group in self.optimizer.param_groups:
                group["lr"] = plan.rate_after(self.clips_seen) * group.get("factor", 1.0)
            torch.manual_seed(seeding.derived(plan.seed, "classifier", self.clips_seen))
            video, labels = batches(torch.arange(self.clips_seen, self.clips_seen + plan.batch), network.facts.size)
            video, wanted = video.to(self.device), labels[:, self.label].to(self.device)
            logits = network(augmented(video) if plan.augmented else video)
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
        found.append((classifier(video).softmax(dim=1).cpu(), labels[:, label]))
    probabilities, wanted = zip(*found, strict=True)
    return torch.cat(probabilities), torch.cat(wanted)


APART = 8  # frames from one clip of a video to the next


@torch.no_grad()
def video_accuracy(classifier: Trained, videos: Iterable[tuple[Tensor, int]]) -> float:
    """Share of videos uint8 [3, T, H, W] that are told right by the mean over their clips, one every 8 frames; LRCN
    looks at ten crops of each. Videos that are shorter than a clip repeat their last frame.
    """
    classifier.eval()
    length, right = classifier.facts.size[0], []
    for video, label in videos:
        starts = range(0, max(1, video.shape[1] - length + 1), APART)
        frames = torch.stack([torch.arange(start, start + length).clamp_max(video.shape[1] - 1) for start in starts])
        clips = video[:, frames].transpose(0, 1)  # [clips, 3, T, H, W]
        found = [classifier.probabilities(some).sum(dim=0) for some in clips.split(8)]
        right.append(int(torch.stack(found).sum(dim=0).argmax()) == label)
    return sum(right) / len(right)


def accuracy(classifier: Trained, batches: Batches, count: int, label: int) -> float:
    probabilities, wanted = answers(classifier, batches, count, label)
    return float((probabilities.argmax(dim=1) == wanted).double().mean())
