"""CIFAR-10, LSGM-G++: a score model in NVAE's latents under discriminator guidance (Kim et al. 2023).

Published FID (RK45 at tolerance 1e-5, about 138 evaluations, 50,000 samples, no seeds given), to be
reached; not measured here:
  LSGM       2.10
  LSGM-G++   1.94, weight 2 at times >= 0.1

The discriminator is trained from scratch on latents of 180 channels and 16 x 16, without a pretrained
classifier: 50,000 fakes of seed 1 and 280 epochs, at times from 0.01. Real latents are draws from the VAE,
for both flips. The published sampler shares one step size per batch (--shared-block 100); here every sample
has its own. The published 2.10 and 1.94 were measured by pytorch-fid; here EDM's evaluator and statistics are
used.

Weights: LSGM's checkpoint with the best FID on CIFAR-10, prior and VAE in one file (NVIDIA Source Code
License, non-commercial; place the file by hand).
Data: CIFAR-10, cs.toronto.edu/~kriz/cifar.html.
Budget of the paper: one V100. Yours: `plan --device a100 --price 2`.
"""

from functools import partial
from typing import Annotated

import dgflow as dg


def workflow(
    data: Annotated[
        str, "the training images: CIFAR-10's archive, a folder of classes, Parquet files"
    ] = "data/cifar-10-python.tar.gz",
    samples: dg.options.Samples = 50_000,
    reals: dg.options.Reals = 50_000,
    fakes: dg.options.Fakes = 50_000,
    epochs: dg.options.Epochs = 280,
    batch_size: dg.options.BatchSize = 128,
    times: dg.options.Times = "log-uniform",
    loss: dg.options.Loss = "bce",
    discriminator_seed: dg.options.DiscriminatorSeed = 0,
    held_out: dg.options.HeldOut = 0.04,
    best: dg.options.Best = False,
    epoch: dg.options.Epoch = None,
    guidance_weight: dg.options.GuidanceWeightOrGain = 2.0,
    tau_min: dg.options.TauMinOrGain = 0.1,
    tau_max: dg.options.TauMaxOrGain = 1.0,
    tolerance: dg.options.Tolerance = 1e-5,
    shared_block: Annotated[
        int | None, "number of samples that share a step size, as published; a divisor of 500"
    ] = None,
    seeds: dg.options.Seeds = (0,),
    mechanism: dg.options.Mechanism = 0,
) -> dg.Evaluate:
    prior, vae = dg.official("lsgm-cifar10"), dg.official("lsgm-cifar10", part="vae")
    images = dg.ImportImages(source=data, num_images=50_000, num_classes=0, image_size=32)
    encoded = dg.Encode(images=images.all(), vae=vae)
    sampler = partial(dg.RK45, tau_min=1e-6, shared_block=shared_block)
    generate = partial(dg.Generate, score=prior)

    training = dg.TrainDiscriminator(
        real=encoded[:reals],
        fake=generate(sampler=sampler(tolerance=1e-5), seed=1)[:fakes],
        network=dg.ADMEncoder(channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(1, 2)),
        conditional=False,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=3e-4,
        times=times,
        loss=loss,
        gain_of=prior if "gain" in (guidance_weight, tau_min, tau_max) else None,
        sigma_max=152.0,
        held_out=held_out,
        seed=discriminator_seed,
    )
    guide = dg.DiscriminatorGuidance(
        discriminator=training.chosen(epoch, best=best),
        weight=guidance_weight,
        tau_min=tau_min,
        tau_max=tau_max,
    )

    generate = partial(generate, sampler=sampler(tolerance=tolerance))
    arms = {
        name: tuple(
            dg.Decode(latents=generate(guidance=terms, seed=seed)[:samples], vae=vae).all() for seed in seeds
        )
        for name, terms in (("LSGM", ()), ("LSGM-G++", (guide,)))
    }
    beside = dg.beside(arms, real=encoded.all(), mechanism=mechanism)
    return dg.Evaluate(arms=arms, against=dg.reference("fid-cifar10-32x32"), beside=beside)


if __name__ == "__main__":
    dg.main(workflow)
