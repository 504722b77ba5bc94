"""The catalogue: complete, in accordance with the file names of its sets, and checked."""

import subprocess
import sys
from datetime import UTC, datetime

import pytest

from plankton_study.images.catalogue import (
    CATALOGUE,
    CatalogueEntry,
    catalogue,
    catalogue_entry,
)
from plankton_study.run.errors import StudyError

#: set → file names as it has them, each with its time and other facts
NAMES = {
    "planktonset1": [
        ("20140602073348.076.0131_000_crop_463.jpg", datetime(2014, 6, 2, 7, 33, 48), {})
    ],
    "pwssc": [
        (
            "SPC-PWSSC-1460000000-000611-382-1994-1362-76-124.png",
            datetime(2016, 4, 7, 3, 33, 20),
            {},
        )
    ],
    "whoi": [
        (
            "IFCB1_2009_216_075913_04150.png",
            datetime(2009, 8, 4, 7, 59, 13),
            {"sample": "IFCB1_2009_216_075913"},
        ),
        (
            "D20140117T003426_IFCB014_00002.png",
            datetime(2014, 1, 17, 0, 34, 26),
            {"sample": "D20140117T003426_IFCB014", "instrument": "IFCB014"},
        ),
    ],
    "syke_uto_2021": [
        (
            "D20210601T120001_IFCB114_01623.png",
            datetime(2021, 6, 1, 12, 0, 1),
            {"instrument": "IFCB114"},
        )
    ],
    "smhi_ifcb": [
        (
            "D20220712T210855_IFCB134_00042.png",
            datetime(2022, 7, 12, 21, 8, 55),
            {"instrument": "IFCB134"},
        )
    ],
    "zoolake": [
        (
            "SPC-EAWAG-0P5X-1570543372901157-3725350526242-001629-055-1224-2176-84-64.jpeg",
            datetime(2019, 10, 8),  # only the day is certain
            {},
        )
    ],
    "synthetic": [
        (
            "SYN-bay-A-20210315T081500-000012.png",
            datetime(2021, 3, 15, 8, 15),
            {"site": "bay", "instrument": "A"},
        )
    ],
}
NAMES |= {"whoi_small": NAMES["whoi"], "planktonset1_hub": NAMES["planktonset1"]}
WITH_PATTERN = [name for name, entry in catalogue().items() if entry.name_pattern]
NAMED_GROUPS = {"time_unix", "time", "sample", "site", "instrument"}


def time_in_name(entry: CatalogueEntry, parts: dict[str, str]) -> datetime:
    if "time_unix" in parts:
        return datetime.fromtimestamp(int(parts["time_unix"]), UTC).replace(tzinfo=None)
    try:
        return datetime.strptime(parts["time"], entry.time_format)
    except ValueError:
        return datetime.fromisoformat(parts["time"])


@pytest.mark.parametrize("name", catalogue())
def test_every_entry_says_what_stands_behind_it(name):
    entry = catalogue()[name]
    texts = (entry.title, entry.what, entry.source, entry.terms, entry.get)
    assert all(len(text) > 5 for text in texts)
    assert len(entry.checked) > 40 and not entry.checked.startswith("unverified: not in")
    assert entry.sha256 or not (entry.url or entry.wheel)
    assert entry.reader != "hub" or (entry.hub_id and {"image", "taxon"} <= set(entry.columns))
    assert not entry.deployed or entry.deployed[0] < entry.deployed[1]


@pytest.mark.parametrize("name", WITH_PATTERN)
def test_name_patterns_read_names_of_their_set(name):
    entry = catalogue()[name]
    assert set(entry.name_pattern.groupindex) <= NAMED_GROUPS
    for file, time, facts in NAMES[name]:
        groups = entry.name_pattern.search(file).groupdict()
        parts = {key: value for key, value in groups.items() if value is not None}
        parsed = time_in_name(entry, parts)
        assert parsed.date() == time.date() and (time.hour == 0 or parsed == time)
        assert parts.items() >= facts.items()
        assert not entry.deployed or entry.deployed[0] <= parsed.date() <= entry.deployed[1]
    assert not entry.name_pattern.search("100224.jpg")


def test_the_catalogue_is_small_to_import():
    code = "import sys, plankton_study.images.catalogue as c; c.catalogue(); print(*sys.modules)"
    command = [sys.executable, "-c", code]
    modules = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "plankton_study.images.catalogue" in modules
    assert not {"torch", "datasets", "pandas", "transformers"} & set(modules)


POLARITY = 'polarity = "light_on_dark"'


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            POLARITY,
            'polarty = "light_on_dark"',
            ["pwssc", "polarty", "polarity", "not a known key"],
        ),
        (POLARITY, 'polarity = "grey"', ["pwssc.polarity", "'dark_on_light'", "'grey'"]),
        (
            "'^SPC-PWSSC-(?P<time_unix>",
            "'^SPC-PWSSC-(?P<time_unix",
            ["pwssc.name_pattern", "regular expression"],
        ),
        ("[pwssc]", "[pwssc", ["catalogue.toml"]),
        ('"2016-04-04"', '"4 April"', ["pwssc.deployed", "4 April"]),
    ],
)
def test_a_wrong_catalogue_gives_one_clear_error(tmp_path, old, new, words):
    copy = tmp_path / "catalogue.toml"
    head, table, tail = CATALOGUE.read_text("utf-8").partition("[pwssc]")
    copy.write_text(head + (table + tail).replace(old, new, 1), "utf-8")
    with pytest.raises(StudyError) as error:
        catalogue(copy)
    message = str(error.value)
    assert all(word in message for word in [*words, str(copy)]) and "\n" not in message


def test_an_entry_takes_the_changes_of_a_profile():
    assert catalogue_entry("pwssc", {"group_by": "image"}).group_by == "image"
    assert catalogue_entry("pwssc").group_by == "day"
    own = catalogue_entry("/my/images", {"polarity": "light_on_dark"})
    assert (own.reader, own.polarity, own.group_by) == ("folder", "light_on_dark", "image")


def test_a_wrong_change_is_refused():
    with pytest.raises(StudyError, match=r"pwssc\.colour is not a known key"):
        catalogue_entry("pwssc", {"colour": "red"})
    with pytest.raises(StudyError, match="columns"):
        catalogue_entry("my_set", {"reader": "table", "columns": {"samples": "sample_id"}})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns": {"taxon": "x"}}, "columns has no effect with the reader 'folder'.*\"table\""),
        ({"reader": "table", "taxon_level": 2}, "taxon_level has no effect .*'table'"),
        ({"reader": "hub", "image_folder": "x"}, "image_folder has no effect .*'hub'"),
        ({"name_pattern": r"(?P<id>\d+)_"}, "name_pattern has the group id, but only time"),
    ],
)
def test_a_key_that_would_have_no_effect_is_refused(changes, message):
    with pytest.raises(StudyError, match=message):
        catalogue_entry("my_set", changes)
