"""The keys of a profile, their allowed values and defaults. `profile.py` reads the files."""

import datetime as dt
from functools import partial
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
ImageSide = Annotated[int, Field(ge=8, multiple_of=4)]  # of square images, px
AtLeastOne = Field(min_length=1)

Precision = Literal["float32", "bfloat16", "auto"]  # "auto": bfloat16 where the hardware has it


class Strict(BaseModel):
    """A table of keys that rejects unknown keys and contradictory values."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def problems(self) -> list[str]:
        """Return the contradictions between the keys, one sentence each."""
        return []

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        for problem in self.problems():
            raise ValueError(problem)
        return self


# --- images and their parts


class ImageSettings(Strict):
    """How every image is prepared."""

    size: ImageSide = 32  # px
    broken_share: Share = 0.01  # a larger share of unreadable files stops the study


class Where(Strict):
    """Conditions that select the images of a part; a key that is left out sets no condition."""

    since: dt.date | None = None
    until: dt.date | None = None  # inclusive
    site: str | None = None
    instrument: str | None = None


class Balanced(Strict):
    """The balanced setting: the same number of labels for each taxon."""

    min_images: Count = 40  # images at home that a taxon needs to be included
    train: Count = 24  # training images per taxon; a taxon with fewer is left out
    draws: Count = 5  # random draws of these images, over which every score is averaged


#: the parts of every split; shifted parts must have other names
PARTS = ("pool", "train", "balanced", "validation", "test", "novel")


class Split(Strict):
    """How a set is divided into its parts."""

    home: Where = Where()
    shifts: dict[str, Where] = {}  # name → images never used in training, tested separately
    novel: tuple[str, ...] = ()  # taxa that are removed before any training
    validation: Share = 0.15
    test: Share = 0.2
    min_images: Count = 8  # images at home that a taxon needs in the natural setting
    balanced: Balanced = Balanced()
    train_images: Count | None = None  # at most this many labelled, in natural proportions
    validation_images: Count | None = None
    test_images: Count | None = None
    duplicate_correlation: Annotated[float, Field(gt=0.5, le=1)] = 0.99
    seed: int = 0  # of the split; independent of the training seed

    def problems(self) -> list[str]:
        taken = sorted(set(PARTS) & set(self.shifts))
        if taken:
            return [f"shifts: {', '.join(taken)} already names another part"]
        return []


class DataSet(Strict):
    """One set of images."""

    source: str = ""  # a name in the catalogue or a path; empty: the set's own name
    entry: dict[str, Any] = {}  # keys that replace those of the catalogue entry
    images: Count | None = None  # how many to draw; only for a synthetic set
    images_seen: Count | None = None  # replaces training.images_seen for this set
    split: Split = Split()


# --- networks and their training


class UNet(Strict):
    """The denoiser's network."""

    # folder or Hub id of an unconditional diffusers model to use instead; "published": the one
    # that comes with this repository
    pretrained: str = ""
    # squares of this side (px) become the channels of one position ("space to depth"); 1: none
    unshuffle: Literal[1, 2, 4] = 1
    channels: Annotated[tuple[Count, ...], AtLeastOne] = (32, 64, 64)  # of each resolution level
    layers_per_block: Count = 1  # residual blocks per level
    residual_blocks: Literal["default", "scale_shift"] = "default"  # how the timestep enters them
    resampling: Literal["conv", "resnet"] = "conv"
    groups: Count = 8  # of group normalisation
    attention: tuple[int, ...] = (8,)  # map sides (px) with self-attention
    head_channels: Count = 8
    dropout: Share = 0.0  # in the residual blocks
    time_conditioning: bool = True

    def map_sides(self, size: int) -> list[int]:
        """Return the side of the maps on each level (px), for images of a size (px)."""
        return [size // self.unshuffle // 2**level for level in range(len(self.channels))]


def _none_if_said(value: Any) -> Any:
    """Return None for "none", since TOML has no other word for it."""
    return None if value == "none" else value


class Noise(Strict):
    """The noise schedule, and what the denoiser predicts."""

    steps: Count = 1000
    # "linear_signal": the share of signal (alpha bar) falls linearly; the others are diffusers'
    schedule: Literal["linear_signal", "linear", "scaled_linear", "squaredcos_cap_v2"] = (
        "linear_signal"
    )
    prediction: Literal["epsilon", "v_prediction", "sample"] = "v_prediction"
    # limit of min-SNR weights (Hang et al. 2023), such as 5; "none": all timesteps weigh the same
    min_snr: Annotated[Positive | None, BeforeValidator(_none_if_said)] = None


class Training(Strict):
    """The training loop of the denoiser and of every other encoder."""

    images_seen: Count = 16_000
    batch_size: Count = 32
    learning_rate: Positive = 1e-3
    warmup_images: Annotated[int, Field(ge=0)] = 1_600  # images during which the rate rises
    cooldown: Share = 0.2  # share of the images, at the end, during which the rate falls to zero
    weight_decay: NotNegative = 0.01
    clip: Positive = 1.0  # maximum gradient norm
    ema: Share = 0.999  # decay of the exponential moving average of the weights
    standardise: bool = True  # pixels to mean 0 and variance 1; otherwise to [-1, 1]
    precision: Precision = "auto"
    checkpoint_seconds: Positive = 30


class ResNet(Strict):
    """Basic residual blocks after a 3 × 3 stem with stride 1 and no pooling.

    Such a stem keeps the resolution of small images.
    """

    widths: Annotated[tuple[Count, ...], AtLeastOne] = (32, 64, 128)  # each stage halves the side
    depths: Annotated[tuple[Count, ...], AtLeastOne] = (2, 2, 3)  # residual blocks per stage

    def problems(self) -> list[str]:
        if len(self.widths) != len(self.depths):
            return ["resnet.widths and resnet.depths must have the same length"]
        return []


class ViT(Strict):
    """A vision transformer with small patches, and the decoder of the masked autoencoder."""

    patch: Count = 4  # px
    width: MultipleOfFour = 128
    depth: Count = 5
    heads: Count = 4
    decoder_width: MultipleOfFour = 64
    decoder_depth: Count = 2
    # of masked autoencoding; plain background, most of a plankton image, has no variance
    normalise_patches: bool = False

    def problems(self) -> list[str]:
        if self.width % self.heads:
            return ["vit.heads must divide vit.width"]
        return []


# --- encoders

SELF_SUPERVISED = ("simclr", "vicreg", "mae")
UNTRAINED = ("random", "pixels", "pretrained")
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
    network: Literal["unet", "resnet", "vit"] = "resnet"  # if trained here; "mae" uses "vit"
    start: Literal["random", "denoiser"] = "random"  # a "unet" may start from the denoiser
    # if "pretrained": a transformers vision model, a diffusers pipeline, or "efficientnet-lite0"
    folder: str = ""
    batch_size: Count | None = None  # these three replace those of [training]
    learning_rate: Positive | None = None
    weight_decay: NotNegative | None = None
    input_size: Count | None = None  # px, of a pretrained model; None: its native size
    crop: PositiveShare = 1.0  # smallest share of the area that a random crop keeps; 1: no crops
    jitter: Share = 0.0  # of brightness and contrast; above 0, random blur is added
    projection: Count = 256  # width of the projector, used only by contrastive losses
    temperature: Positive = 0.2  # of SimCLR
    mask: Share = 0.75  # share of the patches that MAE hides
    equal_flops: bool = False  # train it a second time, with the denoiser's training FLOPs

    @property
    def family(self) -> str:
        """What the encoder learnt from, as shown in tables."""
        if self.kind == "labels" and self.start == "denoiser":
            return "diffusion, then labels"
        if self.kind == "labels":
            return "labels"
        return FAMILIES.get(self.kind, "self-supervised")

    def problems(self) -> list[str]:
        problems = []
        if self.kind == "mae" and self.network == "unet":
            problems.append("kind 'mae' needs the network 'vit'")
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
    """Drop the tables that a profile sets to false, so as not to inherit them."""
    if not isinstance(tables, dict):
        return tables
    return {name: table for name, table in tables.items() if table is not False}


def _add_basic_encoders(tables: Any) -> Any:
    if not isinstance(tables, dict):
        return tables
    return BASIC_ENCODERS | _drop_unwanted(tables)


# --- features, probes and questions


#: chosen in a pilot on PlanktonSet, divided otherwise and with another denoiser: its t = 15 had
#: the signal-to-noise ratio that t = 50 has in the default noise schedule
PILOT_CELL = "up16.resnet1@t50"


class Features(Strict):
    """Which features are read, and how."""

    taps: tuple[str, ...] = ("*",)  # patterns for tap names, such as "up16.*"
    timesteps: Annotated[tuple[Timestep, ...], AtLeastOne] = (10, 50, 100, 200, 400, 700)
    pooling: Literal["mean", "mean_std", "grid"] = "mean_std"
    noise: Literal["clean", "shared", "by_image", "mean"] = "shared"
    noise_draws: Count = 4  # for noise = "mean"
    batch_size: Count = 32
    precision: Precision = "auto"
    pca: Annotated[tuple[Count, ...], AtLeastOne] = (32, 64, 128)  # components of the pixels
    # the cell of U-Nets that is fixed in advance; for other networks it is the last layer
    predeclared: str = PILOT_CELL
    predeclared_by: str = ""  # what chose it, for captions: data that the profile does not judge

    @property
    def predeclared_in_words(self) -> str:
        """The predeclared cell and what chose it, for captions."""
        by = self.predeclared_by
        if not by:
            is_of_pilot = self.predeclared == PILOT_CELL
            by = "a pilot on PlanktonSet" if is_of_pilot else "the author of the profile"
        return f"{self.predeclared}, chosen by {by}"


class Probes(Strict):
    """Linear probes, their selection and their intervals."""

    # of linear discriminant analysis, relative to the variance of a feature
    penalties: Annotated[tuple[Positive, ...], AtLeastOne] = (
        1e-5,
        1e-4,
        1e-3,
        1e-2,
        1e-1,
        1.0,
        10.0,
        100.0,
        1000.0,
    )
    # scikit-learn's C
    logistic: Annotated[tuple[Positive, ...], AtLeastOne] = (
        0.003,
        0.01,
        0.03,
        0.1,
        0.3,
        1.0,
        3.0,
        10.0,
        30.0,
    )
    finalists: Count = 3  # best cells, on which the final probes are fitted
    candidates: Count = 6  # cells per encoder in the search with equally many candidates
    neighbours: Annotated[tuple[Count, ...], AtLeastOne] = (1, 5, 15)  # values of k for k-NN
    draws: Count = 1000  # bootstrap draws of every interval
    metric: Literal["accuracy", "macro_f1"] = "macro_f1"  # ranks, selects and judges
    # images that a taxon needs at home and in a shifted part to be scored there
    shifted_images: Count = 10
    # a taxon with fewer training images belongs to the tail, or to the middle
    tail: tuple[Count, Count] = (20, 100)


class Attentive(Strict):
    """The attentive probe, see `probes.attentive`."""

    width: Count = 128  # of keys and values
    queries: Count = 4
    # numbers of epochs to choose from; too many overfit
    epochs: Annotated[tuple[Count, ...], AtLeastOne] = (4, 12, 36)
    learning_rate: Positive = 2e-3
    weight_decay: NotNegative = 0.1
    dropout: Share = 0.2


class Clusters(Strict):
    """k-means clustering."""

    restarts: Count = 3


class Labels(Strict):
    """Probes trained on few labels."""

    counts: Annotated[tuple[Count, ...], AtLeastOne] = (1, 2, 5, 10, 20, 50, 100)  # per class
    draws: Count = 5  # random draws of the labelled images
    strength: Positive = 1.0  # C of the probes; fixed, since few labels cannot select it


class Monitoring(Strict):
    """Abundances by day or week."""

    period_images: Count = 20  # periods with fewer images are left out as too noisy


class Curve(Strict):
    """The curve of scores over training budgets, on the first set; none by default."""

    images_seen: tuple[Count, ...] = ()  # budgets, ascending
    seed_0_also: tuple[Count, ...] = ()  # larger budgets, too long for every training seed
    encoders: tuple[str, ...] = ("diffusion",)  # those that are trained with each budget
    settings: tuple[Literal["natural", "balanced"], ...] = ("natural",)

    def budgets(self, seed: int) -> tuple[int, ...]:
        """Return the budgets of a training seed, ascending."""
        return self.images_seen + (self.seed_0_also if seed == 0 else ())

    def problems(self) -> list[str]:
        budgets = list(self.budgets(seed=0))
        if budgets != sorted(set(budgets)):
            return ["curve.images_seen, then curve.seed_0_also, must ascend"]
        if budgets and (len(self.images_seen) < 2 or "diffusion" not in self.encoders):
            return ["curve needs at least two images_seen, and diffusion among its encoders"]
        return []


def _check_changes(table: type[Strict], changes: dict[str, Any]) -> dict[str, Any]:
    table(**changes)
    return changes


def changes_of(table: type[Strict]) -> Any:
    """Return the type of some keys of a table that differ, checked as in the table itself."""
    return Annotated[dict[str, Any], AfterValidator(partial(_check_changes, table))]


def changed(table: Strict, changes: dict[str, Any]) -> Any:
    """Return a table with some keys changed, checked like any other."""
    return type(table)(**(table.model_dump() | changes))


class DenoiserChanges(Strict):
    """In what another denoiser differs from the main one: keys of these tables."""

    unet: changes_of(UNet) = {}
    noise: changes_of(Noise) = {}
    training: changes_of(Training) = {}
    features: changes_of(Features) = {}  # since the same timestep may be another noise level

    def applied_to(self, profile: "Profile") -> dict[str, Any]:
        """Return these tables of a profile, with the changes."""
        return {
            table: changed(getattr(profile, table), getattr(self, table))
            for table in DenoiserChanges.model_fields
        }


class Ablation(Strict):
    """Additional denoisers, trained to find out what matters; none by default."""

    denoisers: dict[str, DenoiserChanges] = {}
    pool: tuple[PositiveShare, ...] = ()  # shares of the unlabelled images
    images_seen: Count | None = None  # by each of them; None: as many as by the main denoiser


class Maps(DenoiserChanges):
    """Larger images of the first set, for the claim about map sizes; none by default.

    The claim needs a denoiser of images of 64 px, and beside it only the basic encoders.
    """

    size: ImageSide | None = None  # px; None: the claim is judged from the study's own images
    images_seen: Count | None = None  # by this denoiser; None: as many as by the main one

    def problems(self) -> list[str]:
        problems = []
        if self.size is None and self.model_fields_set:
            problems.append("maps needs a size: the side of its images, in px")
        if "pretrained" in self.unet:
            problems.append("maps.unet cannot be pretrained: its denoiser is trained here")
        if "images_seen" in self.training:
            problems.append("maps.training.images_seen has no effect: set maps.images_seen")
        return problems


class Profile(Strict):
    """Everything that a run depends on except seed, data and machine; one TOML file."""

    name: str
    title: str
    extends: str = ""
    hub: bool = False  # whether the run may use the Hugging Face Hub
    images: ImageSettings = ImageSettings()
    sets: Annotated[dict[str, DataSet], AtLeastOne]
    # small sets on which no encoder is trained; their probes are cross-validated
    transfers: Annotated[dict[str, DataSet], BeforeValidator(_drop_unwanted)] = {}
    # table of shared classes (columns set, taxon, coarse, resolved): the package's, or a path
    coarse: str = "coarse_classes.csv"
    unet: UNet = UNet()
    noise: Noise = Noise()
    training: Training = Training()
    resnet: ResNet = ResNet()
    vit: ViT = ViT()
    # in the order in which tables list them; the basic encoders come first
    encoders: Annotated[dict[str, EncoderConfig], BeforeValidator(_add_basic_encoders)] = Field(
        {}, validate_default=True
    )
    features: Features = Features()
    probes: Probes = Probes()
    attentive: Attentive = Attentive()
    clusters: Clusters = Clusters()
    labels: Labels = Labels()
    monitoring: Monitoring = Monitoring()
    curve: Curve = Curve()
    ablation: Ablation = Ablation()
    maps: Maps = Maps()

    @property
    def synthetic(self) -> bool:
        """Whether any set of the profile is synthetic."""
        return any((config.source or name) == "synthetic" for name, config in self.sets.items())

    def problems(self) -> list[str]:
        problems = self._problems_of_curve()
        problems += self._problems_of_denoisers()
        if self.images.size % self.vit.patch:
            problems.append("vit.patch must divide images.size")
        return problems

    def _problems_of_curve(self) -> list[str]:
        names = self.curve.encoders
        unknown = sorted(set(names) - set(self.encoders))
        if unknown:
            return [f"curve.encoders {unknown} are not among the encoders of the profile"]
        untrained = [name for name in names if self.encoders[name].kind in UNTRAINED]
        if untrained:
            return [f"curve.encoders {untrained} are not trained here: leave them out"]
        return []

    def _problems_of_denoisers(self) -> list[str]:
        maps = self.maps
        problems = _problems_of_denoiser(self.unet, self.noise, self.features, self.images.size)
        if maps.size:
            tables = maps.applied_to(self)
            tables.pop("training")
            problems += _problems_of_denoiser(**tables, size=maps.size, where="maps.")
        is_trained_here = not self.unet.pretrained
        if not is_trained_here and (self.ablation.denoisers or self.ablation.pool):
            problems.append("ablation needs a denoiser that is trained here")
        if not is_trained_here and maps.size:
            problems.append("maps needs a denoiser that is trained here")
        return problems


def _problems_of_denoiser(
    unet: UNet, noise: Noise, features: Features, size: int, where: str = ""
) -> list[str]:
    """Return the contradictions between the keys of a denoiser.

    Args:
        unet, noise, features: its tables.
        size: side of its images, px.
        where: what the names of the keys begin with, such as "maps.".
    """
    problems = []
    last = noise.steps - 1
    if max(features.timesteps) > last:
        problems.append(
            f"{where}features.timesteps must lie between 0 and {where}noise.steps - 1 = {last}"
        )
    indivisible = [channels for channels in unet.channels if channels % unet.groups]
    if indivisible:
        problems.append(
            f"{where}unet.channels {indivisible} must be multiples of "
            f"{where}unet.groups = {unet.groups}"
        )
    if unet.pretrained:
        return problems
    levels = len(unet.channels)
    sides = unet.map_sides(size)
    missing = sorted(set(unet.attention) - set(sides))
    if missing:
        problems.append(
            f"{where}unet.attention {missing} must be map sides of this network, {sides} px"
        )
    divisor = unet.unshuffle * 2 ** (levels - 1)
    if size % divisor:
        key = f"{where}size" if where else "images.size"
        problems.append(
            f"{key} must be divisible by {divisor} for {where}unet.unshuffle = "
            f"{unet.unshuffle} and the {levels} levels of {where}unet.channels"
        )
    return problems
