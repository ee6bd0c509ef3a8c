"""Metrics of generated images from arrays of features: Fréchet distance (FID, sFID), Inception score, precision and recall.

Promises: float64, results that do not depend on how the features were sharded, errors that name the bad row. Leaves to others: reading
images, the networks that give the features, and which results may be compared.
"""

from dgflow.metrics.frechet import Gaussian, Moments, MomentsAccumulator, frechet_distance
from dgflow.metrics.inception_score import (
    InceptionScore,
    InceptionScoreAccumulator,
    SplitSums,
    inception_score,
    inception_score_of,
    merge_splits,
)
from dgflow.metrics.precision_recall import PrecisionRecall, inside_any_ball, precision_recall, squared_radii

__all__ = [
    "Gaussian",
    "InceptionScore",
    "InceptionScoreAccumulator",
    "Moments",
    "MomentsAccumulator",
    "PrecisionRecall",
    "SplitSums",
    "frechet_distance",
    "inception_score",
    "inception_score_of",
    "inside_any_ball",
    "merge_splits",
    "precision_recall",
    "squared_radii",
]
