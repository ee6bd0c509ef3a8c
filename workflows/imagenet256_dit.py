"""ImageNet 256, DiT-XL/2-G++: latent diffusion, classifier-free and discriminator guidance (Kim et al. 2023).

Published (250 DDPM steps, 50,000 samples with random labels, OpenAI's evaluator, no seeds given), to be
reached; not measured here:
  DiT-XL/2, scale 1.5   FID 2.27  sFID 4.60  IS 278.24  precision 0.83  recall 0.57
  DiT-XL/2-G++          FID 1.83  sFID 5.16  IS 281.53  precision 0.78  recall 0.64

The guidance scale is 1.25 above timestep 200, then 3.0. The discriminator acts with weight 1
above timestep 100; its fakes have scale 1.5 (seed 1).

Weights: DiT (CC BY-NC 4.0), Stable Diffusion's VAE (MIT), Discriminator Guidance's classifier of latents
(place the file by hand, no licence stated; or train it here with --train-classifier: AdamW 3e-4 annealed over
300,000 iterations).
Data: ImageNet 2012, image-net.org, for research.
Budget of the paper: 7 epochs on one A100 for the discriminator. Yours: `plan --device h100 --price 2.5`;
with --no-keep-pixels 252 GB of disk less.
"""

from functools import partial
from typing import Annotated

import dgflow as dg


def workflow(
    data: Annotated[
        str, "training images: 1,000 class folders, ILSVRC2012_img_train.tar, or Parquet files"
    ] = "data/imagenet/train",
    samples: dg.options.Samples = 50_000,
    reals: dg.options.Reals | None = None,
    fakes: dg.options.Fakes = 1_281_167,
    epochs: dg.options.Epochs = 7,
    batch_size: dg.options.BatchSize = 1024,
    times: dg.options.Times = "importance",
    loss: dg.options.Loss = "bce",
    features: dg.options.Features = "frozen",
    discriminator_seed: dg.options.DiscriminatorSeed = 0,
    held_out: dg.options.HeldOut = 0.01,
    best: dg.options.Best = False,
    epoch: dg.options.Epoch = None,
    guidance_weight: dg.options.GuidanceWeight = 1.0,
    after_timestep: dg.options.AfterTimestep = 100,
    tau_max: dg.options.TauMax = 1.0,
    steps: dg.options.Respacing = 250,
    train_classifier: Annotated[bool, "train the discriminator's frozen features here"] = False,
    precision: dg.options.Precision = "tf32",
    seeds: dg.options.Seeds = (0,),
    mechanism: dg.options.Mechanism = 0,
    skip_broken: dg.options.SkipBroken = 0,
    drop_alpha: dg.options.DropAlpha = False,
    keep_pixels: dg.options.KeepPixels = True,
) -> dg.Evaluate:
    images = dg.ImportImages(
        source=data,
        num_images=1_281_167,
        num_classes=1000,
        image_size=256,
        preparation="adm-center-crop",
        skip_broken=skip_broken,
        drop_alpha=drop_alpha,
    )
    # Mean and standard deviation, for both flips; the only step that needs pixels.
    encoded = dg.Encode(images=images.all(), vae=dg.official("sd-vae-ft-ema"), keep_pixels=keep_pixels)
    generate = partial(dg.Generate, score=dg.official("dit-xl-2-256"), precision=precision)
    plain = (dg.ClassifierFree(scale=1.5, channels=3),)

    classifier = dg.official("dg-imagenet256-classifier")
    if train_classifier:
        network = dg.ADMEncoder(channel_mult=(1, 2, 3), attention_resolutions=(1, 2, 4), time="ddpm-linear")
        classifier = dg.published_classifier(encoded.all(), network).last()
    training = dg.TrainDiscriminator(
        real=encoded[:reals] if reals else encoded.all(),
        fake=generate(sampler=dg.DDPM(respacing="250"), guidance=plain, seed=1)[:fakes],
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=3e-4,
        times=times,
        loss=loss,
        precision="bfloat16",
        held_out=held_out,
        seed=discriminator_seed,
        **dg.discriminator_on(classifier, features),
    )
    guided = dg.dit_gpp(
        training.chosen(epoch, best=best),
        weight=guidance_weight,
        after_timestep=after_timestep,
        tau_max=tau_max,
    )

    generate = partial(generate, sampler=dg.DDPM(respacing=str(steps)))
    decode = partial(dg.Decode, vae=dg.official("sd-vae-ft-mse"))
    arms = {
        name: tuple(decode(latents=generate(guidance=terms, seed=seed)[:samples]).all() for seed in seeds)
        for name, terms in (("DiT-XL/2", plain), ("DiT-XL/2-G++", guided))
    }
    beside = dg.beside(arms, real=encoded.all(), mechanism=mechanism)
    return dg.Evaluate(arms=arms, against=dg.reference("adm-reference-imagenet-256"), beside=beside)


if __name__ == "__main__":
    dg.main(workflow)
