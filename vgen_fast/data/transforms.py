"""The one place where frames [T, H, W, 3] become video [3, T, H, W], and where video shrinks. Bytes in, bytes out."""

import torch
import torch.nn.functional as F
from torch import Tensor


def to_video(frames: Tensor) -> Tensor:
    """[..., T, H, W, 3] -> [..., 3, T, H, W]."""
    return frames.movedim(-1, -4)


def to_frames(video: Tensor) -> Tensor:
    """[..., 3, T, H, W] -> [..., T, H, W, 3]."""
    return video.movedim(-4, -1)


def shrink(video: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Bytes [B, 3, T, H, W] averaged over boxes to (T, H, W), which must divide those of the video; rounded."""
    factor = [n // m for n, m in zip(video.shape[2:], size, strict=True)]
    if any(f * m != n for f, m, n in zip(factor, size, video.shape[2:], strict=True)):
        raise ValueError(f"shrink: the size {tuple(video.shape[2:])} of the video is not a multiple of {tuple(size)}")
    if max(factor) == 1:
        return video
    return F.avg_pool3d(video.float(), factor).round_().to(torch.uint8)


def nested(video: Tensor, phases: Tensor) -> tuple[Tensor, ...]:
    """Reals for the levels of TGANv2, small and long to large and short, as many values in each: float, not rounded.

    Of L levels, level l = 0 ... L - 1 has every 2^l-th frame, averaged over boxes of 2^(L - 1 - l) pixels. Each halving
    takes the even or the odd frames of the level before: `phases` [B, L - 1], 0 or 1. Bytes [B, 3, T, H, W].
    """
    found, last = [], phases.shape[1]
    for level in range(last + 1):
        box = 2 ** (last - level)
        found.append(F.avg_pool3d(video.float(), (1, box, box)))
        if level < last:
            pairs = video.unflatten(2, (-1, 2))
            video = pairs[torch.arange(len(video)), :, :, phases[:, level]]
    return tuple(found)


def to_bytes(video: Tensor) -> Tensor:
    """[-1, 1] -> uint8, rounded and clamped."""
    return ((video.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
