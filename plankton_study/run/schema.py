"""The keys of a profile: what each may be, and its default. `profile.py` reads the files."""

import datetime as dt
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Timestep = Annotated[int, Field(ge=0)]
MultipleOfFour = Annotated[int, Field(ge=4, multiple_of=4)]
AtLeastOne = Field(min_length=1)

Precision = Literal["float32", "bfloat16", "auto"]  # "auto": bfloat16 where the hardware has it


class Strict(BaseModel):
    """A table of keys. Unknown keys are refused, and so are values that contradict each other."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def problems(self) -> list[str]:
        """Return what is wrong with these keys together, a sentence each."""
        return []

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        for problem in self.problems():
            raise ValueError(problem)
        return self


# --- images and their parts


class ImageSettings(Strict):
    """How every image is prepared."""

    size: Annotated[int, Field(ge=8, multiple_of=4)] = 32  # side of the square images, px
    broken_share: Share = 0.01  # a larger share of unreadable files stops the study


class Where(Strict):
    """Which images belong to a part of a set; a key that is left out is not asked for."""

    since: dt.date | None = None
    until: dt.date | None = None  # the last day that belongs to the part
    site: str | None = None
    instrument: str | None = None


class Balanced(Strict):
    """The balanced setting: equally many labels of each taxon."""

    min_images: Count = 100  # a taxon takes part if the home set has at least so many
    train: Count = 60  # training images of each taxon


#: the parts of every split; shifted parts have other names
PARTS = ("pool", "train", "balanced", "validation", "test", "novel")


class Split(Strict):
    """How a set is divided into its parts."""

    home: Where = Where()
    shifts: dict[str, Where] = {}  # name → images that no model sees in training, tested apart
    novel: tuple[str, ...] = ()  # taxa that leave everything before any training
    validation: Share = 0.15
    test: Share = 0.2
    min_images: Count = 10  # a taxon of the natural setting has at least so many at home
    balanced: Balanced = Balanced()
    train_images: Count | None = None  # the most labelled images, in natural proportions
    validation_images: Count | None = None
    test_images: Count | None = None
    duplicate_correlation: Annotated[float, Field(gt=0.5, le=1)] = 0.99
    seed: int = 0  # of the split; it does not change with the training seed

    def problems(self) -> list[str]:
        taken = sorted(set(PARTS) & set(self.shifts))
        if taken:
            return [f"shifts: {', '.join(taken)} is the name of another part"]
        return []


class DataSet(Strict):
    """One set of images."""

    source: str = ""  # a name of the catalogue or a path; empty: the set's own name
    entry: dict[str, Any] = {}  # keys that replace those of the catalogue's entry
    images: Count | None = None  # how many to draw, for a synthetic set
    images_seen: Count | None = None  # replaces training.images_seen for this set
    split: Split = Split()


# --- networks and their training


class UNet(Strict):
    """The denoiser's network."""

    pretrained: str = ""  # folder or Hub id of an unconditional diffusers model: nothing is trained
    channels: Annotated[tuple[Count, ...], AtLeastOne] = (32, 64, 64)  # of each resolution level
    layers_per_block: Count = 1  # residual blocks of a level
    residual_blocks: Literal["default", "scale_shift"] = "default"  # how the timestep enters them
    resampling: Literal["conv", "resnet"] = "conv"
    groups: Count = 8  # of the group normalisation
    attention: tuple[int, ...] = (8,)  # map sides (px) with self-attention
    head_channels: Count = 8
    time_conditioning: bool = True


def _check_unet_changes(changes: dict[str, Any]) -> dict[str, Any]:
    UNet(**changes)
    return changes


UNetChanges = Annotated[dict[str, Any], AfterValidator(_check_unet_changes)]


class Noise(Strict):
    """The noise schedule, and what the denoiser predicts."""

    steps: Count = 1000
    schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    prediction: Literal["epsilon", "v_prediction", "sample"] = "epsilon"


class Training(Strict):
    """The training loop, for the denoiser and for every other encoder."""

    images_seen: Count = 16_000
    batch_size: Count = 32
    learning_rate: Positive = 1e-3
    warmup: Share = 0.05  # share of the steps
    weight_decay: NotNegative = 0.01
    clip: Positive = 1.0  # largest norm of the gradient
    ema: Share = 0.999  # decay of the moving average of the weights
    precision: Precision = "auto"
    checkpoint_seconds: Positive = 30


class ResNet(Strict):
    """Basic residual blocks behind a 3 × 3 stem of stride 1 without pooling.

    Small images keep their resolution in such a stem.
    """

    widths: Annotated[tuple[Count, ...], AtLeastOne] = (32, 64, 128)  # each stage halves the side
    depths: Annotated[tuple[Count, ...], AtLeastOne] = (2, 2, 3)  # residual blocks of a stage

    def problems(self) -> list[str]:
        if len(self.widths) != len(self.depths):
            return ["resnet.widths and resnet.depths need one number for each stage"]
        return []


class ViT(Strict):
    """A vision transformer with small patches, and the decoder of masked autoencoding."""

    patch: Count = 4  # px
    width: MultipleOfFour = 128
    depth: Count = 5
    heads: Count = 4
    decoder_width: MultipleOfFour = 64
    decoder_depth: Count = 2
    # a target of masked autoencoding; plain ground, most of a plankton image, has no norm
    normalise_patches: bool = False

    def problems(self) -> list[str]:
        if self.width % self.heads:
            return ["vit.heads must divide vit.width"]
        return []


# --- encoders

SELF_SUPERVISED = ("simclr", "vicreg", "mae")
FAMILIES = {
    "diffusion": "diffusion",
    "random": "nothing",
    "pixels": "nothing",
    "pretrained": "elsewhere",
}


class EncoderConfig(Strict):
    """One encoder of the comparison. Keys that its kind does not use have no effect."""

    kind: Literal[
        "diffusion", "random", "pixels", "labels", "simclr", "vicreg", "mae", "pretrained"
    ]
    network: Literal["unet", "resnet", "vit"] = "resnet"  # of trained kinds; "mae" is a "vit"
    start: Literal["random", "denoiser"] = "random"  # a "unet" may start from the denoiser
    folder: str = ""  # of "pretrained": a transformers vision model or a diffusers pipeline
    batch_size: Count | None = None  # these three replace those of [training]
    learning_rate: Positive | None = None
    weight_decay: NotNegative | None = None
    input_size: Count | None = None  # px that a pretrained model is shown; None: its own size
    crop: PositiveShare = 1.0  # smallest share of the area that a random crop keeps; 1: no crops
    jitter: Share = 0.0  # of brightness and contrast; above 0 there is also blur
    projection: Count = 256  # width of the projector that only the contrastive loss sees
    temperature: Positive = 0.2  # of SimCLR
    mask: Share = 0.75  # of the patches of MAE
    equal_flops: bool = False  # train it a second time, with the denoiser's training FLOPs

    @property
    def family(self) -> str:
        """What the encoder learnt from, as tables show it."""
        if self.kind == "labels" and self.start == "denoiser":
            return "diffusion, then labels"
        if self.kind == "labels":
            return "labels"
        return FAMILIES.get(self.kind, "self-supervised")

    def problems(self) -> list[str]:
        problems = []
        if self.kind in SELF_SUPERVISED and self.network == "unet":
            problems.append(f"kind {self.kind!r} needs the network 'resnet' or 'vit'")
        if self.kind == "pretrained" and not self.folder:
            problems.append("kind 'pretrained' needs a folder")
        if self.start == "denoiser" and self.network != "unet":
            problems.append("only network = 'unet' can start from the denoiser")
        return problems


#: the encoders that are always in the comparison
BASIC_ENCODERS = {
    "diffusion": EncoderConfig(kind="diffusion"),
    "random U-Net": EncoderConfig(kind="random"),
    "pixels + PCA": EncoderConfig(kind="pixels"),
}


def _drop_unwanted(tables: Any) -> Any:
    """Leave out what a profile sets to false: what it does not want of the profile it extends."""
    if not isinstance(tables, dict):
        return tables
    return {name: table for name, table in tables.items() if table is not False}


def _add_basic_encoders(tables: Any) -> Any:
    if not isinstance(tables, dict):
        return tables
    return BASIC_ENCODERS | _drop_unwanted(tables)


# --- features, probes and questions


class Features(Strict):
    """Which features are read, and how."""

    taps: tuple[str, ...] = ("*",)  # patterns of tap names, such as "up16.*"
    timesteps: Annotated[tuple[Timestep, ...], AtLeastOne] = (5, 15, 40, 100, 250, 600)
    random_timesteps: Annotated[tuple[Timestep, ...], AtLeastOne] = (15, 100)
    pooling: Literal["mean", "mean_std", "grid"] = "mean_std"
    noise: Literal["clean", "shared", "by_image", "mean"] = "shared"
    noise_draws: Count = 4  # for noise = "mean"
    batch_size: Count = 32
    precision: Precision = "auto"
    pca: Annotated[tuple[Count, ...], AtLeastOne] = (32, 64, 128)  # components of the pixels
    # the cell of U-Nets that no data of this run chose; other networks: their last layer
    predeclared: str = "up16.resnet1@t15"


class Probes(Strict):
    """Linear probes, their selection and their intervals."""

    # penalty of ridge over the mean eigenvalue of the covariance
    ridge: Annotated[tuple[Positive, ...], AtLeastOne] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
    # C of scikit-learn
    logistic: Annotated[tuple[Positive, ...], AtLeastOne] = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
    finalists: Count = 3  # cells on which logistic regression is fitted
    candidates: Count = 6  # cells of the search over equally many
    neighbours: Annotated[tuple[Count, ...], AtLeastOne] = (1, 5, 15)
    draws: Count = 1000  # bootstrap draws of every interval
    metric: Literal["accuracy", "macro_f1"] = "accuracy"  # chooses among the finalists
    width: Count = 64  # common number of features of the resolution curve
    shifted_images: Count = 10  # a shifted part keeps the taxa with at least so many images in it
    # training images below which a taxon belongs to the tail, and to the middle
    tail: tuple[Count, Count] = (20, 100)


class Clusters(Strict):
    """k-means."""

    restarts: Count = 3


class Labels(Strict):
    """Probes from few labels."""

    counts: Annotated[tuple[Count, ...], AtLeastOne] = (1, 2, 5, 10, 20, 50, 100)  # of each class
    draws: Count = 3  # of the labelled images
    strength: Positive = 1.0  # C of the probes: fixed, since few labels cannot choose it


class Monitoring(Strict):
    """Abundances by day or week."""

    period_images: Count = 20  # a period with fewer images is left out: its community is chance


class Ablation(Strict):
    """Denoisers trained besides the study's own, to learn what matters; none by default."""

    unet: dict[str, UNetChanges] = {}  # name → keys of [unet] that differ
    pool: tuple[PositiveShare, ...] = ()  # shares of the unlabelled images
    images_seen: Count | None = None  # by each of them; None: as many as by the study's own


class Profile(Strict):
    """Everything that a run depends on but seed, data and machine; one TOML file."""

    name: str
    title: str
    extends: str = ""
    hub: bool = False  # may the run use the Hugging Face Hub?
    images: ImageSettings = ImageSettings()
    sets: Annotated[dict[str, DataSet], AtLeastOne]
    # small sets that nothing is trained on: their probes are cross-validated
    transfers: Annotated[dict[str, DataSet], BeforeValidator(_drop_unwanted)] = {}
    # the table of classes that sets share (set, taxon, coarse, resolved); ours, or a path
    coarse: str = "coarse_classes.csv"
    unet: UNet = UNet()
    noise: Noise = Noise()
    training: Training = Training()
    resnet: ResNet = ResNet()
    vit: ViT = ViT()
    # in the order of the tables; the basic ones come first
    encoders: Annotated[dict[str, EncoderConfig], BeforeValidator(_add_basic_encoders)] = Field(
        {}, validate_default=True
    )
    features: Features = Features()
    probes: Probes = Probes()
    clusters: Clusters = Clusters()
    labels: Labels = Labels()
    monitoring: Monitoring = Monitoring()
    ablation: Ablation = Ablation()

    @property
    def synthetic(self) -> bool:
        """Whether any image of the profile is drawn rather than photographed."""
        return any((config.source or name) == "synthetic" for name, config in self.sets.items())

    def problems(self) -> list[str]:
        problems = self._problems_of_timesteps()
        problems += self._problems_of_widths()
        if not self.unet.pretrained:
            problems += self._problems_of_resolutions()
        elif self.ablation.unet or self.ablation.pool:
            problems.append("ablation needs a denoiser that is trained here")
        if self.images.size % self.vit.patch:
            problems.append("vit.patch must divide images.size")
        return problems

    def _problems_of_timesteps(self) -> list[str]:
        last = self.noise.steps - 1
        if max(*self.features.timesteps, *self.features.random_timesteps) > last:
            return [f"features.timesteps must lie between 0 and noise.steps - 1 = {last}"]
        return []

    def _problems_of_widths(self) -> list[str]:
        groups = self.unet.groups
        uneven = [channels for channels in self.unet.channels if channels % groups]
        if uneven:
            return [f"unet.channels {uneven} must be multiples of unet.groups = {groups}"]
        return []

    def _problems_of_resolutions(self) -> list[str]:
        levels = len(self.unet.channels)
        sides = [self.images.size // 2**level for level in range(levels)]
        elsewhere = sorted(set(self.unet.attention) - set(sides))
        problems = []
        if elsewhere:
            problems.append(
                f"unet.attention {elsewhere} is no resolution of this network, which has {sides} px"
            )
        if self.images.size % 2 ** (levels - 1):
            problems.append(
                "images.size must be divisible by 2 for every level of unet.channels but the first"
            )
        return problems
