"""Features: what a judge network makes of samples, computed once and shared by every comparison."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from pydantic import model_validator

from dgflow.steps.step import SampleStep, Slice, Weights
from dgflow.steps.train_classifier import TrainClassifier

if TYPE_CHECKING:
    from dgflow.steps.binding import Bound
    from dgflow.store.shards import Columns


class Features(SampleStep):
    """Pooled features and logits of a classifier of clean images, for the rows of a slice, counted from 0.

    Columns: `index`, `features` (float32 [d]), `logits` (float32 [classes]).
    """

    samples: Slice
    network: Weights

    @property
    def length(self) -> int:
        return self.samples.rows

    @property
    def title(self) -> str:
        return f"features of {self.samples.step.title} [{self.samples.start}:{self.samples.stop}]"

    @model_validator(mode="after")
    def _a_judge(self) -> Features:
        step = self.network.step
        if not isinstance(step, TrainClassifier) or step.noise != "none" or step.network.pool != "adaptive":
            raise ValueError(
                'expected the weights of a TrainClassifier with noise="none" and pool="adaptive" as the feature network, found ' + step.kind
            )
        return self

    def network_evaluations(self, rows: int) -> int:
        return rows

    def shard_builder(self, inputs: Bound) -> Callable[[int, int], Columns]:
        """Load the network; the function returned makes the rows [start, stop)."""
        import torch

        from dgflow.networks.adm import ADMEncoder
        from dgflow.steps.training_data import scaled

        place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network = inputs.network("network").to(place)
        assert isinstance(network, ADMEncoder)

        @torch.no_grad()
        def rows(start: int, stop: int) -> Columns:
            images = inputs.rows("samples", ["image"], start, stop)["image"]
            batch = scaled(torch.from_numpy(images).permute(0, 3, 1, 2)).to(place)
            features = network.features(batch, torch.zeros(len(batch), device=place))
            return {
                "index": np.arange(start, stop, dtype=np.int64),
                "features": network.pooled(features).float().cpu().numpy(),
                "logits": network.head(features).float().cpu().numpy(),
            }

        return rows
