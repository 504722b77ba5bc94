"""Profiles: everything a run depends on but seed, data and machine, in one checked TOML file."""

import tomllib
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from plankton_study.run.errors import StudyError
from plankton_study.run.files import PACKAGE
from plankton_study.run.schema import Profile

PROFILES = PACKAGE / "profiles"
#: keys that may hold a path, which is relative to the profile's own folder
PATH_KEYS = ("pretrained", "source", "folder", "coarse")


def read_profile(profile: str) -> Profile:
    """Read and check a profile.

    Args:
        profile: a name such as "demo", or the path of a TOML file, which may contain a line such
            as `extends = "demo"`.

    Raises:
        StudyError: names the file, the key and what it may be.
    """
    path = profile_file(profile)
    values = _read_with_parents(path, children=())
    is_own = path.resolve().parent != PROFILES
    if is_own and (PROFILES / path.name).exists():
        raise StudyError(
            f"profile {path}: rename it, or its results mix with those of the package's profile"
        )
    if "name" in values:
        raise StudyError(
            f"profile {path}: name is not a known key, since a profile is called like its file"
        )
    try:
        return Profile(**{"name": path.stem, **values})
    except ValidationError as error:
        raise StudyError(f"profile {path}: {describe_validation_error(error, Profile)}") from None


def profile_file(profile: str) -> Path:
    """Return the file of a profile that is given by name or path.

    Raises:
        StudyError: there is no such file.
    """
    path = Path(profile) if profile.endswith(".toml") else PROFILES / f"{profile}.toml"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in PROFILES.glob("*.toml")))
        raise StudyError(
            f"there is no profile {profile!r}: use one of {names}, or the path of a .toml file"
        )
    return path


def describe_validation_error(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """Describe the first problem of a pydantic error: the key, what is wrong, what is allowed.

    Args:
        error: what pydantic raised.
        model: the model that was checked; with it an unknown key is answered by the known ones.
    """
    first = error.errors()[0]
    path = first["loc"]
    key = ".".join(str(part) for part in path)
    if first["type"] == "extra_forbidden":
        table = _table_of(path[:-1], model)
        allowed = f"; allowed here: {', '.join(table.model_fields)}" if table else ""
        return f"{key} is not a known key{allowed}"
    message = first["msg"].removeprefix("Value error, ")
    described = f"{key}: {message}" if key else message
    if isinstance(first["input"], dict):
        return described
    return f"{described}, not {first['input']!r}"


def _table_of(path: tuple[Any, ...], model: type[BaseModel] | None) -> type[BaseModel] | None:
    """Return the model of the table at a path of keys; names of sets and encoders are free."""
    for part in path:
        if model is None:
            return None
        field = model.model_fields.get(part)
        if field is None:
            continue
        model = _model_in(field.annotation)
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the pydantic model that an annotation holds, itself or as a dictionary's value."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _read_with_parents(path: Path, children: tuple[Path, ...]) -> dict[str, Any]:
    """Read a TOML file, merged into the profile that it extends."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StudyError(f"profile {path} is not valid TOML in UTF-8: {error}") from None
    _make_paths_absolute(values, path.parent)
    parent = values.get("extends")
    if not isinstance(parent, str) or not parent:
        return values
    inherited = path.parent / parent if parent.endswith(".toml") else profile_file(parent)
    if inherited == path or inherited in children:
        raise StudyError(f"profile {path}: extends = {parent!r} leads back to itself")
    if not inherited.is_file():
        raise StudyError(
            f"profile {path}: extends = {parent!r} is not a file; use a profile's name or a path"
        )
    return _merge(_read_with_parents(inherited, (*children, path)), values)


def _make_paths_absolute(values: dict[str, Any], folder: Path) -> None:
    """Resolve the paths of a profile against its own folder, wherever the run starts."""
    tables = [values, values.get("unet")]
    for key in ("sets", "transfers", "encoders"):
        named_tables = values.get(key)
        if isinstance(named_tables, dict):
            tables += named_tables.values()
    for table in tables:
        if isinstance(table, dict):
            _make_table_absolute(table, folder)


def _make_table_absolute(table: dict[str, Any], folder: Path) -> None:
    for key in PATH_KEYS:
        value = table.get(key)
        if isinstance(value, str) and value and (folder / value).exists():
            table[key] = str((folder / value).resolve())


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with the changes of a profile that extends it, table by table.

    A profile with sets of its own does not keep the other sets of its parent.
    """
    own_sets = changes.get("sets")
    if isinstance(own_sets, dict):
        inherited_sets = base.get("sets", {})
        kept = {name: table for name, table in inherited_sets.items() if name in own_sets}
        base = {**base, "sets": kept}
    merged = base | changes
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            merged[key] = _merge(base[key], value)
    return merged
