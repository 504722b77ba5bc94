"""The rooms of the package: who may import whom, and how large a room may be."""

import ast
from pathlib import Path

import pytest

import plankton_study
from plankton_study.run.cache import SOURCES, code_digest
from plankton_study.run.files import PACKAGE

#: in the order in which an image becomes a number
ROOMS = ("run", "images", "models", "features", "probes", "questions", "report")
MOST_FILES_OF_A_ROOM = 8

FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {file: ".".join(file.relative_to(PACKAGE).with_suffix("").parts) for file in FILES}


def room_of(module: str) -> str:
    """Return the room of a module such as "models.networks.unet"."""
    return module.split(".")[0]


def imported_rooms(file: Path) -> set[str]:
    """Return the rooms from which a file imports."""
    rooms = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            package, _, inside = name.partition(".")
            if package == "plankton_study" and inside:
                rooms.add(room_of(inside))
    return rooms


@pytest.mark.parametrize("file", FILES, ids=MODULES.get)
def test_no_import_runs_down(file):
    room = room_of(MODULES[file])
    if room not in ROOMS:  # __init__ and __main__, above all rooms
        return
    allowed = set(ROOMS[: ROOMS.index(room) + 1])
    assert imported_rooms(file) <= allowed


def test_a_room_has_few_files_and_says_what_it_is_for():
    for folder in {file.parent for file in FILES} - {PACKAGE}:
        files = [file for file in folder.glob("*.py") if file.name != "__init__.py"]
        assert len(files) <= MOST_FILES_OF_A_ROOM, folder
        description = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
        assert description, folder


def test_the_package_lists_its_rooms_in_order():
    places = [plankton_study.__doc__.index(f"    {room}/") for room in ROOMS]
    assert places == sorted(places)


def shaping_lists() -> dict[tuple[str, str], tuple[str, ...]]:
    """Return (module, name) → modules that shape a cached result."""
    lists = {}
    for file in FILES:
        module = MODULES[file]
        if "SHAPED_BY" in file.read_text(encoding="utf-8") and room_of(module) in ROOMS:
            loaded = __import__(f"plankton_study.{module}", fromlist=["SHAPED_BY"])
            for name in ("SHAPED_BY", "PATH_SHAPED_BY"):
                if hasattr(loaded, name):
                    lists[module, name] = getattr(loaded, name)
    return lists


@pytest.mark.parametrize(("module", "name"), shaping_lists(), ids=str)
def test_a_cached_result_names_modules_that_exist_and_none_from_below(module, name):
    named = shaping_lists()[module, name]
    assert len(set(named)) == len(named)
    assert set(named) <= set(SOURCES)
    assert code_digest(named)
    allowed = ROOMS[: ROOMS.index(room_of(module)) + 1]
    assert {room_of(other) for other in named} <= set(allowed)
