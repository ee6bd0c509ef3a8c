"""Time maps, guidance gradients and samplers against the numbers of the reference implementations, driven by
each case's config."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusion.published import BatchWindow
from parity.goldens import Case, cases, close, load
from torch import Tensor

from dgflow.diffusion import times
from dgflow.diffusion.discriminator_guidance import PUBLISHED_CLIP, DiscriminatorTerm, log_ratio_and_gradient
from dgflow.diffusion.edm_seeding import edm_draws
from dgflow.diffusion.guidance import OUTSIDE_LOG_RATIO, Point, guide
from dgflow.diffusion.guidance_settings import Boost, DiscriminatorSettings
from dgflow.diffusion.heun import edm_sigmas, heun
from dgflow.diffusion.samplers import Sample
from dgflow.networks.adm.encoder import ADMEncoderModule
from dgflow.networks.discriminator.module import DiscriminatorModule
from dgflow.networks.edm import preconditioners as edm
from dgflow.networks.edm.dhariwal import DhariwalUNetModule
from dgflow.networks.edm.song import SongUNetModule
from dgflow.weights.tensors import load_into


def is_gradient(case: Case) -> bool:
    return "get_grad_log_ratio" in case.reference


def is_guided_sampler(case: Case) -> bool:
    return (
        case.scope == "core"
        and "generate.py: edm_sampler" in case.reference
        and "dg_weight_1st_order" in case.config["sampler"]
    )


def is_guided(case: Case) -> bool:
    return is_guided_sampler(case) and "disc" in case.entry["weights"]


def is_seeded(case: Case) -> bool:
    return "StackedRandomGenerator" in case.reference


def is_edm_sampler(case: Case) -> bool:
    plain = (
        "generate.py: edm_sampler" in case.reference and not is_guided_sampler(case) and not is_seeded(case)
    )
    return case.scope == "core" and plain


CLAIMS: list[Callable[[Case], bool]] = [is_gradient, is_guided_sampler, is_edm_sampler, is_seeded]


def time_map(img_resolution: int) -> times.TimeMap:
    """The published rule: 64-pixel classifiers know the cosine schedule's time, the others linear-VP time."""
    return times.cosine_from_sigma if img_resolution == 64 else times.tau_from_sigma


def adm(config: dict[str, Any], weights: dict[str, Tensor], name: str) -> ADMEncoderModule:
    options = {
        key: value for key, value in config.items() if key not in ("use_fp16", "condition", "num_class")
    }
    net = ADMEncoderModule(**options, num_classes=config["num_class"] if config["condition"] else None)
    load_into(net, weights, source=name)
    return net.eval()


def discriminator(config: dict[str, Any], weights: dict[str, dict[str, Tensor]]) -> DiscriminatorModule:
    return DiscriminatorModule(
        adm(config["classifier"], weights["classifier"], "classifier"),
        adm(config["disc"], weights["disc"], "disc"),
    ).eval()


def denoiser(config: dict[str, Any], weights: dict[str, dict[str, Tensor]]) -> Any:
    options, precond = dict(config["net"]), config.get("precond", "EDMPrecond")
    if options.pop("model_type") == "SongUNet":
        model = SongUNetModule(**options)
    else:
        model = DhariwalUNetModule(
            **options, out_channels=options["img_channels"] * (2 if precond == "iDDPMPrecond" else 1)
        )
    net = getattr(edm, precond)(model)
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


def rounding_of_the_clip(log_ratio: Tensor) -> Tensor:
    """Error [B] of log(p / (1 - p)) from float32 probabilities: near 1 theirs and ours are each some 2^-24
    off, and so is the clip's own 1 - 1e-5; over 1 - p, which the clip keeps above 1e-5."""
    return 4 * 2**-24 / torch.sigmoid(-log_ratio.double()).clamp_min(PUBLISHED_CLIP)


def only(i: int, found: Tensor, expected: Tensor) -> Tensor:
    """`expected` with sample i as found: compares that sample, by tolerances of the whole batch."""
    return torch.cat([expected[:i], found[i : i + 1].to(expected.dtype), expected[i + 1 :]])


@pytest.mark.parametrize("saturate", [False, True], ids=["logit", "saturate"])
@pytest.mark.parametrize("case", cases(is_gradient))
def test_the_gradient_of_the_log_ratio_is_the_published_one(case: Case, saturate: bool) -> None:
    """Compare all batches of a case within the published window; a sample beyond the published clip is
    compared on that route alone.
    """
    config, arrays, weights = load(case)
    net = discriminator(config, weights)
    settings = DiscriminatorSettings(
        tau_min=config["time_min"], tau_max=config["time_max"], saturate=saturate
    )
    term = BatchWindow(DiscriminatorTerm(net, settings, time_map(config["img_resolution"])))
    labels = arrays["in_y_onehot"] if config["cond"] else None
    compared = 0
    for batch in [name.removeprefix("out_grad_") for name in arrays if name.startswith("out_grad_")]:
        dtype = torch.float32 if batch.endswith("_f32") else torch.float64
        sigma = arrays[f"in_sigma_{batch.removesuffix('_f32')}"].expand(arrays["in_x0"].shape[0])
        x = (arrays["in_x0"].double() * times.per_sample((sigma**2 + 0.25).sqrt(), arrays["in_x0"])).to(dtype)
        gradient, log_ratio = term(
            Point(x, sigma.to(dtype), labels, 1, 1, (float(sigma.min()), float(sigma.max())))
        )
        expected, expected_ratio = arrays[f"out_grad_{batch}"], arrays[f"out_lr_{batch}"]
        if gradient is None or log_ratio is None:
            gradient, log_ratio = torch.zeros_like(x), torch.full_like(sigma, OUTSIDE_LOG_RATIO)
        # The published tensor is -sigma^2 times the gradient with respect to x.
        score = -times.per_sample(sigma**2, x) * gradient
        for i, ratio in enumerate(expected_ratio):
            outside, clipped = ratio == OUTSIDE_LOG_RATIO, abs(ratio) > 11.5
            if saturate or outside or not clipped:
                coarse = 0.0 if outside else float(rounding_of_the_clip(ratio))
                close(case, f"grad_{batch}", only(i, score, expected), expected, of_max=1e-4 + coarse / 4)
                close(
                    case,
                    f"lr_{batch}",
                    only(i, log_ratio, expected_ratio),
                    expected_ratio,
                    atol=1e-5 + coarse,
                )
                compared += not outside
    assert compared > 0


@pytest.mark.parametrize("case", cases(is_gradient))
def test_probability_log_ratio_and_the_time_that_the_discriminator_is_told_are_the_published_ones(
    case: Case,
) -> None:
    config, arrays, weights = load(case)
    net, sigma, seen = discriminator(config, weights), arrays["in_sigma_vec"], []

    def record(y: Tensor, time: Tensor, class_labels: Tensor | None) -> Tensor:
        seen.append((time, net(y, time, class_labels)))
        return seen[-1][1]

    x = arrays["in_x0"].double() * times.per_sample((sigma**2 + 0.25).sqrt(), arrays["in_x0"])
    labels = arrays["in_y_onehot"] if config["cond"] else None
    ratio, _ = log_ratio_and_gradient(
        record, x, sigma, labels, time=time_map(config["img_resolution"]), saturate=True
    )
    time, logit = seen[0]
    close(case, "disc_time_vec", time, arrays["out_disc_time_vec"], rtol=1e-6)
    close(case, "sigmoid_vec", logit.sigmoid(), arrays["out_sigmoid_vec"], rtol=1e-5)
    close(case, "log_ratio_vec", ratio, arrays["out_log_ratio_vec"], atol=1e-5 + rounding_of_the_clip(ratio))


@pytest.mark.parametrize("case", cases(is_gradient))
def test_no_discriminator_guides_nowhere_and_one_noise_level_for_a_batch_is_refused(case: Case) -> None:
    """The published function returns zeros without a discriminator, and fails for a noise level without an
    axis."""
    config, arrays, weights = load(case)
    x, sigma = arrays["in_x0"].double(), arrays["in_sigma_vec"]
    advice = guide([], Point(x, sigma, None, 0, 1, (float(sigma.min()), float(sigma.max()))))
    found = torch.zeros_like(x) if advice.gradient is None else advice.gradient
    assert torch.equal(found, arrays["out_none_grad"].double()) and advice.log_ratios == []
    assert bool((arrays["out_none_lr"] == OUTSIDE_LOG_RATIO).all()) and bool(
        arrays["out_zero_d_sigma_crashes"].all()
    )
    labels = arrays["in_y_onehot"] if config["cond"] else None
    with pytest.raises(ValueError, match="one logit per sample"):
        log_ratio_and_gradient(discriminator(config, weights), x, sigma[0], labels)


def final_and_steps(
    case: Case,
    arrays: dict[str, Tensor],
    sample: Sample,
    net: Recorder,
    sigmas: tuple[float, ...],
    noise_scale: Tensor,
) -> None:
    """Compare the result and the state at the beginning of every step, without its churn noise."""
    first_order = [args for args, _, _ in net.calls][::2]
    for step, (x_hat, sigma_hat, _) in enumerate(first_order):
        added = (sigma_hat**2 - sigmas[step] ** 2).clamp_min(0).sqrt() * noise_scale[step]
        x = x_hat - times.per_sample(added, x_hat) * arrays["in_noise"][step].double()
        close(case, "out_x_steps", x, arrays["out_x_steps"][step], of_max=1e-4)
    assert (
        len(first_order) == len(sigmas) - 1 == len(arrays["out_x_steps"]) and sample.x.dtype == torch.float64
    )
    close(case, "out_x_final", sample.x, arrays["out_x_final"], of_max=1e-4)


@pytest.mark.parametrize("case", cases(is_edm_sampler))
def test_heun_is_the_published_edm_sampler(case: Case) -> None:
    config, arrays, weights = load(case)
    options: dict[str, Any] = {
        key: float(value) for key, value in config["sampler"].items() if key != "num_steps"
    }
    network = denoiser(config, weights)
    net = Recorder(network)
    sigma_min = max(options.pop("sigma_min", 0.002), network.sigma_min)
    sigma_max = min(options.pop("sigma_max", 80.0), network.sigma_max)
    levels = edm_sigmas(config["sampler"].get("num_steps", 18), sigma_min, sigma_max, options.pop("rho", 7.0))
    sigmas = (
        *(float(network.round_sigma(torch.tensor(level, dtype=torch.float64))) for level in levels[:-1]),
        0.0,
    )
    churn_noise = arrays["in_noise"].__getitem__
    sample = heun(
        net,
        arrays["in_latents"],
        sigmas,
        class_labels=arrays.get("in_labels"),
        churn_noise=churn_noise,
        **options,
    )
    told = torch.stack([args[1] for args, _, _ in net.calls])
    rtol = 1e-6 if config["precond"] == "iDDPMPrecond" else 1e-12  # whose table is float32
    torch.testing.assert_close(told, arrays["out_net_sigmas"][:, None].expand_as(told), rtol=rtol, atol=0)
    assert sample.nfe == len(net.calls) == len(arrays["out_net_sigmas"])
    final_and_steps(
        case, arrays, sample, net, sigmas, torch.full((len(sigmas), 1), options.get("S_noise", 1.0))
    )


@pytest.mark.parametrize("case", cases(is_seeded))
def test_edm_seeding_and_the_images_made_from_it_are_the_published_ones(case: Case) -> None:
    """Not compared: `out_split_20_by_6`, the sizes of the batches that the original cuts 20 seeds into, on
    which no sample depends."""
    config, arrays, weights = load(case)
    shape, label_dim = arrays["out_latents"].shape[1:], config["net"]["label_dim"]
    latents, labels, churn_noise = edm_draws(arrays["in_seeds"].tolist(), shape, label_dim)
    # r cos(angle) and r sin(angle) of float32 numbers, by other functions on other CPUs: an angle below 8 is
    # rounded by 2^-22 on either, r is at most 5.8, and the functions err by some units of 2^-24 of the value.
    torch.testing.assert_close(latents, arrays["out_latents"], rtol=2**-21, atol=5.8 * 2 * 2**-22)
    assert (labels is not None) == bool(label_dim)
    if labels is not None:
        assert torch.equal(labels, arrays["out_label_index"])
    noise = torch.stack([churn_noise(step) for step in range(config["num_steps"])])
    assert torch.equal(noise[: len(arrays["out_noise_first2"])], arrays["out_noise_first2"])
    torch.testing.assert_close(
        noise.flatten(2).sum(2), arrays["out_noise_sum_per_draw"], rtol=1e-12, atol=1e-10
    )
    schedule = {key: float(config[key]) for key in ("sigma_min", "sigma_max", "rho") if key in config}
    churn: dict[str, Any] = {
        key: float(config[key]) for key in ("S_churn", "S_min", "S_max", "S_noise") if key in config
    }
    sigmas = edm_sigmas(config["num_steps"], **schedule)
    sample = heun(
        denoiser(config, weights),
        latents,
        sigmas,
        class_labels=labels,
        churn_noise=noise.__getitem__,
        **churn,
    )
    close(case, "out_x_final", sample.x, arrays["out_x_final"], of_max=1e-4)
    images = (sample.x * 127.5 + 128).clip(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    assert int((images.int() - arrays["out_images_uint8"].int()).abs().max()) <= 1


def schedule_and_churn(options: dict[str, Any]) -> tuple[tuple[float, ...], dict[str, Any]]:
    sigmas = edm_sigmas(options["num_steps"], options["sigma_min"], options["sigma_max"], options["rho"])
    return sigmas, {key: float(options[key]) for key in ("S_churn", "S_min", "S_max", "S_noise")}


def guidance_of(config: dict[str, Any], net: DiscriminatorModule, *, saturate: bool) -> DiscriminatorTerm:
    """The term that a case's sampler options ask for."""
    options = config["sampler"]
    return DiscriminatorTerm(
        net,
        DiscriminatorSettings(
            weight=options["dg_weight_1st_order"],
            second_order_weight=options["dg_weight_2nd_order"],
            tau_min=options["time_min"],
            tau_max=options["time_max"],
            boost=Boost() if options["boosting"] else None,
            saturate=saturate,
        ),
        time=time_map(config["net"]["img_resolution"]),
    )


def differs_by_route(options: dict[str, Any], arrays: dict[str, Tensor]) -> bool:
    """True if the published clip or window changes a result, so that the default is another function."""
    tau, ratio = times.tau_from_sigma(arrays["out_t_hat"]), arrays["out_log_ratio"]
    inside = (tau >= options["time_min"]) & (tau <= options["time_max"])
    clipped = (ratio.abs() > 8) & (ratio != OUTSIDE_LOG_RATIO)
    return bool((inside.any(1) & ~inside.all(1)).any() or clipped.any())


@pytest.mark.parametrize("compatible", [False, True], ids=["default", "compatible"])
@pytest.mark.parametrize("case", cases(is_guided_sampler))
def test_guided_heun_is_the_published_one(case: Case, compatible: bool) -> None:
    """The compatibility switches change nothing, unless a logit is near the clip or a step has samples on
    both sides of the window.

    A case without a discriminator is the sampler without a term.
    """
    config, arrays, weights = load(case)
    options, net, noise = config["sampler"], Recorder(denoiser(config, weights)), arrays["in_noise"]
    sigmas, churn = schedule_and_churn(options)
    terms, boost = [], Boost() if options["boosting"] else None
    compatible = compatible or (is_guided(case) and differs_by_route(options, arrays))
    if is_guided(case):
        term = guidance_of(config, discriminator(config, weights), saturate=compatible)
        terms = [Recorder(BatchWindow(term) if compatible else term)]
    labels = arrays.get("in_labels")
    sample = heun(
        net,
        arrays["in_latents"],
        sigmas,
        class_labels=labels,
        guidance=terms,
        churn_noise=noise.__getitem__,
        **churn,
    )

    sigma_hat = torch.stack([args[1] for args, _, _ in net.calls][::2])
    close(case, "denoised_first_call", net.calls[0][2], arrays["out_denoised_first_call"], of_max=1e-4)
    torch.testing.assert_close(
        sigma_hat, arrays["out_t_hat"], rtol=1e-7, atol=0
    )  # gamma is float32 in the original
    for position, key in enumerate(("out_x_steps_dtype_is_f64", "out_t_hat_dtype_is_f64")):
        double = [args[position].dtype == torch.float64 for args, _, _ in net.calls[::2]]
        assert all(
            ours or not published for ours, published in zip(double, arrays[key].tolist(), strict=True)
        )
    if len(net.calls) > 1:
        t_next = torch.stack([args[1] for args, _, _ in net.calls][1::2])
        torch.testing.assert_close(t_next, arrays["out_t_next"][:, None].expand_as(t_next), rtol=1e-7, atol=0)
    calls = [call for term in terms for call in term.calls]
    assert (sample.nfe, sample.guidance_nfe) == (
        len(net.calls),
        sum(result[0] is not None for _, _, result in calls),
    )

    boosted = torch.zeros(sigma_hat.shape, dtype=torch.bool)
    if terms:
        ratios = {point.step: result[1] for (point,), _, result in calls if point.order == 1}
        outside = torch.full_like(sigma_hat[0], OUTSIDE_LOG_RATIO)
        for step, expected in enumerate(arrays["out_log_ratio"]):
            found = outside if ratios[step] is None else ratios[step]
            close(case, "log_ratio", found, expected, atol=1e-4 + rounding_of_the_clip(expected))
            if boost is not None and step % boost.churn_period == 0 and step > 0:
                boosted[step] = arrays["out_log_ratio"][step - 1] < 0
    scale = torch.where(boosted, boost.S_noise if boost else 1.0, churn["S_noise"])
    final_and_steps(case, arrays, sample, net, sigmas, scale)


@pytest.mark.parametrize("case", cases(is_guided))
def test_each_guidance_tensor_is_the_published_one(case: Case) -> None:
    """Tensors of the first steps and both orders, as the published code returns them, before weight and
    boost.
    """
    config, arrays, weights = load(case)
    options, net = config["sampler"], discriminator(config, weights)
    sigmas, churn = schedule_and_churn(options)
    term = guidance_of(config, net, saturate=True)
    recorder = Recorder(BatchWindow(term))
    draws = arrays["in_noise"].__getitem__
    heun(
        denoiser(config, weights),
        arrays["in_latents"],
        sigmas,
        class_labels=arrays.get("in_labels"),
        guidance=[recorder],
        churn_noise=draws,
        **churn,
    )
    weights_of_1 = {"weight": 1.0, "second_order_weight": 1.0, "boost": None}
    unweighted = BatchWindow(replace(term, settings=term.settings.model_copy(update=weights_of_1)))
    for order, name in ((1, "out_guidance_1st"), (2, "out_guidance_2nd")):
        points = [point for (point,), _, _ in recorder.calls if point.order == order]
        kept = arrays.get(name, [])  # of the first steps alone
        assert len(points) >= len(kept)
        for point, expected in zip(points, kept, strict=False):
            gradient, _ = unweighted(point)
            found = (
                torch.zeros_like(point.x)
                if gradient is None
                else -times.per_sample(point.sigma**2, point.x) * gradient
            )
            close(case, name, found, expected, of_max=1e-4)
