"""Profiles: TOML files with everything a run depends on except seed, data and machine."""

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from plankton_study.run.errors import StudyError
from plankton_study.run.files import PACKAGE
from plankton_study.run.schema import Profile

if TYPE_CHECKING:
    import pandas as pd

PROFILES = PACKAGE / "profiles"
#: keys whose value may be a path, relative to the folder of the profile
PATH_KEYS = ("pretrained", "source", "folder", "coarse")


def read_profile(profile: str) -> Profile:
    """Read and check a profile.

    Args:
        profile: a name such as "demo", or the path of a TOML file, which may contain a line such
            as `extends = "demo"`.

    Raises:
        StudyError: the profile is missing or invalid; the message names the file, the key and
            what is allowed.
    """
    path = profile_file(profile)
    values = _read_with_parents(path.resolve(), children=())
    is_own = path.resolve().parent != PROFILES
    if is_own and (PROFILES / path.name).exists():
        raise StudyError(
            f"profile {path} has the name of a profile of the package: rename it, "
            "so that their results do not mix"
        )
    if "name" in values:
        raise StudyError(
            f"profile {path}: name is not a known key, since the file name is the profile's name: "
            "remove it"
        )
    try:
        return Profile(**{"name": path.stem, **values})
    except ValidationError as error:
        raise StudyError(f"profile {path}: {describe_validation_error(error, Profile)}") from None


def profile_file(profile: str) -> Path:
    """Return the file of a profile, given its name or path.

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
        error: raised by pydantic.
        model: the model that was checked. If given, the message about an unknown key lists the
            known ones.
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
    """Return the model of the table at a path of keys, which may include names of sets."""
    for part in path:
        if model is None:
            return None
        field = model.model_fields.get(part)
        if field is None:
            continue
        model = _model_in(field.annotation)
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the pydantic model in an annotation: the model itself or a dictionary's values."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _read_with_parents(path: Path, children: tuple[Path, ...]) -> dict[str, Any]:
    """Read a TOML file and merge it into the profile that it extends."""
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
    """Resolve the paths in a profile relative to its own folder."""
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

    A profile that defines sets does not inherit any other sets of its parent.
    """
    own_sets = changes.get("sets")
    if isinstance(own_sets, dict):
        inherited_sets = base.get("sets", {})
        extended = {name: table for name, table in inherited_sets.items() if name in own_sets}
        base = {**base, "sets": extended}
    merged = base | changes
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            merged[key] = _merge(base[key], value)
    return merged


def list_keys() -> "pd.DataFrame":
    """Return all keys of a profile; `schema.py` defines their allowed values.

    Returns:
        Columns table (such as "features"), key and default.
    """
    import pandas as pd  # here, so that reading a profile stays fast

    keys = pd.DataFrame(_keys_of(Profile, ""), columns=["table", "key", "default"])
    return keys.replace({"table": {"": "at the top"}})


def _keys_of(model: type[BaseModel], table: str) -> list[tuple[str, str, Any]]:
    """Return table, key and default of every key of a model and of the models inside it."""
    keys = []
    for key, field in model.model_fields.items():
        inner = _model_in(field.annotation)
        if inner is None:
            default = "" if field.is_required() else field.default
            keys.append((table, key, default))
        else:
            is_named = get_origin(field.annotation) is dict  # such as [sets.NAME]
            path = f"{table}.{key}".lstrip(".")
            keys += _keys_of(inner, f"{path}.NAME" if is_named else path)
    return keys
