"""Settings by name: one set for each published training script, and ours for data made here.

The published values are those of the scripts of Irie et al. 2022
(https://arxiv.org/abs/2202.05780, https://github.com/IDSIA/modern-srwm); each set is written as its
difference from another.
"""

from dataclasses import replace
from typing import Any

from .settings import Settings

# What all published scripts share: Adam without clipping, images of its own for every episode and
# one query, an encoder trained from the start with everything else, evaluation on undistorted images.
_PUBLISHED = Settings(
    rotate_classes="none",
    augment=False,
    augment_evaluation=False,
    unit_features=False,
    input_gain=1.0,
    encoder_warmup_steps=0,
    train_encoder=True,
    encoder_learning_rate_factor=1.0,
    pools=0,
    queries=1,
    beta1=0.9,
    beta2=0.995,
    epsilon=1e-9,
    clip=0.0,
    schedule="constant",
    validate_every=1000,
    validation_episodes=1600,
    test_episodes=16_000,
    test_queries=1,
)

_OMNIGLOT = replace(
    _PUBLISHED,
    data="omniglot",
    rotate_classes="all",
    batch_size=128,
    learning_rate=1e-3,
    steps=300_000,
    validate_every=10_000,
    validation_episodes=12_800,
)

_MINI_SRWM = replace(
    _PUBLISHED,
    data="miniimagenet",
    encoder_channels=32,
    n_layers=3,
    ff_factor=4,
    dropout=0.1,
    encoder_dropout=0.1,
    batch_size=16,
    schedule="published",
    warmup_steps=5000,
    steps=600_000,
)
_MINI_DELTANET = replace(
    _MINI_SRWM,
    core="deltanet",
    n_layers=4,
    ff_factor=8,
    encoder_dropout=0.3,
    schedule="constant",
    learning_rate=1e-4,
)
_MINI_LSTM = replace(
    _MINI_SRWM,
    core="lstm",
    n_layers=1,
    d_model=1024,
    dropout=0.0,
    schedule="constant",
    learning_rate=3e-4,
    steps=1_200_000,
)
_FC100_SRWM = replace(_MINI_SRWM, data="fc100", k_shot=5)
_FC100_RESNET12 = replace(
    _FC100_SRWM, encoder="resnet12", dropout=0.3, encoder_dropout=0.3, encoder_dropout_type="2d_inblock"
)

_SEQUENTIAL_PUBLISHED = replace(
    _PUBLISHED,
    protocol="sequential",
    data="omniglot",
    second_data="miniimagenet",
    rotate_classes="all",
    image_size=84,
    channels=3,
    normalise="published",
    encoder_channels=32,
    k_shot=15,
    max_trim=60,
    n_layers=3,
    ff_factor=1,
    batch_size=32,
    accumulation=2,
    learning_rate=3e-4,
    steps=238_266,
    validate_every=2000,  # the script's 4,000 count micro-batches, of which two make a step
    validation_episodes=1600,  # 100 batches of 16 sequences, half of the batch size, in training
    test_episodes=800,  # 100 of 8 in the evaluation script, whose batch size is 16
)


def _deltanet(settings: Settings) -> Settings:
    return replace(settings, core="deltanet")


def _lstm(settings: Settings) -> Settings:
    return replace(settings, core="lstm", n_layers=1, d_model=256)


# Layers half as wide as the published ones learn from letters as much in a step, in a quarter of its time.
# With images encoded beforehand every episode can have its own. Noise, large batches and letters that look
# alike make up for the few letters there are.
_GLYPHS = replace(
    Settings(),
    d_model=128,
    n_heads=8,
    ff_factor=2,
    feature_views=2,
    feature_noise=0.2,
    hard_episodes=0.5,
    pools=0,
    queries=5,
    encoder_warmup_steps=2000,
    batch_size=128,
    learning_rate=6e-3,
    steps=4000,
    report_every=100,
    validate_every=1000,
)
_GLYPHS_2 = replace(_GLYPHS, k_shot=2, batch_size=64, steps=3000, test_episodes=500)
_GLYPHS_5 = replace(_GLYPHS, k_shot=5, batch_size=48, validation_episodes=200, test_episodes=1000)


_SEQUENTIAL_GLYPHS = replace(
    _GLYPHS,
    protocol="sequential",
    second_data="textures",
    image_size=28,
    channels=3,
    k_shot=5,
    max_trim=20,
    rotate_classes="none",
    hard_episodes=0.0,
    encoder_warmup_steps=1500,
    batch_size=32,
    learning_rate=4e-3,
    steps=8000,
    validate_every=3000,
    validation_episodes=200,
    test_episodes=500,
)
_CONTINUAL = replace(_SEQUENTIAL_GLYPHS, protocol="continual", steps=6000, validate_every=1500)
_NO_BACKWARD = replace(_CONTINUAL, backward_terms=False)
# What each is, and its settings.
_TABLE = {
    "omniglot-1shot-srwm": ("published: Omniglot", _OMNIGLOT),
    "miniimagenet-1shot-srwm": ("published: mini-ImageNet", _MINI_SRWM),
    "miniimagenet-5shot-srwm": ("published", replace(_MINI_SRWM, k_shot=5, ff_factor=8)),
    "miniimagenet-1shot-deltanet": ("published", _MINI_DELTANET),
    "miniimagenet-5shot-deltanet": (
        "published",
        replace(_MINI_DELTANET, k_shot=5, dropout=0.0, encoder_dropout=0.2, learning_rate=3e-4),
    ),
    "miniimagenet-1shot-lstm": ("published", _MINI_LSTM),
    "miniimagenet-5shot-lstm": ("published", replace(_MINI_LSTM, k_shot=5)),
    "fc100-5shot-srwm": ("published: FC100", _FC100_SRWM),
    "fc100-5shot-deltanet": (
        "published",
        replace(_FC100_SRWM, core="deltanet", ff_factor=8, dropout=0.0, encoder_dropout=0.2),
    ),
    "fc100-5shot-res12-srwm": ("published: with ResNet-12", _FC100_RESNET12),
    "sequential-omniglot-miniimagenet-srwm": (
        "published: two tasks one after the other, labels late",
        _SEQUENTIAL_PUBLISHED,
    ),
    "sequential-omniglot-miniimagenet-deltanet": ("published", _deltanet(_SEQUENTIAL_PUBLISHED)),
    "miniimagenet-10shot-bootstrapping": (
        "published: a teacher that has read five more examples of each class",
        replace(_MINI_SRWM, protocol="bootstrapping", k_shot=10, future_shots=5, ff_factor=8),
    ),
    "glyphs-1shot-srwm": ("letters of unseen scripts, encoded beforehand", _GLYPHS),
    "glyphs-1shot-deltanet": ("the same, read by a DeltaNet", _deltanet(_GLYPHS)),
    "glyphs-1shot-lstm": ("by an LSTM", _lstm(_GLYPHS)),
    "glyphs-1shot-fake-sr": ("by layers that never change", replace(_GLYPHS, core="fake_sr")),
    "glyphs-5shot-srwm": ("five examples of each letter", _GLYPHS_5),
    "glyphs-5shot-deltanet": ("the same, read by a DeltaNet", _deltanet(_GLYPHS_5)),
    "glyphs-5shot-lstm": ("by an LSTM", _lstm(_GLYPHS_5)),
    "glyphs-5shot-fake-sr": ("by layers that never change", replace(_GLYPHS_5, core="fake_sr")),
    "sequential-glyphs-textures-srwm": ("letters and textures in turn, labels late", _SEQUENTIAL_GLYPHS),
    "sequential-glyphs-textures-deltanet": ("by a DeltaNet", _deltanet(_SEQUENTIAL_GLYPHS)),
    "sequential-glyphs-textures-lstm": ("by an LSTM", _lstm(_SEQUENTIAL_GLYPHS)),
    "continual-glyphs-textures-srwm": (
        "letters and textures in turn, each asked about again after the other",
        _CONTINUAL,
    ),
    "continual-glyphs-textures-srwm-no-backward": (
        "the same, but in training asked about the last one read alone",
        _NO_BACKWARD,
    ),
    "continual-glyphs-textures-deltanet": ("by a DeltaNet", _deltanet(_CONTINUAL)),
    "continual-glyphs-textures-deltanet-no-backward": (
        "by a DeltaNet, asked about the last one alone",
        _deltanet(_NO_BACKWARD),
    ),
    "continual-glyphs-textures-digits-srwm": (
        "letters, textures and digits in turn",
        replace(
            _CONTINUAL,
            third_data="digits",
            encoder_warmup_classes=15,  # five of each data set, as there are no more digits to train on
            encoder_warmup_images=4,
        ),
    ),
    "glyphs-2shot-srwm": ("two examples of each letter", _GLYPHS_2),
    "glyphs-2shot-bootstrapping": (
        "the same, with a teacher that has read three more",
        replace(_GLYPHS_2, protocol="bootstrapping", future_shots=3),
    ),
}

PRESETS: dict[str, Settings] = {
    name: replace(settings, preset=name, name=name) for name, (_, settings) in _TABLE.items()
}
DESCRIPTIONS = {name: what for name, (what, _) in _TABLE.items()}


# How many are left at most with ``--smoke``.
_MOST = {
    1: ("future_shots", "feature_views"),
    2: (
        *("k_shot", "n_layers", "ff_factor", "encoder_warmup_steps"),
        *("validate_every", "queries", "test_queries"),
    ),
    4: ("n_heads", "steps", "validation_episodes"),
    8: ("encoder_channels", "test_episodes"),
    64: ("d_model",),
}
# What is made here, in the place of other data: grey pictures or coloured ones.
_MADE = {None: None, "digits": "digits", "glyphs": "glyphs", "omniglot": "glyphs"}


def smoke(settings: Settings) -> Settings:
    """What ``--smoke`` makes of a run: all of its parts, in seconds, on data that are made here."""
    changes: dict[str, Any] = dict.fromkeys(("root", "second_root", "third_root", "encoder_from"))
    for name in ("data", "second_data", "third_data"):
        changes[name] = _MADE.get(getattr(settings, name), "textures")
    for most, names in _MOST.items():
        changes |= {name: min(getattr(settings, name), most) for name in names}
    s = replace(settings, **changes)
    domains = len(s.data_sets)
    shots = s.k_shot + (s.future_shots if s.protocol == "bootstrapping" else 0)
    return replace(
        s,
        image_size=28,
        normalise="none",
        max_trim=min(s.max_trim, s.n_way * s.k_shot - 1),
        encoder_warmup_classes=min(s.encoder_warmup_classes, 4 // domains * domains),
        batch_size=2 * s.accumulation,
        pools=min(s.pools, s.accumulation),
        pool_classes=s.n_way,
        pool_images=min(s.pool_images, shots + 1),
        report_every=1,
    )
