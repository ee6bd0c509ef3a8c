"""What is identity of a step and what is not, and the pinned fingerprints of the shipped recipes."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError
from steps.shipped import built

from dgflow import (
    DDIM,
    DDPM,
    RK45,
    ADMEncoder,
    ADMUNet,
    Boost,
    ClassifierFree,
    ClassifierGuidance,
    DDPMUNet,
    DhariwalUNet,
    Discriminator,
    DiscriminatorGuidance,
    DiT,
    EDMAblation,
    Evaluate,
    Features,
    Generate,
    Heun,
    ImportImages,
    LSGMPrior,
    NCSNpp,
    Pretrained,
    SongUNet,
    Switch,
    TrainClassifier,
    TrainDiscriminator,
    TrainScore,
    official,
)
from dgflow.diffusion.sampler_specs import SamplerSpec
from dgflow.networks.lsgm.spec import NVAE
from dgflow.networks.roles import AutoencoderSpec, DiscriminatorSpec, ScoreNetworkSpec
from dgflow.networks.stable_diffusion.spec import StableDiffusionVAE
from dgflow.specs.spec import PLACEMENT, Spec
from dgflow.specs.step import Step
from dgflow.steps.decode import Decode
from dgflow.steps.encode import Encode
from dgflow.steps.judging.measure import Measure
from dgflow.steps.judging.published_reference import PublishedStatistics
from dgflow.steps.judging.statistics import Statistics
from dgflow.steps.sources.check_images import CheckImages
from dgflow.steps.sources.image_set import ImageSet, StatisticsFile
from dgflow.steps.sources.list_images import ListImages

ROOT = Path(__file__).resolve().parents[2]

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
INCEPTION = official("inception-2015-12-05")
OPENAIS = official("inception-2015-12-05-openai")
IMAGES = ImageSet(source="images.npz", digest="0" * 64, rows=100)
PUBLISHED = StatisticsFile(source="reference.npz", digest="0" * 64)
FEATURES = Features(samples=REAL[:100], network=INCEPTION, front_end="adm")
STATISTICS = Statistics(features=FEATURES[:100])
MEASURE = Measure(samples=GUIDED[:100], reference=REAL[100:200], features=INCEPTION, protocol="adm")
EVALUATE = Evaluate(
    arms={"guided": (GUIDED[:100],)},
    reference=REAL[100:200],
    features=INCEPTION,
    floor=REAL[:100],
    protocol="adm",
)
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
OTHER_YARDSTICK = dict(
    reference=REAL[100:199],
    features=OPENAIS,
    protocol="clean",
    statistics=PUBLISHED,
    metrics=("fid",),
    neighbours=5,
    distances="openai-float16",
)

# One other value for every field, by the type that has it. A field that is missing here fails the test.
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
    ),
    Encode: dict(images=COLOUR[:99], vae=OTHER_VAE, draws=2, seed=9, precision="bfloat16", shard_size=7),
    Decode: dict(latents=LATENTS[:99], vae=OTHER_VAE, precision="bfloat16", shard_size=7),
    StableDiffusionVAE: dict(
        block_out_channels=(32, 32), layers_per_block=1, latent_channels=3, norm_num_groups=8, scale=0.5
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
    Features: dict(samples=REAL[:99], network=OPENAIS, front_end="edm", shard_size=7),
    Statistics: dict(features=FEATURES[:99]),
    Measure: dict(samples=GUIDED[100:200], **OTHER_YARDSTICK),
    Evaluate: dict(arms={"guided": (GUIDED[100:200],)}, floor=REAL[:99], **OTHER_YARDSTICK),
    ImageSet: dict(digest="1" * 64, rows=99),
    StatisticsFile: dict(digest="1" * 64),
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
    Discriminator: dict(head=ADMEncoder(num_res_blocks=1), features=None),
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
    RK45: dict(tolerance=1e-3, tau_max=0.9, tau_min=0.1, denoise_last=True, shared_block=5),
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
    ),
    ClassifierGuidance: dict(
        classifier=JUDGE.last(), weight=3.0, tau_min=0.1, tau_max=0.5, entropy_scaling=True, entropy_floor=0.0
    ),
    ClassifierFree: dict(scale=3.0, channels=None),
    Switch: dict(above=3.0, below=3.0, timestep=9),
}
NETWORKS = (
    SongUNet(),
    DhariwalUNet(),
    ADMUNet(),
    DiT(),
    NCSNpp(),
    LSGMPrior(),
    DDPMUNet(),
    Discriminator(features=NOISY.last()),
)
SAMPLERS = (Heun(), EDMAblation(), DDPM(), DDIM(), RK45())
TERMS = (GUIDED.guidance[0], ClassifierGuidance(classifier=NOISY.last()), ClassifierFree())
SPECS = (
    *NETWORKS,
    StableDiffusionVAE(),
    NVAE(),
    *SAMPLERS,
    *TERMS,
    ADMEncoder(),
    Boost(),
    Switch(above=1.0, below=2.0, timestep=500),
)
FILE = Pretrained(source="net.safetensors", network=DiT(), image_size=8, channels=4, num_classes=3)
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
        FEATURES,
        STATISTICS,
        MEASURE,
        EVALUATE,
        ENCODED,
        DECODED,
        FILE,
        IMAGES,
        PUBLISHED,
        *SPECS,
    )
}


def _identity(made: Spec) -> str:
    """The fingerprint of a step that has `made` in it."""
    if isinstance(made, ADMEncoder):
        return TrainDiscriminator(real=REAL[:100], fake=FAKES[:100], network=made).fingerprint
    if isinstance(made, AutoencoderSpec):
        return Pretrained(source="net.safetensors", network=made, image_size=8).fingerprint
    if isinstance(made, ScoreNetworkSpec | DiscriminatorSpec):
        return Pretrained(source="net.safetensors", network=made, image_size=8, num_classes=3).fingerprint
    if isinstance(made, SamplerSpec):
        return Generate(score=SCORE.last(), sampler=made, shard_size=10).fingerprint
    if isinstance(made, Boost):
        made = DiscriminatorGuidance(discriminator=DISC.best(), boost=made)
    if isinstance(made, Switch):
        made = ClassifierFree(scale=made)
    if isinstance(made, ClassifierFree):
        return Generate(score=FILE.weights(), guidance=(made,)).fingerprint
    if isinstance(made, DiscriminatorGuidance | ClassifierGuidance):
        made = made.model_copy(update={"tau_min": None}) if getattr(made, "after_timestep", None) else made
        return Generate(
            score=SCORE.last(), guidance=(ClassifierGuidance(classifier=NOISY.last()), made)
        ).fingerprint
    if isinstance(made, ImageSet):
        made = FEATURES.model_copy(update={"samples": made})
    if isinstance(made, StatisticsFile):
        made = MEASURE.model_copy(update={"statistics": made})
    assert isinstance(made, Step)
    return made.fingerprint


FIELDS = [
    (kind, name)
    for kind in OTHER
    for name, info in kind.model_fields.items()
    if PLACEMENT not in info.metadata
]


@pytest.mark.parametrize(("kind", "name"), FIELDS, ids=lambda value: getattr(value, "__name__", value))
def test_changing_any_field_changes_the_fingerprint(kind, name):
    changed = {"noise": "none"} if (kind, name) == (TrainClassifier, "noise") else {name: OTHER[kind][name]}
    made = INSTANCES[kind]
    fields = {field: getattr(made, field) for field in kind.model_fields}
    assert _identity(kind(**(fields | changed))) != _identity(made)


def test_a_copy_with_another_field_has_another_fingerprint_and_is_validated():
    assert SCORE.fingerprint != SCORE.model_copy(update={"P_mean": 9.0}).fingerprint
    with pytest.raises(ValidationError, match="even batch size"):
        DISC.model_copy(update={"batch_size": 7})


@pytest.mark.parametrize(
    ("made", "changed"),
    [
        (SCORE, dict(epochs=99)),
        (JUDGE, dict(epochs=99)),
        (DISC, dict(epochs=99)),
        (FAKES, dict(batch_size=3)),
    ],
    ids=["score epochs", "classifier epochs", "discriminator epochs", "sampling batch"],
)
def test_how_much_and_where_are_not_identity(made, changed):
    fields = {field: getattr(made, field) for field in type(made).model_fields}
    assert type(made)(**(fields | changed)).fingerprint == made.fingerprint


def test_every_field_that_is_not_identity_is_known():
    kinds = (
        ImportImages,
        TrainScore,
        TrainClassifier,
        TrainDiscriminator,
        Generate,
        Features,
        Statistics,
        Measure,
        Evaluate,
        Pretrained,
    )
    assert {
        name for kind in kinds for name, info in kind.model_fields.items() if PLACEMENT in info.metadata
    } == {"epochs", "batch_size"}
    # What lies outside is named by its content, and not by where it lies.
    assert {name for name, info in ImageSet.model_fields.items() if PLACEMENT in info.metadata} == {
        "source",
        "seed",
        "seeding",
        "start",
    }
    assert {name for name, info in StatisticsFile.model_fields.items() if PLACEMENT in info.metadata} == {
        "source"
    }
    assert (
        PLACEMENT not in TrainScore.model_fields["batch_size"].metadata
    )  # what is trained depends on it; what is sampled does not


def test_the_fingerprint_of_every_shipped_recipe_is_frozen():
    frozen = json.loads((ROOT / "tests" / "frozen" / "fingerprints.json").read_text())
    names = {path.stem for path in (ROOT / "workflows").glob("*.py")}
    assert {key.split()[0] for key in frozen["recipes"]} == names
    own_classifier = built("dit-own-classifier").fingerprint  # frozen in another precision only
    assert own_classifier == "4e41f697282affc10f299f0647e17d0845e1d3a2a0e05d63f97225bec3cbc0a6"


def test_a_field_that_does_not_exist_is_refused_by_name():
    with pytest.raises(ValidationError, match="stpes"):
        Heun(stpes=3)  # type: ignore[call-arg]


def test_a_network_that_guides_may_not_judge():
    guiding_judge = TrainClassifier(real=REAL[:100], noise="none")
    disc = TrainDiscriminator(real=REAL[:100], fake=FAKES[:100], features=guiding_judge.last())
    guided = Generate(score=SCORE.last(), guidance=(DiscriminatorGuidance(discriminator=disc.best()),))
    with pytest.raises(ValidationError, match="what guides may not judge"):
        Evaluate(
            arms={"guided": (guided[:100],)},
            reference=REAL[100:200],
            features=guiding_judge.last(),
            floor=REAL[:100],
        )


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: REAL[5:5], "start < stop"),
        (lambda: REAL[::2], "step\\[:1000\\]"),
        (lambda: SCORE.epoch(11), "between 1 and 10"),
        (lambda: TrainScore(real=REAL[:100], held_out=0.0).best(), "held_out=0"),
        (lambda: TrainDiscriminator(real=REAL[:100], fake=FAKES[:100], batch_size=7), "even batch size"),
        (
            lambda: Evaluate(
                arms={"a": (GUIDED[:10],)}, reference=REAL[:50], features=JUDGE.last(), floor=REAL[40:90]
            ),
            "overlap",
        ),
        (
            lambda: Evaluate(
                arms={"a": (GUIDED[:10],), "b": (FAKES[:20],)},
                reference=REAL[:50],
                features=JUDGE.last(),
                floor=REAL[60:90],
            ),
            "one size",
        ),
        (
            lambda: Evaluate(
                arms={"a": (GUIDED[:10],)},
                reference=REAL[:50],
                features=TrainScore(real=REAL[:100], seed=4).last(),
                floor=REAL[60:90],
            ).inputs(),
            "feature network",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_was_expected(build, says):
    with pytest.raises((ValidationError, ValueError), match=says):
        build()
