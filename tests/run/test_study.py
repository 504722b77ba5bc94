"""A study is loaded from a profile, a seed and the environment."""

import os

import huggingface_hub.constants
import pytest

from plankton_study.run.errors import StudyError
from plankton_study.run.study import load_study

HUB_VARIABLES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")


@pytest.fixture(autouse=True)
def without_variables(monkeypatch):
    for variable in ("PLANKTON_PROFILE", "PLANKTON_SEED", "PLANKTON_DATA"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PLANKTON_DEVICE", "cpu")


def test_none_means_the_environment_then_demo(monkeypatch):
    study = load_study()
    assert (study.profile.name, study.seed) == ("demo", 0)
    monkeypatch.setenv("PLANKTON_PROFILE", "smoke")
    monkeypatch.setenv("PLANKTON_SEED", "3")
    study = load_study()
    assert (study.profile.name, study.seed) == ("smoke", 3)
    study = load_study("demo", 0)
    assert (study.profile.name, study.seed) == ("demo", 0)


def test_a_run_has_a_folder_of_results_for_each_seed():
    assert load_study("demo", 0).results.name == "demo"
    assert load_study("demo", 1).results.name == "demo-seed1"


@pytest.mark.parametrize(
    ("variable", "value", "least"), [("PLANKTON_SEED", "-1", 0), ("PLANKTON_THREADS", "0", 1)]
)
def test_a_number_that_cannot_be_is_refused(monkeypatch, variable, value, least):
    monkeypatch.setenv(variable, value)
    expected = f"{variable}={value} is not a whole number of at least {least}"
    with pytest.raises(StudyError, match=expected):
        load_study("demo")


def test_an_unknown_device_is_refused(monkeypatch):
    monkeypatch.setenv("PLANKTON_DEVICE", "abacus")
    with pytest.raises(StudyError, match="PLANKTON_DEVICE=abacus is not a device"):
        load_study("demo")


def test_a_missing_data_folder_is_named(monkeypatch):
    monkeypatch.setenv("PLANKTON_DATA", "/no/such/folder")
    with pytest.raises(StudyError, match="/no/such/folder"):
        load_study("demo")


def test_the_hub_is_off_unless_the_profile_asks(monkeypatch):
    for variable in HUB_VARIABLES:
        monkeypatch.setenv(variable, "0")
    load_study("demo")
    assert [os.environ[variable] for variable in HUB_VARIABLES] == ["1", "1"]
    load_study("whoi")
    assert [os.environ[variable] for variable in HUB_VARIABLES] == ["0", "0"]
    load_study("demo")  # closes it again, also for libraries that are imported already
    assert huggingface_hub.constants.HF_HUB_OFFLINE
