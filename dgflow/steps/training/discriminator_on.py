"""The three ways to build a discriminator on a classifier (Kim et al. 2023, figure 28b)."""

from __future__ import annotations

from typing import Any

from dgflow.networks.adm.spec import ADMEncoder
from dgflow.options import FeatureUse
from dgflow.specs.step import Weights


def discriminator_on(
    classifier: Weights, features: FeatureUse = "frozen", head: ADMEncoder | None = None
) -> dict[str, Any]:
    """Returns the fields `network`, `features` and `fine_tune` of a `TrainDiscriminator`.

    Args:
        classifier: weights of an `ADMEncoder` that was trained on noisy samples.
        features: "frozen": `head` on the classifier's middle features, as published; "fine-tuned": the
            classifier is trained further together with the head; "none": the classifier's own architecture
            with fresh weights, on the samples themselves, so that sizes fit and all of it is trained.
        head: the published depth by default.
    """
    if features == "none":
        return {"network": classifier.step.architecture}
    fields: dict[str, Any] = {"features": classifier, "network": head or ADMEncoder()}
    return fields | ({"fine_tune": True} if features == "fine-tuned" else {})
