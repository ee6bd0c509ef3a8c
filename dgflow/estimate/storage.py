"""How many bytes the missing parts of a step take at most, from its fields alone: before there is a receipt
to take a mean from.

Uncompressed columns, so that what is written is less. Weights are left to `estimates`, which builds the
networks.
"""

from __future__ import annotations

from collections.abc import Sequence

from dgflow.diffusion.guidance_specs import DiscriminatorGuidance
from dgflow.engine.plan import StepPlan
from dgflow.estimate.costs import amount
from dgflow.networks.families import autoencoder_of
from dgflow.networks.roles import FeatureNetworkSpec
from dgflow.specs.step import NetworkStep, SampleStep, Step
from dgflow.steps.decode import Decode
from dgflow.steps.encode import Encode
from dgflow.steps.generate import Generate
from dgflow.steps.judging.evaluate import Evaluate
from dgflow.steps.judging.features import Features
from dgflow.steps.judging.measure import INCEPTIONS, Measure
from dgflow.steps.judging.published_reference import PublishedStatistics
from dgflow.steps.judging.statistics import Statistics
from dgflow.steps.shapes import data_shape, network_shape
from dgflow.steps.sources.check_images import CheckImages
from dgflow.steps.sources.import_images import ImportImages
from dgflow.steps.sources.list_images import ListImages

INDEX_AND_LABEL = 16
FLOAT16, FLOAT32, FLOAT64 = 2, 4, 8
IMAGE_FLAGS = 9  # of `Features`: `constant` and `pixels`
PAGES = 1.001  # pages and their checksums, measured on noise, which does not compress: 1.0004
HEADER = 4_096  # a shard's schema and footer, measured: 1.3 kB
JSON = 20_000  # the numbers of a comparison
LISTED = 300  # of one image in a listing, whose name has up to 250 characters


def stored_bytes(made: StepPlan) -> int | None:
    """At most; None where it is not known beforehand."""
    step = made.step
    if not made.missing:
        return 0
    if isinstance(step, SampleStep):
        row = row_bytes(step)
        return None if row is None else round(PAGES * amount(made) * row) + HEADER * len(made.missing)
    return None if isinstance(step, NetworkStep) else _result_bytes(step)


def row_bytes(step: SampleStep) -> int | None:
    """Of one sample's columns, None of a kind that is not known here."""
    if isinstance(step, Features):
        widths = _widths(step)
        return None if widths is None else INDEX_AND_LABEL + IMAGE_FLAGS + FLOAT32 * sum(widths)
    if isinstance(step, Encode):
        side, channels = autoencoder_of(step.vae).latent_shape(network_shape(step.vae.step).image_size)
        copies = 2 * step.draws if step.columns == ("latent",) else len(step.columns)
        return INDEX_AND_LABEL + FLOAT16 * copies * channels * side**2
    if isinstance(step, CheckImages):
        return INDEX_AND_LABEL
    if isinstance(step, ImportImages | Generate | Decode):
        shape = data_shape(step)
        values = shape.channels * shape.image_size**2
        latent = isinstance(step, Generate) and step.latent
        return INDEX_AND_LABEL + values * (FLOAT16 if latent else 1) + FLOAT32 * _has_log_ratio(step)
    return None


def _has_log_ratio(step: Step) -> bool:
    if isinstance(step, Decode):
        return _has_log_ratio(step.latents.step)
    return isinstance(step, Generate) and any(
        isinstance(term, DiscriminatorGuidance) for term in step.guidance
    )


def _widths(step: Features) -> tuple[int, ...] | None:
    """Of the columns of features: pooled, of Inception spatial, logits."""
    network = step.network.step.network
    assert isinstance(network, FeatureNetworkSpec)
    return network.feature_widths(step.network.step.shape.num_classes)


def _result_bytes(step: Step) -> int | None:
    if isinstance(step, Measure | Evaluate):
        return JSON
    if isinstance(step, ListImages):
        return None if step.num_images is None else HEADER + LISTED * step.num_images
    if isinstance(step, PublishedStatistics):
        return _moments(list(INCEPTIONS.values())[: 1 + step.spatial])
    if not isinstance(step, Statistics):
        return None
    assert isinstance(step.features.step, Features)
    widths = _widths(step.features.step)
    return None if widths is None else _moments(widths[: len(step.columns)])


def _moments(widths: Sequence[int]) -> int:
    """Of means and covariances of features of these widths."""
    return HEADER + FLOAT64 * sum(width * (width + 1) for width in widths)
