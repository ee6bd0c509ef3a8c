"""AFHQ 64: photographs of cats into dogs, by EDM under Discriminator Guidance (Kim et al. 2023, section 5.3).

Noise is added to a source image up to a start time, and EDM removes it again (SDEdit). For every start time a
discriminator learns to distinguish target images from source images and their translations, and guides the
translation. The page plots FID to the target over the distance to the source, the curve of figure 12. The
paper gives no numbers for the curve and does not name its images; nothing was measured here.

EDM's network models cats, dogs and wild animals together; the discriminator restricts it to dogs. `--source`
and `--target` take any two folders of faces, such as `data/ffhq` and `data/afhqv2/train`.

Weights: EDM (CC BY-NC-SA 4.0), OpenAI's 64x64 classifier (MIT), Inception of StyleGAN3.
Data: AFHQv2, github.com/clovaai/stargan-v2 (CC BY-NC 4.0), 5,065 cats and 4,678 dogs of 512 x 512 in `train`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal

import dgflow as dg


def workflow(
    source: Annotated[str, "images of the source domain: a folder or a zip"] = "data/afhqv2/train/cat",
    target: Annotated[str, "images of the target domain"] = "data/afhqv2/train/dog",
    network: Annotated[Literal["vp", "ve"], "architecture of EDM's network"] = "vp",
    samples: Annotated[int, "source images to translate and measure"] = 1_000,
    fakes: Annotated[int, "more source images, to train the discriminators on"] = 4_000,
    reals: Annotated[int, "target images, for the discriminators and the reference"] = 4_600,
    starts: Annotated[Sequence[float], "start times (linear-VP); a later one keeps less of the source"] = (
        0.3,
        0.4,
        0.5,
        0.6,
    ),
    source_share: Annotated[
        float, "share of source images among the fakes; the others are translations"
    ] = 0.5,
    epochs: dg.options.Epochs = 60,
    batch_size: dg.options.BatchSize = 128,
    times: dg.options.Times = "log-uniform",
    loss: dg.options.Loss = "bce",
    features: dg.options.Features = "frozen",
    discriminator_seed: dg.options.DiscriminatorSeed = 0,
    held_out: dg.options.HeldOut = 0.04,
    best: dg.options.Best = False,
    guidance_weight: dg.options.GuidanceWeight = 1.0,
    second_order_weight: dg.options.SecondOrderWeight = 1.0,
    tau_min: dg.options.TauMin = 0.01,
    tau_max: dg.options.TauMax = 1.0,
    steps: dg.options.Steps = 40,
    precision: dg.options.Precision = "float32",
    seeds: dg.options.Seeds = (0, 1, 2),
) -> dg.Evaluate:
    faces = partial(dg.ImportImages, num_classes=0, image_size=64, preparation="lanczos")
    animals, real = faces(source=source), faces(source=target)[:reals]
    seen, measured = animals[:fakes], animals[fakes : fakes + samples]

    edm = dg.official(f"edm-afhqv2-64x64-uncond-{network}")
    classifier = dg.official("adm-imagenet-64x64-classifier")
    translate = partial(
        dg.Translate, score=edm, sampler=dg.Heun(steps=steps), precision=precision, batch_size=125
    )

    def guide(start: float) -> dg.DiscriminatorGuidance:
        training = dg.TrainDiscriminator(
            real=real,
            fake=(seen, translate(source=seen, start=start, seed=1_000).all()),
            fake_shares=(source_share, 1 - source_share),
            conditional=False,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=3e-4,
            times=times,
            loss=loss,
            held_out=held_out,
            seed=discriminator_seed,
            **dg.discriminator_on(classifier, features, head=dg.ADMEncoder(num_res_blocks=4)),
        )
        return dg.DiscriminatorGuidance(
            discriminator=training.chosen(best=best),
            weight=guidance_weight,
            second_order_weight=second_order_weight,
            tau_min=tau_min,
            tau_max=tau_max,
        )

    guidance = {"EDM": dict.fromkeys(starts, ()), "EDM-G++": {start: (guide(start),) for start in starts}}
    return dg.CompareTranslations(
        arms={
            name: tuple(
                translate(source=measured, start=start, guidance=terms[start], seed=seed).all()
                for start in starts
                for seed in seeds
            )
            for name, terms in guidance.items()
        },
        reference=real,
        features=dg.official("inception-2015-12-05"),
        protocol="edm",
    ).evaluate()


if __name__ == "__main__":
    dg.main(workflow)
