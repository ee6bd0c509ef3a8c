"""dgflow: Discriminator Guidance for pretrained diffusion models as one distributed, resumable workflow on Ray.

What a recipe needs is here. Importing it, building a recipe and planning one load neither torch nor ray.
"""

from dgflow.cli import main
from dgflow.steps.decode import Decode
from dgflow.steps.encode import Encode
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
from dgflow.steps.own_networks import OwnDenoiser, OwnFeatures
from dgflow.steps.presets import adm_gpp, dit_gpp, edm_gpp
from dgflow.steps.pretrained import Pretrained
from dgflow.steps.published_reference import PublishedStatistics, reference
from dgflow.steps.sampler_specs import DDIM, DDPM, RK45, EDMAblation, Heun
from dgflow.steps.train_classifier import TrainClassifier, published_classifier
from dgflow.steps.train_discriminator import TrainDiscriminator
from dgflow.steps.train_score import TrainScore
from dgflow.steps.vae_specs import NVAE, StableDiffusionVAE

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
    "Decode",
    "DhariwalUNet",
    "DiT",
    "Discriminator",
    "DiscriminatorGuidance",
    "EDMAblation",
    "Encode",
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
    "NVAE",
    "OwnDenoiser",
    "OwnFeatures",
    "Pretrained",
    "PublishedStatistics",
    "RK45",
    "SongUNet",
    "StableDiffusionVAE",
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
    "published_classifier",
    "reference",
]
