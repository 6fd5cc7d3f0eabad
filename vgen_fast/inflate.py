"""An STGAN that begins as the inflation of a network of images: a run of ours, or the released generator."""

from dataclasses import replace
from pathlib import Path

from .config import Config
from .models import stgan
from .models.system import System
from .nets.weights import BadWeights
from .options import refuse
from .sample import chosen_checkpoint, recorded
from .train import checkpoint


def inflated(system: System, config: Config, source: Path) -> System:
    """The same system; a released generator has no critic, which is left as it was drawn."""
    if not isinstance(config.system, stgan.Config) or config.system.depth == 1:
        refuse(f"--inflate is of stgan with depth 3, not of {config.recipe}")
    flat = replace(config.system, depth=1, frames=1)
    if not source.is_dir():
        try:
            stgan.inflate(stgan.load(source, flat), system.generator)
        except BadWeights as error:
            refuse(f"--inflate: {error}")
        return system
    of_images = recorded(source)
    if not isinstance(of_images.system, stgan.Config) or of_images.system.depth > 1:
        refuse(f"--inflate: {source} is no run of stgan with depth 1")
    chosen = chosen_checkpoint(source, of_images)
    flats = {"average": stgan.Generator(of_images.system), "video": stgan.VideoCritic(of_images.system)}
    kept = []
    for (name, network), deep in zip(flats.items(), (system.generator, system.critics[0].module), strict=True):
        network.load_state_dict(checkpoint.tensors(chosen, f"{name}.safetensors"))
        kept += stgan.inflate(network, deep)
    if wrong := [name for name in kept if name != "last.weight"]:
        refuse(f"--inflate: the layers of {source} are others, {', '.join(wrong[:3])} to begin with")
    return system
