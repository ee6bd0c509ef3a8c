"""Spec of score matching weighted by a discriminator's ratio, for recipes."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from dgflow.diffusion.guidance_settings import TAU_MIN, check_window
from dgflow.specs.spec import Spec
from dgflow.specs.step import Weights

Divergence = Literal["chi-squared", "hellinger", "jensen-shannon", "kl", "reverse-kl"]


class RatioWeighting(Spec):
    """Weights of denoising score matching on real images, by the ratio r = p_real / p_model at the noisy
    image, as estimated by `discriminator`.

    Every f-divergence of two densities smoothed by the same noise obeys

        D_f(at sigma_a) - D_f(at sigma_b) = integral from sigma_a to sigma_b of
            sigma E_real[r f''(r) |score_real - score_model|^2] d sigma

    by the heat equation, d p / d sigma = sigma laplacian p, and two integrations by parts. For the
    Kullback-Leibler divergence r f''(r) is 1, which is the likelihood's own bound (Song et al. 2021, theorem
    1). Weighting the denoising error of a real image by r f''(r) therefore minimises another divergence:

    | divergence | f(r) | weight |
    |---|---|---|
    | kl | r log r | 1: plain score matching |
    | chi-squared | (r - 1)^2 / 2 | r = exp(logit): largest where the model's density is too low |
    | reverse-kl | -log r | 1 / r: largest where the model's density is too high |
    | hellinger | 2 (sqrt(r) - 1)^2 | 1 / sqrt(r) |
    | jensen-shannon | 2 r log r - 2 (1 + r) log((1 + r) / 2) | 2 / (1 + r) |

    Each f is scaled to f''(1) = 1, so that for any divergence the weight is 1 where model and data agree. The
    weight of an image does not depend on the other images of the batch, and so not on the number of workers.

    The weights are applied to real images for the following reason. Given the noisy image, the weight is a
    constant. With any positive weight, the minimum is therefore the mean of the clean images given the noisy
    one, which is the data's score. A wrong ratio or a bound only changes the trade-off of a network of
    limited capacity. Weights at noisy samples of the model would, by the same argument, keep the model's own
    score as the minimum and correct nothing.

    The ratio belongs to the model on whose samples the discriminator was trained. It gives the exact gradient
    at that model, which should be the initial model. As training moves away from it, train another
    discriminator.

    Weights lie between 1 / `largest` and `largest`, so that no image dominates a batch. They are 1 outside
    the linear-VP times `tau_min` to `tau_max`, where the discriminator was not trained. No gradient flows
    through them.
    """

    discriminator: Weights
    divergence: Divergence = "chi-squared"
    largest: float = Field(default=10.0, ge=1)
    tau_min: float = Field(default=TAU_MIN, ge=0, le=1)
    tau_max: float = Field(default=1.0, ge=0, le=1)

    @model_validator(mode="after")
    def _one_window(self) -> Self:
        check_window(self.tau_min, self.tau_max, None)
        return self
