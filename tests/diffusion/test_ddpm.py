"""DDPM and DDIM on problems with known answers: Gaussians, whose reverse steps are exact, mixtures, and
evaluation counts."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from diffusion.device_reads import ForbidReads
from diffusion.mixtures import MODEL, REAL, exact_log_ratio
from torch import Tensor

from dgflow.diffusion import noise
from dgflow.diffusion.ddpm import ddim, ddpm
from dgflow.diffusion.denoisers import predictor_of
from dgflow.diffusion.discrete import DiscreteSchedule
from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm
from dgflow.diffusion.guidance_settings import Boost, DiscriminatorSettings
from dgflow.diffusion.heun import edm_sigmas, heun
from dgflow.diffusion.samplers import Predictor, Sample

WHOLE = DiscreteSchedule.of("linear")
SHORT = WHOLE.respaced("10")
INDEX = torch.arange(8)
LATENTS = noise.standard_normal(1, INDEX, (2,), step=0, draw=noise.LATENT)


def normals(step: int) -> Tensor:
    return noise.standard_normal(1, INDEX, (2,), step=step, draw=noise.CHURN)


def looks_fake(y: Tensor, tau: Tensor, class_labels: Tensor | None) -> Tensor:
    """A discriminator with logit -1 and gradient 1 everywhere."""
    return y.sum(1) - y.sum(1).detach() - 1.0


def gaussian(std: float, mean: float, schedule: DiscreteSchedule, *, learned: bool) -> Predictor:
    """Returns the exact predictor of data N(mean, std^2): epsilon by Bayes' rule and, learned, v of the exact
    variance of a reverse step.

    The variance is the posterior's plus coef1^2 times the variance of x0 given y; it lies within the
    schedule's two bounds for std <= 1.
    """
    timesteps = torch.tensor(schedule.timestep_map)

    def at(values: tuple[float, ...], time: Tensor) -> Tensor:
        return torch.tensor(values, dtype=torch.float64)[torch.searchsorted(timesteps, time.long())][:, None]

    def predict(y: Tensor, time: Tensor, class_labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        sigma, beta, small = (
            at(values, time) for values in (schedule.sigmas, schedule.betas, schedule.posterior_variance)
        )
        x = y.double() * (1 + sigma**2).sqrt()
        denoised = mean + std**2 / (std**2 + sigma**2) * (x - mean)
        variance = small + at(schedule.posterior_mean_coef1, time) ** 2 * std**2 * sigma**2 / (
            std**2 + sigma**2
        )
        low = at(schedule.posterior_log_variance_clipped, time)
        v = (2 * (variance.log() - low) / (beta.log() - low) - 1).expand_as(y)
        return (x - denoised) / sigma, v if learned else None

    return predict


def moments(predictor: Predictor, schedule: DiscreteSchedule, **options: Any) -> tuple[float, float]:
    """Returns exact mean and variance of samples.

    They are affine in the random numbers, so each of these in turn is 1 and the others are 0.
    """
    num_steps = len(schedule.timestep_map)
    one_each = torch.eye(num_steps + 1, num_steps, dtype=torch.float64)  # the last row has none: the mean
    x = ddpm(
        predictor,
        one_each[:, :1],
        schedule,
        noise=lambda k: one_each[:, k + 1, None],
        clip_denoised=False,
        **options,
    ).x[:, 0]
    return float(x[-1]), float((x[:-1] - x[-1]).square().sum())


@pytest.mark.parametrize("std", [0.3, 1.0])
def test_ddpm_with_the_exact_variance_is_exact_in_ten_steps(std: float) -> None:
    mean, variance = moments(gaussian(std, 0.4, SHORT, learned=True), SHORT)
    # The last step returns the denoised image, whose variance is less than the data's by the posterior
    # variance at the first level.
    assert mean == pytest.approx(0.4, abs=2e-4)
    assert variance == pytest.approx(std**4 / (std**2 + SHORT.sigmas[0] ** 2), rel=2e-4)


def test_the_large_fixed_variance_is_exact_for_data_of_unit_variance_and_the_small_one_too_small() -> None:
    unit = gaussian(1.0, 0.0, SHORT, learned=False)
    assert moments(unit, SHORT, fixed_variance="large")[1] == pytest.approx(
        1 / (1 + SHORT.sigmas[0] ** 2), rel=2e-4
    )
    assert moments(unit, SHORT, fixed_variance="small")[1] < 0.9


def test_the_small_fixed_variance_is_exact_for_data_of_one_image() -> None:
    """Every state on the way is that image times sqrt(abar), plus noise of variance 1 - abar."""
    one_each = torch.eye(10, dtype=torch.float64)
    seen = []

    def record(y: Tensor, time: Tensor, class_labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        seen.append(float(y.double().square().sum()))
        return gaussian(0.0, 0.0, SHORT, learned=False)(y, time, class_labels)

    ddpm(record, one_each[:, :1], SHORT, noise=lambda k: one_each[:, k + 1, None])
    assert seen[1:] == pytest.approx([1 - abar for abar in SHORT.alphas_cumprod[-2::-1]], rel=1e-4)


def test_ddim_without_noise_converges_to_the_probability_flow() -> None:
    """For data N(0, 0.5^2), x is proportional to sqrt(0.25 + sigma^2) along the flow.

    The method is of first order.
    """
    top = WHOLE.sigmas[-1]
    exact = LATENTS * math.sqrt(1 + top**2) * 0.5 / math.sqrt(0.25 + top**2)
    errors = []
    for count in (125, 250, 500, 1000):
        schedule = WHOLE.respaced(str(count))
        x = ddim(gaussian(0.5, 0.0, schedule, learned=False), LATENTS, schedule, clip_denoised=False).x
        errors.append(float((x - exact).abs().max()))
    assert [math.log2(a / b) for a, b in pairwise(errors)] == pytest.approx([1, 1, 1], abs=0.2) and errors[
        -1
    ] < 0.01


def test_ddim_with_eta_1_is_ddpm_with_the_small_variance() -> None:
    predictor = predictor_of(REAL.denoiser, WHOLE)
    ancestral = ddpm(predictor, LATENTS, SHORT, noise=normals, clip_denoised=False).x
    torch.testing.assert_close(
        ddim(predictor, LATENTS, SHORT, eta=1.0, noise=normals, clip_denoised=False).x,
        ancestral,
        rtol=0,
        atol=1e-5,
    )


def test_an_edm_denoiser_in_ddim_ends_where_heun_takes_it() -> None:
    latents = noise.standard_normal(1, torch.arange(500), (2,), step=0, draw=noise.LATENT)
    found = ddim(predictor_of(REAL.denoiser, WHOLE), latents, WHOLE, clip_denoised=False).x
    # Both start at y, the same multiple of the latents except for the last 2e-5 of it.
    expected = heun(REAL.denoiser, latents, edm_sigmas(64, sigma_max=WHOLE.sigmas[-1])).x
    assert float((found - expected).abs().mean()) < 0.01


def test_ddpm_samples_of_a_mixture_have_its_moments_between_those_of_the_two_fixed_variances() -> None:
    """The variance of a reverse step lies between the two, and so does the data's between their results."""
    index = torch.arange(4000)
    latents = noise.standard_normal(2, index, (2,), step=0, draw=noise.LATENT)
    options: dict[str, Any] = {
        "noise": lambda k: noise.standard_normal(2, index, (2,), step=k, draw=noise.CHURN),
        "clip_denoised": False,
    }
    predictor, schedule = predictor_of(REAL.denoiser, WHOLE), WHOLE.respaced("250")
    small, large = (
        ddpm(predictor, latents, schedule, fixed_variance=variance, **options).x
        for variance in ("small", "large")
    )
    for x in (small, large):
        # Mean 0.5, variance 0.09 + 0.25 * 0.75 * 4 = 0.84 in the first coordinate; 0.125, 0.09 + 0.1875 *
        # 0.25 in the second.
        assert x.mean(0).tolist() == pytest.approx([0.5, 0.125], abs=4 * math.sqrt(0.84 / len(index)))
        assert x.var(0).tolist() == pytest.approx([0.84, 0.136875], rel=0.2)
        assert float((x[:, 0] < 0).double().mean()) == pytest.approx(0.25, abs=0.03)
    assert float(small[:, 1].var()) < 0.136875 < float(large[:, 1].var())


@pytest.mark.parametrize("sampler", [ddpm, ddim])
def test_weight_1_with_an_exact_ratio_turns_the_model_into_the_data(sampler: Any) -> None:
    """The same latents and noise end where the predictor of REAL takes them; without guidance, and with
    weight 2, they do not."""
    index = torch.arange(500)
    latents = noise.standard_normal(3, index, (2,), step=0, draw=noise.LATENT)
    schedule = WHOLE.respaced("200")
    options: dict[str, Any] = {
        "noise": lambda k: noise.standard_normal(3, index, (2,), step=k),
        "clip_denoised": False,
    }
    if sampler is ddpm:
        options["fixed_variance"] = "large"
    right = sampler(predictor_of(REAL.denoiser, WHOLE), latents, schedule, **options).x

    def distance(weight: float) -> float:
        term = DiscriminatorTerm(exact_log_ratio, DiscriminatorSettings(weight=weight, tau_min=0.0))
        return float(
            (
                sampler(predictor_of(MODEL.denoiser, WHOLE), latents, schedule, guidance=[term], **options).x
                - right
            )
            .abs()
            .mean()
        )

    assert distance(1.0) < 0.02 < 0.3 < min(distance(0.0), distance(2.0))


def test_a_window_after_a_timestep_is_open_for_the_published_number_of_steps() -> None:
    """DiT-G++: 224 of its 250 steps are at t > 100. Outside the window nothing is evaluated."""
    taus = []

    def discriminator(y: Tensor, tau: Tensor, class_labels: Tensor | None) -> Tensor:
        taus.append(tau)
        return y.sum(1)

    term = DiscriminatorTerm(
        discriminator, DiscriminatorSettings(tau_min=WHOLE.tau_after(100)), time=WHOLE.timesteps_from_sigma()
    )
    sample = ddim(predictor_of(REAL.denoiser, WHOLE), LATENTS, WHOLE.respaced("250"), guidance=[term])
    assert (sample.nfe, sample.guidance_nfe, len(taus)) == (250, 224, 224)
    assert torch.stack(taus).unique().tolist() == sorted(
        step for step in WHOLE.respaced("250").timestep_map if step > 100
    )


def test_log_ratio_is_that_of_the_last_step_inside_the_window() -> None:
    values = []

    def discriminator(y: Tensor, tau: Tensor, class_labels: Tensor | None) -> Tensor:
        values.append(y.sum(1).detach())
        return y.sum(1)

    sample = ddpm(
        predictor_of(REAL.denoiser, WHOLE),
        LATENTS,
        SHORT,
        noise=normals,
        guidance=[DiscriminatorTerm(discriminator, DiscriminatorSettings(tau_min=0.3))],
    )
    assert sample.log_ratio is not None and torch.equal(sample.log_ratio, values[-1].double())
    assert ddpm(predictor_of(REAL.denoiser, WHOLE), LATENTS, SHORT, noise=normals).log_ratio is None


def test_a_boost_doubles_the_gradient_of_what_looks_fake_in_even_steps() -> None:
    """A discriminator with gradient 1 and logit -1 moves the mean by the step's variance, and if boosted by
    twice that."""

    def states(boost: Boost | None) -> list[Tensor]:
        seen: list[Tensor] = []

        def record(y: Tensor, time: Tensor, class_labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
            seen.append(y.double())
            return y, None

        term = DiscriminatorTerm(looks_fake, DiscriminatorSettings(boost=boost))
        ddpm(
            record,
            LATENTS,
            SHORT,
            noise=normals,
            guidance=[term],
            fixed_variance="large",
            clip_denoised=False,
        )
        return seen

    plain, boosted = states(None), states(Boost())
    torch.testing.assert_close(
        boosted[1] - plain[1], torch.full_like(plain[1], SHORT.betas[-1]), rtol=1e-5, atol=1e-6
    )
    # The step after it is linear: the difference passes on, multiplied by the same factor, and nothing is
    # added.
    abar, sigma = SHORT.alphas_cumprod[-2], SHORT.sigmas[-2]
    factor = SHORT.posterior_mean_coef1[-2] * (abar**-0.5 - sigma) + SHORT.posterior_mean_coef2[-2]
    torch.testing.assert_close(boosted[2] - plain[2], factor * (boosted[1] - plain[1]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("fixed_variance", ["small", "large"])
def test_guidance_moves_the_last_step_by_the_posterior_variance_of_the_step_before(
    fixed_variance: Any,
) -> None:
    """The posterior's own variance is 0 there. A window that contains only the last index is evaluated
    once."""

    def samples(guidance: list[DiscriminatorTerm]) -> Sample:
        predictor = predictor_of(REAL.denoiser, WHOLE)
        return ddpm(
            predictor, LATENTS, SHORT, noise=normals, guidance=guidance, fixed_variance=fixed_variance
        )

    guided = samples(
        [DiscriminatorTerm(looks_fake, DiscriminatorSettings(tau_min=0.0, tau_max=WHOLE.tau_after(0)))]
    )
    shift = torch.full_like(guided.x, SHORT.posterior_variance[1])
    torch.testing.assert_close(guided.x - samples([]).x, shift, rtol=1e-6, atol=0)
    assert guided.guidance_nfe == 1


@pytest.mark.parametrize("sampler", [ddpm, ddim])
def test_the_churn_of_a_boost_does_not_apply(sampler: Any) -> None:
    def samples(boost: Boost) -> Tensor:
        predictor = predictor_of(REAL.denoiser, WHOLE)
        return sampler(
            predictor,
            LATENTS,
            SHORT,
            noise=normals,
            guidance=[DiscriminatorTerm(looks_fake, DiscriminatorSettings(boost=boost))],
        ).x

    assert torch.equal(samples(Boost(S_churn=4.0, churn_period=1)), samples(Boost(S_churn=0.0)))


@pytest.mark.parametrize("sampler", [ddpm, ddim])
def test_a_sample_does_not_depend_on_its_batch_mates(sampler: Any) -> None:
    predictor, term = (
        predictor_of(MODEL.denoiser, WHOLE),
        DiscriminatorTerm(exact_log_ratio, DiscriminatorSettings(boost=Boost())),
    )
    together = sampler(predictor, LATENTS, SHORT, noise=normals, guidance=[term])
    alone = sampler(predictor, LATENTS[3:4], SHORT, noise=lambda step: normals(step)[3:4], guidance=[term])
    torch.testing.assert_close(alone.x, together.x[3:4], rtol=0, atol=1e-5)
    torch.testing.assert_close(alone.log_ratio, together.log_ratio[3:4], rtol=0, atol=1e-4)


def test_a_float32_predictor_moves_float64_samples_by_rounding_only() -> None:
    exact = predictor_of(REAL.denoiser, WHOLE)

    def single(y: Tensor, time: Tensor, class_labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        assert y.dtype == time.dtype == torch.float32
        return exact(y, time, class_labels)[0].float(), None

    x = ddim(single, LATENTS, SHORT).x
    assert x.dtype == torch.float64
    torch.testing.assert_close(x, ddim(exact, LATENTS, SHORT).x, rtol=0, atol=1e-4)


@pytest.mark.parametrize("sampler", [ddpm, ddim])
def test_the_predictor_is_told_the_original_timesteps_and_the_labels_as_given(sampler: Any) -> None:
    told, labels = [], torch.arange(8)

    def record(y: Tensor, time: Tensor, class_labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        assert class_labels is labels
        told.append(time)
        return y, None

    sampler(record, LATENTS, SHORT, noise=normals, class_labels=labels)
    assert torch.stack(told).tolist() == [[float(step)] * 8 for step in reversed(SHORT.timestep_map)]


@pytest.mark.parametrize("sampler", [ddpm, ddim])
def test_images_are_clipped_where_asked(sampler: Any) -> None:
    def far(y: Tensor, time: Tensor, class_labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return y - 1.0, None

    # The last denoised image: (y - sqrt(1 - abar) (y - 1)) / sqrt(abar), far from [-1, 1] at the higher noise
    # levels.
    clipped = sampler(far, LATENTS, SHORT, noise=normals).x
    assert (
        float(clipped.abs().max())
        <= 1.0
        < float(sampler(far, LATENTS, SHORT, noise=normals, clip_denoised=False).x.abs().max())
    )


def test_noise_is_asked_for_in_every_step_but_the_last_and_never_without_eta() -> None:
    asked: list[int] = []

    def record(step: int) -> Tensor:
        asked.append(step)
        return normals(step)

    predictor = predictor_of(REAL.denoiser, WHOLE)
    ddim(predictor, LATENTS, SHORT, noise=record)
    assert asked == []
    ddim(predictor, LATENTS, SHORT, eta=0.5, noise=record)
    ddpm(predictor, LATENTS, SHORT, noise=record)
    assert asked == 2 * list(range(9))


def test_options_that_make_no_sense_are_refused_before_any_evaluation() -> None:
    def fails(y: Tensor, time: Tensor, class_labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        raise AssertionError("evaluated")

    with pytest.raises(ValueError, match="expected noise, since eta = 0.5 adds noise"):
        ddim(fails, LATENTS, SHORT, eta=0.5)
    with pytest.raises(ValueError, match="0 <= eta <= 1"):
        ddim(fails, LATENTS, SHORT, eta=1.5, noise=normals)
    wrong: Any = "medium"
    with pytest.raises(ValueError, match="'medium'"):
        ddpm(fails, LATENTS, SHORT, noise=normals, fixed_variance=wrong)


def test_no_step_reads_a_number_back_from_the_device() -> None:
    """Covers learned and fixed variance, windows, boosts and noise: no item(), no bool() of a tensor, no
    boolean indexing."""

    def constant(y: Tensor, time: Tensor, class_labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return torch.zeros_like(y), torch.zeros_like(y)

    edm = predictor_of(lambda x, sigma, class_labels: torch.zeros_like(x), WHOLE)
    prepared = [normals(step) for step in range(10)]
    term = DiscriminatorTerm(
        looks_fake,
        DiscriminatorSettings(tau_max=0.5, boost=Boost()),
        time=WHOLE.timesteps_from_sigma(1 / 999),
    )
    options: dict[str, Any] = {"guidance": [term], "noise": prepared.__getitem__}
    with ForbidReads():
        ddpm(constant, LATENTS, SHORT, **options)
        ddpm(edm, LATENTS, SHORT, fixed_variance="large", **options)
        ddim(edm, LATENTS, SHORT, eta=0.5, **options)


def test_no_graph_is_kept_for_the_predictor() -> None:
    scale = torch.ones((), requires_grad=True)
    assert not ddim(lambda y, time, labels: (y * scale, None), LATENTS, SHORT).x.requires_grad
