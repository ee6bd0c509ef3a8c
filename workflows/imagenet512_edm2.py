"""ImageNet 512, EDM2: latent diffusion guided by a second network or by a discriminator (Karras et al. 2024).

Published FID (32 steps of Heun, 50,000 samples, seeds as EDM's, against the training set), to be reached; not
measured here:
                                       --size s   --size xxl   evaluations
  EDM2                                     2.56         1.91   63
  classifier-free, by an unconditional XS  2.23         1.81   63 + 63
  the same within an interval                 -         1.40   63 + 12 (Kynkäänniemi et al. 2024)
  autoguidance, by a worse EDM2            1.34         1.25   63 + 63

Each arm uses the weights with its best FID; they differ in the length of their average. --discriminator adds
Discriminator Guidance of the plain network (Kim et al. 2023), which has no published number; its
discriminator of latents is trained here from scratch.

Weights: EDM2 (CC BY-NC-SA 4.0), Stable Diffusion's VAE (MIT), Inception of StyleGAN3.
Data: EDM2's statistics of the training set; with --discriminator ImageNet 2012, image-net.org, for research.
Budget of the papers: none for training. Yours: `plan --device h100`.
"""

from functools import partial
from typing import Annotated, Literal

import dgflow as dg

PLAIN = {"s": "edm2-img512-s-2147483-0.130", "xxl": "edm2-img512-xxl-0939524-0.070"}
GUIDED = {
    "s": {
        "classifier-free": ("edm2-img512-s-2147483-0.025", "edm2-img512-xs-uncond-2147483-0.025", "s-guid"),
        "autoguidance": ("edm2-img512-s-2147483-0.070", "edm2-img512-xs-0134217-0.125", "s-autog"),
    },
    "xxl": {
        "classifier-free": (
            "edm2-img512-xxl-0939524-0.015",
            "edm2-img512-xs-uncond-2147483-0.015",
            "xxl-guid",
        ),
        "interval": ("edm2-img512-xxl-0939524-0.015", "edm2-img512-xs-uncond-2147483-0.015", "xxl-interval"),
        "autoguidance": ("edm2-img512-xxl-0939524-0.075", "edm2-img512-m-0268435-0.155", "xxl-autog"),
    },
}
"""Of each kind of guidance: the network, the one that guides it, and the published setting."""


def workflow(
    size: Annotated[Literal["s", "xxl"], "size of EDM2"] = "s",
    data: Annotated[
        str, "images for --discriminator: 1,000 class folders, ILSVRC2012_img_train.tar, or Parquet files"
    ] = "data/imagenet/train",
    samples: dg.options.Samples = 50_000,
    discriminator: Annotated[
        bool, "train a discriminator of latents, which guides the plain network"
    ] = False,
    fakes: dg.options.Fakes = 200_000,
    reals: dg.options.Reals = 200_000,
    epochs: dg.options.Epochs = 10,
    batch_size: dg.options.BatchSize = 256,
    loss: dg.options.Loss = "bce",
    held_out: dg.options.HeldOut = 0.02,
    best: dg.options.Best = True,
    guidance_weight: dg.options.GuidanceWeight = 1.0,
    steps: dg.options.Steps = 32,
    seeding: Annotated[
        Literal["counter", "edm"], "edm: the random numbers that EDM2 draws for its seeds"
    ] = "counter",
    seeds: dg.options.Seeds = (0,),
    precision: dg.options.Precision = "tf32",
    keep_pixels: dg.options.KeepPixels = True,
) -> dg.Evaluate:
    vae = dg.official("edm2-vae")
    generate = partial(dg.Generate, sampler=dg.Heun(steps=steps), precision=precision)
    edm2 = dg.official(PLAIN[size])
    systems = {"EDM2": partial(generate, score=edm2)}
    for name, (network, second, row) in GUIDED[size].items():
        terms = dg.network_guidance(f"edm2-img512-{row}", dg.official(second))
        systems[name] = partial(generate, score=dg.official(network), guidance=terms)
    if discriminator:
        images = dg.ImportImages(
            source=data, num_images=1_281_167, num_classes=1000, image_size=512, preparation="adm-center-crop"
        )
        training = dg.TrainDiscriminator(
            real=dg.Encode(images=images[:reals], vae=vae, keep_pixels=keep_pixels).all(),
            fake=systems["EDM2"](seed=1_000_000)[:fakes],
            network=dg.ADMEncoder(channel_mult=(1, 2, 3, 4)),
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=3e-4,
            times="log-uniform",
            loss=loss,
            held_out=held_out,
        )
        guide = dg.DiscriminatorGuidance(
            discriminator=training.chosen(best=best), weight=guidance_weight, second_order_weight=0.0
        )
        systems["EDM2-G++"] = partial(generate, score=edm2, guidance=(guide,))

    arms = {
        name: tuple(
            dg.Decode(latents=system(seed=seed, seeding=seeding)[:samples], vae=vae).all() for seed in seeds
        )
        for name, system in systems.items()
    }
    beside = (dg.Cost(arms=arms).result(),)
    return dg.Evaluate(arms=arms, against=dg.reference("fid-imagenet-512"), beside=beside)


if __name__ == "__main__":
    dg.main(workflow)
