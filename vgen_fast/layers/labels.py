"""Labels of clips as what networks read and answer.

Legend: B clips, A labels a clip, N values of all labels together.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def one_hot(labels: Tensor | None, classes: tuple[int, ...], like: Tensor, *, unit: bool = False) -> Tensor:
    """[B, A] -> [B, N], each label one of its values; [B, 0] where there are no labels. `unit`: of unit mean square."""
    parts = [F.one_hot(labels[:, i], n).to(like.dtype) * (math.sqrt(n) if unit else 1) for i, n in enumerate(classes)]
    return torch.cat([like.new_empty(len(like), 0), *parts], dim=1)


def wrong(logits: Tensor, labels: Tensor, classes: tuple[int, ...]) -> Tensor:
    """Cross-entropy of logits [B, N] by labels [B, A], added up over the labels, mean over the batch."""
    parts = logits.float().split(classes, dim=1)
    return sum(F.cross_entropy(part, labels[:, i]) for i, part in enumerate(parts))
