"""CIFAR-10, LSGM-G++: a score model in NVAE's latents under discriminator guidance (Kim et al. 2023).

Published FID (RK45 at tolerance 1e-5, about 138 evaluations, 50,000 samples, no seeds given), to be reached;
not measured here:
  LSGM 2.10 -> LSGM-G++ 1.94, weight 2 at times >= 0.1
The discriminator learns from scratch on latents of 180 channels and 16 x 16, without a classifier under it:
    50,000 fakes of seed 1 and 280
epochs, at times from 0.01. Real latents are the VAE's draws, of both flips. Published samplers share one step
    size in a batch
(--shared-block 100); here every sample has its own. 2.10 and 1.94 were measured by pytorch-fid; here EDM's
    evaluator and statistics do.
Weights: LSGM's best FID on CIFAR-10, prior and VAE in one file (NVIDIA Source Code License, non-commercial;
    put there by hand).
Data: CIFAR-10, cs.toronto.edu/~kriz/cifar.html. Budget of the paper: one V100. Yours: `plan --device a100
    --price 2`."""

from functools import partial
from typing import Annotated

import dgflow as dg


def workflow(
    data: Annotated[
        str, "the training images: CIFAR-10's archive, a folder of classes, Parquet files"
    ] = "data/cifar-10-python.tar.gz",
    samples: Annotated[int, "images an arm"] = 50_000,
    fakes: Annotated[int, "fake latents that the discriminator learns from"] = 50_000,
    epochs: Annotated[int, "passes over the real images for the discriminator"] = 280,
    held_out: Annotated[
        float, "share of real and fake that is kept apart to measure every epoch; published is 0"
    ] = 0.04,
    best: Annotated[
        bool, "guide with the epoch of the smallest held-out loss; published is the last"
    ] = False,
    shared_block: Annotated[
        int | None, "samples that share one step size, as published; a divisor of 500"
    ] = None,
    seed: Annotated[int, "of the samples that are measured"] = 0,
) -> dg.Evaluate:
    prior, vae = dg.official("lsgm-cifar10"), dg.official("lsgm-cifar10", part="vae")
    images = dg.ImportImages(source=data, num_images=50_000, num_classes=0, image_size=32).all()
    real = dg.Encode(images=images, vae=vae).all()
    sampler = dg.RK45(tolerance=1e-5, tau_min=1e-6, shared_block=shared_block)
    generate = partial(dg.Generate, score=prior, sampler=sampler)
    network = dg.ADMEncoder(channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(1, 2))
    train = partial(
        dg.TrainDiscriminator,
        conditional=False,
        batch_size=128,
        learning_rate=3e-4,
        sigma_max=152.0,
        held_out=held_out,
    )
    disc = train(real=real, fake=generate(seed=1)[:fakes], network=network, epochs=epochs)
    guide = dg.DiscriminatorGuidance(
        discriminator=disc.best() if best else disc.last(), weight=2.0, tau_min=0.1
    )
    guides = {"LSGM": (), "LSGM-G++": (guide,)}
    latents = {name: generate(guidance=terms, seed=seed)[:samples] for name, terms in guides.items()}
    arms = {name: (dg.Decode(latents=part, vae=vae).all(),) for name, part in latents.items()}
    return dg.Evaluate(arms=arms, against=dg.reference("fid-cifar10-32x32"))


if __name__ == "__main__":
    dg.main(workflow)
