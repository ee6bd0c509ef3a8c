"""Recipes with every score network, sampler and guidance term: what is made, and what is refused."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inprocess import complete
from steps.toy_networks import HEAD, SCORES, discriminator, pretrained

import dgflow as dg
from dgflow.diffusion.one_graph import OneGraph
from dgflow.steps import systems
from dgflow.store.open import open_store

SAMPLERS: dict[str, Any] = {
    "Heun": dg.Heun(steps=3, sigma_min=0.05, sigma_max=50),
    "Restart": dg.Restart(
        steps=3,
        sigma_min=0.05,
        sigma_max=50,
        restarts=(dg.RestartInterval(points=2, sigma_min=0.5, sigma_max=10),),
    ),
    "EDMAblation": dg.EDMAblation(steps=3, solver="euler", discretization="ve", sigma_min=0.05, sigma_max=50),
    "DDPM": dg.DDPM(respacing="4"),
    "DDIM": dg.DDIM(respacing="ddim4", eta=0.5),
    "RK45": dg.RK45(tolerance=1e-1, tau_min=0.02, tau_max=0.9),
}


def rows(step: dg.Generate, tmp_path: Path, count: int = 4) -> dict[str, np.ndarray]:
    """Returns the first samples, made in a root under `tmp_path`."""
    store = open_store(str(tmp_path / "root"))
    bound = complete(step, store)
    return step.shard_builder(bound)(0, count)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("score", SCORES)
def test_every_score_network_runs_under_every_sampler(folder, tmp_path, score, sampler):
    step = pretrained(folder, score, **SCORES[score])
    generate = dg.Generate(score=step.weights(), sampler=SAMPLERS[sampler], shard_size=4)
    if score == "SongUNet VE" and sampler in ("DDPM", "DDIM"):
        with pytest.raises(ValueError, match=r"between 0\.02 and 100, .*found 0\.0104"):
            rows(generate, tmp_path)
        return
    made = rows(generate, tmp_path)
    if score in ("DiT", "LSGMPrior"):
        assert made["latent"].dtype == np.float16 and made["latent"].shape == (4, step.channels, 8, 8)
        assert np.isfinite(made["latent"]).all() and "image" not in made
    else:
        assert made["image"].dtype == np.uint8 and made["image"].shape == (4, 8, 8, 3)
    labels = made["label"]
    assert (labels == -1).all() if step.num_classes == 0 else set(labels) <= {0, 1, 2}


@pytest.fixture(scope="module")
def guides(folder):
    """Returns a classifier and a discriminator on its features, for images of three and for latents of four
    channels."""

    def pair(channels: int) -> tuple[dg.Pretrained, dg.Pretrained]:
        told = HEAD.model_copy(update={"time": "ddpm-linear"})
        classifier = pretrained(
            folder, f"classifier-{channels}", network=told, channels=channels, num_classes=3
        )
        return classifier, discriminator(folder, classifier)

    return {channels: pair(channels) for channels in (3, 4)}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("score", ["SongUNet", "ADMUNet", "DiT"])
def test_every_guidance_term_runs_under_every_sampler_and_they_combine(
    folder, tmp_path, guides, score, sampler
):
    step = pretrained(folder, score, **SCORES[score])
    classifier, disc = (guide.weights() for guide in guides[step.channels])
    terms: list[Any] = [
        dg.ClassifierGuidance(
            classifier=classifier, weight=dg.Switch(above=0.5, below=2.0, timestep=500), entropy_scaling=True
        ),
        dg.DiscriminatorGuidance(
            discriminator=disc, after_timestep=100, boost=dg.Boost(), match_preceding_norm=True
        ),
    ]
    if score == "DiT":
        terms.append(dg.ClassifierFree(scale=dg.Switch(above=1.25, below=3.0, timestep=200)))
    plain, one, all_of_them = (
        rows(
            dg.Generate(
                score=step.weights(), sampler=SAMPLERS[sampler], guidance=tuple(chosen), shard_size=4
            ),
            tmp_path,
        )
        for chosen in ([], terms[:1], terms)
    )
    pixels = "latent" if score == "DiT" else "image"
    assert (plain["label"] == all_of_them["label"]).all()
    assert (plain[pixels] != one[pixels]).any() and (one[pixels] != all_of_them[pixels]).any()
    assert "log_ratio" not in plain and np.isfinite(all_of_them["log_ratio"]).all()


EDM_ROWS, ADM_ROWS = ("cifar10-uncond", "cifar10-cond", "ffhq-64"), ("3.18", "3.73", "4.66", "4.45")
PRESETS: dict[str, Any] = {
    **{
        f"EDM-G++ {row}": ("SongUNet", "Heun", lambda _, disc, row=row: dg.edm_gpp(row, disc))
        for row in EDM_ROWS
    },
    **{
        f"ADM-G++ {row}": (
            "ADMUNet",
            "DDPM",
            lambda classifier, disc, row=row: dg.adm_gpp(row, classifier, disc),
        )
        for row in ADM_ROWS
    },
    "DiT-G++": ("DiT", "DDPM", lambda _, disc: dg.dit_gpp(disc)),
}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_published_row_is_a_preset_that_runs(folder, tmp_path, guides, preset):
    score, sampler, terms = PRESETS[preset]
    step = pretrained(folder, score, **SCORES[score])
    guidance = terms(*(guide.weights() for guide in guides[step.channels]))
    made = rows(
        dg.Generate(score=step.weights(), sampler=SAMPLERS[sampler], guidance=guidance, shard_size=4),
        tmp_path,
    )
    assert np.isfinite(made["log_ratio"]).all()


def test_a_row_that_was_not_published_is_refused(guides):
    classifier, disc = (guide.weights() for guide in guides[3])
    with pytest.raises(ValueError, match=r"published rows 3\.18, 3\.73, 4\.66, 4\.45, found '1\.0'"):
        dg.adm_gpp("1.0", classifier, disc)


def test_edm_seeding_draws_what_edm_draws_whatever_the_batch(folder, tmp_path):
    """The labels are those that torch's generators of seeds 7 to 10 give after a latent of the sample's
    shape."""
    step = pretrained(folder, "SongUNet", **SCORES["SongUNet"])
    made = rows(
        dg.Generate(
            score=step.weights(), sampler=SAMPLERS["Heun"], seeding="edm", seed=7, batch_size=3, shard_size=4
        ),
        tmp_path,
    )
    expected = []
    for seed in range(7, 11):
        generator = torch.Generator().manual_seed(seed)
        torch.randn(3, 8, 8, generator=generator)
        expected.append(int(torch.randint(3, size=[], generator=generator)))
    assert made["label"].tolist() == expected


@pytest.mark.parametrize(("narrow", "apart"), [("bfloat16", 3), ("float16", 0.5)])
def test_samples_in_narrow_precisions_are_close_to_float32_ones(folder, tmp_path, narrow, apart):
    step = pretrained(folder, "SongUNet", **SCORES["SongUNet"])
    single, half = (
        rows(
            dg.Generate(score=step.weights(), sampler=SAMPLERS["Heun"], precision=precision, shard_size=4),
            tmp_path,
        )["image"].astype(int)
        for precision in ("float32", narrow)
    )
    assert (single != half).any() and abs(single - half).mean() < apart


@pytest.mark.slow  # two graphs of real networks, traced twice
def test_compiled_samples_of_a_network_with_classes_equal_the_others(folder, tmp_path, guides, monkeypatch):
    monkeypatch.setattr(systems, "OneGraph", partial(OneGraph, "eager"))
    step = pretrained(folder, "SongUNet", **SCORES["SongUNet"])
    terms = (dg.DiscriminatorGuidance(discriminator=guides[3][1].weights(), weight=2.0),)
    generate = partial(
        dg.Generate,
        score=step.weights(),
        sampler=dg.Heun(steps=3),
        guidance=terms,
        shard_size=4,
        batch_size=2,
    )
    settings: list[dict[str, Any]] = [{}, {"compile": True}, {"compile": True, "precision": "float16"}]
    plain, compiled, half = (rows(generate(**each), tmp_path)["image"].astype(int) for each in settings)
    assert abs(plain - compiled).max() <= 1 and abs(plain - half).mean() < 0.5


def test_a_schedule_outside_the_network_s_range_is_refused_with_the_range(folder, tmp_path):
    step = pretrained(folder, "ADMUNet", **SCORES["ADMUNet"])
    rows(
        dg.Generate(score=step.weights(), sampler=dg.Heun(steps=3), shard_size=4), tmp_path
    )  # the default range is narrowed
    with pytest.raises(
        ValueError,
        match=r"sigma between 0\.01\d* and 157\.\d+, the range of this score network, found 0\.002",
    ):
        rows(
            dg.Generate(score=step.weights(), sampler=dg.Heun(steps=3, sigma_min=0.002), shard_size=4),
            tmp_path,
        )


def test_an_unconditional_network_is_guided_by_a_classifier_whose_labels_do_not_reach_it(
    folder, tmp_path, guides
):
    """In Dhariwal and Nichol's other setting, labels are drawn from the classifier's classes."""
    fields: dict[str, Any] = SCORES["ADMUNet"] | {"num_classes": 0}
    step = pretrained(folder, "ADMUNet without classes", **fields)
    terms = (dg.ClassifierGuidance(classifier=guides[3][0].weights(), weight=3.0),)
    plain, guided = (
        rows(
            dg.Generate(score=step.weights(), sampler=SAMPLERS["DDPM"], guidance=chosen, shard_size=8),
            tmp_path,
            8,
        )
        for chosen in ((), terms)
    )
    assert (
        (plain["label"] == -1).all()
        and set(guided["label"]) == {0, 1, 2}
        and (plain["image"] != guided["image"]).any()
    )


def test_latents_are_not_clipped_and_images_are(folder, tmp_path):
    for name, column in (("DiT", "latent"), ("ADMUNet", "image")):
        step = pretrained(folder, name, **SCORES[name])
        default, clipped = (
            rows(
                dg.Generate(
                    score=step.weights(), sampler=dg.DDPM(respacing="4", clip_denoised=clip), shard_size=4
                ),
                tmp_path,
            )[column]
            for clip in (None, True)
        )
        assert (default == clipped).all() == (column == "image")


def test_a_network_that_both_guides_and_carries_a_discriminator_gives_finite_log_ratios_in_bfloat16(
    folder, tmp_path, guides
):
    step = pretrained(folder, "SongUNet", **SCORES["SongUNet"])
    terms = (dg.DiscriminatorGuidance(discriminator=guides[3][1].weights(), saturate=True),)
    made = rows(
        dg.Generate(
            score=step.weights(), sampler=SAMPLERS["RK45"], guidance=terms, precision="bfloat16", shard_size=4
        ),
        tmp_path,
    )
    assert (abs(made["log_ratio"]) < 11.6).all()


def test_heun_and_the_ablation_sampler_churn_alike_on_a_network_that_knows_some_levels_only(folder, tmp_path):
    step = pretrained(folder, "DhariwalUNet iDDPM", **SCORES["DhariwalUNet iDDPM"])
    same: dict[str, Any] = {"steps": 5, "sigma_min": 0.05, "sigma_max": 50, "S_churn": 2.0}
    heun, ablation = (
        rows(dg.Generate(score=step.weights(), sampler=sampler, shard_size=4), tmp_path)["image"].astype(int)
        for sampler in (dg.Heun(**same), dg.EDMAblation(**same))
    )
    assert abs(heun - ablation).max() <= 1


def refused(guides) -> dict[str, tuple[Any, str]]:
    """Yields recipes that cannot work, with the error when they are built."""
    score = dg.Pretrained(source="net.pt", network=dg.SongUNet(), image_size=8, num_classes=3).weights()
    larger = dg.Pretrained(source="net.pt", network=dg.SongUNet(), image_size=16, num_classes=3).weights()
    many = dg.Pretrained(source="net.pt", network=dg.SongUNet(), image_size=8, num_classes=4).weights()
    classifier, disc = (guide.weights() for guide in guides[3])
    guided: Any = lambda term, score=score: dg.Generate(score=score, guidance=(term,))  # noqa: E731
    return {
        "score": (
            lambda: dg.Generate(score=classifier),
            r"expected a score network \(SongUNet, .*found pretrained of ADMEncoder",
        ),
        "kind": (
            lambda: guided(dg.DiscriminatorGuidance(discriminator=classifier)),
            r"guidance\.0\.discriminator: expected a Train",
        ),
        "other kind": (
            lambda: guided(dg.ClassifierGuidance(classifier=disc)),
            r"guidance\.0\.classifier: expected a TrainClassifier",
        ),
        "size": (
            lambda: guided(dg.ClassifierGuidance(classifier=classifier), larger),
            "3 channels of 16 pixels per side, found one for 3 of 8",
        ),
        "classes": (
            lambda: guided(dg.ClassifierGuidance(classifier=classifier), many),
            "knows the 4 classes .* found 3 classes",
        ),
        "null": (lambda: guided(dg.ClassifierFree()), "needs a network with a null class"),
        "norm": (
            lambda: guided(dg.DiscriminatorGuidance(discriminator=disc, match_preceding_norm=True)),
            "list the classifier first",
        ),
        "levels": (lambda: dg.Heun(sigma_min=9, sigma_max=2), "sigma_min < sigma_max"),
        "times": (lambda: dg.RK45(tau_min=0.5, tau_max=0.1), "tau_min < tau_max"),
        "respacing": (lambda: dg.DDPM(respacing="abc"), "respacing"),
        "churn": (lambda: dg.Heun(S_churn=-1), "S_churn"),
        "windows": (
            lambda: dg.DiscriminatorGuidance(discriminator=disc, tau_min=0.5, after_timestep=9),
            "tau_min or after_timestep",
        ),
        "head's time": (
            lambda: dg.Discriminator(head=HEAD.model_copy(update={"time": "cosine-vp"}), features=classifier),
            "that of its features, ddpm-linear, found cosine-vp",
        ),
        "outputs": (lambda: dg.Pretrained(source="net.pt", network=HEAD, image_size=8), "num_classes"),
        "DiT": (lambda: dg.Pretrained(source="net.pt", network=dg.DiT(), image_size=8), "num_classes"),
        "source": (
            lambda: dg.Pretrained(source="nosuch:net.pt", network=dg.SongUNet(), image_size=8),
            "nosuch",
        ),
        "secret": (
            lambda: dg.Pretrained(source="https://h/n.pt?token=x", network=dg.SongUNet(), image_size=8),
            "without a query",
        ),
    }


@pytest.mark.parametrize(
    "what", refused({3: [dg.Pretrained(source="c.pt", network=HEAD, image_size=8, num_classes=3)] * 2})
)
def test_a_recipe_that_cannot_work_is_refused_when_it_is_built(guides, what):
    build, says = refused(guides)[what]
    with pytest.raises(ValueError, match=says):
        build()


def test_samples_that_share_a_step_size_are_cut_into_blocks_of_their_own_whatever_the_batch(folder, tmp_path):
    step = pretrained(folder, "NCSNpp", **SCORES["NCSNpp"])
    sampler = dg.RK45(tolerance=1e-2, tau_min=0.02, shared_block=2)
    whole, small = (
        rows(dg.Generate(score=step.weights(), sampler=sampler, batch_size=size, shard_size=4), tmp_path)[
            "image"
        ]
        for size in (256, 1)
    )
    assert (whole == small).all()
    with pytest.raises(ValueError, match="multiple of the sampler's shared_block 3, found 4"):
        dg.Generate(
            score=step.weights(), sampler=sampler.model_copy(update={"shared_block": 3}), shard_size=4
        )
