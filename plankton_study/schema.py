"""The keys of a profile: what each may be, and its default. `profile.py` reads and merges the files."""

import datetime as dt
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Timestep = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Some = Field(min_length=1)


class Strict(BaseModel):
    """A table of keys: unknown ones are refused, and so is whatever `wrong` tells."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def wrong(self) -> dict[str, Any]:
        """Return what would be wrong with these keys together → whether it is."""
        return {}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for message, holds in self.wrong().items():
            if holds:
                raise ValueError(message)
        return self


class Images(Strict):
    size: Annotated[int, Field(ge=8, multiple_of=4)] = 32  # side of the square images, px
    broken_share: Share = 0.01  # more unreadable files than this stop the study


class Where(Strict):
    """Which images belong to a part of a data set; what is not said is not asked."""

    since: dt.date | None = None
    until: dt.date | None = None  # the last day that belongs to the part
    site: str | None = None
    instrument: str | None = None


class Balanced(Strict):
    min_images: Count = 100  # a taxon takes part if the whole home set has at least so many
    train: Count = 60  # training images of each taxon


PARTS = ("pool", "train", "balanced", "validation", "test", "novel")  # of every split; shifts have other names


class Split(Strict):
    home: Where = Where()
    shifts: dict[str, Where] = {}  # name → images never seen in training, tested apart
    novel: tuple[str, ...] = ()  # taxa removed from everything before any training
    validation: Share = 0.15
    test: Share = 0.2
    min_images: Count = 10  # a taxon of the natural setting has at least so many images at home
    balanced: Balanced = Balanced()
    train_images: Count | None = None  # at most so many labelled images (natural proportions)
    validation_images: Count | None = None
    test_images: Count | None = None
    duplicate_correlation: Annotated[float, Field(gt=0.5, le=1)] = 0.99
    seed: int = 0  # the split does not move with the training seed

    def wrong(self) -> dict[str, Any]:
        taken = set(PARTS) & set(self.shifts)
        return {f"shifts: {', '.join(taken)} is the name of another part": taken}


class DataSet(Strict):
    source: str = ""  # a name of the catalogue or a path; empty: the set's own name
    entry: dict[str, Any] = {}  # keys that replace those of the catalogue's entry
    images: Count | None = None  # synthetic sets: how many to draw
    images_seen: Count | None = None  # replaces training.images_seen for this set
    split: Split = Split()


class UNet(Strict):
    pretrained: str = ""  # folder or Hub id of an unconditional diffusers model, used instead of training
    channels: Annotated[tuple[Count, ...], Some] = (32, 64, 64)  # of each resolution level
    layers_per_block: Count = 1  # residual blocks of a level
    residual_blocks: Literal["default", "scale_shift"] = "default"  # how the time embedding enters them
    resampling: Literal["conv", "resnet"] = "conv"
    groups: Count = 8  # of the group normalisation
    attention: tuple[int, ...] = (8,)  # resolutions (px) with self-attention
    head_channels: Count = 8
    time_conditioning: bool = True


UNetChanges = Annotated[dict[str, Any], AfterValidator(lambda keys: UNet(**keys) and keys)]  # checked as [unet] is


class Noise(Strict):
    steps: Count = 1000
    schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    prediction: Literal["epsilon", "v_prediction", "sample"] = "epsilon"


class Training(Strict):
    images_seen: Count = 16_000
    batch_size: Count = 32
    learning_rate: Positive = 1e-3
    warmup: Share = 0.05  # share of the steps
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip: Positive = 1.0
    ema: Share = 0.999
    precision: Literal["float32", "bfloat16", "auto"] = "auto"
    checkpoint_seconds: Positive = 30


class ResNet(Strict):
    """Basic residual blocks behind a 3 x 3 stem of stride 1 without pooling: small images keep their resolution."""

    widths: Annotated[tuple[Count, ...], Some] = (32, 64, 128)  # of each stage, each half as large as the one before
    depths: Annotated[tuple[Count, ...], Some] = (2, 2, 3)  # residual blocks of a stage

    def wrong(self) -> dict[str, Any]:
        return {"resnet.widths and resnet.depths need one number a stage": len(self.widths) != len(self.depths)}


class ViT(Strict):
    patch: Count = 4  # px
    width: Annotated[int, Field(ge=4, multiple_of=4)] = 128
    depth: Count = 5
    heads: Count = 4
    decoder_width: Annotated[int, Field(ge=4, multiple_of=4)] = 64  # of masked autoencoding
    decoder_depth: Count = 2
    # the target of masked autoencoding; plain ground, most of a plankton image, has no norm
    normalise_patches: bool = False

    def wrong(self) -> dict[str, Any]:
        return {"vit.heads must divide vit.width": self.width % self.heads}


class EncoderConfig(Strict):
    """One encoder of the comparison; keys that its kind does not use are without effect."""

    kind: Literal["diffusion", "random", "pixels", "labels", "simclr", "vicreg", "mae", "pretrained"]
    network: Literal["unet", "resnet", "vit"] = "resnet"  # contrastive kinds take no "unet"; "mae" is a "vit"
    start: Literal["random", "denoiser"] = "random"  # a "unet" may start from the denoiser: fine-tuning
    folder: str = ""  # of "pretrained": a folder or Hub id of a transformers vision model or a diffusers pipeline
    batch_size: Count | None = None  # these three replace those of [training]
    learning_rate: Positive | None = None
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    input_size: Count | None = None  # px that a pretrained model is shown; None: what it was trained with
    crop: Annotated[float, Field(gt=0, le=1)] = 1.0  # smallest share of the area a random crop keeps; 1: no crops
    jitter: Share = 0.0  # of brightness and contrast; above 0 there is also blur
    projection: Count = 256  # width of the projector that only the contrastive loss sees
    temperature: Positive = 0.2  # of SimCLR
    mask: Share = 0.75  # of the patches of MAE
    equal_flops: bool = False  # train it a second time, with the denoiser's training FLOPs

    @property
    def family(self) -> str:
        """What the encoder learnt from: "diffusion", "labels", both, "self-supervised", "nothing" or "elsewhere"."""
        if self.kind == "labels":
            return "labels" if self.start == "random" else "diffusion, then labels"
        names = {"diffusion": "diffusion", "random": "nothing", "pixels": "nothing", "pretrained": "elsewhere"}
        return names.get(self.kind, "self-supervised")

    def wrong(self) -> dict[str, Any]:
        views, unet = self.kind in ("simclr", "vicreg", "mae"), self.network == "unet"
        return {
            f"kind {self.kind!r} needs the network 'resnet' or 'vit'": views and unet,
            "kind 'pretrained' needs a folder": self.kind == "pretrained" and not self.folder,
            "only network = 'unet' can start from the denoiser": self.start == "denoiser" and not unet,
        }


_KINDS = {"diffusion": "diffusion", "random U-Net": "random", "pixels + PCA": "pixels"}
BASIC = {name: EncoderConfig(kind=kind) for name, kind in _KINDS.items()}  # always in the comparison


def _kept(given: Any) -> Any:
    """Leave out what a profile sets to false: what it does not want of the one it extends."""
    return {name: one for name, one in given.items() if one is not False} if isinstance(given, dict) else given


def _wanted(given: Any) -> Any:
    return BASIC | _kept(given) if isinstance(given, dict) else given


class Features(Strict):
    taps: tuple[str, ...] = ("*",)  # patterns of tap names, such as "up16.*"
    timesteps: Annotated[tuple[Timestep, ...], Some] = (5, 15, 40, 100, 250, 600)
    random_timesteps: Annotated[tuple[Timestep, ...], Some] = (15, 100)
    pooling: Literal["mean", "mean_std", "grid"] = "mean_std"
    noise: Literal["clean", "shared", "by_image", "mean"] = "shared"
    noise_draws: Count = 4  # for noise = "mean"
    batch_size: Count = 32
    precision: Literal["float32", "bfloat16", "auto"] = "auto"
    pca: Annotated[tuple[Count, ...], Some] = (32, 64, 128)  # components of the pixel baseline
    predeclared: str = "up16.resnet1@t15"  # the cell of U-Nets that no data chose; other networks: their last layer


class Probes(Strict):
    ridge: Annotated[tuple[Positive, ...], Some] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # penalty over the mean eigenvalue
    logistic: Annotated[tuple[Positive, ...], Some] = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # C of scikit-learn
    finalists: Count = 3
    candidates: Count = 6  # cells of the search over equally many; those of U-Nets at the predeclared timestep
    neighbours: Annotated[tuple[Count, ...], Some] = (1, 5, 15)
    draws: Count = 1000  # bootstrap draws of every interval
    metric: Literal["accuracy", "macro_f1"] = "accuracy"  # the finalists' criterion on validation data
    width: Count = 64  # common number of dimensions of the resolution curve
    shifted_images: Count = 10  # a shifted part keeps the taxa with at least so many images in it
    tail: tuple[Count, Count] = (20, 100)  # training images below which a taxon is of the tail, of the middle


class Clusters(Strict):
    restarts: Count = 3  # of k-means


class Labels(Strict):
    counts: Annotated[tuple[Count, ...], Some] = (1, 2, 5, 10, 20, 50, 100)  # labelled images of each class
    draws: Count = 3  # of the labelled images
    strength: Positive = 1.0  # C of the probes from few labels: fixed, since few labels cannot choose


class Monitoring(Strict):
    period_images: Count = 20  # days or weeks with fewer images are left out, since a community of few is mere chance


class Ablation(Strict):
    """Denoisers trained besides the study's own, to learn what matters; none by default."""

    unet: dict[str, UNetChanges] = {}  # name → keys of [unet] that differ
    pool: tuple[Annotated[float, Field(gt=0, le=1)], ...] = ()  # shares of the unlabelled images
    images_seen: Count | None = None  # by each of them; None: as many as by the study's own


class Profile(Strict):
    """Everything a run depends on but seed, data and machine; one TOML file."""

    name: str
    title: str
    extends: str = ""
    hub: bool = False  # may the run use the Hugging Face Hub?
    images: Images = Images()
    sets: Annotated[dict[str, DataSet], Field(min_length=1)]
    # small sets that nothing is trained on: probes are cross-validated
    transfers: Annotated[dict[str, DataSet], BeforeValidator(_kept)] = {}
    coarse: str = "coarse_classes.csv"  # table set, taxon, coarse, resolved: classes that sets share; ours, or a path
    unet: UNet = UNet()
    noise: Noise = Noise()
    training: Training = Training()
    resnet: ResNet = ResNet()
    vit: ViT = ViT()
    # in the order of the tables; those of BASIC come first
    encoders: Annotated[dict[str, EncoderConfig], BeforeValidator(_wanted)] = Field({}, validate_default=True)
    features: Features = Features()
    probes: Probes = Probes()
    clusters: Clusters = Clusters()
    labels: Labels = Labels()
    monitoring: Monitoring = Monitoring()
    ablation: Ablation = Ablation()

    def wrong(self) -> dict[str, Any]:
        unet, size, steps = self.unet, self.images.size, self.noise.steps
        here = not unet.pretrained  # what does not hold of a model made elsewhere
        latest = max(*self.features.timesteps, *self.features.random_timesteps)
        sides = [size // 2**level for level in range(len(unet.channels))]
        groups = [c for c in unet.channels if c % unet.groups]
        attention = sorted(set(unet.attention) - set(sides))
        halved = "images.size must be divisible by 2 for every level of unet.channels but the first"
        return {
            f"features.timesteps must lie between 0 and noise.steps - 1 = {steps - 1}": latest >= steps,
            f"unet.channels {groups} must be multiples of unet.groups = {unet.groups}": groups,
            f"unet.attention {attention} is no resolution of this network, which has {sides} px": here and attention,
            halved: here and size % 2 ** (len(sides) - 1),
            "ablation needs a denoiser that is trained here": (self.ablation.unet or self.ablation.pool) and not here,
            "vit.patch must divide images.size": size % self.vit.patch,
        }

    @property
    def synthetic(self) -> bool:
        """Whether any image of the profile is drawn rather than photographed."""
        return any((d.source or name) == "synthetic" for name, d in self.sets.items())
