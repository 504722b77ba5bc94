"""The pins of environment.yml are exact, complete and inside the ranges of pyproject.toml."""

import re
import subprocess
import sys
import tomllib
from collections import Counter
from importlib.metadata import requires
from pathlib import Path

import pins
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PINS = [Requirement(line) for line in pins.read() if line != pins.THIS]


def ranges() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    return [Requirement(line) for group in groups for line in group]


def pinned_version(pin: Requirement) -> str:
    return str(pin.specifier).removeprefix("==")


def disagreements(requirements: list[Requirement], pinned: list[Requirement]) -> list[str]:
    """Return the requirements without a pin, and those that do not allow their pin."""
    problems = []
    for requirement in requirements:
        name = canonicalize_name(requirement.name)
        versions = [pinned_version(pin) for pin in pinned if canonicalize_name(pin.name) == name]
        allowed = [
            requirement.specifier.contains(version, prereleases=True) for version in versions
        ]
        if not versions or not all(allowed):
            problems.append(f"{requirement} but {versions}")
    return problems


def test_every_range_contains_its_pin():
    assert disagreements(ranges(), PINS) == []


def test_a_planted_disagreement_is_noticed():
    requirements = [Requirement("pillow>=11"), Requirement("NumPy>=2,<3"), Requirement("a-b")]
    numpy_pins = [Requirement("numpy==2.1; python_version < '3.12'"), Requirement("numpy==2.4")]
    pinned = [Requirement("pillow==12.0"), *numpy_pins, Requirement("a_b==1.0rc1")]
    assert disagreements(requirements, pinned) == []
    assert disagreements(requirements, pinned[1:]) == ["pillow>=11 but []"]
    old_pillow = Requirement("pillow==10.4.0")
    assert len(disagreements(requirements, [*pinned, old_pillow])) == 1
    assert len(disagreements([Requirement("numpy<2.3")], pinned)) == 1


def test_every_pin_is_exact_and_portable():
    left_to_torch = ("nvidia-", "cuda-", "triton", "torchvision")
    for pin in PINS:
        is_exact = re.fullmatch(r"==[^,*+\s]+", str(pin.specifier))
        assert is_exact, f"{pin} is not one exact, public version"
        assert not pin.url
        assert not pin.name.startswith(left_to_torch), f"torch chooses {pin}"


def test_one_numpy_and_one_scipy_for_every_python():
    counts = Counter(pin.name for pin in PINS)
    for name in ("numpy", "scipy", "torch", "pillow", "scikit-learn"):
        assert counts[name] == 1
        assert next(pin for pin in PINS if pin.name == name).marker is None


def test_what_the_pinned_packages_need_is_pinned_too():
    """Follow the metadata of the installed packages, for this platform and Python."""
    names = {canonicalize_name(pin.name) for pin in PINS}
    for pin in PINS:
        if pin.marker and not pin.marker.evaluate():
            continue
        for requirement in map(Requirement, requires(pin.name) or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                is_pinned = canonicalize_name(requirement.name) in names
                left_to_torch = requirement.name.startswith(pins.LEFT_TO_TORCH)
                assert is_pinned or left_to_torch, f"{pin.name} needs {requirement}"


def test_the_file_is_what_conda_reads():
    environment = yaml.safe_load(pins.ENVIRONMENT.read_text(encoding="utf-8"))
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    python, pip, section = environment["dependencies"]
    assert (python, pip) == ("python=3.11.*", "pip")
    assert section["pip"] == pins.read()
    assert section["pip"][-1] == "-e ."


def test_check_compares_versions_markers_and_checkout(monkeypatch):
    assert pins.missing(["packaging>=20", "nosuch==1 ; sys_platform == 'nowhere'", "-e ."]) == []
    assert pins.missing(["packaging==0.1", "nosuch==1"]) == ["packaging==0.1", "nosuch==1"]
    monkeypatch.setattr(pins, "ROOT", ROOT / "elsewhere")
    assert pins.missing(["-e ."]) == ["-e ."]


def test_a_local_build_holds_its_public_version(monkeypatch):
    monkeypatch.setattr(pins.importlib.metadata, "version", lambda name: "2.13.0+cpu")
    assert pins.missing(["torch==2.13.0"]) == []


RESOLVED = """# comment
nvidia-cublas==13.1
cuda-toolkit==13.0
triton==3.7 ; sys_platform == 'linux'
torch==2.13.0+cpu ; sys_platform == 'linux'
torch==2.13.0 ; sys_platform == 'linux'
a==1
"""


def test_clean_drops_what_torch_pins_and_local_versions():
    assert pins.clean(RESOLVED) == ["torch==2.13.0 ; sys_platform == 'linux'", "a==1"]


def test_a_failed_refresh_leaves_the_file_alone(monkeypatch, capsys):
    before = pins.ENVIRONMENT.read_bytes()
    monkeypatch.setattr(pins, "RESOLVE", [sys.executable, "-c", "raise SystemExit(2)"])
    assert pins.main("refresh") == 1
    assert capsys.readouterr().err.startswith("error: the pins could not be refreshed")
    assert pins.ENVIRONMENT.read_bytes() == before


def test_refresh_keeps_everything_above_the_pins(monkeypatch, tmp_path):
    original, copy = pins.ENVIRONMENT, tmp_path / "environment.yml"
    copy.write_bytes(original.read_bytes())
    monkeypatch.setattr(pins, "ENVIRONMENT", copy)
    monkeypatch.setattr(pins, "RESOLVE", [sys.executable, "-c", "print('b==2\\ntriton==3')"])
    pins.refresh()
    assert pins.read(copy) == ["b==2", "-e ."]
    assert text_above_pins(copy) == text_above_pins(original)


def text_above_pins(file: Path) -> str:
    above, head, _ = file.read_text(encoding="utf-8").partition(pins.HEAD)
    assert head
    return above


@pytest.mark.parametrize("command", ["list", "nonsense"])
def test_the_command_runs_by_path_without_any_package(command, tmp_path):
    python_without_packages = [sys.executable, "-S", "-E"]
    run = subprocess.run(
        [*python_without_packages, str(ROOT / ".ci/pins.py"), command],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    if command == "list":
        assert (run.returncode, run.stdout.splitlines()) == (0, pins.read())
    else:
        assert run.returncode == 2
        (path,) = re.findall(r"usage: python (\S+) check", run.stderr)
        assert (tmp_path / path).is_file(), "the printed path does not exist from here"
