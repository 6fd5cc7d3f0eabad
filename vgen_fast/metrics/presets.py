"""The metrics of published protocols, each with its networks; and those of a classifier that was trained here.

A protocol says how many clips of each side are drawn, how often, and what is measured of them. Where its authors left
something open the choice is told beside it. Files of weights: see `nets/weights.py`; what is missing is refused.

Legend: N clips, T frames, H x W pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..nets import c3d, i3d, inception, lrcn, weights
from ..nets.trained import Trained, central
from ..nets.weights import BadWeights, Published
from . import measures
from .measures import COHERENCE, COLOURS, FRAME, MOTION
from .scores import Metric, Rows, View
from .sliced_wasserstein import SMALLEST

CUBE = Published("mean2.npz", "the mean of C3D's clips", "https://github.com/pfnet-research/tgan")
C3D_FRAMES = 16


@dataclass(frozen=True)
class Protocol:
    metrics: Callable[[int], list[Metric]] | None  # by seed
    clips: int  # generated ones, each time
    reals: int
    times: int = 1  # with other latents


# -------------------------------------------------------------------------------------------------------------- views


def mean_cube(path: Path) -> Tensor:
    """[3, 16, 128, 171], blue first."""
    found = weights.read(path)
    if "mean" not in found or found["mean"].numel() != 3 * 16 * 128 * 171:
        raise BadWeights(f"{path} has no mean of 3x16x128x171")
    return found["mean"].float().reshape(3, 16, 128, 171)


def c3d_view(prepare: Callable[[Tensor, Tensor], Tensor], how: str) -> View:
    """C3D of UCF-101 as TGAN's authors converted it: the central 16 frames."""
    paths = [weights.find(file) for file in (c3d.CHAINER, CUBE)]
    network, cube = c3d.load(paths[0]), mean_cube(paths[1])
    digests = " less ".join(weights.digest(path)[:12] for path in paths)

    def see(video: Tensor, labels: Tensor) -> Rows:
        seen = network(prepare(central(video, C3D_FRAMES), cube))
        return {**seen._asdict(), "probabilities": seen.logits.softmax(dim=1)}

    return View(f"c3d-ucf101@{digests}/{how}/central {C3D_FRAMES} frames", see)


def lrcn_view() -> View:
    """LRCN of UCF-101: the central 16 frames, ten crops of 240x320."""
    path = weights.find(lrcn.RGB)
    network = lrcn.load(path).eval()

    def see(video: Tensor, labels: Tensor) -> Rows:
        crops = lrcn.prepare(central(video, C3D_FRAMES))
        return {"probabilities": torch.cat([network.probabilities(clip[None]) for clip in crops])}

    return View(f"lrcn@{weights.digest(path)[:12]}/ten crops of 240x320/central {C3D_FRAMES} frames", see)


def i3d_view(first: int = 0, last: int | None = None) -> View:
    """The 400 logits of the network that was converted from TensorFlow's hub; of frames `first` to `last`, or all."""
    path = weights.find(i3d.TFHUB)
    network = i3d.load(path)

    def see(video: Tensor, labels: Tensor) -> Rows:
        if last and video.shape[2] < last:
            raise ValueError(f"video must have {last} frames at least, got {video.shape[2]}")
        return {"logits": network(network.prepare(video[:, :, first:last]))}

    told = f"/frames {first} to {last - 1}" if last else ""
    return View(f"i3d-hub@{weights.digest(path)[:12]}/bilinear 224{told}", see)


def inception_view() -> View:
    """Every frame: features [N, T, 2048]."""
    path = weights.find(inception.FID)
    network = inception.load(path)

    def see(video: Tensor, labels: Tensor) -> Rows:
        frames = video.transpose(1, 2).flatten(0, 1)
        found = [network(inception.prepare(some)) for some in frames.split(16)]
        features, logits = (torch.cat([getattr(seen, part) for seen in found]) for part in ("features", "logits"))
        return {
            "features": features.unflatten(0, (len(video), -1)),
            "probabilities": logits.softmax(dim=1).unflatten(0, (len(video), -1)),
        }

    return View(f"inception@{weights.digest(path)[:12]}/bilinear 299/every frame", see)


def trained_view(classifier: Trained) -> View:
    """A classifier that was trained here."""

    def see(video: Tensor, labels: Tensor) -> Rows:
        features, logits = (seen.cpu() for seen in classifier.features(video))
        still = measures.middle(video)[:, :, None].expand_as(video)
        return {
            "features": features,
            "still": classifier.features(still)[0].cpu(),
            "probabilities": logits.softmax(dim=1),
            "right": (logits.argmax(dim=1) == labels).double(),
        }

    return View(classifier.name, see)


def frames_view(classifier: Trained) -> View:
    """Every frame as a clip that stands still: features [N, T, D]."""

    def see(video: Tensor, labels: Tensor) -> Rows:
        still = (video[:, :, t, None].expand_as(video) for t in range(video.shape[2]))
        return {"features": torch.stack([classifier.features(clip)[0].cpu() for clip in still], dim=1)}

    return View(f"{classifier.name}/every frame repeated", see)


# ---------------------------------------------------------------------------------------------------------- protocols


def own(
    classifier: Trained,
    size: tuple[int, int, int],
    labelled: bool,
    seed: int,
    content: View = COLOURS,
    predicted: bool = False,
) -> list[Metric]:
    """Of a classifier that was trained here, and of the pixels; `labelled`: clips were asked to be something;
    `predicted`: they were made from a first frame; `content`: by which descriptors content distances are measured.

    2,000 pairs: 10,000 take 70 s a side at 128 pixels, too long while a run trains. The interval tells what that costs.
    """
    seen, name = trained_view(classifier), classifier.name
    moving, large = size[0] > 1, min(size[1:]) >= SMALLEST
    found = [
        measures.inception("inception score", seen, name, seed=seed),
        measures.frechet_distance("frechet, clips", seen, "features", name, seed=seed),
        measures.frechet_distance("frechet, frames", seen, "still", f"{name}/middle frame repeated", seed=seed),
    ]
    if moving:
        found.append(measures.frechet_distance("frechet, motion", MOTION, "motion", "motion features", seed=seed))
    if large:
        found += [
            measures.pieces("pieces", FRAME, "frame", "middle frame", seed=seed),
            measures.similarity_of_pairs("ms-ssim of pairs", FRAME, "frame", "middle frame", pairs=2000, seed=seed),
        ]
    if large and moving:
        found.append(measures.mean("ms-ssim, frame to frame", "near", COHERENCE, "coherence", "pgan", seed=seed))
    if predicted:
        every = frames_view(classifier)
        found += [
            measures.frechet_distance("frechet, all frames", every, "features", every.name, seed=seed),
            measures.frechet_over_time("frechet, frame by frame", every, "features", every.name, seed=seed),
        ]
    if moving:
        found.append(measures.mean("content distance", "near", content, "content", content.name, seed=seed))
    if labelled:
        found.append(measures.mean("label as asked", "high", seen, "right", name, seed=seed))
    return found


def tgan(seed: int) -> list[Metric]:
    """TGAN's inception score: four times 9,984 clips, beside that of as many real ones."""
    seen = c3d_view(c3d.as_tgan, "128x128 bicubic")
    return [measures.inception("inception score", seen, seen.name, eps=1e-7, seed=seed)]


def tgan2(seed: int) -> list[Metric]:
    """TGANv2's: 2,048 clips ten times, and C3D's fc7 against ten clips of each of 9,537 training videos."""
    seen = c3d_view(c3d.as_tgan2, "112x112 bilinear")
    return [
        measures.inception("inception score", seen, seen.name, eps=1e-20, seed=seed),
        measures.frechet_distance("fid, c3d fc7", seen, "fc7", f"{seen.name}/fc7", seed=seed),
    ]


def stylegan_v(seed: int) -> list[Metric]:
    """StyleGAN-V's FVD of 2,048 clips of 16 frames, covariances divided by N; its inception score in ten splits is here
    of the Chainer weights, prepared as TGANv2 does: its own file is a program, and programs are not run.
    """
    motion, seen = i3d_view(), c3d_view(c3d.as_tgan2, "112x112 bilinear")
    return [
        measures.frechet_distance("fvd", motion, "logits", motion.name, seed=seed, biased=True),
        measures.inception("inception score", seen, seen.name, splits=10, seed=seed),
    ]


def thesis(seed: int) -> list[Metric]:
    """The thesis of the progressive video GAN: inception score as TGAN's, Frechet distance of C3D's fc6 on 10,000 clips
    of each side, after the ReLU as the headline and before it beside, and of pool5 and fc7; smaller clips are enlarged
    bicubically. PGAN's pieces and pairs are of middle frames.
    """
    seen = c3d_view(c3d.as_tgan, "128x128 bicubic")
    return [
        measures.inception("inception score", seen, seen.name, eps=1e-7, seed=seed),
        measures.frechet_distance("fid, c3d fc6", seen, "fc6", f"{seen.name}/fc6", seed=seed),
        measures.frechet_distance("fid, c3d fc6 before relu", seen, "before_fc6", f"{seen.name}/before fc6", seed=seed),
        measures.frechet_distance("fid, c3d pool5", seen, "pool5", f"{seen.name}/pool5", seed=seed),
        measures.frechet_distance("fid, c3d fc7", seen, "fc7", f"{seen.name}/fc7", seed=seed),
        measures.pieces("pieces", FRAME, "frame", "middle frame", seed=seed),
        measures.similarity_of_pairs("ms-ssim of pairs", FRAME, "frame", "middle frame", pairs=10_000, seed=seed),
    ]


def fvd(seed: int) -> list[Metric]:
    """FVD as first published: all frames, 256 clips of BAIR's test set."""
    seen = i3d_view()
    return [measures.frechet_distance("fvd", seen, "logits", seen.name, seed=seed)]


def prediction(seed: int) -> list[Metric]:
    """The thesis of style-based prediction: 256 clips of BAIR. FID and inception score are of all frames, FID also of
    each frame of the rollout against all real frames, and FVD of the first 24 that are predicted, 1 to 24, and of these
    behind the frame that was given.
    """
    seen, motion, whole = inception_view(), i3d_view(1, 25), i3d_view(0, 25)
    return [
        measures.inception("inception score, frames", seen, seen.name, seed=seed),
        measures.frechet_distance("fid", seen, "features", seen.name, seed=seed),
        measures.frechet_over_time("fid, frame by frame", seen, "features", seen.name, seed=seed),
        measures.frechet_distance("fvd", motion, "logits", motion.name, seed=seed),
        measures.frechet_distance("fvd, with the given frame", whole, "logits", whole.name, seed=seed),
    ]


OWN = "own"
PROTOCOLS = {
    OWN: Protocol(None, 512, 512),
    "tgan": Protocol(tgan, 9_984, 9_984, times=4),
    "tgan2": Protocol(tgan2, 2_048, 95_370, times=10),
    "stylegan-v": Protocol(stylegan_v, 2_048, 2_048),
    "thesis": Protocol(thesis, 10_000, 10_000),
    "fvd": Protocol(fvd, 256, 256),
    "prediction": Protocol(prediction, 256, 256),
}
