"""The formulas as metrics of `Scores`, and the views they stand on.

Legend: N clips, C channels, T frames, H x W pixels, D features, K classes.
"""

import numpy as np
import torch
from torch import Tensor

from .. import ops
from . import frechet, inception_score, interval, ssim
from .content_distance import Describe, colours, distances
from .motion import motion_features
from .protocol import Better
from .scores import Measured, Metric, Rows, View
from .sliced_wasserstein import piece_distance

HALVES = 20  # drawn, where a replicate takes as long as the score


def flat(features: Tensor) -> Tensor:
    """[N, D], or [N, T, D] of the frames of clips -> rows of features."""
    return features.flatten(0, -2)


def frechet_distance(name: str, view: View, part: str, protocol: str, *, seed: int = 0, biased: bool = False) -> Metric:
    """Of features of clips or of their frames. `biased` divides the covariances by N, as StyleGAN-V does."""

    def measure(real: Rows, fake: Rows) -> Measured:
        x, y = real[part], fake[part]
        sides = (frechet.gaussian(frechet.moments(flat(features)), biased) for features in (x, y))
        return ops.frechet_distance(*sides)[None], lambda: frechet.replicates(x, y, seed=seed, biased=biased)

    return Metric(name, "low", f"frechet{' by n' if biased else ''}/{protocol}", view, (part,), measure)


def frechet_over_time(name: str, view: View, part: str, protocol: str, *, seed: int = 0) -> Metric:
    """For each frame of the generated clips, against all frames of the real ones; the score is the mean."""

    def measure(real: Rows, fake: Rows) -> Measured:
        x, y = real[part], fake[part]
        return frechet.over_time(x, y), lambda: frechet.over_time_replicates(x, y, seed=seed)

    return Metric(name, "low", f"frechet, frame by frame/{protocol}", view, (part,), measure, repeated=False)


def inception(name: str, view: View, protocol: str, *, splits: int = 1, eps: float = 0.0, seed: int = 0) -> Metric:
    """Of the view's `probabilities`, of clips or of their frames."""

    def measure(real: Rows, fake: Rows) -> Measured:
        p, told = fake["probabilities"], {"splits": splits, "eps": eps}
        values = inception_score.inception_score(flat(p), **told)
        return values, lambda: inception_score.replicates(p, seed=seed, **told)

    told = f"inception score/{protocol}/eps {eps:g}" + (f"/{splits} splits" if splits > 1 else "")
    return Metric(name, "high", told, view, ("probabilities",), measure, against=False)


def mean(name: str, better: Better, view: View, part: str, protocol: str, *, seed: int = 0) -> Metric:
    """Of a number for each clip; nan for clips that have none."""

    def measure(real: Rows, fake: Rows) -> Measured:
        values = fake[part].double()
        values = values[~values.isnan()]
        if not len(values):
            raise ValueError("not one clip has such a number")
        return values.mean()[None], lambda: interval.means(values, seed=seed)

    return Metric(name, better, protocol, view, (part,), measure, against=False)


def pieces(name: str, view: View, part: str, protocol: str, *, seed: int = 0) -> Metric:
    """PGAN's sliced Wasserstein distance, the mean over the sizes of the pyramid.

    Drawn with replacement sets would be further apart, as they have fewer different pictures. Halves drawn without it
    spread as whole sets do: 1 / m - 1 / n = 1 / n for m = n / 2.
    """

    def distance(real: Tensor, fake: Tensor) -> Tensor:
        return torch.tensor([np.mean(list(piece_distance(real, fake, seed=seed).values()))])

    def measure(real: Rows, fake: Rows) -> Measured:
        value = distance(real[part], fake[part])

        def replicates() -> Tensor:
            generator = torch.Generator().manual_seed(seed)
            half = lambda x: x[torch.randperm(len(x), generator=generator)[: max(1, len(x) // 2)]]  # noqa: E731
            found = torch.cat([distance(half(real[part]), half(fake[part])) for _ in range(HALVES)])
            return value + found - found.mean()

        return value, replicates

    return Metric(name, "low", f"pgan/{protocol}", view, (part,), measure)


def similarity_of_pairs(name: str, view: View, part: str, protocol: str, *, pairs: int, seed: int = 0) -> Metric:
    """MS-SSIM of pairs of pictures: high means little variety."""

    def measure(real: Rows, fake: Rows) -> Measured:
        values = ssim.similarity_of_pairs(fake[part], pairs, seed).double()
        return values.mean()[None], lambda: ssim.pairs_replicates(values, len(fake[part]), seed)

    return Metric(name, "near", f"pgan/{pairs} pairs/{protocol}", view, (part,), measure, against=False)


# -------------------------------------------------------------------------------------------------------------- views


def middle(video: Tensor) -> Tensor:
    """uint8 [N, C, H, W]: the middle frames."""
    return video[:, :, video.shape[2] // 2]


def see_frame(video: Tensor, labels: Tensor) -> Rows:
    return {"frame": middle(video)}


def see_coherence(video: Tensor, labels: Tensor) -> Rows:
    return {"coherence": ssim.coherence(video)}


def see_motion(video: Tensor, labels: Tensor) -> Rows:
    return {"motion": motion_features(video)}


def content_view(describe: Describe, name: str, slow: bool = False) -> View:
    """Each clip's content distance by descriptors of its frames. Of a function whose text may change between two runs
    nothing is remembered.
    """

    def see(video: Tensor, labels: Tensor) -> Rows:
        return {"content": torch.from_numpy(distances(video.permute(0, 2, 3, 4, 1).numpy(), describe))}

    return View(f"content by {name}", see, slow)


FRAME, COHERENCE = View("middle frame", see_frame, slow=False), View("frame to frame", see_coherence)
MOTION, COLOURS = View("motion", see_motion), content_view(colours, "colours above 32", slow=True)
