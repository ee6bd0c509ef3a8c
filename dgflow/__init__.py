"""dgflow: Discriminator Guidance for pretrained diffusion models as one distributed, resumable workflow on Ray.

What a recipe needs is here. Importing it, building a recipe and planning one load neither torch nor ray.
"""

from dgflow.cli import main
from dgflow.steps.evaluate import Evaluate
from dgflow.steps.features import Features
from dgflow.steps.generate import Generate
from dgflow.steps.import_images import ImportImages
from dgflow.steps.specs import ADMEncoder, Boost, DiscriminatorGuidance, Heun, SongUNet
from dgflow.steps.train_classifier import TrainClassifier
from dgflow.steps.train_discriminator import TrainDiscriminator
from dgflow.steps.train_score import TrainScore

__version__ = "0.1.0"

__all__ = [
    "ADMEncoder",
    "Boost",
    "DiscriminatorGuidance",
    "Evaluate",
    "Features",
    "Generate",
    "Heun",
    "ImportImages",
    "SongUNet",
    "TrainClassifier",
    "TrainDiscriminator",
    "TrainScore",
    "main",
]
