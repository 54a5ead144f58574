"""The settings of a training run: what ``--help`` explains and ``config.json`` records."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from srwm.nn import Residual

from ..training.settings import ADDED, FREE, SupervisedSettings, flag
from .data.sequences import UnknownLabel
from .encoders import DropoutType

DataSet = Literal[
    "glyphs",
    "textures",
    "digits",
    "folder",
    "omniglot",
    "miniimagenet",
    "fc100",
    "tieredimagenet",
    "cifarfs",
]
EncoderName = Literal["conv4", "resnet12"]
# Those that carry what the support tells them to the queries, and one that cannot.
CoreName = Literal[
    "srwm",
    "deltanet",
    "lstm",
    "fake_sr",
    "linear",
    "recurrent_delta",
    "delta_rnn",
    "delta_delta",
    "delta_cde",
    "self_modifying_titans",
]

# Channels, height and width of a data set's images unless others are asked for.
_USUAL_IMAGES: dict[DataSet, tuple[int, int]] = {
    **dict.fromkeys(("glyphs", "digits", "folder", "omniglot"), (1, 28)),
    **dict.fromkeys(("textures", "miniimagenet", "tieredimagenet"), (3, 84)),
    **dict.fromkeys(("fc100", "cifarfs"), (3, 32)),
}


@dataclass(frozen=True)
class Settings(SupervisedSettings):
    """Train a learner that is told the classes of its task only while it reads the examples."""

    program: ClassVar[str] = "examples.fewshot.train"
    essential: ClassVar[tuple[str, ...]] = (
        *SupervisedSettings.essential,
        *("data", "root", "n_way", "k_shot", "protocol", "core", "steps"),
    )

    name: str = field(default="fewshot", metadata=FREE)
    """Name of the run; everything it writes goes to <runs>/<name>/."""

    data: DataSet = "glyphs"
    """glyphs: letters from matplotlib's fonts; textures: patterns made up here;
    digits: scikit-learn's, other ones in the test; folder: images below --root;
    the others: of that name, read below --root or, with --download, fetched."""
    second_data: DataSet | None = None
    """With --protocol sequential or continual: where the other task's images come from."""
    third_data: DataSet | None = field(default=None, metadata=ADDED)
    """With continual: where those of a third task come from, if there is one."""
    root: Path | None = field(default=None, metadata=FREE)
    """Folder of --data. With folder: one in Omniglot's layout, alphabet/character/*.png. A run whose data
    have moved is resumed with their new place."""
    second_root: Path | None = field(default=None, metadata=FREE)
    """Folder of --second-data."""
    third_root: Path | None = field(default=None, metadata=FREE)
    """Folder of --third-data."""
    download: bool = field(default=False, metadata=FREE)
    """Fetch a data set that is not there."""
    image_size: int | None = None
    """Height and width the images are scaled to; by default the data set's usual one."""
    channels: int | None = None
    """1 for grey, 3 for colour; by default as the data set's images are. 3 repeats a grey image."""
    normalise: Literal["none", "published", "correct"] = "none"
    """none: pixels from 0 to 1; published: by the mean and deviation the paper's code uses, which
    for Omniglot are those of the inverted images; correct: by the right ones."""
    rotate_classes: Literal["none", "train", "all"] = "train"
    """Each class of --data makes three more, turned by 90, 180 and 270 degrees: in the training
    episodes, or, as published for Omniglot, in validation and test as well. With train the
    encoder's warm-up does not see those: three of four classes then look to the layers as the
    test's will, as no encoder has learnt to tell them apart."""
    augment: bool = True
    """Distort training images at random: a slight turn, scale, shear and shift."""
    augment_evaluation: bool = True
    """Distort validation and test images in the same way: a harder task."""
    n_way: int = 5
    """Classes of an episode (N)."""
    k_shot: int = 1
    """Labelled examples of each class (K)."""

    protocol: Literal["sync", "sequential", "bootstrapping", "continual"] = "sync"
    """sync: images with their labels, then a query without; sequential: two
    tasks, each label one image late; bootstrapping: as sync, with a teacher that
    has read more; continual: two or three tasks as with sync, after each of them
    queries of all tasks so far."""
    backward_terms: bool = field(default=True, metadata=ADDED)
    """With continual: whether the loss has the queries of the tasks before the last one that was read.
    Without, nothing asks the learner to keep what it has learnt."""
    first_shot_terms: bool = field(default=True, metadata=ADDED)
    """With continual: whether it has queries of each task after one image of each class alone."""
    max_trim: int = 60
    """With sequential: each task loses up to this many of its last images, at random."""
    sequence_layout: Literal["step", "micro_batch"] = "step"
    """With sequential, what shares one order and one pair of lengths of the two tasks: all sequences of
    a step, or, as published, each of its --accumulation parts by itself."""
    future_shots: int = 5
    """With bootstrapping: examples of each class that only the teacher reads."""
    bootstrap_encoding: Literal["joint", "separate"] = "joint"
    """With bootstrapping. joint: the encoder is called once for all images; separate, as published: for
    the support, for the student's queries, for the future images and for the teacher's queries, each
    with a batch normalisation and dropout of its own."""
    bootstrap_loss: Literal["kl", "mse"] = "kl"
    """With bootstrapping, what draws the student to the teacher: kl, their answers; mse, their
    layers' states."""
    student_weight: float = 1.0
    """With bootstrapping: of the student's own cross-entropy."""
    bootstrap_weight: float = 10.0
    """With bootstrapping: of the distance between student and teacher."""
    teacher_weight: float = 1.0
    """With bootstrapping: of the teacher's cross-entropy."""

    core: CoreName = "srwm"
    """What reads the sequence. srwm: self-referential weight matrices; deltanet: a fast weight
    matrix written by a slow net; lstm; fake_sr: srwm that never changes its weights;
    self_modifying_titans: memories that generate their own updates, with retention."""
    residual: Residual | None = field(default=None, metadata=ADDED)
    """Of the layers that have a choice, see srwm.nn.SRWM; by default norm_skip, as published."""
    n_layers: int = 2
    """Layers, each followed by a feed-forward block (but for the lstm's)."""
    n_heads: int = 16
    """Heads of each layer; the lstm has none."""
    d_model: int = 256
    """Width of the layers; of the lstm, its hidden size."""
    ff_factor: int = 4
    """Width of the feed-forward blocks, in units of the layers' width."""
    dropout: float = 0.0
    """Dropout in the layers, and around the lstm; the published LSTM ignored it, as with 0."""
    beta_init: float = 0.0
    """Mean of the initial weights behind the self-made learning rates."""
    q_scale: float = 1.0
    """Scale of the initial query weights."""
    input_softmax: bool = False
    """Whether a softmax goes over each head's input in an srwm layer."""
    unit_features: bool = True
    """Centre each image's features and scale them to length 1 before the layers."""
    input_gain: float = 20.0
    """Factor on the initial weights behind features and labels; with 1, as published, training
    waits far longer at chance."""
    unknown_label: UnknownLabel = "class_0"
    """What is shown as the label of a query, and at the start of a sequence of late labels: class 0,
    as published, or no class."""
    encoder: EncoderName = "conv4"
    """conv4: four blocks of one convolution; resnet12: four residual blocks of three."""
    big_resnet12: bool = False
    """With resnet12: 64, 128, 256 and 512 channels instead of 64, 96, 128 and 256."""
    encoder_channels: int = 64
    """Channels of conv4."""
    encoder_dropout: float = 0.0
    """Dropout in the encoder."""
    encoder_dropout_type: DropoutType = "base"
    """With resnet12, where it drops: at the end of each block, or after every activation as well;
    2d: whole channels."""
    input_dropout: float = 0.0
    """With resnet12: dropout of pixels."""

    encoder_warmup_steps: int = 1000
    """Steps in which the encoder alone learns to tell the training classes apart, before any
    episode; 0 for none."""
    encoder_warmup_minutes: float | None = None
    """Stop the encoder's warm-up after this time even if steps are left."""
    encoder_warmup_classes: int = 32
    """Classes of a warm-up step."""
    encoder_warmup_images: int = 2
    """Images of each class in a warm-up step, at least 2."""
    encoder_warmup_learning_rate: float = 1e-2
    """Peak learning rate of the warm-up."""
    encoder_from: Path | None = None
    """Folder of a run whose trained encoder is taken, instead of a warm-up."""
    train_encoder: bool = False
    """Whether the encoder goes on learning from the episodes."""
    feature_views: int = 0
    """Encode each training image this many times, each under another distortion, before the layers'
    training, which then draws features; for an encoder that does not go on learning. 0 encodes new
    images at every step."""
    feature_noise: float = 0.0
    """Normal noise on the features in training, in units of each feature vector's own deviation."""
    hard_episodes: float = 0.0
    """Share of the training episodes whose classes look alike to the encoder: all of them are among the
    20 nearest ones to a random class. Needs --feature-views, and no --pools."""

    steps: int = 3400
    """Steps of training on episodes; they decide the learning-rate schedule."""
    accumulation_rule: Literal["mean", "published"] = "mean"
    """mean: a step takes the mean of its parts' gradients, as of a batch that was never cut; published:
    their sum, and the very first step has one part alone."""
    pools: int = 1
    """Pools of images drawn at each step; each is encoded once and serves many episodes. 0, as
    published: every episode draws its own images."""
    pool_classes: int = 16
    """Classes of a pool."""
    pool_images: int = 3
    """Images of each class in a pool; those beyond the K shots are queries."""
    queries: int = 10
    """Queries of a training episode; with pools at most n_way * (pool_images - k_shot)."""

    learning_rate: float = 4e-3
    """Peak learning rate; with --schedule published it is not used."""
    encoder_learning_rate_factor: float = 0.1
    """The encoder's learning rate in episodes, relative to the other layers'."""
    schedule: Literal["cosine", "constant", "published"] = "cosine"
    """cosine: up in a line, then down by half a cosine to --lr-final; constant; published: step s
    has the rate d_model^-0.5 * min(s^-0.5, s * warmup_steps^-1.5). The encoder's own warm-up
    always follows the cosine."""
    lr_warmup: float = 0.05
    """Share of the training over which the learning rate rises from 0, with cosine and in the
    encoder's warm-up."""
    warmup_steps: int = 5000
    """With published: steps over which the learning rate rises."""
    validation_episodes: int = 400
    """Episodes or sequences of a validation, the same ones every time."""
    test_episodes: int = 2000
    """Episodes or sequences of the final evaluation on the test classes, at least 2."""
    test_queries: int = 5
    """Queries of each validation or test episode; an episode counts once, by their mean."""

    def check(self) -> None:
        """Raise ValueError for settings that do not fit together."""
        super().check()
        self.check_ranges(
            may_be_zero=(
                *("encoder_warmup_steps", "max_trim", "feature_views", "pools"),
                *("early_stop", "seed", "threads", "workers"),
            ),
            may_be_negative=("beta_init",),
            never_zero=("max_minutes", "encoder_warmup_minutes", "learning_rate", "input_gain", "epsilon"),
            below_one=("dropout", "encoder_dropout", "input_dropout", "beta1", "beta2"),
        )
        _refuse(self.channels not in (None, 1, 3), f"--channels must be 1 or 3, got {self.channels}")
        _refuse(
            self.encoder_warmup_images < 2,
            "--encoder-warmup-images must be at least 2, an image and another of its class, got "
            f"{self.encoder_warmup_images}",
        )
        _refuse(
            self.test_episodes < 2,
            "--test-episodes must be at least 2, for an interval around their mean, got "
            f"{self.test_episodes}",
        )
        _refuse(
            self.core != "lstm" and self.d_model % self.n_heads > 0,
            f"--d-model must be a multiple of --n-heads ({self.n_heads}), got {self.d_model}",
        )
        _refuse(
            self.feature_views > 0 and self.train_encoder,
            f"--feature-views {self.feature_views} encodes the images once, which needs --no-train-encoder",
        )
        has_hard_ones = self.feature_views and not self.pools and not self.reads_several_tasks
        _refuse(
            self.hard_episodes > 0 and not has_hard_ones,
            "--hard-episodes needs --feature-views, --pools 0 and another protocol than sequential and "
            f"continual, got {self.feature_views}, {self.pools} and {self.protocol}",
        )
        _refuse(self.hard_episodes > 1, f"--hard-episodes must be at most 1, got {self.hard_episodes}")
        if self.pools:
            self._check_pools()
        self._check_domains()

    def _check_pools(self) -> None:
        _refuse(
            self.pool_classes < self.n_way,
            f"--pool-classes must be at least --n-way ({self.n_way}), got {self.pool_classes}",
        )
        shots = self.k_shot + (self.future_shots if self.protocol == "bootstrapping" else 0)
        _refuse(
            self.pool_images < shots,
            f"--pool-images must be at least the {shots} that are read of each class, got "
            f"{self.pool_images}",
        )
        most = self.n_way * (self.pool_images - shots)
        _refuse(
            self.protocol != "sequential" and self.queries > most,
            f"--queries must be at most n_way * (pool_images - {shots}) = {most}, got {self.queries}; "
            "raise --pool-images",
        )
        for name, divisor in (("batch_size", "pools"), ("pools", "accumulation")):
            value, by = getattr(self, name), getattr(self, divisor)
            _refuse(
                value % by > 0, f"{flag(name)} must be a multiple of {flag(divisor)} ({by}), got {value}"
            )

    def _check_domains(self) -> None:
        _refuse(
            self.reads_several_tasks != (self.second_data is not None),
            "--second-data belongs to --protocol sequential or continual, which need it, got --second-data "
            f"{self.second_data} with {self.protocol}",
        )
        _refuse(
            self.third_data is not None and self.protocol != "continual",
            f"--third-data belongs to --protocol continual, got {self.third_data} with {self.protocol}; "
            "leave it out",
        )
        for place in ("second", "third"):
            has_root, has_data = (getattr(self, f"{place}_{of}") is not None for of in ("root", "data"))
            _refuse(has_root and not has_data, f"--{place}-root needs --{place}-data")
        domains = len(self.data_sets)
        _refuse(
            self.encoder_warmup_steps > 0 and self.encoder_warmup_classes % domains > 0,
            f"--encoder-warmup-classes must be a multiple of {domains}, as many of each data set, got "
            f"{self.encoder_warmup_classes}",
        )
        images = self.n_way * self.k_shot
        _refuse(
            self.protocol == "sequential" and self.max_trim >= images,
            f"--max-trim must leave an image of the n_way * k_shot = {images}, got {self.max_trim}",
        )
        _refuse(
            self.protocol == "continual" and self.sequence_layout != "step",
            f"--sequence-layout belongs to --protocol sequential, got {self.sequence_layout} with "
            "continual; leave it out",
        )

    @property
    def reads_several_tasks(self) -> bool:
        """Whether a sequence holds tasks of several data sets."""
        return self.protocol in ("sequential", "continual")

    @property
    def data_sets(self) -> list[tuple[DataSet, Path | None]]:
        """Those of the tasks, each with its root; one but where a sequence holds several tasks."""
        given = (
            (self.data, self.root),
            (self.second_data, self.second_root),
            (self.third_data, self.third_root),
        )
        return [(name, root) for name, root in given if name is not None]

    @property
    def picture_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images that the learner sees."""
        channels, size = _USUAL_IMAGES[self.data]
        side = self.image_size or size
        return self.channels or channels, side, side


def _refuse(is_wrong: bool, message: str) -> None:
    if is_wrong:
        raise ValueError(f"train: {message}")
