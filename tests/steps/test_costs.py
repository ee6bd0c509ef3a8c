"""Costs of a plan: against published figures, closed forms, and the files of a finished run."""

import pytest
import tiny
import torch
from inprocess import complete

import dgflow as dg
from dgflow.diffusion.discrete import DiscreteSchedule
from dgflow.engine.plan import plan
from dgflow.estimate.estimates import counted, piloted
from dgflow.estimate.exercise import count
from dgflow.specs.step import Use, Work
from dgflow.steps.decode import Decode
from dgflow.steps.official import official
from dgflow.store.memory import MemoryStore
from dgflow.store.open import open_store

EDM = official("edm-cifar10-32x32-uncond-vp")
DIT = official("dit-xl-2-256")
CIFAR_DISCRIMINATOR = official("dg-cifar10-uncond")


def on_meta(step):
    with torch.device("meta"):
        return step.fresh()


def flops(step, use: Use = "forward"):
    return count(step, on_meta(step), use).total


def plans_of(target):
    """Returns the plans for an empty root."""
    return plan(target, MemoryStore("costs"))


def row_of(plans, kind):
    (made,) = [made for made in plans if made.step.kind == kind]
    return made


@pytest.mark.parametrize(
    ("name", "multiply_adds"),
    [
        ("dit-xl-2-256", 118.64e9),  # Peebles & Xie 2023, table 4
        ("dit-xl-2-512", 524.60e9),
        ("adm-imagenet-256x256-diffusion", 1120e9),  # the same table
        ("inception-2015-12-05", 5.71e9),  # torchvision's Inception v3 at 299 pixels
    ],
)
def test_operations_are_the_published_ones(name, multiply_adds):
    assert flops(official(name).step) == pytest.approx(2 * multiply_adds, rel=0.001)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("dit-xl-2-256", 675_129_632),
        ("edm-cifar10-32x32-uncond-vp", 55.7e6),
        ("adm-imagenet-256x256-diffusion", 553.8e6),
        ("inception-2015-12-05", 23_816_528),
        ("lsgm-cifar10", 375_561_064),
        ("sd-vae-ft-ema", 83_653_863),
    ],
)
def test_parameters_are_the_published_ones(name, parameters):
    target = plans_of(official(name).step)
    (estimate,) = counted(target, "h100").steps.values()
    assert estimate.parameters == pytest.approx(parameters, rel=0.001)
    assert estimate.bytes == pytest.approx(4 * parameters, rel=0.005)  # and buffers, and names


def test_a_transformers_operations_are_its_closed_form():
    spec = dg.DiT(hidden_size=64, depth=3, num_heads=2, learn_sigma=False)
    step = dg.Pretrained(
        source="/nowhere.pt", network=spec, image_size=16, channels=4, num_classes=10, format="dit"
    )
    d, tokens, depth, frequencies = 64, 64, 3, 256
    block = (
        2 * 12 * d * d * tokens + 2 * 2 * d * tokens * tokens + 2 * d * 6 * d
    )  # layers, attention, modulation
    ends = (
        2 * (4 * 4) * d * tokens + 2 * d * (4 * 4) * tokens + 2 * d * 2 * d
    )  # patches in and out, last modulation
    assert flops(step) == depth * block + ends + 2 * (frequencies * d + d * d)


def test_backward_passes_cost_what_they_compute():
    spec = dg.ADMEncoder(model_channels=64, num_res_blocks=2, attention_resolutions=(), channel_mult=(1, 2))
    step = dg.Pretrained(source="/nowhere.pt", network=spec, image_size=16, num_classes=10)
    forward = flops(step)
    first = 2 * 16 * 16 * 9 * 3 * 64  # no training needs the gradient of its input
    assert flops(step, "gradient") == pytest.approx(2 * forward, rel=0.01)
    assert flops(step, "train") == pytest.approx(3 * forward - first, rel=0.01)


def test_training_on_frozen_features_pays_for_their_forward_pass_alone():
    real = dg.ImportImages(source="/nowhere", num_classes=10, image_size=32)[:100]
    fake = dg.Generate(score=EDM)[:100]
    head = dg.ADMEncoder(attention_resolutions=(1,))
    alone = dg.TrainDiscriminator(real=real, fake=fake, network=head, conditional=False)
    on_features = alone.model_copy(update={"features": official("dg-cifar10-classifier")})
    forward, train = flops(on_features), flops(on_features, "train")
    heads = forward - flops(
        official("dg-cifar10-classifier").step
    )  # small compared with the features: 0.2 of 13 GFLOP
    assert 0 < heads < 0.05 * forward
    assert train == pytest.approx(forward + 2 * heads, rel=0.02)


def guide_evaluations(step: dg.Generate) -> list[float]:
    _, *guides = step.work(1)
    return [work.times for work in guides]


def test_edms_discriminator_acts_in_15_of_18_steps():
    guided = dg.Generate(
        score=EDM, sampler=dg.Heun(steps=18), guidance=dg.edm_gpp("cifar10-uncond", CIFAR_DISCRIMINATOR)
    )
    assert guide_evaluations(guided) == [15]


def test_a_corrector_with_a_weight_is_counted_too():
    term = dg.DiscriminatorGuidance(discriminator=CIFAR_DISCRIMINATOR, weight=1.0, second_order_weight=1.0)
    assert guide_evaluations(dg.Generate(score=EDM, guidance=(term,))) == [
        15 + 14
    ]  # the last correction is below the window


def test_a_window_in_timesteps_is_counted_on_the_respaced_schedule():
    guided = dg.Generate(
        score=DIT, sampler=dg.DDPM(respacing="250"), guidance=dg.dit_gpp(official("dg-imagenet256-dit"))
    )
    kept = DiscreteSchedule.of("linear").respaced("250").timestep_map
    assert guide_evaluations(guided) == [sum(timestep > 100 for timestep in kept)]


def test_of_rk45_the_share_of_tau_is_taken():
    term = dg.DiscriminatorGuidance(discriminator=CIFAR_DISCRIMINATOR, tau_min=0.1, tau_max=0.6)
    sampler = dg.RK45(tau_min=1e-5)
    assert guide_evaluations(dg.Generate(score=EDM, sampler=sampler, guidance=(term,))) == [
        pytest.approx(140 * 0.5 / (1 - 1e-5))
    ]


def test_guidance_by_the_null_class_asks_the_score_network_twice():
    fakes = dg.Generate(
        score=DIT,
        sampler=dg.DDPM(respacing="250"),
        guidance=dg.dit_gpp(official("dg-imagenet256-dit")),
        shard_size=10,
    )
    images = Decode(latents=fakes[:20], vae=official("sd-vae-ft-mse"), shard_size=10)
    real = dg.ImportImages(source="/nowhere", num_classes=1000, image_size=256)
    inception = official("inception-2015-12-05-openai")
    plans = plans_of(
        dg.Evaluate(arms={"guided": (images.all(),)}, reference=real[:40], features=inception, protocol="adm")
    )
    score, guide = row_of(plans, "generate").work
    assert (score.times, score.use) == (20 * 250 * 2, "forward")
    assert (guide.network.fingerprint, guide.use) == (
        official("dg-imagenet256-dit").step.fingerprint,
        "gradient",
    )
    decoder = row_of(plans, "decode")
    assert decoder.work == [Work(official("sd-vae-ft-mse").step, "decode", 20, 32)]
    assert decoder.stored_bytes == round(1.001 * 20 * (16 + 4 + 3 * 256**2)) + 2 * 4096


def test_a_training_sees_as_many_fakes_as_real_images_and_measures_pairs():
    real = dg.ImportImages(source="/nowhere", num_classes=10, image_size=32)[:1000]
    fake = dg.Generate(score=EDM)[:500]
    step = dg.TrainDiscriminator(
        real=real, fake=fake, conditional=False, epochs=3, batch_size=128, held_out=0.1
    )
    train, measure = row_of(plans_of(step), "train-discriminator").work
    assert (train.use, train.times) == ("train", 3 * (1800 // 128) * 128)
    assert (measure.use, measure.times) == (
        "forward",
        3 * 2 * 8 * 50,
    )  # pairs at eight levels; 50 of the fakes are held out


def test_hours_and_money_are_operations_over_the_assumed_rate():
    spec = dg.SongUNet(model_channels=16, channel_mult=(1,), num_blocks=1, attn_resolutions=())
    score = dg.Pretrained(
        source="/nowhere.pt", network=spec, image_size=16, channels=1, format="state_dict"
    ).weights()
    fake = dg.Generate(score=score, sampler=dg.Heun(steps=5), shard_size=100)
    real = dg.ImportImages(source="/nowhere", num_classes=10, image_size=16, channels=1)[:1000]
    target = dg.TrainDiscriminator(real=real, fake=fake[:1000], conditional=False)
    plans = plans_of(target)
    costs = counted(plans, "v100", utilisation=0.5, price=2.0)  # 15.7 TFLOP/s in every format
    estimate = costs.steps[fake.fingerprint]
    assert estimate.flops is not None
    assert estimate.flops == 1000 * 9 * flops(score.step)
    assert estimate.seconds == pytest.approx(estimate.flops / (0.5 * 15.7e12))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Returns the toy recipe, its plan before the run, and its root after the run."""
    folder = tmp_path_factory.mktemp("costs")
    store = open_store(str(folder / "root"))
    target = tiny.workflow(str(tiny.write_images(folder / "images.npz")), samples=16, epochs=2)
    before = plan(target, store)
    complete(target, store)
    return before, plan(target, store), store


def test_nothing_takes_more_room_than_was_said_before(finished):
    before, after, store = finished
    estimates = counted(before, "h100").steps
    for then, now in zip(before, after, strict=True):
        kept = sum(
            len(store.get(entry.key))
            for entry in store.list(now.step.name)
            if not entry.key.endswith(".json")
        )
        estimate = estimates.get(then.step.fingerprint)
        bound = then.stored_bytes if estimate is None or estimate.bytes is None else estimate.bytes
        if bound is not None:  # the listing of a source with any number of images
            assert kept <= bound, (now.step.name, kept, bound)


def test_what_is_there_costs_nothing(finished):
    _, after, _ = finished
    assert counted(after, "h100").steps == {}


def test_a_pilot_times_every_use_of_every_network_once(finished):
    before, _, _ = finished
    told = []
    costs = piloted(before, told.append)
    uses = {(work.network.fingerprint, work.use, work.precision) for made in before for work in made.work}
    assert len(told) == len(uses)
    assert set(costs.steps) == set(counted(before, "h100").steps)
    running = [made for made in before if made.work]
    assert all(costs.steps[made.step.fingerprint].seconds > 0 for made in running)
    assert all(costs.steps[made.step.fingerprint].flops is None for made in running)
