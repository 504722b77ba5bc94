"""Profiles: everything a run depends on but seed, data and machine, in one checked TOML file."""

import datetime as dt
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

PACKAGE = Path(__file__).resolve().parent
PROFILES = PACKAGE / "profiles"
ROOT = PACKAGE.parent if (PACKAGE.parent / "paper").is_dir() else Path.cwd()  # of the repository
Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Timestep = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Some = Field(min_length=1)


class StudyError(Exception):
    """A mistake the user can mend, told in one sentence: what, where, what to do."""

    def _render_traceback_(self) -> list[str]:  # IPython prints this instead of a traceback
        return [f"{type(self).__name__}: {self}"]


def reason(error: BaseException) -> str:
    """Return the first sentence of what an error says, else its kind."""
    return (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


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


class Probes(Strict):
    ridge: Annotated[tuple[Positive, ...], Some] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # penalty over the mean eigenvalue
    logistic: Annotated[tuple[Positive, ...], Some] = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # C of scikit-learn
    finalists: Count = 3
    neighbours: Annotated[tuple[Count, ...], Some] = (1, 5, 15)
    draws: Count = 1000  # bootstrap draws of every interval
    metric: Literal["accuracy", "macro_f1"] = "accuracy"  # the finalists' criterion on validation data
    width: Count = 64  # common number of dimensions of the resolution curve


class Profile(Strict):
    """Everything a run depends on but seed, data and machine; one TOML file."""

    name: str
    title: str
    extends: str = ""
    hub: bool = False  # may the run use the Hugging Face Hub?
    images: Images = Images()
    sets: Annotated[dict[str, DataSet], Field(min_length=1)]
    unet: UNet = UNet()
    noise: Noise = Noise()
    training: Training = Training()
    features: Features = Features()
    probes: Probes = Probes()

    @model_validator(mode="after")
    def _consistent(self) -> "Profile":
        if max(*self.features.timesteps, *self.features.random_timesteps) >= self.noise.steps:
            raise ValueError(f"features.timesteps must lie between 0 and noise.steps - 1 = {self.noise.steps - 1}")
        for name, config in self.sets.items():
            if taken := set(PARTS) & set(config.split.shifts):
                raise ValueError(f"sets.{name}.split.shifts: {', '.join(taken)} is the name of another part")
        if bad := [c for c in self.unet.channels if c % self.unet.groups]:
            raise ValueError(f"unet.channels {bad} must be multiples of unet.groups = {self.unet.groups}")
        sides = [self.images.size // 2**level for level in range(len(self.unet.channels))]
        if not self.unet.pretrained and (bad := set(self.unet.attention) - set(sides)):
            raise ValueError(f"unet.attention {sorted(bad)} is no resolution of this network, which has {sides} px")
        if not self.unet.pretrained and self.images.size % 2 ** (len(self.unet.channels) - 1):
            raise ValueError("images.size must be divisible by 2 for every level of unet.channels but the first")
        return self

    @property
    def synthetic(self) -> bool:
        """Whether any image of the profile is drawn rather than photographed."""
        return any((d.source or name) == "synthetic" for name, d in self.sets.items())


def profile_file(profile: str) -> Path:
    """Return the file of a profile given by name or path; raise StudyError if there is none."""
    path = Path(profile) if profile.endswith(".toml") else PROFILES / f"{profile}.toml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in PROFILES.glob("*.toml")))
        raise StudyError(f"there is no profile {profile!r}: give one of {known}, or the path of a .toml file")
    return path


def read_profile(profile: str) -> Profile:
    """Read and check a profile.

    Args:
        profile: a name such as "demo", or the path of a TOML file, which may say `extends = "demo"`.

    Raises:
        StudyError: one sentence that names the file, the key and what it may be.
    """
    path = profile_file(profile)
    values = _merged(path, ())
    if path.resolve().parent != PROFILES and (PROFILES / path.name).exists():
        raise StudyError(f"profile {path}: rename it, or its results mix with those of the package's profile")
    if "name" in values:
        raise StudyError(f"profile {path}: name is not a known key, since a profile is called like its file")
    try:
        return Profile(**{"name": path.stem, **values})
    except ValidationError as error:
        raise StudyError(f"profile {path}: {explain(error, Profile)}") from None


def explain(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """Say the first problem of a pydantic error in one sentence: key, what is wrong, what is allowed."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        for part in first["loc"][:-1]:  # walk down to the table that holds the key; the names of sets are free
            field = model.model_fields.get(part) if model else None
            model = DataSet if part == "sets" else field.annotation if field else model
        return f"{key} is not a known key" + (f"; allowed here: {', '.join(model.model_fields)}" if model else "")
    given = "" if isinstance(first["input"], dict) else f", not {first['input']!r}"
    return f"{key}{': ' if key else ''}{first['msg'].removeprefix('Value error, ')}{given}"


def _merged(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    try:
        values = _absolute(tomllib.loads(path.read_text(encoding="utf-8")), path.parent)
    except tomllib.TOMLDecodeError as error:
        raise StudyError(f"profile {path} is not valid TOML: {error}") from None
    parent = values.get("extends")
    if not isinstance(parent, str) or not parent:
        return values
    inherited = path.parent / parent if parent.endswith(".toml") else profile_file(parent)
    if inherited in seen or inherited == path:
        raise StudyError(f"profile {path}: extends = {parent!r} leads back to itself")
    if not inherited.is_file():
        raise StudyError(f"profile {path}: extends = {parent!r} names no file; give a profile's name or a path")
    return _update(_merged(inherited, (*seen, path)), values)


def _absolute(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Resolve the paths a profile names against its own folder, wherever the run starts."""
    for table, key in [(values.get("unet"), "pretrained"), *((t, "source") for t in _tables(values.get("sets")))]:
        if (
            isinstance(table, dict)
            and isinstance(table.get(key), str)
            and table[key]
            and (folder / table[key]).exists()
        ):
            table[key] = str((folder / table[key]).resolve())
    return values


def _tables(sets: Any) -> list[Any]:
    return list(sets.values()) if isinstance(sets, dict) else []


def _update(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    if isinstance(changes.get("sets"), dict):  # a profile with sets of its own does not keep its parent's other sets
        base = {**base, "sets": {k: v for k, v in base.get("sets", {}).items() if k in changes["sets"]}}
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _update(base[key], value) if both else value
    return merged
