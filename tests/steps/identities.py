"""A value of every step and spec, and another value for every field of each."""

from dgflow import (
    DDIM,
    DDPM,
    EDM2VAE,
    RK45,
    ADMEncoder,
    ADMUNet,
    BestOf,
    Boost,
    ClassifierFree,
    ClassifierGuidance,
    ClosedForm,
    CompareLaws,
    ComparePlane,
    CompareRefinements,
    CompareSelectors,
    CompareTranslations,
    Cost,
    DDPMUNet,
    DhariwalUNet,
    Discriminator,
    DiscriminatorGuidance,
    DiT,
    EDM2UNet,
    EDMAblation,
    EpsilonScaling,
    Evaluate,
    Features,
    Gain,
    GaussianMixture,
    Generate,
    Heun,
    ImportImages,
    Likelihood,
    LogRatioPath,
    LossesByLevel,
    LSGMPrior,
    MeanLogRatio,
    Merge,
    MixturePoints,
    MixtureRatio,
    MixtureScore,
    NCSNpp,
    NetworkGuidance,
    OfClasses,
    Particles,
    Perceptron,
    Pretrained,
    RatioWeighting,
    Regeneration,
    Rejection,
    RejectionThresholds,
    Restart,
    RestartInterval,
    SongUNet,
    Switch,
    TrainClassifier,
    TrainDiscriminator,
    TrainScore,
    Translate,
    official,
)
from dgflow.networks.lsgm.spec import NVAE
from dgflow.networks.stable_diffusion.spec import StableDiffusionVAE
from dgflow.specs.spec import Spec
from dgflow.steps.decode import Decode
from dgflow.steps.encode import Encode
from dgflow.steps.judging.measure import Measure
from dgflow.steps.judging.published_reference import PublishedStatistics
from dgflow.steps.judging.statistics import Statistics
from dgflow.steps.sources.check_images import CheckImages
from dgflow.steps.sources.image_set import ImageSet, StatisticsFile
from dgflow.steps.sources.list_images import ListImages
from dgflow.steps.sweeping.sweep import Combination, SelectedSweep, Sweep

REAL = ImportImages(source="images.npz", num_images=1000, num_classes=3, image_size=8, channels=1)
CHECKS = CheckImages(source="images.npz", num_images=1000, num_classes=3, image_size=8, channels=1)
REFERENCE = PublishedStatistics(source="fid-cifar10-32x32", image_size=32)
SCORE = TrainScore(real=REAL[:100])
FAKES = Generate(score=SCORE.last(), seed=1)
JUDGE = TrainClassifier(real=REAL[:100])
NOISY = TrainClassifier(real=REAL[:100], noise="linear_vp")
DISC = TrainDiscriminator(real=REAL[:100], fake=FAKES[:100], features=NOISY.last())
GUIDED = Generate(
    score=SCORE.last(), guidance=(DiscriminatorGuidance(discriminator=DISC.best(), boost=Boost()),), seed=2
)
MIXED_DISC = DISC.model_copy(update={"fake": (FAKES[:100], FAKES[100:200])})
MATCHED_DISC = DISC.model_copy(update={"loss": "bce+gradient", "score": SCORE.last()})
TRANSLATED = Translate(source=REAL[:100], score=SCORE.last(), start=0.5, guidance=GUIDED.guidance)
OTHER_DISC = DISC.model_copy(update={"seed": 9})
MERGE = Merge(base=SCORE.last(), tuned=SCORE.epoch(2), weight=1.0)
FILE = Pretrained(source="net.safetensors", network=DiT(), image_size=8, channels=4, num_classes=3)
OTHER_FILE, THIRD_FILE = (FILE.model_copy(update={"source": f"{name}.safetensors"}) for name in "ab")
GUIDED_BY = {
    epoch: GUIDED.model_copy(
        update={
            "guidance": tuple(
                DiscriminatorGuidance(discriminator=training.epoch(epoch)) for training in (DISC, OTHER_DISC)
            )
        }
    )
    for epoch in (1, 2, 3)
}
INCEPTION = official("inception-2015-12-05")
OPENAIS = official("inception-2015-12-05-openai")
IMAGES = ImageSet(source="images.npz", digest="0" * 64, rows=100)
PUBLISHED = StatisticsFile(source="reference.npz", digest="0" * 64)
FEATURES = Features(samples=REAL[:100], network=INCEPTION, front_end="adm")
STATISTICS = Statistics(features=FEATURES[:100])
MEASURE = Measure(samples=GUIDED[:100], reference=REAL[100:200], features=INCEPTION, protocol="adm")
LIKELIHOOD = Likelihood(
    score=SCORE.last(),
    arms={"guided": (DiscriminatorGuidance(discriminator=DISC.last()),)},
    real=REAL[100:200],
    sigma_min=0.01,
    sigma_max=40.0,
    truncations=(0.1,),
)
GAIN = Gain(score=SCORE.last(), discriminator=(DISC.last(), DISC.epoch(2)), real=REAL[100:200])
MEAN = MeanLogRatio(
    arms={"fakes": (FAKES[100:200],)}, discriminator=(DISC.last(), DISC.epoch(2)), real=REAL[100:200]
)
LOSSES = LossesByLevel(
    score=SCORE.last(),
    discriminators={"a": (DISC.last(), DISC.epoch(2))},
    real=REAL[100:200],
    fake=FAKES[100:200],
)
REGENERATION = Regeneration(
    score=SCORE.last(),
    arms={"unguided": (), "guided": GUIDED.guidance},
    real=REAL[100:200],
    features=INCEPTION,
    front_end="edm",
)
SOME = OfClasses(images=REAL[:100], classes=(0, 1), count=50)
TRANSLATIONS = CompareTranslations(
    arms={"guided": (TRANSLATED.all(),)},
    reference=REAL[100:200],
    features=INCEPTION,
    floor=REAL[:100],
    protocol="adm",
)
PATH = LogRatioPath(
    arms={"guided": GUIDED[:100]}, discriminator=(DISC.last(), DISC.epoch(2)), real=REAL[100:200]
)
THRESHOLDS = RejectionThresholds(samples=FAKES[:100], discriminator=DISC.last())
EVALUATE = Evaluate(
    arms={"guided": (GUIDED[:100],)},
    reference=REAL[100:200],
    features=INCEPTION,
    floor=REAL[:100],
    protocol="adm",
)
BY_EPOCH = Evaluate(
    arms={f"{epoch}": (GUIDED_BY[epoch][:100],) for epoch in (1, 2)},
    reference=REAL[100:200],
    features=JUDGE.last(),
)
REPORTED = BY_EPOCH.model_copy(
    update={"arms": {name: (part.step[100:200],) for name, (part,) in BY_EPOCH.arms.items()}}
)
REPORTED = REPORTED.model_copy(update={"beside": (Cost(arms=REPORTED.arms).result(),)})
REFINEMENTS = CompareRefinements(
    selection=BY_EPOCH.result(), report=REPORTED.result(), methods={"a": ("1",), "b": ("2",)}, base="a"
)
SELECTION = CompareSelectors(by_epoch=BY_EPOCH.result(), training=DISC.measurements())
COLOUR = ImportImages(source="images.npz", num_classes=3, image_size=16)
HIERARCHICAL = Pretrained(
    source="vae.safetensors", network=NVAE(num_groups_per_scale=2), image_size=16
).weights()
OTHER_VAE = Pretrained(
    source="other.safetensors", network=NVAE(num_groups_per_scale=2), image_size=16
).weights()
ENCODED = Encode(images=COLOUR[:100], vae=HIERARCHICAL)
LATENTS = Generate(
    score=Pretrained(source="prior.safetensors", network=LSGMPrior(), image_size=8, channels=18).weights()
)
DECODED = Decode(latents=LATENTS[:100], vae=HIERARCHICAL)
MIXTURE = GaussianMixture(means=((-1.0, 0.0), (1.0, 0.0)), stds=(0.5, 0.5), weights=(0.5, 0.5))
OTHER_MIXTURE = MIXTURE.model_copy(update={"weights": (0.25, 0.75)})
EXACT = ClosedForm(network=MixtureScore(mixture=MIXTURE))
POINTS = MixturePoints(mixture=MIXTURE)
IN_THE_PLANE = Generate(score=EXACT.weights())
COMPARISON = ComparePlane(data=MIXTURE, arms={"unguided": (IN_THE_PLANE[:100],)})
OTHER_YARDSTICK = dict(
    reference=REAL[100:199],
    features=OPENAIS,
    protocol="clean",
    statistics=PUBLISHED,
    metrics=("fid",),
    neighbours=5,
    distances="openai-float16",
)

COMBINATION = Combination(settings={"a": 1}, result=EVALUATE.result())
SWEEP = Sweep(combinations=(COMBINATION,))
OTHER_SWEEP = Sweep(combinations=(COMBINATION,), over=("a",))
SELECTED = SelectedSweep(
    selection=SWEEP.result(),
    report=SWEEP.result(),
    chosen_on=(1,),
    reported_on=(2,),
    by="fid",
    choice={"a": 1},
)

# Another value for every field, by the type that has it. A missing field fails the test.
OTHER = {
    ImportImages: dict(
        source="others.npz",
        num_images=999,
        num_classes=4,
        image_size=16,
        channels=3,
        preparation="lanczos",
        average_pool=2,
        pad=1,
        skip_broken=2,
        drop_alpha=True,
        seed=9,
        shard_size=7,
    ),
    ListImages: dict(source="others.npz", num_classes=4, num_images=999),
    CheckImages: dict(
        source="others.npz",
        num_images=999,
        num_classes=4,
        image_size=16,
        channels=3,
        preparation="lanczos",
        average_pool=2,
        pad=1,
        drop_alpha=True,
        shard_size=7,
    ),
    PublishedStatistics: dict(
        source="fid-ffhq-64x64", sha256="0" * 64, image_size=64, made_up=True, spatial=True
    ),
    TrainScore: dict(
        real=REAL[:99],
        network=SongUNet(num_blocks=1),
        conditional=False,
        P_mean=-1.0,
        P_std=1.0,
        ema_halflife=1,
        start=SCORE.last(),
        weighting=RatioWeighting(discriminator=DISC.last()),
        images_per_epoch=5,
        batch_size=8,
        learning_rate=0.5,
        held_out=0.2,
        seed=9,
    ),
    TrainClassifier: dict(
        real=REAL[:99],
        network=ADMEncoder(num_res_blocks=1),
        noise="linear_vp",
        times="uniform",
        weight_decay=0.5,
        shift=1,
        flip=True,
        anneal=1000,
        precision="bfloat16",
        images_per_epoch=5,
        batch_size=8,
        learning_rate=0.5,
        held_out=0.2,
        seed=9,
    ),
    TrainDiscriminator: dict(
        fake_shares=(0.25, 0.75),  # for several slices
        real=REAL[:99],
        fake=FAKES[:99],
        network=ADMEncoder(num_res_blocks=1),
        features=None,
        conditional=False,
        sigma_min=0.1,
        sigma_max=50.0,
        times="importance",
        weight_decay=0.5,
        precision="bfloat16",
        bootstrap=0,
        loss="lsif",
        fine_tune=True,
        process="edm",
        score=SCORE.epoch(3),  # for loss="bce+gradient", like the next
        gradient_weight=0.5,
        noise="none",
        gain_of=SCORE.last(),
        images_per_epoch=5,
        batch_size=8,
        learning_rate=0.5,
        held_out=0.2,
        seed=9,
    ),
    Generate: dict(
        score=SCORE.epoch(3),
        sampler=DDPM(),
        guidance=(),
        seed=9,
        seeding="edm",
        selection=BestOf(discriminator=DISC.last()),
        precision="bfloat16",
        compile=True,
        shard_size=7,
    ),
    Translate: dict(
        source=REAL[:99],
        score=SCORE.epoch(3),
        start=0.4,
        sampler=DDPM(),
        guidance=(),
        grid="whole",
        labels=1,
        seed=9,
        precision="bfloat16",
        compile=True,
        shard_size=7,
    ),
    Pretrained: dict(
        source="hf:someone/something/net.pt",
        network=ADMEncoder(num_res_blocks=1),
        image_size=16,
        channels=1,
        num_classes=4,
        format="state_dict",
        sha256="0" * 64,
        made_up=True,
        key="ema",
    ),
    Merge: dict(base=SCORE.epoch(3), tuned=SCORE.epoch(4), weight=2.0),
    Encode: dict(images=COLOUR[:99], vae=OTHER_VAE, draws=2, seed=9, precision="bfloat16", shard_size=7),
    Decode: dict(latents=LATENTS[:99], vae=OTHER_VAE, precision="bfloat16", shard_size=7),
    StableDiffusionVAE: dict(
        block_out_channels=(32, 32), layers_per_block=1, latent_channels=3, norm_num_groups=8, scale=0.5
    ),
    EDM2VAE: dict(
        block_out_channels=(32, 32),
        layers_per_block=1,
        latent_channels=3,
        norm_num_groups=8,
        raw_mean=(0.0, 0.0, 0.0, 0.0),
        raw_std=(1.0, 1.0, 1.0, 1.0),
        final_mean=1.0,
        final_std=1.0,
    ),
    NVAE: dict(
        decoder_dist="normal",
        arch_instance="res_mbconv",
        channel_mult=(1, 1),
        num_channels_enc=8,
        num_channels_dec=8,
        num_preprocess_blocks=2,
        num_preprocess_cells=1,
        num_postprocess_blocks=2,
        num_postprocess_cells=1,
        num_groups_per_scale=2,
        num_latent_per_group=3,
        num_cell_per_cond_enc=1,
        num_cell_per_cond_dec=1,
        use_se=False,
        num_nf=1,
    ),
    Likelihood: dict(
        score=SCORE.epoch(3),
        arms={"guided": (DiscriminatorGuidance(discriminator=DISC.epoch(3)),)},
        real=REAL[100:199],
        sigma_min=0.02,
        sigma_max=50.0,
        truncations=(0.2,),
        methods=("nll",),
        divergence="exact",
        dequantise=False,
        noised=False,
        repeats=2,
        times=9,
        tolerance=1e-3,
        seed=9,
    ),
    Gain: dict(
        score=SCORE.epoch(3),
        discriminator=(DISC.last(), DISC.epoch(3)),
        real=REAL[100:199],
        combine="probabilities",
        sigma_min=0.1,
        sigma_max=50.0,
        seed=9,
        precision="bfloat16",
    ),
    MeanLogRatio: dict(
        arms={"other": (FAKES[100:199],)},
        discriminator=DISC.last(),
        real=REAL[100:199],
        combine="probabilities",
        precision="bfloat16",
    ),
    LogRatioPath: dict(
        arms={"unguided": FAKES[:100]},
        discriminator=DISC.last(),
        real=REAL[100:199],
        combine="probabilities",
        sigma_min=0.1,
        sigma_max=50.0,
        levels=4,
        seed=9,
    ),
    RejectionThresholds: dict(samples=FAKES[:99], discriminator=DISC.epoch(3), quantile=0.9, floor=False),
    LossesByLevel: dict(
        score=SCORE.epoch(3),
        discriminators={"b": DISC.last()},
        real=REAL[100:199],
        fake=FAKES[100:199],
        combine="probabilities",
        sigma_min=0.1,
        sigma_max=50.0,
        levels=4,
        seed=9,
        precision="bfloat16",
    ),
    Regeneration: dict(
        score=SCORE.epoch(3),
        arms={"unguided": ()},
        real=REAL[100:199],
        sigmas=(0.1,),
        draws=4,
        sampler=DDPM(),
        grid="whole",
        features=OPENAIS,
        front_end="adm",
        shown=0,
        seed=9,
        precision="bfloat16",
    ),
    Features: dict(samples=REAL[:99], network=OPENAIS, front_end="edm", shard_size=7),
    Statistics: dict(features=FEATURES[:99]),
    Measure: dict(samples=GUIDED[100:200], **OTHER_YARDSTICK),
    CompareRefinements: dict(
        selection=BY_EPOCH.model_copy(update={"neighbours": 4}).result(),
        report=REPORTED.model_copy(update={"neighbours": 4}).result(),
        methods={"a": ("2",), "b": ("1",)},
        base="b",
    ),
    CompareSelectors: dict(
        by_epoch=BY_EPOCH.model_copy(update={"arms": BY_EPOCH.arms | {"3": (GUIDED_BY[3][:100],)}}).result(),
        training=OTHER_DISC.measurements(),
    ),
    OfClasses: dict(images=REAL[:99], classes=(1, 2), count=49, shard_size=7),
    CompareTranslations: dict(
        arms={"other": (TRANSLATED.model_copy(update={"seed": 9}).all(),)}, floor=REAL[:99], **OTHER_YARDSTICK
    ),
    Evaluate: dict(
        arms={"guided": (GUIDED[100:200],)}, floor=REAL[:99], beside=(GAIN.result(),), **OTHER_YARDSTICK
    ),
    Sweep: dict(
        combinations=(Combination(settings={"a": 2}, result=EVALUATE.result()),), over=("a",), zipped=True
    ),
    Combination: dict(settings={"a": 2}, result=MEASURE.result()),
    SelectedSweep: dict(
        selection=OTHER_SWEEP.result(),
        report=OTHER_SWEEP.result(),
        chosen_on=(3,),
        reported_on=(4,),
        by="is",
        choice={"a": 2},
    ),
    ImageSet: dict(digest="1" * 64, rows=99, drop_alpha=True),
    StatisticsFile: dict(digest="1" * 64),
    GaussianMixture: dict(means=((-1.0, 0.0), (1.0, 0.5)), stds=(0.5, 0.25), weights=OTHER_MIXTURE.weights),
    MixtureScore: dict(mixture=OTHER_MIXTURE),
    MixtureRatio: dict(real=OTHER_MIXTURE, model=OTHER_MIXTURE),
    ClosedForm: dict(network=MixtureScore(mixture=OTHER_MIXTURE)),
    CompareLaws: dict(data=OTHER_MIXTURE, arms={"other": (IN_THE_PLANE[:100],)}),
    ComparePlane: dict(data=OTHER_MIXTURE, arms={"other": (IN_THE_PLANE[:100],)}, weights=(1.0,)),
    MixturePoints: dict(mixture=OTHER_MIXTURE, seed=9, shard_size=7),
    RatioWeighting: dict(
        discriminator=DISC.epoch(3), divergence="hellinger", largest=2.0, tau_min=0.1, tau_max=0.5
    ),
    SongUNet: dict(
        model_channels=8,
        channel_mult=(1,),
        num_blocks=9,
        attn_resolutions=(),
        dropout=0.0,
        embedding_type="fourier",
        encoder_type="residual",
        decoder_type="skip",
        channel_mult_noise=2,
        resample_filter=(1, 3, 3, 1),
        augment_dim=9,
        precond="vp",
        sigma_data=1.0,
    ),
    DhariwalUNet: dict(
        model_channels=8,
        channel_mult=(1,),
        num_blocks=9,
        attn_resolutions=(),
        dropout=0.0,
        augment_dim=9,
        precond="iddpm",
        sigma_data=1.0,
    ),
    EDM2UNet: dict(
        model_channels=8,
        channel_mult=(1,),
        channel_mult_noise=2,
        channel_mult_emb=2,
        num_blocks=9,
        attn_resolutions=(),
        channels_per_head=8,
        dropout=0.1,
        resample_filter=(1, 3, 3, 1),
        label_balance=0.1,
        concat_balance=0.1,
        res_balance=0.1,
        attn_balance=0.1,
        clip_act=None,
        sigma_data=1.0,
        logvar_channels=8,
        latent=True,
    ),
    ADMUNet: dict(
        model_channels=8,
        channel_mult=(1,),
        num_res_blocks=9,
        attention_resolutions=(),
        num_head_channels=None,
        num_heads=1,
        use_scale_shift_norm=False,
        resblock_updown=False,
        new_attention_order=True,
        dropout=0.1,
        learn_sigma=False,
        schedule="cosine",
    ),
    DiT: dict(patch_size=4, hidden_size=8, depth=1, num_heads=1, mlp_ratio=2.0, learn_sigma=False),
    NCSNpp: dict(
        nf=8,
        ch_mult=(1,),
        num_res_blocks=9,
        attn_resolutions=(),
        dropout=0.0,
        fir=True,
        progressive_input="input_skip",
        embedding_dim=8,
        unbounded=True,
    ),
    LSGMPrior: dict(
        num_channels=8,
        ch_mult=(1,),
        num_res_blocks=9,
        attn_resolutions=(),
        dropout=0.0,
        fir=False,
        embedding_dim=8,
        embedding_scale=1.0,
    ),
    DDPMUNet: dict(ch=8, ch_mult=(1,), num_res_blocks=9, attn_resolutions=(), dropout=0.1),
    Perceptron: dict(width=8, layers=2, time="cosine-vp"),
    Discriminator: dict(
        head=ADMEncoder(num_res_blocks=1), features=None, fine_tune=True, process="edm", noise="none"
    ),
    ADMEncoder: dict(
        model_channels=64,
        channel_mult=(1, 2),
        num_res_blocks=9,
        attention_resolutions=(),
        num_head_channels=32,
        pool="adaptive",
        time="cosine-vp",
    ),
    Heun: dict(
        steps=9, sigma_min=0.01, sigma_max=50.0, rho=5.0, S_churn=1.0, S_min=0.1, S_max=9.0, S_noise=1.1
    ),
    Restart: dict(
        steps=9,
        sigma_min=0.01,
        sigma_max=50.0,
        rho=5.0,
        S_churn=1.0,
        S_min=0.1,
        S_max=9.0,
        S_noise=1.1,
        restarts=(RestartInterval(points=4, repeats=2, sigma_min=0.3, sigma_max=1.0),),
        restart_gamma=0.1,
    ),
    RestartInterval: dict(points=4, repeats=2, sigma_min=0.3, sigma_max=2.0),
    EDMAblation: dict(
        steps=9,
        solver="euler",
        discretization="ve",
        schedule="ve",
        scaling="vp",
        sigma_min=0.1,
        sigma_max=9.0,
        rho=5.0,
        alpha=0.5,
        S_churn=1.0,
        S_min=0.1,
        S_max=9.0,
        S_noise=1.1,
    ),
    DDPM: dict(respacing="10", clip_denoised=False, fixed_variance="large"),
    DDIM: dict(respacing="ddim10", eta=0.5, clip_denoised=False),
    RK45: dict(tolerance=1e-3, tau_max=0.9, tau_min=0.1, denoise_last=True, denoise_tau=0.01, shared_block=5),
    Boost: dict(period=3, weight=3.0, churn_period=4, S_churn=1.0, S_noise=1.1),
    DiscriminatorGuidance: dict(
        discriminator=DISC.last(),
        weight=Switch(above=1.0, below=2.0, timestep=9),
        second_order_weight=1.0,
        tau_min=0.1,
        tau_max=0.5,
        after_timestep=9,
        boost=None,
        match_preceding_norm=True,
        saturate=True,
        combine="probabilities",
    ),
    ClassifierGuidance: dict(
        classifier=NOISY.epoch(3),
        weight=3.0,
        tau_min=0.1,
        tau_max=0.5,
        entropy_scaling=True,
        entropy_floor=0.0,
    ),
    ClassifierFree: dict(scale=3.0, channels=None),
    NetworkGuidance: dict(
        network=THIRD_FILE.weights(), weight=3.0, sigma_min=0.1, sigma_max=9.0, without_class=True
    ),
    EpsilonScaling: dict(factor=1.1, slope=0.1, twice=True),
    BestOf: dict(discriminator=DISC.epoch(3), count=3),
    Particles: dict(
        discriminator=DISC.epoch(3),
        count=3,
        share=1.0,
        at=(1.0, 0.1),
        resampling="multinomial",
        churn=False,
        keep="best",
    ),
    Rejection: dict(
        thresholds=THRESHOLDS.model_copy(update={"quantile": 0.9}).result(),
        at="end",
        backsteps=None,
        min_backsteps=1,
        max_backsteps=9,
        budget=99,
    ),
    Switch: dict(above=3.0, below=3.0, timestep=9),
}
NETWORKS = (
    SongUNet(),
    DhariwalUNet(),
    EDM2UNet(),
    ADMUNet(),
    DiT(),
    NCSNpp(),
    LSGMPrior(),
    DDPMUNet(),
    Discriminator(features=NOISY.last()),
)
INTERVAL = RestartInterval(points=3, sigma_min=0.4, sigma_max=1.5)
SAMPLERS = (Heun(), Restart(), INTERVAL, EDMAblation(), DDPM(), DDIM(), RK45())
ENSEMBLE = DiscriminatorGuidance(discriminator=(DISC.best(), DISC.epoch(3)), boost=Boost())
TERMS = (ENSEMBLE, ClassifierGuidance(classifier=NOISY.last()), ClassifierFree())
CORRECTIONS = (NetworkGuidance(network=OTHER_FILE.weights(), weight=2.0), EpsilonScaling(factor=1.01))
SELECTIONS = (
    BestOf(discriminator=DISC.last()),
    Particles(discriminator=DISC.last()),
    Rejection(discriminator=DISC.last(), thresholds=THRESHOLDS.result()),
)
SPECS = (
    *NETWORKS,
    StableDiffusionVAE(),
    EDM2VAE(),
    NVAE(),
    *SAMPLERS,
    *TERMS,
    *CORRECTIONS,
    *SELECTIONS,
    ADMEncoder(),
    Perceptron(),
    Boost(),
    Switch(above=1.0, below=2.0, timestep=500),
    RatioWeighting(discriminator=DISC.last()),
)
INSTANCES: dict[type, Spec] = {
    type(made): made
    for made in (
        REAL,
        REAL.listing_step(),
        CHECKS,
        REFERENCE,
        SCORE,
        NOISY,
        DISC,
        GUIDED,
        MERGE,
        MEAN,
        TRANSLATED,
        FEATURES,
        STATISTICS,
        SWEEP,
        COMBINATION,
        SELECTED,
        MEASURE,
        EVALUATE,
        TRANSLATIONS,
        REGENERATION,
        SOME,
        GAIN,
        LIKELIHOOD,
        LOSSES,
        PATH,
        THRESHOLDS,
        REFINEMENTS,
        SELECTION,
        Cost(arms={"guided": (GUIDED[:100],)}),
        ENCODED,
        DECODED,
        FILE,
        IMAGES,
        PUBLISHED,
        EXACT,
        POINTS,
        COMPARISON,
        CompareLaws(data=MIXTURE, arms={"unguided": (IN_THE_PLANE[:100],)}),
        MIXTURE,
        MixtureScore(mixture=MIXTURE),
        MixtureRatio(real=MIXTURE, model=MIXTURE),
        *SPECS,
    )
}
