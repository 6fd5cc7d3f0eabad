"""LRCN for activities (Donahue et al. 2015): a network wider than CaffeNet for each frame, and an LSTM over them.

    conv1 7x7 96 /2 | conv2 5x5 384 /2 | conv3 512 | conv4 512 | conv5 384 | fc6 4096 | LSTM 256 | fc8-final, each frame

Caffe's LSTM has one bias and keeps its gates in the order input, forget, output, cell; torch's has two biases, of which
the second stays 0, and exchanges the last two gates.

Legend: B clips, T frames, K classes.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import caffenet, weights
from .caffenet import SIDE, SMALL, SMALL_SCALE, Convolutions, Row, pooled
from .weights import BadWeights, Published

RGB = Published(
    "RGB_lstm_model_iter_30000.caffemodel", "LRCN trained on UCF-101", "https://github.com/LisaAnne/lisa-caffe-public"
)
MEAN = (103.939, 116.779, 128.68)  # of blue, green and red; the last is as in their files
ROWS = (Row(96, 7, 2), Row(384, 5, 2, 0, 2), Row(512, 3, 1, 1), Row(512, 3, 1, 1, 2), Row(384, 3, 1, 1, 2))
HEIGHT, WIDTH = 240, 320  # of frames, before 227x227 are cut out of them
HIDDEN = 256


class LRCN(nn.Module):
    def __init__(
        self,
        classes: int = 101,
        *,
        rows: tuple[Row, ...] = ROWS,
        side: int = SIDE,
        codes: int = 4096,
        hidden: int = HIDDEN,
        scale: float = 1.0,
        dropout: float = 0.9,
    ):
        super().__init__()
        self.side, self.dropout = side, dropout
        self.convolutions = Convolutions(rows, scale=scale)
        self.fc6 = nn.Linear(rows[-1].channels * pooled(rows, side) ** 2, codes)
        self.lstm1 = nn.LSTM(codes, hidden, batch_first=True)
        nn.init.zeros_(self.lstm1.bias_hh_l0).requires_grad_(False)
        self.fc8 = nn.Linear(hidden, classes)

    def forward(self, video: Tensor) -> Tensor:
        """[B, 3, T, 227, 227], as `prepare` makes it -> logits of each frame [B, T, K]. A clip starts from nothing."""
        return self.seen(video)[0]

    def seen(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of each frame [B, T, K], and what the LSTM gave for them [B, T, 256]."""
        frames = video.transpose(1, 2)
        return self.over_time(self.of_frames(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]))

    def of_frames(self, pictures: Tensor) -> Tensor:
        """What the LSTM is given for each."""
        x = F.relu(self.fc6(self.convolutions(pictures).flatten(1)))
        return F.dropout(x, self.dropout, self.training)

    def over_time(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.lstm1(codes)[0]
        return self.fc8(F.dropout(hidden, 0.5, self.training)), hidden

    def probabilities(self, crops: Tensor) -> Tensor:
        """[B, N, 3, T, 227, 227] -> [B, K]: the mean over crops and frames, as it is tested."""
        logits = self(crops.flatten(0, 1)).unflatten(0, crops.shape[:2])
        return logits.softmax(dim=-1).mean(dim=(1, 2))


def small(classes: int, side: int) -> LRCN:
    """To be trained from scratch in minutes on a CPU."""
    return LRCN(classes, rows=SMALL, side=side, codes=256, hidden=64, scale=SMALL_SCALE, dropout=0.5)


def prepare(video: Tensor) -> Tensor:
    """uint8 [B, 3, T, H, W] -> [B, 10, 3, T, 227, 227]: corners and centre of 240x320, and their mirror images."""
    frames = video.transpose(1, 2).flatten(0, 1).float()
    frames = F.interpolate(frames, (HEIGHT, WIDTH), mode="bilinear", align_corners=False)
    frames = caffenet.prepare(frames, MEAN).unflatten(0, (len(video), -1)).transpose(1, 2)
    down, across = HEIGHT - SIDE, WIDTH - SIDE
    corners = [(0, 0), (0, across), (down, 0), (down, across), (down // 2, across // 2)]
    crops = [frames[..., i : i + SIDE, j : j + SIDE] for i, j in corners]
    return torch.stack([*crops, *(crop.flip(-1) for crop in crops)], dim=1)


def load(path: Path) -> LRCN:
    """The network of a Caffe file."""
    tensors = {name.replace("fc8-final.", "fc8."): value for name, value in weights.read(path).items()}
    for blob, name in (("0", "weight_ih_l0"), ("1", "bias_ih_l0"), ("2", "weight_hh_l0")):
        if f"lstm1.{blob}" in tensors:
            tensors[f"lstm1.{name}"] = exchanged(tensors.pop(f"lstm1.{blob}").squeeze())
    tensors = caffenet.named(tensors)
    if "fc8.bias" not in tensors or "lstm1.bias_ih_l0" not in tensors:
        raise BadWeights(f"{path} is no LRCN: it lacks lstm1 or fc8-final and has {', '.join(list(tensors)[:20])}")
    tensors["lstm1.bias_hh_l0"] = torch.zeros(4 * HIDDEN)
    return weights.filled(lambda: LRCN(tensors["fc8.bias"].numel()), tensors, path)


def exchanged(gates: Tensor) -> Tensor:
    """Input, forget, output, cell to input, forget, cell, output."""
    into, forget, out, cell = gates.chunk(4)
    return torch.cat([into, forget, cell, out])
