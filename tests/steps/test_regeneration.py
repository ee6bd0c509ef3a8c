"""Averages of regenerated images: closed forms of Gaussian data, pictures and features of images, cost and
refusals."""

from __future__ import annotations

import base64
import io
import json
import math
from typing import Any

import numpy as np
import pytest
import tiny
from inprocess import complete
from PIL import Image
from steps.toy_networks import SCORES, SD, pretrained

import dgflow as dg
from dgflow.engine.plan import plan
from dgflow.engine.root import Root
from dgflow.report.figures.draw import drawn
from dgflow.specs.figures import Pictures, Table
from dgflow.specs.step import Weights
from dgflow.steps.mechanism import regeneration_values
from dgflow.store.memory import MemoryStore

DATA = dg.GaussianMixture(means=((1.0, -0.5),), stds=(0.6,), weights=(1.0,))
WRONG = dg.GaussianMixture(means=((0.2, 0.4),), stds=(0.9,), weights=(1.0,))
SCORE = dg.ClosedForm(network=dg.MixtureScore(mixture=WRONG)).weights()
RATIO = dg.ClosedForm(network=dg.MixtureRatio(real=DATA, model=WRONG)).weights()
GUIDED = (dg.DiscriminatorGuidance(discriminator=RATIO, weight=1.0, second_order_weight=1.0, tau_min=0.0),)
POINTS = dg.MixturePoints(mixture=DATA, seed=3)
SIGMAS = (0.2, 1.5)
COUNT, DRAWS = 24, 16


def regeneration(**fields: Any) -> dg.Regeneration:
    fields = {"arms": {"unguided": (), "guided": GUIDED}, "real": POINTS[10 : 10 + COUNT]} | fields
    fields = {"sigmas": SIGMAS, "draws": DRAWS, "sampler": dg.Heun(steps=40)} | fields
    return dg.Regeneration(score=SCORE, **fields)


def content(step: dg.Regeneration, store: MemoryStore) -> bytes:
    complete(step, store)
    state, steps = plan(step, store)[-1], Root(store).step_store(step)
    return steps.read(steps.receipt(state.done[state.wanted[0]]))


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return json.loads(content(regeneration(), MemoryStore("regeneration")))


def closed_form(mixture: dg.GaussianMixture, sigma: float) -> tuple[float, float, float]:
    """Returns (average, single, standard error of average by its noise) of the points under the exact score
    of a Gaussian: x0 goes to mean + c (x0 + sigma z - mean), c = std / sqrt(std^2 + sigma^2)."""
    x = complete(regeneration(), MemoryStore("regeneration")).rows("real", ["latent"])["latent"]
    points, mean, std = x[:, :, 0, 0].astype(float), np.array(mixture.means[0]), mixture.stds[0]
    c = std / math.sqrt(std**2 + sigma**2)
    off, spread = ((1 - c) ** 2 * (points - mean) ** 2).mean(), (c * sigma) ** 2
    noise = math.sqrt((2 * spread**2 / DRAWS**2 + 4 * off * spread / DRAWS) / (2 * COUNT))
    return off, off + spread, noise


@pytest.mark.parametrize(("arm", "mixture"), [("unguided", WRONG), ("guided", DATA)])
def test_distances_are_those_of_the_flow_and_guided_ones_those_of_the_datas_own(found, arm, mixture):
    assert found["sigmas"] == list(SIGMAS) and (found["images"], found["draws"]) == (COUNT, DRAWS)
    for level, sigma in enumerate(SIGMAS):
        average, single, noise = closed_form(mixture, sigma)
        assert found["arms"][arm]["average"][level]["mean"] == pytest.approx(
            average, abs=4 * noise + 1e-3 * average
        )
        assert found["arms"][arm]["single"][level]["mean"] == pytest.approx(single, rel=0.2)


def test_arms_are_compared_image_by_image_with_the_same_noise(found):
    ours, theirs = (found["arms"][name]["average"] for name in ("guided", "unguided"))
    for level, gap in enumerate(found["arms"]["guided"]["difference"]["average"]):
        assert gap["mean"] == pytest.approx(ours[level]["mean"] - theirs[level]["mean"])
        # The wrong score is wider than the data, and moves images less; its mean is different.
        expected = closed_form(DATA, SIGMAS[level])[0] - closed_form(WRONG, SIGMAS[level])[0]
        assert gap["mean"] == pytest.approx(expected, abs=4 * gap["error"])
        assert gap["error"] < 0.7 * math.hypot(ours[level]["error"], theirs[level]["error"])
    assert "difference" not in found["arms"]["unguided"]


def test_arms_in_another_order_share_the_file_and_the_table_names_the_arm_compared_with(found):
    swapped = regeneration(arms={"guided": GUIDED, "unguided": ()})
    assert swapped.fingerprint == regeneration().fingerprint
    _, table = swapped.figures(json.dumps(found).encode())
    assert isinstance(table, Table)
    assert [row[0] for row in table.rows] == ["guided", "unguided", "guided - unguided"]


def test_the_numbers_depend_on_seed_and_image_and_not_on_batches_levels_and_further_draws(found):
    once = json.loads(content(regeneration(batch_size=100, sigmas=SIGMAS[1:2]), MemoryStore("batches")))
    for name in ("unguided", "guided"):
        for kind in ("average", "single"):
            assert once["arms"][name][kind][0] == pytest.approx(found["arms"][name][kind][1])
    few = json.loads(content(regeneration(draws=4, arms={"unguided": ()}), MemoryStore("few")))
    for level, value in enumerate(few["arms"]["unguided"]["average"]):
        more = found["arms"]["unguided"]["average"][level]["mean"]
        assert value["mean"] == pytest.approx(more, abs=4 * value["error"])


def test_images_have_pictures_and_the_judge_sees_the_averages_as_often_as_planned(tmp_path, monkeypatch):
    judged, judge_of = list[int](), regeneration_values._judge

    def counting(*given: Any) -> Any:
        asked = judge_of(*given)
        return lambda images: (judged.append(len(images)), asked(images))[1]

    monkeypatch.setattr(regeneration_values, "_judge", counting)
    source = tiny.write_images(tmp_path / "images.npz")
    judge = dg.TrainClassifier(real=tiny.real(source)[:64], network=tiny.JUDGE, epochs=1, batch_size=16)
    network: dict[str, Any] = {**SCORES["SongUNet"], "channels": 1, "num_classes": 2}
    step = dg.Regeneration(
        score=pretrained(tmp_path, "score", **network).weights(),
        arms={"unguided": ()},
        real=tiny.real(source)[64:76],
        sigmas=(0.004, 0.3),
        draws=3,
        sampler=dg.Heun(steps=4),
        features=judge.last(),
        shown=9,
    )
    store = MemoryStore("pictures")
    file = content(step, store)
    values = json.loads(file)
    assert step.work(1)[-1].times == sum(judged)
    small, large = values["arms"]["unguided"]["features"]
    assert 0 < small["mean"] < large["mean"]
    real = complete(step, store).rows("real", ["image"])["image"]
    pictures = values["pictures"]
    assert len(pictures["images"]) == 9 and pictures["side"] == 8
    for number in range(9):
        assert (pixels_of(pictures["images"][number]) == real[number, :, :, 0]).all()
        average = pixels_of(pictures["averages"]["unguided"][0][number])
        assert abs(average.astype(int) - real[number, :, :, 0]).max() <= 3  # with noise of half a grey level
    *_, table, shown = step.figures(file)
    assert isinstance(table, Table) and len(table.rows) == 1
    assert isinstance(shown, Pictures) and len(shown.rows) == 9
    assert drawn(shown).count("<img") == 27 and "unguided, sigma 0.3" in drawn(shown)


def pixels_of(picture: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))))


def test_evaluations_are_counted_for_every_arm_level_and_draw():
    """4 of Heun's 18 levels lie below 0.1 and 8 below 1.2."""
    step = regeneration(sigmas=(0.1, 1.2), sampler=dg.Heun(steps=18))
    runs = COUNT * DRAWS
    each = (2 * (1 + 4) - 1) + (2 * (1 + 8) - 1)
    assert step.network_evaluations(1) == 2 * runs * each
    plain, guided, guide = step.work(1)
    assert plain.times == guided.times == guide.times == runs * each
    assert guide.use == "gradient"


IMAGES = dg.ImportImages(source="images.npz", num_classes=3, image_size=8, channels=1)
LATENTS = dg.Encode(
    images=dg.ImportImages(source="images.npz", num_classes=3, image_size=16)[:50],
    vae=dg.Pretrained(source="vae.safetensors", network=SD, image_size=16).weights(),
)
PLAIN = dg.TrainScore(real=IMAGES[:50], conditional=False).last()
SCORE_OF_OTHERS = dg.TrainScore(real=IMAGES[50:90], conditional=False).last()
JUDGE = dg.TrainClassifier(real=IMAGES[:50])


def of_latents(**fields: Any) -> Weights:
    network = dg.DiT(hidden_size=32, depth=1, num_heads=2)
    return dg.Pretrained(
        source="x", network=network, image_size=4, channels=4, num_classes=3, **fields
    ).weights()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"real": POINTS[:1]}, "at least two images"),
        ({"sigmas": (0.5, 0.2)}, "rising noise levels above 0, found 0.5, 0.2"),
        ({"sigmas": (0.5, 100.0)}, "noise levels 0.002 to 80.*found"),
        ({"draws": 1}, "draws"),
        ({"arms": {}}, "arms"),
        (
            {"sampler": dg.RK45(shared_block=2)},
            "expected one with step sizes per sample, found shared_block=2",
        ),
        ({"front_end": "adm"}, "expected features with front_end='adm'"),
        ({"real": IMAGES[:50]}, "1 channels of 8"),
        ({"real": LATENTS.all(), "score": of_latents(), "features": JUDGE.last()}, "images for a judge"),
        (
            {"arms": {"a": (dg.ClassifierFree(),)}, "real": IMAGES[:50], "score": PLAIN},
            "arm 'a': .*null class",
        ),
    ],
)
def test_what_cannot_be_regenerated_is_refused(fields, says):
    known: dict[str, Any] = {"score": SCORE, "arms": {"unguided": ()}, "real": POINTS[:50]}
    with pytest.raises(ValueError, match=says):
        dg.Regeneration(**(known | fields))


def test_images_that_a_network_was_trained_on_are_warned_of():
    fake = dg.Generate(score=PLAIN)[:40]
    trained = dg.TrainDiscriminator(
        real=IMAGES[:40], fake=fake, batch_size=8, conditional=False, held_out=0.1
    )
    arms = {"unguided": (), "guided": (dg.DiscriminatorGuidance(discriminator=trained.last()),)}
    (line,) = dg.Regeneration(score=PLAIN, arms=arms, real=IMAGES[:50]).cautions()
    assert line.startswith("real: train-score was trained on 45 of the 50")
    (line,) = dg.Regeneration(score=SCORE_OF_OTHERS, arms=arms, real=IMAGES[:50]).cautions()
    assert line.startswith("real: train-discriminator was trained on 36 of the 50")
    (line,) = dg.Regeneration(score=PLAIN, arms=arms, real=IMAGES[36:50]).cautions()
    assert line.startswith("real: train-score was trained on 9 of the 14")
    assert not dg.Regeneration(score=PLAIN, arms=arms, real=IMAGES[45:50]).cautions()
