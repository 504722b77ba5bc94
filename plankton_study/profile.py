"""Profiles: everything a run depends on but seed, data and machine, in one checked TOML file."""

import tomllib
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from plankton_study.schema import Profile

PACKAGE = Path(__file__).resolve().parent
PROFILES = PACKAGE / "profiles"
ROOT = PACKAGE.parent if (PACKAGE.parent / "paper").is_dir() else Path.cwd()  # of the repository


class StudyError(Exception):
    """A mistake the user can mend, told in one sentence: what, where, what to do."""

    def _render_traceback_(self) -> list[str]:  # IPython prints this instead of a traceback
        return [f"{type(self).__name__}: {self}"]


def reason(error: BaseException) -> str:
    """Return the first sentence of what an error says, else its kind."""
    return (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0]


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
            kinds = [field.annotation, *get_args(field.annotation)] if field else [model]
            model = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        return f"{key} is not a known key" + (f"; allowed here: {', '.join(model.model_fields)}" if model else "")
    given = "" if isinstance(first["input"], dict) else f", not {first['input']!r}"
    return f"{key}{': ' if key else ''}{first['msg'].removeprefix('Value error, ')}{given}"


def _merged(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    try:
        values = _absolute(tomllib.loads(path.read_text(encoding="utf-8")), path.parent)
    except ValueError as error:
        raise StudyError(f"profile {path} is not valid TOML in UTF-8: {error}") from None
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
    named = [table.values() for key in ("sets", "transfers", "encoders") if isinstance(table := values.get(key), dict)]
    for table in [values, values.get("unet"), *(one for tables in named for one in tables)]:
        for key in ("pretrained", "source", "folder", "coarse") if isinstance(table, dict) else ():
            if isinstance(table.get(key), str) and table[key] and (folder / table[key]).exists():
                table[key] = str((folder / table[key]).resolve())
    return values


def _update(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    if isinstance(changes.get("sets"), dict):  # a profile with sets of its own does not keep its parent's other sets
        base = {**base, "sets": {k: v for k, v in base.get("sets", {}).items() if k in changes["sets"]}}
    tables = [key for key, value in changes.items() if isinstance(value, dict) and isinstance(base.get(key), dict)]
    return base | changes | {key: _update(base[key], changes[key]) for key in tables}
