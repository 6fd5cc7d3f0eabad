"""A run's networks from its configuration: which file of models/ builds which system."""

from .config import Config
from .models import dvdgan, mocogan, progressive, stgan, style_prediction, tgan, tgan2, vgan
from .models.system import System
from .nets.weights import BadWeights
from .options import refuse

BUILDERS = {  # by the class of a system's configuration, where that is all there is to know
    vgan.Config: vgan.build,
    tgan.Config: tgan.build,
    tgan2.Config: tgan2.build,
    mocogan.Config: mocogan.build,
    stgan.Config: stgan.build,
    style_prediction.Config: style_prediction.build,
    dvdgan.Config: dvdgan.build,
}


def build(config: Config) -> System:
    """Refuses one that needs weights which are not there."""
    if isinstance(config.system, progressive.Config):
        return progressive.build(config.system, config.sliced, config.feature_matching)
    try:
        return BUILDERS[type(config.system)](config.system)
    except BadWeights as error:
        refuse(str(error))
