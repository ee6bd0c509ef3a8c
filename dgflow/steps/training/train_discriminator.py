"""TrainDiscriminator: a discriminator of real and fake samples at every noise level; its logit is the
log-ratio that guides.

Beside it:

- `discriminator_fields`: its fields and their checks;
- `discriminator_training`: its data, loss, optimiser and measurements as a `TrainingTask`;
- `fake_shares`: the rows of several fake slices in a batch;
- `discriminator_data`: the rows of a batch and of the held-out pairs;
- `discriminator_task`: noise, logits, loss, and the measurements of a held-out item;
- `gradient_matching`: the loss of its gradient, if there is one;
- `clean_task`: the same without noise;
- `discriminator_metrics`: the metrics of an epoch from these;
- `dgflow.steps.gain_items`: Gain on held-out real images, a further measurement of an epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from dgflow.diffusion.gain_curve import GAIN_METRICS
from dgflow.specs.step import Best, Use, Weights, Work
from dgflow.specs.train_step import Chance
from dgflow.steps.training.discriminator_fields import DiscriminatorFields
from dgflow.steps.training.discriminator_metrics import CHANCE
from dgflow.steps.training.train_classifier import TrainClassifier

if TYPE_CHECKING:
    from torch import nn

    from dgflow.specs.bound import Bound
    from dgflow.specs.training_task import TrainingTask


class TrainDiscriminator(DiscriminatorFields):
    """A discriminator of diffused images (Kim et al. 2023, Algorithm 1): real = 1, fake = 0.

    Batches are half real, half fake. An epoch is one pass over the real images; if there are fewer fakes,
    they are used more often. Noise levels are drawn with log sigma uniform on [`sigma_min`, `sigma_max`]; the
    default is the range in which guidance with its default window acts in EDM's sampler. `times="importance"`
    draws them as published, tau in [1e-5, 1] importance-sampled, which is log sigma uniform on [0.001, 152]
    and spends a third of its draws below that window; the two limits then apply only to measuring.
    `precision` applies to activations; weights, optimiser and loss are float32.

    With `features`, `network` reads the middle features of a frozen classifier of noisy images, as in the
    paper; otherwise the images themselves. Both receive the time that those features were trained with
    (`ADMEncoder.time`), in training and in guidance; the published code trains on linear-VP time at 64 pixels
    and guides with cosine time. With `fine_tune` the features are trained too, starting from the classifier's
    weights (figure 28b), and are stored with the head. Without features, `process="edm"` gives the network
    the time of EDM's own diffusion instead of the linear VP one (figure 28a); see `Discriminator`.

    With `noise="none"` the discriminator is trained only on clean images, at the time of noise level 0, on
    the features of a classifier of clean images (`TrainClassifier(noise="none")`) or on none. It then has no
    noise levels, no settings for noise levels and no Gain, and cannot guide. It selects among finished
    samples (best of n, rejection at the last step) and scores them (`MeanLogRatio`).

    `bootstrap` makes the discriminator a member of a bagged ensemble: of n real images, and of the fakes
    likewise, it trains on n draws with replacement, which `seed` and the number `bootstrap` determine. The
    images that are not drawn, about 1 / e of all, are its held-out set; `held_out` is not used.

    `loss` is the Bregman divergence by which the log-ratio is fitted (appendix B): "bce", binary
    cross-entropy, as published; "lsif", least squares of the ratio; "ukl", the unnormalised Kullback-Leibler
    divergence. All have their minimum at the true log-ratio. For logits beyond 5 ("lsif") or 10 ("ukl") they
    continue with bounded slopes and the same minimum (`dgflow.diffusion.losses.discriminator_loss`), so that
    a bad batch does not overflow.

    `loss="bce+gradient"` adds to the cross-entropy, which fits the value of the log-ratio, a loss of its
    gradient, by which the discriminator guides (Verine et al. 2025, arXiv 2503.16117): with D the network of
    `score`, the one to be guided, and x = x0 + sigma z a noisy real image,

        `gradient_weight` E[(|D + sigma^2 grad l - x0|^2 - |D - x0|^2) / sigma^2].

    The second square does not depend on the discriminator; with it, an untrained discriminator has the loss
    0. The mean is -Gain at weight 1 per unit of log sigma, in nats. Both losses have their minimum at the
    true log-ratio if the fakes are exact samples of the score network. At noise levels that the score network
    was not trained for, only the cross-entropy acts. A step takes the gradient of a gradient, through frozen
    features too: twice the operations, and an evaluation of the score network for each real row. The parts
    are recorded as `held_out_bce` and `held_out_gradient`.

    `fake` may be several slices, for a discriminator against a mixture: every batch takes the share of each
    that `fake_shares` gives, rounded to whole rows (by default all have the same share), and so do the
    held-out pairs. The logit is then the log-ratio of the real images to that mixture.

    Every epoch records its held-out loss, because too much training is the best-known way to make FID worse,
    and its calibration by noise level. The held-out loss is in the units of `loss`; if that is not "bce", the
    cross-entropy of the same logits is recorded beside it, as `held_out_bce`.

    With `gain_of`, the score network that is to be guided, every epoch also records Gain (theorem 2) on up to
    2,048 of the held-out real images, between `sigma_min` and `sigma_max`: for every weight, by noise level,
    with standard errors (`dgflow.diffusion.gain_curve`). `.best("gain")` is the epoch with the largest Gain
    at weight 1, `.best("gain_at_best_weight")` that with the largest at its own best weight. The score
    network is evaluated once per image and level.
    """

    schema_version: ClassVar[int] = 2  # batches are drawn by lanes
    held_out_metrics: ClassVar[Mapping[str, Best]] = {
        "held_out_loss": "lowest",
        "held_out_bce": "lowest",
        "held_out_gradient": "lowest",
        **GAIN_METRICS,
    }

    def cautions(self) -> list[str]:
        """Returns warnings about features that were trained without noise, and about a gradient that matches
        another network than that of the fakes."""
        lines = []
        below = None if self.features is None else self.features.step
        if self.noise != "none" and isinstance(below, TrainClassifier) and below.noise == "none":
            lines.append(
                f"{self.title}: its features are those of a classifier of clean images, which has seen no "
                'noise: train the classifier with noise="linear_vp", or the discriminator with noise="none"'
            )
        if self.score is not None:
            lines += [
                f"{self.title}: {name} is not from its score network, {self.score.title} "
                f"({self.score.which}), but from {weights.title} ({weights.which}): cross-entropy and the "
                "loss of the gradient then have different minima; take that network as score"
                for name, part in zip(self.slice_names[1:], self.fakes, strict=True)
                if isinstance(weights := getattr(part.origin.step, "score", None), Weights)
                and weights.identity != self.score.identity
            ]
        return lines

    def _toy_fields(self) -> dict[str, Any]:
        fields = super()._toy_fields()
        least = 2 * len(self.fakes)  # rows of a batch in which each slice has one
        return fields | {"batch_size": max(fields["batch_size"], least), "fake_shares": None}

    @property
    def title(self) -> str:
        clean = " of clean images" if self.noise == "none" else ""
        return f"{super().title}{clean}{'' if self.bootstrap is None else f' bootstrap {self.bootstrap}'}"

    @property
    def chance(self) -> Chance:
        return CHANCE[self.loss]

    @property
    def uses(self) -> tuple[Use, Use]:
        return ("train-gradient", "gradient") if self.matches_gradient else super().uses

    def work(self, amount: int) -> list[Work]:
        works, items = super().work(amount), self.levels * self.gain_images
        if self.matches_gradient and self.score is not None and amount:
            real = (self.steps_per_epoch * self.batch_size + self.held_out_items) // 2
            works.append(
                Work(self.score.step, "forward", amount * real, self.batch_size // 2, self.precision)
            )
        if self.gain_of is None or not amount:
            return works
        gradients = Work(self, "gradient", amount * items, self.batch_size, self.precision)
        return [*works, gradients, Work(self.gain_of.step, "forward", items, self.batch_size, self.precision)]

    def best(self, metric: str = "held_out_loss") -> Weights:
        if metric in GAIN_METRICS and self.gain_of is None:
            raise ValueError(
                f"{self.kind} measures no Gain, so no epoch can be chosen by {metric}: set gain_of to the "
                "weights of the score network that is to be guided, as in gain_of=score.last()"
            )
        if metric == "held_out_gradient" and not self.matches_gradient:
            raise ValueError(
                f"{self.kind} has no loss of the gradient, so no epoch can be chosen by {metric}: set "
                'loss="bce+gradient" and score to the weights of the score network that is to be guided'
            )
        if metric == "held_out_bce" and self.loss == "bce":
            metric = "held_out_loss"
        return super().best(metric)

    def build(self, inputs: Bound) -> nn.Module:
        """Builds the network with a fresh head."""
        return self.architecture.assemble(self.shape._replace(num_classes=self.classes), inputs.network)

    def training_task(self, inputs: Bound) -> TrainingTask:
        from dgflow.steps.training.discriminator_training import training_task

        return training_task(self, inputs)
