"""MeanLogRatio: a discriminator's log-ratio of finished samples, as a score of their quality."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from dgflow.diffusion.guidance_settings import Combine
from dgflow.diffusion.guidance_specs import DiscriminatorGuidance, OneOrSeveral
from dgflow.networks.discriminator.spec import Discriminator
from dgflow.specs.figures import Figure, Metric, Table
from dgflow.specs.graph import graph
from dgflow.specs.spec import ActivationPrecision, BatchSize, SmokeRun
from dgflow.specs.step import ResultStep, Slice, Spread, Weights, Work
from dgflow.steps.arm_values import over_seeds, standard_error
from dgflow.steps.closed_form import ClosedForm
from dgflow.steps.guides import check_ensemble, check_guide, loaded_term, members_of
from dgflow.steps.judging.shared_samples import check_held_out, not_trained_on, seen
from dgflow.steps.mechanism.levels import forward_uses, two_or_more
from dgflow.store.identity import canonical_json

if TYPE_CHECKING:
    import numpy as np

    from dgflow.specs.bound import Bound
    from dgflow.store.objects import ObjectStore

ROWS_AT_ONCE = 512  # per piece of a worker's work


class MeanLogRatio(ResultStep):
    """The mean of a discriminator's log-ratio log(p_real / p_model) over the samples of every arm, and over
    `real` images that it was not trained on, each with its standard error, in nats.

    The model is the one whose fakes the discriminator was trained against. If the discriminator is exact,
    real images have KL(real | model), the model's own samples -KL(model | real), and samples of the data
    distribution the value of real images; the nearer an arm's value is to the value of real images, the
    better is the arm. A higher value means that the discriminator is more certain of the samples than of real
    images, for example because the samples are only of the most likely kinds.

    Samples are evaluated at noise level 0: train the discriminator with `noise="none"`. A discriminator of
    noisy samples is evaluated slightly below the levels that it was trained on. A tuple is an ensemble;
    `combine` is that of `DiscriminatorGuidance`. A discriminator that guided or selected the samples of an
    arm may not score them.

    The file holds `arms`, as `Evaluate` writes them (a value for each slice, with `errors`), and `real`.
    """

    quantities: ClassVar[Mapping[str, Metric]] = {
        "log_ratio": Metric("log-ratio", 3, nearest="that of real images")
    }

    arms: dict[str, tuple[Slice, ...]] = Field(min_length=1)
    discriminator: OneOrSeveral
    real: Slice
    combine: Combine = "logits"
    precision: ActivationPrecision = "float32"
    batch_size: BatchSize = 256

    @model_validator(mode="after")
    def _fits(self) -> MeanLogRatio:
        shape, classes = self.real.step.shape, self.real.step.shape.num_classes
        members = members_of("discriminator", self.term)
        for name, weights in members.items():
            check_guide(name, name, weights, "discriminator", shape, classes)
            self._check_clean(name, weights)
        check_ensemble(members)
        for field, part in self.scored.items():
            self._check_part(field, part)
            for weights in self.term.guides:
                check_held_out(field, weights, part)
        return self

    def _check_clean(self, field: str, weights: Weights) -> None:
        network = weights.step.architecture
        if isinstance(network, Discriminator) and network.process == "edm":
            raise ValueError(
                f"{field}: expected a discriminator that can be evaluated on clean samples, found "
                f'{weights.title}, whose time is log(sigma) / 4: train one with noise="none"'
            )

    def _check_part(self, field: str, part: Slice) -> None:
        ours, wanted = part.step.shape, self.real.step.shape
        if part.rows < 2:
            raise ValueError(
                f"{field}: expected two samples or more, whose spread gives the error, found {part.rows}; "
                "take a larger slice"
            )
        if ours[:2] != wanted[:2] or part.step.gives_latents != self.real.step.gives_latents:
            raise ValueError(
                f"{field}: expected samples of the form of the real ones, {wanted.channels} channels of "
                f"{wanted.image_size} pixels per side, found those of {part.title}"
            )
        if (classes := self.term.guides[0].step.classes) not in (0, ours.num_classes):
            raise ValueError(
                f"{field}: expected labels of the {classes} classes of the discriminator, found samples "
                f"of {ours.num_classes} classes"
            )
        if classes:
            part.check_labelled(field, "the discriminator", "train one with conditional=False")
        behind = {node.step.fingerprint for node in graph(part)}
        for weights in self.term.guides:
            if weights.step.fingerprint in behind and not isinstance(weights.step, ClosedForm):
                raise ValueError(
                    f"{field}: expected samples that were made without the discriminator that scores them, "
                    f"found {part.title}, made with {weights.step.title}: train another, such as one of "
                    "another seed on other fakes"
                )

    @cached_property
    def term(self) -> DiscriminatorGuidance:
        """The discriminators in the form in which guidance names and loads them."""
        return DiscriminatorGuidance(discriminator=self.discriminator, combine=self.combine)

    @cached_property
    def scored(self) -> dict[str, Slice]:
        """Every slice, by the path of its field."""
        own = {"real": self.real}
        for name, arm in self.arms.items():
            own |= {f"arms.{name}.{number}": part for number, part in enumerate(arm)}
        return own

    def cautions(self) -> list[str]:
        """Returns warnings about real images that the features of a discriminator were trained on."""
        return [
            f"{self.title}: {count:,} of the {self.real.rows:,} real images are ones that the features of "
            f"{weights.title} were trained on, so that their log-ratio may differ from that of unseen "
            "images: take others"
            for weights in self.term.guides
            if (count := seen(weights, self.real))
        ]

    def toy(self, smoke: SmokeRun) -> MeanLogRatio:
        arms = {name: tuple(map(two_or_more, arm)) for name, arm in smoke.value(self.arms, 1).items()}
        term = smoke.value(self.term, 1)
        real = not_trained_on(term.guides, smoke.value(self.real, 1))
        return self.model_copy(update={"arms": arms, "discriminator": term.discriminator, "real": real})

    @property
    def title(self) -> str:
        return f"log-ratio of {', '.join(self.arms)}"

    def network_evaluations(self, rows: int) -> int:
        return rows * sum(part.rows for part in self.scored.values())

    def work(self, amount: int) -> list[Work]:
        rows = self.network_evaluations(amount)
        return [
            Work(network, use, rows, self.batch_size, self.precision)
            for network, use in forward_uses(self.term)
        ]

    def compute(self, inputs: Bound, spread: Spread, store: ObjectStore) -> bytes:
        del store
        import numpy as np

        pieces: dict[tuple[str, int], np.ndarray] = {}
        spread(lambda: self._scorer(inputs), list(self._items()), pieces.__setitem__)
        found = {
            field: _summary(np.concatenate([pieces[field, start] for start in _starts(part)]))
            for field, part in self.scored.items()
        }
        arms = {}
        for name, arm in self.arms.items():
            own = [found[f"arms.{name}.{number}"] for number in range(len(arm))]
            values = {each: [summary[each] for summary in own] for each in ("log_ratio", "error", "above")}
            arms[name] = {"log_ratio": over_seeds(values["log_ratio"]) | {"errors": values["error"]}}
            arms[name]["above"] = over_seeds(values["above"])
        return canonical_json({"arms": arms, "real": found["real"]}).encode()

    def compared(self, content: bytes) -> Mapping[str, Mapping[str, Any]]:
        arms = json.loads(content)["arms"]
        return {name: {"log_ratio": arms[name]["log_ratio"]} for name in self.arms}

    def figures(self, content: bytes) -> Sequence[Figure]:
        found = json.loads(content)
        real = found["real"]
        rows = [_row("real images", real["log_ratio"], real["error"], real["above"])]
        for name in self.arms:
            arm = found["arms"][name]
            errors = arm["log_ratio"]["errors"]
            error = math.hypot(*errors) / len(errors)
            rows.append(_row(name, arm["log_ratio"]["mean"], error, arm["above"]["mean"]))
        note = "nats, mean ± standard error over the samples; the nearer to real images, the better"
        return [Table("Log-ratio of samples", ["", "log-ratio", "classified as real"], rows, note=note)]

    def _items(self) -> Iterator[tuple[str, int]]:
        for field, part in self.scored.items():
            for start in _starts(part):
                yield field, start

    def _scorer(self, inputs: Bound) -> Callable[[tuple[str, int]], np.ndarray]:
        """Loads the discriminators; the returned function gives the log-ratios, float64, of a piece of a
        slice, by the number of its first row."""
        import torch

        from dgflow.diffusion.acceleration import autocast, device, prepared
        from dgflow.diffusion.batches import Batches
        from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm, log_ratio_at
        from dgflow.specs.bound import SharedNetworks
        from dgflow.steps.image_rows import image_rows

        networks, batches = SharedNetworks(inputs.items), Batches(self.batch_size, of=self.name)
        term = loaded_term(
            "discriminator", self.term, lambda name: prepared(networks.network(name), device=device())
        )
        assert isinstance(term, DiscriminatorTerm)
        conditional = self.term.guides[0].step.classes > 0

        def log_ratios(item: tuple[str, int]) -> np.ndarray:
            field, start = item
            part = self.scored[field]
            rows = image_rows(inputs, field, seed=0, source=part.title)

            def batch(first: int, last: int) -> torch.Tensor:
                images, labels = rows(torch.arange(first, last))
                sigma_B = torch.zeros(len(images), dtype=torch.float64, device=images.device)
                with autocast(images.device, self.precision):
                    return log_ratio_at(
                        term.discriminator, images, sigma_B, labels if conditional else None, time=term.time
                    )

            found = batches.map(batch, start, min(start + ROWS_AT_ONCE, part.rows))
            return torch.cat(found).double().cpu().numpy()

        return log_ratios


def _starts(part: Slice) -> range:
    return range(0, part.rows, ROWS_AT_ONCE)


def _summary(log_ratio: np.ndarray) -> dict[str, float]:
    """Returns the mean with its standard error, and the share of samples above 0, which are classified as
    real."""
    return {
        "log_ratio": float(log_ratio.mean()),
        "error": float(standard_error(log_ratio)),
        "above": float((log_ratio > 0).mean()),
    }


def _row(name: str, mean: float, error: float, above: float) -> list[str]:
    return [name, f"{mean:.3f} ± {error:.3f}", f"{100 * above:.1f} %"]
