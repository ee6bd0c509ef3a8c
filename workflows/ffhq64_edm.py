"""FFHQ 64, EDM-G++: EDM under discriminator guidance with the adaptive boost (Kim et al. 2023).

Published FID (Heun, 50,000 samples, EDM's evaluator and statistics, no seeds given), to be reached; not
measured here:
  EDM       2.39 at 79 evaluations, 40 steps
  EDM-G++   1.98 at 71 evaluations, 36 steps, weight 1, boosted (2.04 without)

The discriminator has depth 4, on OpenAI's 64-pixel classifier. It receives that classifier's cosine time in
training and in guidance (the published code trains and guides with different times).

Weights: EDM (CC BY-NC-SA 4.0), OpenAI's 64x64 classifier (MIT).
Data: FFHQ, github.com/NVlabs/ffhq-dataset (CC BY-NC-SA 4.0 as a set).
Budget of the paper: one V100. Yours: `plan --device a100 --price 2`.
"""

from functools import partial
from typing import Annotated

import dgflow as dg


def workflow(
    data: Annotated[
        str, "the 70,000 images, 1024 x 1024 or 64 x 64: a zip or a folder"
    ] = "data/ffhq-64x64.zip",
    samples: dg.options.Samples = 50_000,
    fakes: dg.options.Fakes = 60_000,
    reals: Annotated[
        int | None, "real images to train the discriminator on; by default as many as fakes"
    ] = None,
    epochs: dg.options.Epochs = 250,
    batch_size: dg.options.BatchSize = 128,
    times: dg.options.Times = "importance",
    loss: dg.options.Loss = "bce",
    features: dg.options.Features = "frozen",
    discriminator_seed: dg.options.DiscriminatorSeed = 0,
    held_out: dg.options.HeldOut = 0.04,
    best: dg.options.Best = False,
    epoch: dg.options.Epoch = None,
    guidance_weight: dg.options.GuidanceWeightOrGain = 1.0,
    second_order_weight: dg.options.SecondOrderWeightOrGain | None = None,
    tau_min: dg.options.TauMinOrGain = 0.01,
    tau_max: dg.options.TauMaxOrGain = 1.0,
    steps: dg.options.Steps | None = None,
    precision: dg.options.Precision = "float32",
    seeds: dg.options.Seeds = (0,),
    likelihood: dg.options.Likelihood = 0,
    mechanism: dg.options.Mechanism = 0,
    skip_broken: dg.options.SkipBroken = 0,
    drop_alpha: dg.options.DropAlpha = False,
) -> dg.Evaluate:
    images = dg.ImportImages(
        source=data,
        num_images=70_000,
        num_classes=0,
        image_size=64,
        preparation="lanczos",
        skip_broken=skip_broken,
        drop_alpha=drop_alpha,
    )
    edm = dg.official("edm-ffhq-64x64-uncond-vp")
    classifier = dg.official("adm-imagenet-64x64-classifier")
    generate = partial(dg.Generate, score=edm, precision=precision, batch_size=125)

    if second_order_weight is None:  # Gain assumes one weight in both orders
        second_order_weight = "gain" if guidance_weight == "gain" else 0.0
    asks_gain = "gain" in (guidance_weight, second_order_weight, tau_min, tau_max)
    training = dg.TrainDiscriminator(
        real=images[: reals or fakes],
        fake=generate(sampler=dg.Heun(steps=40), seed=1)[:fakes],
        conditional=False,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=3e-4,
        times=times,
        loss=loss,
        gain_of=edm if asks_gain else None,
        held_out=held_out,
        seed=discriminator_seed,
        **dg.discriminator_on(classifier, features, head=dg.ADMEncoder(num_res_blocks=4)),
    )
    guidance = dg.edm_gpp(
        "ffhq-64",
        training.chosen(epoch, best=best),
        weight=guidance_weight,
        second_order_weight=second_order_weight,
        tau_min=tau_min,
        tau_max=tau_max,
    )

    plain = partial(generate, sampler=dg.Heun(steps=steps or 40))
    guided = partial(generate, sampler=dg.Heun(steps=steps or 36), guidance=guidance)
    arms = {
        name: tuple(arm(seed=seed)[:samples] for seed in seeds)
        for name, arm in (("EDM", plain), ("EDM-G++", guided))
    }
    beside = dg.beside(arms, real=images.all(), likelihood=likelihood, mechanism=mechanism)
    return dg.Evaluate(arms=arms, against=dg.reference("fid-ffhq-64x64"), beside=beside)


if __name__ == "__main__":
    dg.main(workflow)
