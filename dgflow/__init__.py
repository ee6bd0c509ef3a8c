"""dgflow: Discriminator Guidance for pretrained diffusion models as one distributed, resumable workflow on
Ray.

What a recipe needs is here. Importing it, building a recipe and planning one load neither torch nor ray.
"""

from dgflow import options
from dgflow._version import __version__
from dgflow.cli import main
from dgflow.diffusion.correction_presets import epsilon_scaling, network_guidance
from dgflow.diffusion.correction_specs import EpsilonScaling, NetworkGuidance
from dgflow.diffusion.guidance_settings import Boost, ClassifierFree, Switch
from dgflow.diffusion.guidance_specs import ClassifierGuidance, DiscriminatorGuidance
from dgflow.diffusion.mixture_specs import GaussianMixture
from dgflow.diffusion.particle_presets import particle_filter
from dgflow.diffusion.particle_specs import BestOf, Particles
from dgflow.diffusion.presets import adm_gpp, dit_gpp, edm_gpp
from dgflow.diffusion.restart_settings import RestartInterval
from dgflow.diffusion.restart_specs import Restart
from dgflow.diffusion.sampler_presets import restart
from dgflow.diffusion.sampler_specs import DDIM, DDPM, RK45, EDMAblation, Heun
from dgflow.diffusion.weighting_specs import RatioWeighting
from dgflow.networks.adm.spec import ADMEncoder, ADMUNet
from dgflow.networks.ddpm.spec import DDPMUNet
from dgflow.networks.discriminator.spec import Discriminator
from dgflow.networks.dit.spec import DiT
from dgflow.networks.edm.spec import DhariwalUNet, SongUNet
from dgflow.networks.edm2.published import edm2
from dgflow.networks.edm2.spec import EDM2UNet
from dgflow.networks.edm2.vae_spec import EDM2VAE
from dgflow.networks.inception.spec import InceptionV3
from dgflow.networks.lsgm.spec import NVAE, LSGMPrior
from dgflow.networks.mixture.spec import MixtureRatio, MixtureScore
from dgflow.networks.ncsnpp.spec import NCSNpp
from dgflow.networks.own.spec import OwnDenoiser, OwnFeatures
from dgflow.networks.perceptron.spec import Perceptron
from dgflow.networks.stable_diffusion.spec import StableDiffusionVAE
from dgflow.steps.beside import beside
from dgflow.steps.closed_form import ClosedForm
from dgflow.steps.cost import Cost
from dgflow.steps.decode import Decode
from dgflow.steps.encode import Encode
from dgflow.steps.generate import Generate
from dgflow.steps.judging.compare_refinements import CompareRefinements, swept
from dgflow.steps.judging.compare_selectors import CompareSelectors
from dgflow.steps.judging.compare_translations import CompareTranslations
from dgflow.steps.judging.evaluate import Evaluate
from dgflow.steps.judging.features import Features
from dgflow.steps.judging.gain import Gain
from dgflow.steps.judging.likelihood import Likelihood
from dgflow.steps.judging.mean_log_ratio import MeanLogRatio
from dgflow.steps.judging.measure import Measure
from dgflow.steps.judging.published_reference import PublishedReference, PublishedStatistics, reference
from dgflow.steps.mechanism.log_ratio_path import LogRatioPath
from dgflow.steps.mechanism.losses_by_level import LossesByLevel
from dgflow.steps.mechanism.regeneration import Regeneration
from dgflow.steps.merge import Merge
from dgflow.steps.official import official
from dgflow.steps.plane.compare_laws import CompareLaws
from dgflow.steps.plane.compare_plane import ComparePlane
from dgflow.steps.pretrained import Pretrained
from dgflow.steps.selecting.rejection import Rejection
from dgflow.steps.selecting.rejection_thresholds import RejectionThresholds
from dgflow.steps.sources.image_set import ImageSet, StatisticsFile
from dgflow.steps.sources.import_images import ImportImages
from dgflow.steps.sources.mixture_points import MixturePoints
from dgflow.steps.sources.of_classes import OfClasses
from dgflow.steps.training.discriminator_on import discriminator_on
from dgflow.steps.training.train_classifier import TrainClassifier, published_classifier
from dgflow.steps.training.train_discriminator import TrainDiscriminator
from dgflow.steps.training.train_score import TrainScore
from dgflow.steps.translate import Translate

__all__ = [
    "ADMEncoder",
    "ADMUNet",
    "BestOf",
    "Boost",
    "ClassifierFree",
    "ClassifierGuidance",
    "CompareRefinements",
    "CompareSelectors",
    "ClosedForm",
    "CompareLaws",
    "ComparePlane",
    "CompareTranslations",
    "Cost",
    "DDIM",
    "DDPM",
    "DDPMUNet",
    "Decode",
    "DhariwalUNet",
    "EDM2UNet",
    "EDM2VAE",
    "DiT",
    "Discriminator",
    "DiscriminatorGuidance",
    "EDMAblation",
    "Encode",
    "EpsilonScaling",
    "Evaluate",
    "Features",
    "Gain",
    "GaussianMixture",
    "Generate",
    "Heun",
    "ImageSet",
    "ImportImages",
    "InceptionV3",
    "LSGMPrior",
    "Likelihood",
    "LogRatioPath",
    "LossesByLevel",
    "MeanLogRatio",
    "Measure",
    "Merge",
    "MixturePoints",
    "MixtureRatio",
    "MixtureScore",
    "NCSNpp",
    "NVAE",
    "NetworkGuidance",
    "OfClasses",
    "OwnDenoiser",
    "OwnFeatures",
    "Particles",
    "Perceptron",
    "Pretrained",
    "PublishedReference",
    "PublishedStatistics",
    "RK45",
    "RatioWeighting",
    "Regeneration",
    "Rejection",
    "RejectionThresholds",
    "Restart",
    "RestartInterval",
    "SongUNet",
    "StableDiffusionVAE",
    "StatisticsFile",
    "Switch",
    "TrainClassifier",
    "TrainDiscriminator",
    "TrainScore",
    "Translate",
    "__version__",
    "adm_gpp",
    "beside",
    "discriminator_on",
    "dit_gpp",
    "edm2",
    "edm_gpp",
    "epsilon_scaling",
    "main",
    "network_guidance",
    "official",
    "options",
    "particle_filter",
    "published_classifier",
    "reference",
    "restart",
    "swept",
]
