"""Score matching weighted by a discriminator's ratio, as recipes name it."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from dgflow.diffusion.guidance_settings import TAU_MIN, check_window
from dgflow.specs.spec import Spec
from dgflow.specs.step import Weights

Divergence = Literal["chi-squared", "hellinger", "jensen-shannon", "kl", "reverse-kl"]


class RatioWeighting(Spec):
    """Weights of denoising score matching on real images, by the ratio r = p_real / p_model at the noisy
    image, which `discriminator` estimates.

    Every f-divergence of two densities that the same noise smooths obeys

        D_f(at sigma_a) - D_f(at sigma_b) = integral from sigma_a to sigma_b of
            sigma E_real[r f''(r) |score_real - score_model|^2] d sigma

    by the heat equation, d p / d sigma = sigma laplacian p, and two integrations by parts. For the
    Kullback-Leibler divergence r f''(r) is 1, which is the likelihood's own bound (Song et al. 2021, theorem
    1). So the denoising error of a real image, weighted with r f''(r), lowers another divergence:

    | divergence | f(r) | weight |
    |---|---|---|
    | kl | r log r | 1: score matching as it was |
    | chi-squared | (r - 1)^2 / 2 | r = exp(logit): most where the model has too little |
    | reverse-kl | -log r | 1 / r: most where the model has too much |
    | hellinger | 2 (sqrt(r) - 1)^2 | 1 / sqrt(r) |
    | jensen-shannon | 2 r log r - 2 (1 + r) log((1 + r) / 2) | 2 / (1 + r) |

    Each f is scaled to f''(1) = 1: a weight is 1 where model and data agree, whatever the divergence, and
    depends on no other image of the batch, hence not on the number of workers.

    Why real images: given the noisy image the weight is a constant, so that every positive weight has its
    minimum at the mean of the clean images behind it, the data's score, and a wrong ratio or a bound changes
    only where a network that cannot be right everywhere is right. By the same argument, weights at noisy
    samples of the model would keep the model's own score as the minimum and correct nothing.

    The ratio is that of the model whose samples the discriminator has seen. It is exact for the slope at
    that model, the one to start from; as training moves away from it, train another discriminator.

    Weights lie between 1 / `largest` and `largest`, so that no image decides a batch. They are 1 outside the
    linear-VP times `tau_min` to `tau_max`, where the discriminator was not trained. No gradient flows through
    them.
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
