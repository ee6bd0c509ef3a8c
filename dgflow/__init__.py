"""dgflow: Discriminator Guidance for pretrained diffusion models as one distributed, resumable workflow on Ray.

What a recipe needs is here. Importing it, building a recipe and planning one load neither torch nor ray.
"""

from dgflow.cli import main
from dgflow.steps.evaluate import Evaluate
from dgflow.steps.features import Features
from dgflow.steps.generate import Generate
from dgflow.steps.guidance_specs import Boost, ClassifierFree, ClassifierGuidance, DiscriminatorGuidance, Switch
from dgflow.steps.image_set import ImageSet, StatisticsFile
from dgflow.steps.import_images import ImportImages
from dgflow.steps.measure import Measure
from dgflow.steps.network_specs import (
    ADMEncoder,
    ADMUNet,
    DDPMUNet,
    DhariwalUNet,
    Discriminator,
    DiT,
    InceptionV3,
    LSGMPrior,
    NCSNpp,
    SongUNet,
)
from dgflow.steps.official import official
from dgflow.steps.presets import adm_gpp, dit_gpp, edm_gpp
from dgflow.steps.pretrained import Pretrained
from dgflow.steps.sampler_specs import DDIM, DDPM, RK45, EDMAblation, Heun
from dgflow.steps.train_classifier import TrainClassifier
from dgflow.steps.train_discriminator import TrainDiscriminator
from dgflow.steps.train_score import TrainScore

__version__ = "0.1.0"

__all__ = [
    "ADMEncoder",
    "ADMUNet",
    "Boost",
    "ClassifierFree",
    "ClassifierGuidance",
    "DDIM",
    "DDPM",
    "DDPMUNet",
    "DhariwalUNet",
    "DiT",
    "Discriminator",
    "DiscriminatorGuidance",
    "EDMAblation",
    "Evaluate",
    "Features",
    "Generate",
    "Heun",
    "ImageSet",
    "ImportImages",
    "InceptionV3",
    "LSGMPrior",
    "Measure",
    "NCSNpp",
    "Pretrained",
    "RK45",
    "SongUNet",
    "StatisticsFile",
    "Switch",
    "TrainClassifier",
    "TrainDiscriminator",
    "TrainScore",
    "adm_gpp",
    "dit_gpp",
    "edm_gpp",
    "main",
    "official",
]
