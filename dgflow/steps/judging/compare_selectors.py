"""CompareSelectors: FID by epoch of a discriminator, compared with measurements that need no samples."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import model_validator

from dgflow.metrics.protocols import DECIMALS
from dgflow.specs.figures import Figure, Metric
from dgflow.specs.step import Measurements, Result, ResultStep, Slice, Spread, Weights
from dgflow.steps.arm_values import over_seeds
from dgflow.steps.judging.evaluate import Evaluate
from dgflow.steps.judging.selector_figures import figures_of
from dgflow.steps.judging.selectors import SELECTORS, verdict
from dgflow.store.identity import canonical_json

if TYPE_CHECKING:
    from dgflow.specs.bound import Bound
    from dgflow.store.objects import ObjectStore

FEWEST = 2  # epochs that can be ordered


class CompareSelectors(ResultStep):
    """The epoch of a discriminator that each measurement would choose, and the FID that the choice costs.

    `by_epoch` is the result of an `Evaluate` with one arm for each of several epochs of `training`, guided by
    that epoch; arms without that discriminator are shown for comparison. The measurements are Gain, held-out
    loss, held-out accuracy and calibration error, as far as the training records them, and the last epoch.

    The epoch with the lowest FID is selected on the same samples that measure its FID, so that every regret
    is slightly overestimated. An epoch is chosen among those with an arm.
    """

    quantities: ClassVar[Mapping[str, Metric]] = {
        "fid": Metric("FID", DECIMALS["fid"]),
        "regret": Metric("regret", DECIMALS["fid"]),
    }

    by_epoch: Result
    training: Measurements

    @model_validator(mode="after")
    def _has_epochs(self) -> CompareSelectors:
        evaluation = self.by_epoch.step
        if not isinstance(evaluation, Evaluate):
            raise ValueError(f"expected the result of an Evaluate, found that of {evaluation.kind}")
        guides, trained = self._guides(), len(self.training.step.parts(()))
        for name, weights in guides.items():
            if (most := len(weights.step.parts(()))) > trained:
                raise ValueError(
                    f"expected measurements of the {most} epochs of the training behind arm {name!r}, found "
                    f"{trained}; give both the same training"
                )
        epochs = {weights.which for weights in guides.values()}
        if len(epochs) < FEWEST:
            raise ValueError(
                f"expected at least {FEWEST} arms, each guided by another epoch of {self.training.title}, "
                f"found {len(epochs)}; give Evaluate an arm for every training.epoch(n)"
            )
        return self

    @property
    def title(self) -> str:
        return f"selectors of epochs of {self.training.title}"

    @property
    def file_bytes(self) -> int:
        return 200_000

    def _guides(self) -> dict[str, Weights]:
        """Returns the weights of `training` that guide an arm, by the arm's name."""
        evaluation = self.by_epoch.step
        assert isinstance(evaluation, Evaluate)
        guides = {}
        for name, arm in evaluation.arms.items():
            found = {weights.which: weights for part in arm for weights in self._guides_of(part)}
            if len(found) > 1:
                raise ValueError(
                    f"expected one epoch of {self.training.title} in arm {name!r}, found {', '.join(found)}"
                )
            if found:
                guides[name] = next(iter(found.values()))
        return guides

    def _guides_of(self, part: Slice) -> list[Weights]:
        read = part.origin.step.inputs().values()
        return [
            each
            for each in read
            if isinstance(each, Weights) and each.fingerprint == self.training.fingerprint
        ]

    def compute(self, inputs: Bound, spread: Spread, store: ObjectStore) -> bytes:
        """Returns JSON: `epochs` with their `fid`, `arms` of the others, and `selectors` with the values of
        every epoch of the training, the choice among `epochs`, its regret and rank correlations."""
        del spread, store
        arms = json.loads(inputs.result("by_epoch"))["arms"]
        metrics = inputs.measurements("training")
        fids = {
            weights.choose(metrics): arms[name]["fid"]["per_seed"] for name, weights in self._guides().items()
        }
        fids = dict(sorted(fids.items()))
        selectors = {}
        for selector in SELECTORS:
            if (values := selector.values(metrics)) is None:
                continue
            selectors[selector.name] = {
                "heading": selector.heading,
                "values": list(values.values()),
                "errors": [selector.error(each) for each in metrics.values()],
            } | verdict(selector, {epoch: values[epoch] for epoch in fids}, fids)
        others = arms.keys() - self._guides().keys()
        return canonical_json(
            {
                "epochs": list(fids),
                "fid": [over_seeds(values) for values in fids.values()],
                "trained": list(metrics),
                "arms": {name: arms[name]["fid"] for name in sorted(others)},
                "seeds": next(iter(arms.values()))["seeds"],
                "n": next(iter(arms.values()))["n"],
                "selectors": selectors,
            }
        ).encode()

    def compared(self, content: bytes) -> Mapping[str, Mapping[str, Any]]:
        """Returns FID and regret of the epoch that each selector chooses, by selector."""
        selectors = json.loads(content)["selectors"]
        return {
            each["heading"]: {"fid": each["fid"], "regret": each["regret"]} for each in selectors.values()
        }

    def figures(self, content: bytes) -> Sequence[Figure]:
        return figures_of(json.loads(content))
