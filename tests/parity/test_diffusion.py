"""Time maps, guidance gradients and samplers against the numbers of the reference implementations, driven by each case's config."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from parity.goldens import Case, cases, close, load
from torch import Tensor

from dgflow.diffusion import times
from dgflow.diffusion.edm_seeding import edm_draws
from dgflow.diffusion.guidance import OUTSIDE_LOG_RATIO, Boost, DiscriminatorGuidance, log_ratio_and_gradient
from dgflow.diffusion.losses import perturb
from dgflow.diffusion.samplers import Sample, edm_sigmas, heun
from dgflow.networks.adm import ADMEncoder
from dgflow.networks.checkpoints import load_into
from dgflow.networks.discriminator import Discriminator
from dgflow.networks.edm import EDMPrecond, SongUNet

BATCHES = ("single", "vec", "low_any", "over_max_some", "over_max_all", "low_single")


def is_time(case: Case) -> bool:
    return "vpsde" in case.reference and "sigma_dtype" in case.config


def is_gradient(case: Case) -> bool:
    return "get_grad_log_ratio" in case.reference


def is_guided_sampler(case: Case) -> bool:
    return case.scope == "core" and "generate.py: edm_sampler" in case.reference and "dg_weight_1st_order" in case.config["sampler"]


def is_guided(case: Case) -> bool:
    return is_guided_sampler(case) and "disc" in case.entry["weights"]


def is_edm_sampler(case: Case) -> bool:
    plain = "generate.py: edm_sampler" in case.reference and not is_guided_sampler(case)
    return case.scope == "core" and plain and case.config["precond"] == "EDMPrecond" and case.config["net"]["model_type"] == "SongUNet"


def adm(config: dict[str, Any], weights: dict[str, Tensor], name: str) -> ADMEncoder:
    options = {key: value for key, value in config.items() if key not in ("use_fp16", "condition", "num_class")}
    net = ADMEncoder(**options, num_classes=config["num_class"] if config["condition"] else None)
    load_into(net, weights, source=name)
    return net.eval()


def discriminator(config: dict[str, Any], weights: dict[str, dict[str, Tensor]]) -> Discriminator:
    return Discriminator(
        adm(config["classifier"], weights["classifier"], "classifier"), adm(config["disc"], weights["disc"], "disc")
    ).eval()


def denoiser(config: dict[str, Any], weights: dict[str, dict[str, Tensor]]) -> EDMPrecond:
    net = EDMPrecond(SongUNet(**{key: value for key, value in config["net"].items() if key != "model_type"}))
    load_into(net, weights["net"], source="net")
    return net.eval().requires_grad_(False)


class Recorder:
    """A denoiser or a term that remembers its calls and results."""

    def __init__(self, function: Any) -> None:
        self.function, self.boost = function, getattr(function, "boost", None)
        self.calls: list[tuple[Any, dict[str, Any], Any]] = []

    def __call__(self, *args: Any, **options: Any) -> Any:
        result = self.function(*args, **options)
        self.calls.append((args, options, result))
        return result


@pytest.mark.parametrize("case", cases(is_time))
def test_times_are_the_published_ones(case: Case) -> None:
    config, arrays, _ = load(case)
    assert (config["beta_0"], config["beta_1"], config["s"]) == (times.BETA_0, times.BETA_1, times.COSINE_S)
    sigma, tau = arrays["in_sigma"], arrays["in_t"]
    actual = {
        "tau": times.tau_from_sigma(sigma),
        "tr_tau": times.tau_from_sigma(sigma),
        "tr_mean": times.mean_std(times.tau_from_sigma(sigma))[0],
        "tr_std": times.mean_std(times.tau_from_sigma(sigma))[1],
        "t_cos_of_tau": times.cosine_time(times.tau_from_sigma(sigma)),
        "marg_mean": times.mean_std(tau)[0],
        "marg_std": times.mean_std(tau)[1],
        "integral_beta": times.integrated_beta(tau),
        "t_cos": times.cosine_time(tau),
        "antiderivative": 2 * times.sigma_from_tau(tau).log(),
    }
    # Near 0 the published forms cancel (1 - exp(-B), log(1 + sigma^2), arccos) and ours do not: there, float32 numbers are compared to the
    # 1 % that the case states, and float64 numbers to the rounding of 1 divided by what is left after the cancellation.
    single = sigma.dtype == torch.float32
    above, near_0 = ({"rtol": 2e-6}, {"rtol": 1e-2, "atol": 1e-6}) if single else ({"rtol": 1e-12}, {"rtol": 1e-11, "atol": 1e-13})
    for key, value in actual.items():
        level = times.sigma_from_tau(tau) if len(value) == len(tau) else sigma
        for chosen, tolerance in ((level > 0.1, above), (level <= 0.1, near_0)):
            if single and key in ("t_cos", "t_cos_of_tau"):
                tolerance = {**tolerance, "atol": 1e-5}  # a rounding of the cosine, over the sine of s / (1 + s) * pi / 2 = 0.0125
            if single and key == "antiderivative":
                tolerance = {**tolerance, "atol": 1e-6}  # it passes 0 above
            close(case, f"out_{key}", value[chosen], arrays[f"out_{key}"][chosen], **tolerance)


@pytest.mark.parametrize("case", cases(is_time))
def test_training_times_are_the_published_ones(case: Case) -> None:
    _, arrays, _ = load(case)
    u = arrays["in_u"]
    for key, expected in arrays.items():
        kind, _, tau_min = key.partition("_tmin")
        if kind == "out_is_time":
            close(case, key, times.importance_tau_published(u, float(tau_min)), expected, rtol=1e-5, atol=1e-6)
        elif kind == "out_unif_time":
            close(case, key, times.uniform_tau(u, float(tau_min)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("saturate", [False, True], ids=["logit", "saturate"])
@pytest.mark.parametrize("case", cases(is_gradient))
def test_the_gradient_of_the_log_ratio_is_the_published_one(case: Case, saturate: bool) -> None:
    """All batches of a case, through the published window; a logit beyond the published clip is compared on that route alone."""
    config, arrays, weights = load(case)
    net = discriminator(config, weights)
    window = {"tau_min": config["time_min"], "tau_max": config["time_max"], "batch_window": True}
    term = DiscriminatorGuidance(net, cosine=config["img_resolution"] == 64, saturate=saturate, **window)
    labels = arrays["in_y_onehot"] if config["cond"] else None
    compared = 0
    for batch in BATCHES:
        sigma = arrays[f"in_sigma_{batch}"].expand(arrays["in_x0"].shape[0])
        x = arrays["in_x0"].double() * times.per_sample((sigma**2 + 0.25).sqrt(), arrays["in_x0"])
        bounds = (float(sigma.min()), float(sigma.max()))
        gradient, log_ratio = term(x, sigma, labels, step=1, order=1, sigma_bounds=bounds)
        expected, expected_ratio = arrays[f"out_grad_{batch}"], arrays[f"out_lr_{batch}"]
        if gradient is None or log_ratio is None:
            gradient, log_ratio = torch.zeros_like(x), torch.full_like(sigma, OUTSIDE_LOG_RATIO)
        unclipped = (expected_ratio.abs() < 8) | (expected_ratio == OUTSIDE_LOG_RATIO)
        # The published tensor is -sigma^2 times the gradient with respect to x.
        score = -times.per_sample(sigma**2, x) * gradient
        if saturate or bool(unclipped.all()):
            close(case, f"out_grad_{batch}", score, expected, of_max=1e-4)
            close(case, f"out_lr_{batch}", log_ratio, expected_ratio, atol=1e-5)
            compared += 1
    assert compared == len(BATCHES) if saturate else compared >= 3


@pytest.mark.parametrize("case", cases(is_gradient))
def test_the_discriminator_is_told_the_published_time(case: Case) -> None:
    config, arrays, _ = load(case)
    sigma, seen = arrays["in_sigma_vec"], []

    def record(y: Tensor, tau: Tensor, class_labels: Tensor | None) -> Tensor:
        seen.append(tau)
        return y.flatten(1).sum(1)

    log_ratio_and_gradient(record, arrays["in_x0"].double(), sigma, None, cosine=config["img_resolution"] == 64)
    assert "out_disc_time_vec" in arrays
    close(case, "out_disc_time_vec", seen[0], arrays["out_disc_time_vec"], rtol=1e-6)


def final_and_steps(
    case: Case, arrays: dict[str, Tensor], sample: Sample, net: Recorder, sigmas: tuple[float, ...], noise_scale: Tensor
) -> None:
    """Compare the result and the state at the beginning of every step, with the churn noise taken off again."""
    first_order = [args for args, _, _ in net.calls][::2]
    for step, (x_hat, sigma_hat, _) in enumerate(first_order):
        added = (sigma_hat**2 - sigmas[step] ** 2).clamp_min(0).sqrt() * noise_scale[step]
        x = x_hat - times.per_sample(added, x_hat) * arrays["in_noise"][step].double()
        close(case, "out_x_steps", x, arrays["out_x_steps"][step], of_max=1e-4)
    assert len(first_order) == len(sigmas) - 1 and sample.x.dtype == torch.float64
    close(case, "out_x_final", sample.x, arrays["out_x_final"], of_max=1e-4)


@pytest.mark.parametrize("case", cases(is_edm_sampler))
def test_heun_is_the_published_edm_sampler(case: Case) -> None:
    config, arrays, weights = load(case)
    options: dict[str, Any] = {key: float(value) for key, value in config["sampler"].items() if key != "num_steps"}
    schedule = {key: options.pop(key) for key in ("sigma_min", "sigma_max", "rho") if key in options}
    sigmas = edm_sigmas(config["sampler"]["num_steps"], **schedule)
    net = Recorder(denoiser(config, weights))
    churn_noise = arrays["in_noise"].__getitem__
    sample = heun(net, arrays["in_latents"], sigmas, class_labels=arrays.get("in_labels"), churn_noise=churn_noise, **options)
    levels = torch.stack([args[1] for args, _, _ in net.calls])
    torch.testing.assert_close(levels, arrays["out_net_sigmas"][:, None].expand_as(levels), rtol=1e-12, atol=0)
    assert sample.nfe == len(net.calls) == len(arrays["out_net_sigmas"])
    final_and_steps(case, arrays, sample, net, sigmas, torch.full((len(sigmas), 1), options.get("S_noise", 1.0)))


def test_edm_seeding_and_the_images_made_from_it_are_the_published_ones() -> None:
    """Every such case of the folder; the small one has none, and tests/diffusion/test_samplers.py pins some of these draws."""
    for parameter in cases(lambda case: "StackedRandomGenerator" in case.reference):
        case: Case = parameter.values[0]
        config, arrays, weights = load(case)
        shape, label_dim = arrays["out_latents"].shape[1:], config["net"]["label_dim"]
        latents, labels, churn_noise = edm_draws(arrays["in_seeds"].tolist(), shape, label_dim)
        assert torch.equal(latents, arrays["out_latents"])
        assert labels is not None and torch.equal(labels, arrays["out_label_index"])
        noise = torch.stack([churn_noise(step) for step in range(config["num_steps"])])
        assert torch.equal(noise[: len(arrays["out_noise_first2"])], arrays["out_noise_first2"])
        torch.testing.assert_close(noise.flatten(2).sum(2), arrays["out_noise_sum_per_draw"], rtol=1e-12, atol=1e-10)
        churn: dict[str, Any] = {"churn_noise": noise.__getitem__, "S_churn": config["S_churn"], "S_noise": config["S_noise"]}
        sample = heun(denoiser(config, weights), latents, edm_sigmas(config["num_steps"]), class_labels=labels, **churn)
        close(case, "out_x_final", sample.x, arrays["out_x_final"], of_max=1e-4)
        images = (sample.x * 127.5 + 128).clip(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        assert int((images.int() - arrays["out_images_uint8"].int()).abs().max()) <= 1


def schedule_and_churn(options: dict[str, Any]) -> tuple[tuple[float, ...], dict[str, Any]]:
    sigmas = edm_sigmas(options["num_steps"], options["sigma_min"], options["sigma_max"], options["rho"])
    return sigmas, {key: float(options[key]) for key in ("S_churn", "S_min", "S_max", "S_noise")}


@pytest.mark.parametrize("compatible", [False, True], ids=["default", "compatible"])
@pytest.mark.parametrize("case", cases(is_guided_sampler))
def test_guided_heun_is_the_published_one(case: Case, compatible: bool) -> None:
    """The compatibility switches change nothing here: no logit is clipped and no step has samples on both sides of the window.

    A case without a discriminator is the sampler without a term.
    """
    config, arrays, weights = load(case)
    options, net, noise = config["sampler"], Recorder(denoiser(config, weights)), arrays["in_noise"]
    sigmas, churn = schedule_and_churn(options)
    terms, boost = [], Boost() if options["boosting"] else None
    if is_guided(case):
        guidance = DiscriminatorGuidance(
            discriminator(config, weights),
            weight=options["dg_weight_1st_order"],
            second_order_weight=options["dg_weight_2nd_order"],
            tau_min=options["time_min"],
            tau_max=options["time_max"],
            cosine=config["net"]["img_resolution"] == 64,
            boost=boost,
            saturate=compatible,
            batch_window=compatible,
        )
        terms = [Recorder(guidance)]
    labels = arrays.get("in_labels")
    sample = heun(net, arrays["in_latents"], sigmas, class_labels=labels, guidance=terms, churn_noise=noise.__getitem__, **churn)

    sigma_hat = torch.stack([args[1] for args, _, _ in net.calls][::2])
    close(case, "denoised_first_call", net.calls[0][2], arrays["out_denoised_first_call"], of_max=1e-4)
    torch.testing.assert_close(sigma_hat, arrays["out_t_hat"], rtol=1e-7, atol=0)  # gamma is float32 in the original
    calls = [call for term in terms for call in term.calls]
    assert (sample.nfe, sample.guidance_nfe) == (len(net.calls), sum(result[0] is not None for _, _, result in calls))

    boosted = torch.zeros(sigma_hat.shape, dtype=torch.bool)
    if terms:
        ratios = {options["step"]: result[1] for _, options, result in calls if options["order"] == 1}
        outside = torch.full_like(sigma_hat[0], OUTSIDE_LOG_RATIO)
        for step, expected in enumerate(arrays["out_log_ratio"]):
            close(case, "log_ratio", outside if ratios[step] is None else ratios[step], expected, atol=1e-4)
            if boost is not None and step % boost.churn_period == 0 and step > 0:
                boosted[step] = arrays["out_log_ratio"][step - 1] < 0
    scale = torch.where(boosted, boost.S_noise if boost else 1.0, churn["S_noise"])
    final_and_steps(case, arrays, sample, net, sigmas, scale)


@pytest.mark.parametrize("case", cases(is_guided))
def test_each_guidance_tensor_is_the_published_one(case: Case) -> None:
    """The tensors of the first steps, before weight and boost, recomputed from the stored states (which are those before churn)."""
    config, arrays, weights = load(case)
    options, net = config["sampler"], discriminator(config, weights)
    sigmas, _ = schedule_and_churn(options)
    cosine = config["net"]["img_resolution"] == 64
    compared = 0
    for step, expected in enumerate(arrays["out_guidance_1st"]):
        sigma, ratio = arrays["out_t_hat"][step], arrays["out_log_ratio"][step]
        if bool((sigma - sigmas[step]).abs().max() < 1e-9) and bool((ratio < OUTSIDE_LOG_RATIO).all()):
            x, labels = arrays["out_x_steps"][step].double(), arrays.get("in_labels")
            _, gradient = log_ratio_and_gradient(net, x, sigma, labels, cosine=cosine)
            close(case, "guidance_1st", -times.per_sample(sigma**2, gradient) * gradient, expected, of_max=1e-4)
            compared += 1
    assert compared > 0 or options["S_churn"] > 0


def test_perturb_scales_like_the_published_marginals() -> None:
    case = next(parameter.values[0] for parameter in cases(is_time) if parameter.values[0].config["sigma_dtype"] == "float64")
    _, arrays, _ = load(case)
    tau = arrays["in_t"]
    images, noise = torch.full((len(tau), 1, 2, 2), 0.5).double(), torch.full((len(tau), 1, 2, 2), -2.0).double()
    expected = 0.5 * arrays["out_marg_mean"] - 2.0 * arrays["out_marg_std"]
    torch.testing.assert_close(perturb(images, tau, noise)[:, 0, 1, 1], expected, rtol=1e-9, atol=0)
