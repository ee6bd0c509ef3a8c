"""ImageNet 256, DiT-XL/2-G++: latent diffusion under classifier-free and discriminator guidance (Kim et al.
2023).

Published (250 DDPM steps, 50,000 samples with random labels, OpenAI's evaluator, no seeds given) and to be
reached; not measured here:
  DiT-XL/2, scale 1.5   FID 2.27  sFID 4.60  IS 278.24  precision 0.83  recall 0.57
  DiT-XL/2-G++          FID 1.83  sFID 5.16  IS 281.53  precision 0.78  recall 0.64
Guidance scale 1.25 above timestep 200 and 3.0 from there; the discriminator, weight 1, above 100; its fakes
are of scale 1.5 (seed 1). Weights: DiT (CC BY-NC 4.0), Stable Diffusion's VAE (MIT), Discriminator Guidance's
classifier of latents (put there by hand, no licence stated; or trained here by --train-classifier: AdamW 3e-4
annealed over 300,000 iterations). Data: ImageNet 2012, image-net.org, for research. Budget of the paper: 7
epochs on one A100 for the discriminator. Yours: `plan --device h100 --price 2.5`."""

from functools import partial
from typing import Annotated, Literal

import dgflow as dg


def workflow(
    data: Annotated[
        str, "training images: 1,000 class folders, ILSVRC2012_img_train.tar, or Parquet files"
    ] = "data/imagenet/train",
    samples: Annotated[int, "images an arm"] = 50_000,
    fakes: Annotated[int, "fake latents that the discriminator learns from"] = 1_281_167,
    epochs: Annotated[int, "passes over the real images for the discriminator"] = 7,
    held_out: Annotated[
        float, "share of real and fake that is kept apart to measure every epoch; published is 0"
    ] = 0.01,
    best: Annotated[
        bool, "guide with the epoch of the smallest held-out loss; published is the last"
    ] = False,
    train_classifier: Annotated[bool, "train the discriminator's frozen features here"] = False,
    precision: Annotated[Literal["float32", "tf32", "bfloat16"], "of the networks while sampling"] = "tf32",
    seed: Annotated[int, "of the samples that are measured"] = 0,
    skip_broken: Annotated[int, "broken images that may be left out"] = 0,
) -> dg.Evaluate:
    crop = partial(dg.ImportImages, image_size=256, preparation="adm-center-crop", skip_broken=skip_broken)
    images = crop(source=data, num_images=1_281_167, num_classes=1000)
    real = dg.Encode(images=images.all(), vae=dg.official("sd-vae-ft-ema")).all()
    classifier = dg.ADMEncoder(channel_mult=(1, 2, 3), attention_resolutions=(1, 2, 4), time="ddpm-linear")
    features = (
        dg.published_classifier(real, classifier).last()
        if train_classifier
        else dg.official("dg-imagenet256-classifier")
    )
    generate = partial(
        dg.Generate, score=dg.official("dit-xl-2-256"), sampler=dg.DDPM(respacing="250"), precision=precision
    )
    plain = (dg.ClassifierFree(scale=1.5, channels=3),)
    fake = generate(guidance=plain, seed=1)[:fakes]
    train = partial(
        dg.TrainDiscriminator,
        batch_size=1024,
        learning_rate=3e-4,
        times="importance",
        precision="bfloat16",
        held_out=held_out,
    )
    disc = train(real=real, fake=fake, features=features, epochs=epochs)
    guides = {"DiT-XL/2": plain, "DiT-XL/2-G++": dg.dit_gpp(disc.best() if best else disc.last())}
    decode = partial(dg.Decode, vae=dg.official("sd-vae-ft-mse"))
    arms = {
        name: (decode(latents=generate(guidance=terms, seed=seed)[:samples]).all(),)
        for name, terms in guides.items()
    }
    return dg.Evaluate(arms=arms, against=dg.reference("adm-reference-imagenet-256"))


if __name__ == "__main__":
    dg.main(workflow)
