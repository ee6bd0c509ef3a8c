"""DiT, NCSN++ and LSGM's prior: closed forms, conventions of times and labels, precision, independence of
batch mates, and refusals."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import torch
from parity.lsgm_arguments import prior_from
from torch import Tensor

from dgflow.networks.dit.file import from_diffusers
from dgflow.networks.dit.module import SIZES, DiTModule, position_table
from dgflow.networks.lsgm.prior import LSGMPriorModule
from dgflow.networks.ncsnpp.layers import FIR_TAPS, Resample
from dgflow.networks.ncsnpp.module import NCSNppModule

TINY_DIT: dict[str, Any] = {"input_size": 4, "hidden_size": 16, "depth": 2, "num_heads": 2, "num_classes": 5}
TINY: dict[str, Any] = {
    "image_size": 8,
    "ch_mult": (1, 2),
    "num_res_blocks": 1,
    "attn_resolutions": (4,),
    "dropout": 0.0,
}
NCSNPP: dict[str, Any] = {
    "embedding_type": "fourier",
    "fir": True,
    "progressive_input": "residual",
    "scale_by_sigma": True,
}

Network = TypeVar("Network", bound=torch.nn.Module)


def randomised(network: Network) -> Network:
    """Every trainable parameter random, since freshly built networks end their branches at or close to
    zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(
                    parameter + 0.2 * noise if parameter.ndim < 2 else noise / parameter[0].numel() ** 0.5
                )
    return network.eval()


def dit(**changes: Any) -> DiTModule:
    torch.manual_seed(0)
    return randomised(DiTModule(**TINY_DIT | changes))


def ncsnpp(**changes: Any) -> NCSNppModule:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"nf": 8, **TINY, **changes}
    return randomised(NCSNppModule(**settings))


def prior(**changes: Any) -> LSGMPriorModule:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "num_input_channels": 3,
        "num_channels": 8,
        "embedding_dim": 16,
        **TINY,
        **changes,
    }
    return randomised(LSGMPriorModule(**settings))


def images(channels: int = 3, side: int = 8) -> Tensor:
    return torch.randn(3, channels, side, side, generator=torch.Generator().manual_seed(1))


TIMES, LABELS = torch.tensor([1.0, 400.0, 999.0]), torch.tensor([0, 4, 5])
ASKED: dict[str, Callable[[Tensor, slice], Tensor]] = {
    "dit": lambda x, rows: dit()(x, TIMES[rows], LABELS[rows]),
    "ddpm++": lambda x, rows: ncsnpp()(x, TIMES[rows]),
    "ncsn++": lambda x, rows: ncsnpp(**NCSNPP)(x, TIMES[rows]),
    "skips": lambda x, rows: ncsnpp(
        progressive="output_skip", progressive_input="input_skip", progressive_combine="cat"
    )(x, TIMES[rows]),
    "residual without fir": lambda x, rows: ncsnpp(progressive_input="residual")(x, TIMES[rows]),
    "prior": lambda x, rows: prior().epsilon(x, TIMES[rows] / 1000, TIMES[rows] / 1000),
}


@pytest.mark.parametrize("name", ASKED)
def test_a_sample_has_the_same_output_whoever_its_batch_mates_are(name: str) -> None:
    x = images(4, 4) if name == "dit" else images()
    together = ASKED[name](x, slice(0, 3))
    assert together.std() > 0.01
    torch.testing.assert_close(ASKED[name](x[1:2], slice(1, 2)), together[1:2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "millions"), [("DiT-S/2", 33), ("DiT-B/2", 130), ("DiT-L/2", 458), ("DiT-XL/2", 675)]
)
def test_the_sizes_by_name_have_the_parameters_of_the_paper(name: str, millions: int) -> None:
    with torch.device("meta"):
        network = DiTModule(**SIZES[name])
    assert (
        round(sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad) / 1e6)
        == millions
    )


def test_a_fresh_dit_predicts_zero_and_its_blocks_are_the_identity() -> None:
    network = DiTModule(**TINY_DIT)
    tokens, condition = torch.randn(3, 4, 16), torch.randn(3, 16)
    assert torch.equal(network.blocks[0](tokens, condition), tokens)
    assert not network(images(4, 4), TIMES, LABELS).any()


def test_the_first_half_of_a_place_is_the_column_and_the_second_the_row() -> None:
    table = position_table(8, 5)[0].reshape(5, 5, 2, 2, 2)  # row, column, half, sine or cosine, frequency
    for row, column in [(0, 0), (1, 3), (4, 2)]:
        for half, place in enumerate([column, row]):
            angles = torch.tensor([place, place / 100.0])
            torch.testing.assert_close(table[row, column, half], torch.stack([angles.sin(), angles.cos()]))


def test_one_hot_rows_equal_indices_and_the_null_label_is_a_class_of_its_own() -> None:
    network = dit()
    expected = network(images(4, 4), TIMES, LABELS)
    assert torch.equal(network(images(4, 4), TIMES, torch.eye(6)[LABELS]), expected)
    assert network.null_label == 5 and not torch.allclose(
        network(images(4, 4), TIMES, LABELS * 0), expected, atol=1e-3
    )
    assert dit(null_class=False).y_embedder.embedding_table.num_embeddings == 5


@pytest.mark.parametrize(
    ("build", "ask"),
    [
        (dit, lambda net: net(images(4, 4), TIMES, LABELS)),
        (lambda: ncsnpp(**NCSNPP), lambda net: net(images(), TIMES)),
        (ncsnpp, lambda net: net(images(), TIMES)),
        (prior, lambda net: net.epsilon(images(), TIMES / 1000, TIMES / 1000)),
    ],
    ids=["dit", "ncsn++", "ddpm++", "prior"],
)
def test_weights_in_bfloat16_change_the_output_by_its_rounding_and_not_by_that_of_times(
    build: Any, ask: Any
) -> None:
    network = build()
    expected = ask(network).detach()
    # At step 999 a time rounded to bfloat16 would be off by up to 2, which turns the fastest sines around.
    rounded = ask(network.to(torch.bfloat16)).detach()
    # The prior's mix is float32, as nearly all of it is the exact noise of a normal prior.
    assert rounded.dtype == (torch.float32 if isinstance(network, LSGMPriorModule) else torch.bfloat16)
    assert float((rounded.float() - expected).norm() / expected.norm()) < 0.03


@pytest.mark.parametrize("build", [dit, lambda: ncsnpp(**NCSNPP)], ids=["dit", "ncsn++"])
def test_a_forward_compiles_as_one_graph_so_that_nothing_is_read_on_the_host(build: Any) -> None:
    network = build()
    arguments = (images(4, 4), TIMES, LABELS) if isinstance(network, DiTModule) else (images(), TIMES)
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*arguments), network(*arguments))


def test_the_filter_doubles_a_ramp_by_linear_interpolation_and_halves_it_to_midpoints() -> None:
    ramp = torch.arange(8.0).expand(1, 2, 8, 8)
    finer, coarser = Resample("up", FIR_TAPS)(ramp), Resample("down", FIR_TAPS)(ramp)
    # Away from the borders, beyond which there are zeros.
    torch.testing.assert_close(finer[..., 2:-2, 2:-2], (torch.arange(2, 14) / 2 - 0.25).expand(1, 2, 12, 12))
    torch.testing.assert_close(coarser[..., 1:-1, 1:-1], torch.tensor([2.5, 4.5]).expand(1, 2, 2, 2))


def test_fourier_networks_divide_by_the_sigma_given_and_positional_ones_by_the_stored_sigma_of_the_step() -> (
    None
):
    ve, plain_ve = ncsnpp(**NCSNPP), ncsnpp(**NCSNPP | {"scale_by_sigma": False})
    torch.testing.assert_close(ve(images(), TIMES) * TIMES[:, None, None, None], plain_ve(images(), TIMES))
    vp, plain_vp = ncsnpp(scale_by_sigma=True, sigma_min=0.5, sigma_max=8.0), ncsnpp()
    sigma = (8.0 * (0.5 / 8.0) ** (TIMES / 999))[:, None, None, None]
    torch.testing.assert_close(vp(images(), TIMES) * sigma, plain_vp(images(), TIMES), rtol=1e-5, atol=1e-5)


def test_a_network_for_images_in_0_1_maps_them_to_minus_1_1_itself() -> None:
    torch.testing.assert_close(ncsnpp(centered=False)(images(), TIMES), ncsnpp()(2 * images() - 1, TIMES))


@pytest.mark.parametrize("logit", [-math.inf, 0.0, math.inf])
def test_the_prior_s_noise_goes_from_that_of_a_normal_prior_to_the_network_s_with_the_mixing_logit(
    logit: float,
) -> None:
    network, t, variance = prior(), torch.tensor(0.3), torch.tensor([0.25, 0.5, 1.0])
    assert network.mixing_logit is not None
    network.mixing_logit.data.fill_(logit)
    share = 1 / (1 + math.exp(-logit))
    expected = (1 - share) * variance.sqrt()[:, None, None, None] * images() + share * network(images(), t)
    torch.testing.assert_close(network.epsilon(images(), t, variance), expected)
    assert torch.equal(
        prior(mixed_prediction=False).epsilon(images(), t, variance),
        prior(mixed_prediction=False)(images(), t),
    )


@pytest.mark.parametrize("kind", [{}, {"embedding_type": "fourier"}], ids=["positional", "fourier"])
def test_averaged_weights_are_named_in_the_order_in_which_the_optimizers_hold_them(
    kind: dict[str, Any],
) -> None:
    fourier = bool(kind)
    score_network, latent_prior = ncsnpp(**kind), prior(**kind)
    shadow_params = [parameter.shape for parameter in score_network.parameters() if parameter.requires_grad]
    score_network.requires_grad_(False)
    assert [score_network.get_parameter(name).shape for name in score_network.ema_names()] == shadow_params
    assert score_network.ema_names()[0] == ("all_modules.1.weight" if fourier else "all_modules.0.weight")
    assert latent_prior.ema_names()[:2] == [
        "mixing_logit",
        "temb_fun.w" if fourier else "all_modules.0.weight",
    ]
    assert len(latent_prior.ema_names()) == len(list(latent_prior.parameters()))


def test_fixed_frequencies_get_no_gradient_and_everything_else_does() -> None:
    for network in (ncsnpp(**NCSNPP), ncsnpp(progressive="output_skip", progressive_input="input_skip")):
        network(images(), TIMES).square().sum().backward()
        assert {name for name, parameter in network.named_parameters() if parameter.grad is not None} == set(
            network.ema_names()
        )


ARGS: dict[str, Any] = {
    "dataset": "celeba_256",
    "num_scales_dae": 4,
    "num_channels_dae": 16,
    "num_cell_per_scale_dae": 1,
    "dropout": 0.2,
}
ARGS |= {
    "num_preprocess_blocks": 2,
    "num_latent_scales": 2,
    "fir": True,
    "progressive": "none",
    "progressive_input": "none",
}
ARGS |= {
    "progressive_combine": "sum",
    "embedding_dim": 16,
    "embedding_type": "positional",
    "embedding_scale": 1000.0,
}
ARGS |= {"mixed_prediction": True}


def test_a_prior_from_old_arguments_has_the_side_the_levels_and_the_first_mixing_logit_of_its_time() -> None:
    network = prior_from(ARGS, num_input_channels=5)
    assert network.image_size == 32 and network.mixing_logit is not None
    assert torch.equal(network.mixing_logit, torch.full((1, 5, 1, 1), -3.0))
    widths = {
        module.weight.shape[0] for module in network.modules() if isinstance(module, torch.nn.Conv2d)
    } - {5}
    assert widths == {16, 32}  # multipliers (1, 2, 2, 2)


DIFFUSERS = {
    name: torch.zeros(2)
    for end in ("weight", "bias")
    for name in (
        *(f"{part}.{end}" for part in ("pos_embed.proj", "proj_out_1", "proj_out_2")),
        *(
            f"transformer_blocks.{i}.{part}.{end}"
            for i in range(2)
            for part in (
                *(
                    "attn1.to_q",
                    "attn1.to_k",
                    "attn1.to_v",
                    "attn1.to_out.0",
                    "ff.net.0.proj",
                    "ff.net.2",
                    "norm1.linear",
                ),
                *("norm1.emb.timestep_embedder.linear_1", "norm1.emb.timestep_embedder.linear_2"),
            )
        ),
    )
} | {
    f"transformer_blocks.{i}.norm1.emb.class_embedder.embedding_table.weight": torch.zeros(6, 2)
    for i in range(2)
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"proj_out_2.bias": None}, "proj_out_2.bias is missing"),
        ({"transformer_blocks.1.attn1.to_k.bias": None}, r"transformer_blocks.1.attn1.to_k.bias is missing"),
        ({"caption_projection.weight": torch.zeros(1)}, "found 1 more, such as caption_projection.weight"),
        (
            {"transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.bias": torch.ones(2)},
            "found another .* in block 1 than in block 0",
        ),
    ],
)
def test_weights_that_are_not_a_dit_of_diffusers_are_refused_with_the_name(
    changes: dict[str, Tensor | None], message: str
) -> None:
    state_dict = {name: value for name, value in (DIFFUSERS | changes).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        from_diffusers(state_dict)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: dit(input_size=5), "input_size must be a multiple of patch_size, found 5 and 2"),
        (
            lambda: dit(num_heads=3),
            "hidden_size must be a multiple of 4 and of num_heads, found 16 and 3 heads",
        ),
        (lambda: dit(num_classes=0), "num_classes >= 1"),
        (lambda: dit()(images(4, 8), TIMES, LABELS), r"takes latents \[B, 4, 4, 4\], found \[3, 4, 8, 8\]"),
        (lambda: dit()(images(4, 4), TIMES, None), "needs class_labels"),
        (lambda: ncsnpp(image_size=9), "cannot be halved 1 times"),
        (
            lambda: ncsnpp(progressive="residual", fir=True),
            "progressive must be one of none, output_skip, found 'residual'",
        ),
        (lambda: ncsnpp(fir_kernel=(1, 2, 1), fir=True), "even number of taps, found"),
        (
            lambda: ncsnpp(progressive_input="skip"),
            "progressive_input must be one of none, input_skip, residual",
        ),
        (lambda: ncsnpp(progressive_combine="mean"), "progressive_combine must be one of sum, cat"),
        (lambda: ncsnpp(embedding_type="sine"), "embedding_type must be one of positional, fourier"),
        (lambda: prior(embedding_type="sine"), "embedding_type must be one of positional, fourier"),
    ],
)
def test_settings_and_inputs_that_cannot_work_are_refused_with_the_reason(
    build: Callable[[], Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build()
