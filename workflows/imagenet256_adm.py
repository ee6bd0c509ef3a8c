"""ImageNet 256, ADM-G++: pixel diffusion under classifier and discriminator guidance (Kim et al. 2023).

Published (250 DDPM steps, 50,000 samples with random labels, OpenAI's evaluator, no seeds given), to be
reached; not measured here:
  ADM-G               FID 4.59  sFID 5.25  IS 186.70  precision 0.82  recall 0.52
  ADM-G++, row 3.18   FID 3.18  sFID 4.53  IS 255.74  precision 0.84  recall 0.53
  ADM-G++, row 3.73   FID 3.73  sFID 5.03  IS 204.49  precision 0.78  recall 0.59
  ADM-G++, row 4.45   FID 4.45  sFID 5.38  IS 190.71  precision 0.76  recall 0.60

No code was released; the meaning of a row is inferred from the paper (docs/models.md). The classifier's
weight is scaled by entropy (EDS), both weights switch with the timestep, and the discriminator's gradient is
scaled to the norm of the classifier's. ADM-G's scale is 1.0, with which OpenAI publishes these numbers (the
paper says 1.5). The fakes are 400,000 samples of seed 1, without guidance ("ADM samples" in the paper).

Weights: OpenAI's diffusion model and classifier (MIT).
Data: ImageNet 2012, image-net.org, for research.
Budget of the paper: 100 M evaluations for the fakes, 25.6 M for the discriminator, one A100. Yours: `plan
--device h100 --price 2.5`.
"""

from functools import partial
from typing import Annotated, Literal

import dgflow as dg


def workflow(
    row: Annotated[Literal["3.18", "3.73", "4.45"], "row of the paper's table, named by its FID"] = "3.18",
    data: Annotated[
        str, "training images: 1,000 class folders, ILSVRC2012_img_train.tar, or Parquet files"
    ] = "data/imagenet/train",
    samples: dg.options.Samples = 50_000,
    reals: dg.options.Reals | None = None,
    fakes: dg.options.Fakes = 400_000,
    epochs: dg.options.Epochs = 10,
    batch_size: dg.options.BatchSize = 512,
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
    precision: dg.options.Precision = "float32",
    seeds: dg.options.Seeds = (0,),
    likelihood: dg.options.Likelihood = 0,
    mechanism: dg.options.Mechanism = 0,
    skip_broken: dg.options.SkipBroken = 0,
    drop_alpha: dg.options.DropAlpha = False,
) -> dg.Evaluate:
    images = dg.ImportImages(
        source=data,
        num_images=1_281_167,
        num_classes=1000,
        image_size=256,
        preparation="adm-center-crop",
        skip_broken=skip_broken,
        drop_alpha=drop_alpha,
        shard_size=250,
    )
    adm = dg.official("adm-imagenet-256x256-diffusion")
    classifier = dg.official("adm-imagenet-256x256-classifier")
    generate = partial(dg.Generate, score=adm, precision=precision, shard_size=250, batch_size=32)

    training = dg.TrainDiscriminator(
        real=images[:reals] if reals else images.all(),
        fake=generate(sampler=dg.DDPM(respacing="250"), seed=1)[:fakes],
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
    plain = (dg.ClassifierGuidance(classifier=classifier, weight=1.0),)
    guided = dg.adm_gpp(
        row,
        classifier,
        training.chosen(epoch, best=best),
        weight=guidance_weight,
        after_timestep=after_timestep,
        tau_max=tau_max,
    )

    generate = partial(generate, sampler=dg.DDPM(respacing=str(steps)))
    arms = {
        name: tuple(generate(guidance=terms, seed=seed)[:samples] for seed in seeds)
        for name, terms in (("ADM-G", plain), (f"ADM-G++ {row}", guided))
    }
    beside = dg.beside(arms, real=images.all(), likelihood=likelihood, mechanism=mechanism)
    return dg.Evaluate(arms=arms, against=dg.reference("adm-reference-imagenet-256"), beside=beside)


if __name__ == "__main__":
    dg.main(workflow)
