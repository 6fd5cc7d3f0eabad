"""The whole configuration of a run: what recipes return, the command line changes, and config.yaml records."""

import hashlib
import json
import re
from typing import Annotated, Literal, NamedTuple

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    field_validator,
    model_validator,
)

from .data.strips import Shrink
from .models import dvdgan, mocogan, progressive, stgan, style_prediction, tgan, tgan2, vgan
from .models.system import Stage
from .train.schedule import Phase, Recompute, stage_at


def system_name(value: object) -> str:
    """Of a system's configuration, or of its record."""
    return value.get("name", "progressive") if isinstance(value, dict) else value.name


System = Annotated[
    Annotated[progressive.Config, Tag("progressive")]
    | Annotated[vgan.Config, Tag("vgan")]
    | Annotated[tgan.Config, Tag("tgan")]
    | Annotated[tgan2.Config, Tag("tgan2")]
    | Annotated[mocogan.Config, Tag("mocogan")]
    | Annotated[stgan.Config, Tag("stgan")]
    | Annotated[style_prediction.Config, Tag("style_prediction")]
    | Annotated[dvdgan.Config, Tag("dvdgan")],
    Discriminator(system_name),
]
Objective = Literal["wgan_gp", "swgan", "swgan_thesis", "vanilla", "vanilla_r1", "lsgan", "hinge", "wgan", "wgan_clip"]
UNITS = {"MB": 10**6, "GB": 10**9, "MiB": 2**20, "GiB": 2**30}
SIZE = rf"(\d+(?:\.\d+)?) ?({'|'.join(UNITS)})"


def bytes_of(size: str) -> int:
    if not (found := re.fullmatch(SIZE, size)):
        raise ValueError("wants a size such as 8GiB or 900MB")
    return int(float(found[1]) * UNITS[found[2]])


def _sized(size: str) -> str:
    bytes_of(size)
    return size


Bytes = Annotated[str, AfterValidator(_sized)]


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Grow(NamedTuple):
    """A level of the schedule; sizes in clips."""

    fade: NonNegativeInt  # to blend the level in
    stable: NonNegativeInt  # after that; the last level stays as long as the run lasts
    batch: PositiveInt
    rate: PositiveFloat = 1.0  # factor on the learning rates
    halving: NonNegativeInt = 0  # stable clips in which the rates halve; 0 is never
    falling: NonNegativeInt = 0  # stable clips in which the rates fall to 0, linearly; 0 is never
    constant: NonNegativeInt = 0  # stable clips before they begin to do so
    cosine: NonNegativeInt = 0  # clips of half a cosine along which they fall to 0, and rise again; 0 is never
    halved_at: tuple[PositiveInt, ...] = ()  # stable clips, after each of which the rates are half as large


class Optim(Settings):
    rule: Literal["adam", "rmsprop"] = "adam"
    """How gradients become steps."""
    generator_lr: float = Field(1e-3, gt=0, allow_inf_nan=False)
    """The generator's rate."""
    critic_lr: float = Field(1e-3, gt=0, allow_inf_nan=False)
    """The critics' rate."""
    betas: tuple[float, float] = (0.0, 0.99)
    """Decay of the first and second moments; RMSprop has the second alone."""
    eps: float = Field(1e-8, gt=0)
    """Added to the root of the second moment."""
    weight_decay: float = Field(0.0, ge=0)
    """Times the weights, added to their gradients."""
    critics_decay: bool = False
    """Whether weight decay is of the critics alone."""
    clip: float | None = Field(None, gt=0)
    """Numbers of gradients further from 0 are cut to it."""
    ema: float = Field(0.999, ge=0, lt=1)
    """Decay of the averaged generator, per step."""
    reset_moments: bool = True
    """Forget the moments where a level starts to fade in and where it is stable."""

    @field_validator("betas")
    @classmethod
    def _decay(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError("wants two numbers from 0 to below 1")
        return betas


class Every(Settings):
    """Intervals in clips; 0 is never."""

    tick: int = Field(10_000, ge=0)
    """Clips between two progress lines and rows of stats.jsonl."""
    samples: int = Field(50_000, ge=0)
    """Clips between two sample grids; there is one at the start and one at the end anyway."""
    checkpoint: int = Field(50_000, ge=0)
    """Clips between two checkpoints; there is one at the end and on a signal anyway."""
    keep: int = Field(3, ge=1)
    """Checkpoints that stay, the best beside them."""
    judged: int = Field(32, ge=0)
    """Clips that a checkpoint is judged by, against as many real ones; 0 judges none."""


class Scored(Settings):
    """What is measured of a run while it trains. With a classifier, its last level is scored as `evaluate` does it: at
    every checkpoint, and in between."""

    classifier: str | None = None
    """The folder of a classifier of these data (vgen_fast.train classifier); without one nothing is scored."""
    every: int = Field(0, ge=0)
    """Clips between two scorings, besides those of checkpoints; 0 is never."""
    clips: int = Field(256, gt=1)
    """Clips of each side that are compared."""
    best: str = "distance"
    """By what the best checkpoint is chosen: distance, of coarse pixels, or a score, such as "frechet, clips"."""


class Config(Settings):
    recipe: str
    """The recipe this configuration started from."""
    system: System
    """The networks."""
    objective: Objective = "wgan_gp"
    """The adversarial loss; swgan is the sliced-Wasserstein loss as released, swgan_thesis as printed."""
    feature_matching: float = Field(0.0, ge=0)
    """Weight of the distance between mean features of real and fake clips in the generator's loss."""
    data: str = "shapes"
    """Where clips come from: "shapes" are made on the fly; a cache, NAME.vgc, as `vgen_fast data build` makes it; else
    a folder of classes, each a folder of film strips."""
    split: str | None = None
    """The part of a cache to train on; without it, all of it."""
    strides: tuple[int, int] = (1, 1)
    """The least and the most frames of a cache from one frame of a clip to the next; drawn for each clip."""
    mirror: bool = False
    """Show every second clip of a cache, drawn at random, left to right."""
    left: tuple[int, int] | None = None
    """Of a cache that is wider than the videos: the least and the most first column, drawn for each clip."""
    short: Literal["refuse", "repeat"] = "refuse"
    """What becomes of clips of a cache with too few frames: the run is refused, or their last frame repeated."""
    shrink: Shrink = "mean"
    """How strips become smaller than their files: by the mean of boxes, by a pixel of each, or by a window of them."""
    clips: int = Field(gt=0)
    """Length of the run, in clips the networks have seen."""
    batch: int | None = Field(None, gt=0)
    """Clips a step, on all ranks together; without it, what the schedule says of each level."""
    micro_batch: int | None = Field(None, gt=0)
    """Clips that pass through the networks at once; a batch is accumulated from as many as it takes."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """What convolutions keep and read between the layers; weights, scores, losses and moments stay float32."""
    recompute: Recompute = "nothing"
    """Levels that make their activations again instead of keeping them: less memory, more time, other rounding."""
    memory: Bytes | None = None
    """What a step may hold, as 8GiB or 900MB: levels that need more recompute as much as it takes."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Everything random is a function of it."""
    phases: tuple[Grow, ...]
    """The schedule, a row a level: clips to fade in, clips stable, batch, factor on the rates, stable clips in
    which they halve, or fall to 0, those before, those in which they fall along a cosine, and after which they are half
    as large."""
    critic_steps: int = Field(1, gt=0)
    """Critic steps for each of the generator's."""
    penalty: float = Field(1.0, gt=0)
    """Factor on the weight of the objective's penalty."""
    penalty_every: int = Field(1, gt=0)
    """Critic steps from one penalty to the next; its weight grows alike."""
    balance: Literal["none", "ratio", "hysteresis"] = "none"
    """Who rests, by the critics' loss over the generator's adversarial one: critics below 0.1, with hysteresis until it
    is 0.5 again, and the generator above 10."""
    diverged: Literal["go-back", "go-on"] = "go-back"
    """What a run does whose losses, gradients or diversity are finite but lost: go back to a checkpoint, or tell it and
    go on."""
    optim: Optim = Optim()
    every: Every = Every()
    scores: Scored = Scored()

    @property
    def sliced(self) -> bool:
        """Whether the objective wants a critic that ends in the sliced head."""
        return self.objective.startswith("swgan")

    def schedule(self) -> tuple[Phase, ...]:
        return tuple(
            Phase(
                level=level,
                fade_clips=grow.fade,
                stable_clips=grow.stable,
                batch=(batch := self.batch or grow.batch),
                micro_batch=min(self.micro_batch or batch, batch),
                critic_rate=self.optim.critic_lr * grow.rate,
                generator_rate=self.optim.generator_lr * grow.rate,
                recompute=self.recompute,
                halving=grow.halving,
                falling=grow.falling,
                constant=grow.constant,
                cosine=grow.cosine,
                halved_at=grow.halved_at,
            )
            for level, grow in enumerate(self.phases)
        )

    def stage(self, clips_seen: int) -> Stage:
        return stage_at(self.schedule(), clips_seen)

    @property
    def budget(self) -> int | None:
        """`memory` in bytes."""
        return None if self.memory is None else bytes_of(self.memory)

    @model_validator(mode="after")
    def _fits_together(self) -> "Config":
        if len(self.phases) != len(self.system.sizes):
            raise ValueError(
                f"{len(self.system.sizes)} levels of the system need as many phases, got {len(self.phases)}"
            )
        for name, usual in vars(type(self.system)()).items():
            if type(usual) is int and (value := vars(self.system)[name]) < min(usual, 1):
                raise ValueError(f"system.{name} must be {min(usual, 1)} or more, got {value}")
        if (self.sliced or self.feature_matching) and not isinstance(self.system, progressive.Config):
            name = f"objective {self.objective}" if self.sliced else "feature_matching"
            raise ValueError(f"{name} is of the progressive system's critic, this one is {self.system.name}")
        if self.scores.classifier is None and self.scores != Scored():
            raise ValueError("scores are measured by a classifier: give scores.classifier too")
        if self.memory is not None and self.recompute != "nothing":
            raise ValueError("memory chooses what to recompute: give one of memory and recompute")
        for level, phase in enumerate(self.phases):
            batch, group = self.batch or phase.batch, self.system.group
            micro = min(self.micro_batch or batch, batch)
            if batch % micro:
                raise ValueError(f"micro_batch {micro} does not divide the batch of {batch} clips at level {level}")
            if micro < batch and (self.feature_matching or self.system.whole_batch):
                name = "feature_matching" if self.feature_matching else "minibatch discrimination"
                raise ValueError(
                    f"{name} looks at the whole batch of {batch} clips: micro_batch {micro} would change it"
                )
            if micro % min(group, batch):
                raise ValueError(
                    f"micro_batch {micro} is no multiple of the {min(group, batch)} clips that minibatch stddev judges "
                    f"together (level {level}, batch {batch})"
                )
        return self

    def yaml(self) -> str:
        return yaml.safe_dump(json.loads(self.model_dump_json()), sort_keys=False, default_flow_style=None)

    def digest(self) -> str:
        """Of everything that decides the numbers of a run: not length, intervals, scores, care; memory only rounds."""
        without = {"clips", "every", "scores", "memory", "recompute", "diverged"}
        values = json.loads(self.model_dump_json(exclude=without))
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def from_yaml(text: str) -> Config:
    return Config.model_validate(yaml.safe_load(text))
