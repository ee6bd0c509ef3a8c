"""Discriminator Guidance in the plane, where the truth is known: a minute on two CPU cores.

As in section 5.1 of the paper (figures 6, 15, 16), the data come from a mixture of two Gaussians. The model
is wrong and known exactly: "confused" about the places and weights of the modes, or "blind" to them. A
perceptron of 4 layers of 256 learns the log-ratio from points alone, by the same steps as for images; another
arm is guided by the exact log-ratio. All results are compared with exact values: KL to the data, the
log-ratio and its gradient by noise level, Gain, and KL and Gain over the guidance weight. Nothing was tuned
on the sampling seeds.
"""

from functools import partial
from typing import Annotated, Literal

import dgflow as dg

SEEDS = (101, 102, 103)
DATA = dg.GaussianMixture(means=((-1.5, 0.0), (1.5, 0.0)), stds=(0.5, 0.5), weights=(0.5, 0.5))
MODELS = {
    "confused": dg.GaussianMixture(means=((-1.2, 0.6), (1.8, -0.9)), stds=(0.6, 0.6), weights=(0.6, 0.4)),
    "blind": dg.GaussianMixture(means=((0.0, 0.0),), stds=(1.3,), weights=(1.0,)),
}


def workflow(
    model: Annotated[Literal["confused", "blind"], "the wrong model, whose score is exact"] = "confused",
    loss: Annotated[
        Literal["bce", "lsif", "ukl", "all", "bce+gradient"],
        "loss of the discriminator; all: one arm for each of the paper's three; bce+gradient: its gradient "
        "is also matched to the score's error",
    ] = "bce",
    samples: Annotated[int, "points per arm and sampling seed"] = 2_000,
    seeds: dg.options.Seeds = SEEDS,
    steps: dg.options.Steps = 12,
    guidance_weight: Annotated[float, "weight of the log-ratio's gradient (1 for an exact log-ratio)"] = 1.0,
    second_order_weight: Annotated[
        float | None, "weight of the gradient in Heun's second order; by default guidance_weight"
    ] = None,
    tau_min: dg.options.TauMin = 0.0,
    tau_max: dg.options.TauMax = 1.0,
    epochs: dg.options.Epochs = 12,
    epoch: dg.options.Epoch = None,
    reals: Annotated[int, "points of the data to train the discriminator on"] = 20_000,
    fakes: Annotated[int, "samples of the model to train the discriminator on"] = 20_000,
    batch_size: dg.options.BatchSize = 1_024,
    times: dg.options.Times = "log-uniform",
    process: dg.options.Process = "linear-vp",
    discriminator_seed: dg.options.DiscriminatorSeed = 0,
) -> dg.ComparePlane:
    wrong = MODELS[model]
    score = dg.ClosedForm(network=dg.MixtureScore(mixture=wrong)).weights()
    heun = partial(dg.Heun, sigma_min=0.02, sigma_max=20)
    generate = partial(dg.Generate, score=score, sampler=heun(steps=steps), shard_size=1_000)
    train = partial(
        dg.TrainDiscriminator,
        real=dg.MixturePoints(mixture=DATA, shard_size=5_000)[:reals],
        fake=dg.Generate(score=score, sampler=heun(steps=18), seed=1, shard_size=5_000)[:fakes],
        network=dg.Perceptron(width=256, layers=4),
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=1e-3,
        held_out=0.05,
        sigma_min=0.02,
        sigma_max=20,
        times=times,
        process=process,
        seed=discriminator_seed,
    )
    exact = dg.ClosedForm(network=dg.MixtureRatio(real=DATA, model=wrong)).weights()
    losses = ("bce", "lsif", "ukl") if loss == "all" else (loss,)
    guides = {
        name: train(loss=name, score=score if name == "bce+gradient" else None).chosen(
            epoch, best=epoch is None
        )
        for name in losses
    } | {"exact": exact}

    arms = {"unguided": tuple(generate(seed=seed)[:samples] for seed in seeds)}
    for name, discriminator in guides.items():
        guide = dg.DiscriminatorGuidance(
            discriminator=discriminator,
            weight=guidance_weight,
            second_order_weight=guidance_weight if second_order_weight is None else second_order_weight,
            tau_min=tau_min,
            tau_max=tau_max,
        )
        arms[name] = tuple(generate(guidance=(guide,), seed=seed)[:samples] for seed in seeds)
    return dg.ComparePlane(data=DATA, arms=arms)


if __name__ == "__main__":
    dg.main(workflow)
