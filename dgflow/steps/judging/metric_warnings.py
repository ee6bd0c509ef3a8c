"""Warnings about the numbers of a `Measure`, and other facts for its readers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from dgflow.images.labels import classes_or_unknown
from dgflow.metrics import checks
from dgflow.metrics.frechet import Moments, cholesky_factor
from dgflow.metrics.homogeneity import disorder, unlike_class_counts
from dgflow.metrics.inception_score import SHUFFLE_SEED, InceptionScore
from dgflow.metrics.protocols import HEADINGS, OF_NEIGHBOURS, PROTOCOLS, outside_protocol
from dgflow.networks.inception.spec import WIDTHS
from dgflow.specs.bound import Bound, BoundRows
from dgflow.specs.graph import graph
from dgflow.specs.step import Slice, Spread
from dgflow.steps.judging.feature_passes import Sums, shuffled_scores, summed
from dgflow.steps.judging.measure_fields import FRECHET, MeasureFields
from dgflow.steps.judging.statistics import NAMES
from dgflow.steps.sources.image_set import ImageSet, StatisticsFile

# Samples per feature below which the first-order estimate of a Fréchet distance's spread is rough
# (`frechet_error`)
_FEW = 10


def made_up(step: MeasureFields) -> list[str]:
    """Returns one text for all made-up inputs, so that a table shows it once."""
    if not any(node.step.is_made_up for node in graph(step)):
        return []
    return [
        "a smoke run: random weights or statistics stand in for trained or published ones; the numbers "
        "are meaningless"
    ]


def of_statistics(step: MeasureFields) -> list[str]:
    """Returns warnings about statistics files that do not have the protocol's number of features (checked
    here if no image is measured), or that come from too few images."""
    warnings = []
    for file in step.files:
        arrays = file.read()
        for metric, column in FRECHET.items():
            mean, covariance = NAMES[column]
            if metric not in step.wanted or covariance not in arrays:
                continue
            width, expected = len(arrays[mean]), WIDTHS[column]
            if step.protocol is not None and step.images is None and width != expected:
                warnings.append(
                    f"{file.title}: statistics of {width:,} features, but {HEADINGS[metric]} of protocol "
                    f"{step.protocol} is of Inception's {expected:,}: do not compare with published numbers"
                )
            if _singular(arrays[mean], arrays[covariance]):
                warnings.append(
                    f"{file.title}: {covariance} is singular, as for no more images than features, so "
                    f"{HEADINGS[metric]} is mostly bias; take statistics of far more than {width:,} images"
                )
    return warnings


def _singular(mean_D: np.ndarray, covariance_DD: np.ndarray) -> bool:
    """True if the covariance of the varying features is singular. Features that are constant over all images,
    such as a rectified unit that no image activates, say nothing about the number of images."""
    rounding = len(mean_D) * np.finfo(np.float64).eps
    variance_D = covariance_DD.diagonal()
    varied = np.flatnonzero(variance_D > rounding * (variance_D.max(initial=0) + np.square(mean_D)))
    if not len(varied):
        return True
    return cholesky_factor(torch.from_numpy(covariance_DD[np.ix_(varied, varied)])) is None


def of_images(
    step: MeasureFields,
    images: Slice | ImageSet,
    inputs: Bound,
    sums: Sums,
    moments: Mapping[str, Moments],
    spread: Spread,
) -> list[str]:
    """Returns warnings about the samples, whose pass gave `sums` and `moments`, and about the reference."""
    protocol = PROTOCOLS.get(step.yardstick.name)
    warnings: list[str] = []
    for metric, column in FRECHET.items():
        if metric in step.wanted:
            width = len(moments[column].sum)
            counted = checks.sample_count(images.rows, width, protocol, HEADINGS[metric])
            if step.statistics is None and step.reference is not None:
                counted += checks.reference_count(step.reference.rows, width, HEADINGS[metric])
            warnings += [line for line in counted if line not in warnings]
    if step.reference is not None and set(step.wanted) & set(OF_NEIGHBOURS):
        warnings += checks.manifold_count(manifold_size(step, step.reference), protocol)
    classes = images.step.shape.num_classes if isinstance(images, Slice) else None
    warnings += checks.class_balance(_labels(sums), classes or None)
    warnings += _of_pixels(sums, images.rows)
    warnings += _of_order(step, images.rows, inputs, sums, spread)
    return warnings + _of_reference(step, inputs, sums, spread)


def _of_pixels(sums: Sums, rows: int) -> list[str]:
    """Returns warnings about images of one colour, and about duplicate images."""
    constant = checks.constant_images(np.flatnonzero(sums.fact("constant")).tolist(), rows)
    return constant + checks.repeated_images(_digests(sums))


def _of_order(step: MeasureFields, rows: int, inputs: Bound, sums: Sums, spread: Spread) -> list[str]:
    """Returns a warning about samples whose order lowers or raises the Inception score, with the score in a
    random order."""
    size = step.yardstick.split_size
    if "is" not in step.wanted or not (reason := disorder(_labels(sums), sums.scores.total(), size)):
        return []
    shuffled = InceptionScore.of(shuffled_scores(inputs, "samples", rows, size, spread))
    return [
        f"the samples are not in random order ({reason}), and IS depends on the order: its splits are "
        f"contiguous, as in OpenAI's evaluator. In random order (torch-fidelity's, seed {SHUFFLE_SEED}) it "
        f"is {shuffled.mean:.3f}, with a standard deviation of {shuffled.std:.2g} over the splits"
    ]


def _of_reference(step: MeasureFields, inputs: Bound, sums: Sums, spread: Spread) -> list[str]:
    """Returns warnings about the reference's images, alone and compared with the samples, whose pass gave
    `sums`."""
    images = step.reference_images
    if images is None:
        return []
    facts = summed(inputs, "reference", images.rows, (), step.yardstick.split_size, spread)
    warnings = [f"reference: {line}" for line in _of_pixels(facts, images.rows)]
    warnings += unlike_class_counts(_labels(sums), _labels(facts))
    if images_digest(inputs, "samples", step.samples) == images_digest(inputs, "reference", images):
        return [*warnings, "samples and reference are the same images: this measures nothing"]
    return warnings + checks.shared_images(_digests(sums), _digests(facts))


def _labels(sums: Sums) -> np.ndarray:
    """Returns the labels, -1 for all if some cannot be classes."""
    return classes_or_unknown(sums.fact("label"))


def _digests(sums: Sums) -> list[bytes]:
    return [value.tobytes() for value in sums.fact("pixels")]


def notes(
    step: MeasureFields, moments: Mapping[str, Moments], errors: Mapping[str, float | None]
) -> list[str]:
    """Returns other facts for a reader."""
    lines = outside_protocol(step.yardstick, step.wanted)
    sets = [part for part in (step.images, step.reference) if isinstance(part, ImageSet)]
    lines += dict.fromkeys(f"{part.title}: {note}" for part in sets for note in part.notes)
    for metric, column in FRECHET.items():
        if errors.get(metric) is not None and moments[column].n < _FEW * len(moments[column].sum):
            lines.append(
                f"± of {HEADINGS[metric]} is rough with fewer than {_FEW} samples per feature: in trials "
                "0.7 to 2 times the true spread"
            )
    if step.metrics is None:
        left_out = {name: why for name in step.yardstick.metrics if (why := step.lacking(name))}
        lines += [f"not measured: {HEADINGS[name]}, since {why}" for name, why in left_out.items()]
    if step.reference is not None and set(step.wanted) & set(OF_NEIGHBOURS):
        size = manifold_size(step, step.reference)
        if size < step.reference.rows:
            lines.append(
                f"precision and recall use {size:,} of the reference's {step.reference.rows:,} images, "
                "drawn with a fixed seed"
            )
    return lines


def images_digest(inputs: Bound, name: str, part: Slice | ImageSet | StatisticsFile) -> str:
    """Returns the digest of the images behind features, from the features' manifest."""
    if not isinstance(part, Slice):
        return part.digest
    item = inputs.items[name]
    assert isinstance(item, BoundRows)
    return item.manifest.inputs["samples"]


def manifold_size(step: MeasureFields, reference: Slice | ImageSet) -> int:
    """Returns the number of the reference's images for precision and recall: all, unless the protocol takes
    fewer."""
    return min(reference.rows, step.yardstick.manifold_images or reference.rows)
