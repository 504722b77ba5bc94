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

ROOT = Path(__file__).resolve().parent.parent
PINS = [Requirement(line) for line in pins.read() if line != pins.THIS]


def ranges() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    return [Requirement(line) for group in groups for line in group]


def disagreements(wanted: list[Requirement], held: list[Requirement]) -> list[str]:
    """The ranges without a pin, and those that do not contain their pin."""
    out = []
    for need in wanted:
        versions = [
            version(pin)
            for pin in held
            if canonicalize_name(pin.name) == canonicalize_name(need.name)
        ]
        if not versions or not all(need.specifier.contains(v, prereleases=True) for v in versions):
            out.append(f"{need} but {versions}")
    return out


def version(pin: Requirement) -> str:
    return str(pin.specifier).removeprefix("==")


def test_every_range_contains_its_pin():
    assert disagreements(ranges(), PINS) == []


def test_a_planted_disagreement_is_found():
    wrong = [pin for pin in PINS if pin.name != "pillow"]
    assert len(disagreements(ranges(), wrong)) == 1
    assert len(disagreements(ranges(), [*wrong, Requirement("pillow==10.4.0")])) == 1
    assert len(disagreements([*ranges(), Requirement("numpy<2")], PINS)) == 1


def test_every_pin_is_exact_and_portable():
    for pin in PINS:
        assert re.fullmatch(r"==[^,*+\s]+", str(pin.specifier)), (
            f"{pin} is not one exact, public version"
        )
        assert not pin.url
        assert not pin.name.startswith(("nvidia-", "cuda-", "triton", "torchvision")), (
            f"{pin} is left to torch"
        )


def test_one_numpy_and_one_scipy_for_every_python():
    count = Counter(pin.name for pin in PINS)
    for name in ("numpy", "scipy", "torch", "pillow", "scikit-learn"):
        assert count[name] == 1
        assert next(pin for pin in PINS if pin.name == name).marker is None


def test_what_the_pinned_packages_need_is_pinned_too():
    """Follows the metadata of the installed packages, for this platform and Python."""
    names = {canonicalize_name(pin.name) for pin in PINS}
    for pin in PINS:
        if pin.marker and not pin.marker.evaluate():
            continue
        for need in map(Requirement, requires(pin.name) or []):
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                left_to_torch = need.name.startswith(pins.LEFT_TO_TORCH)
                assert canonicalize_name(need.name) in names or left_to_torch, (
                    f"{pin.name} needs {need}"
                )


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


def test_clean_drops_what_torch_pins_and_local_versions():
    resolved = "# comment\nnvidia-cublas==13.1\ncuda-toolkit==13.0\ntriton==3.7 ; sys_platform == 'linux'\n"
    resolved += "torch==2.13.0+cpu ; sys_platform == 'linux'\ntorch==2.13.0 ; sys_platform == 'linux'\na==1\n"
    assert pins.clean(resolved) == ["torch==2.13.0 ; sys_platform == 'linux'", "a==1"]


def test_a_failed_refresh_leaves_the_file_alone(monkeypatch, capsys):
    before = pins.ENVIRONMENT.read_bytes()
    monkeypatch.setattr(pins, "RESOLVE", [sys.executable, "-c", "raise SystemExit(2)"])
    assert pins.main("refresh") == 1
    assert capsys.readouterr().err.startswith("error: the pins could not be refreshed")
    assert pins.ENVIRONMENT.read_bytes() == before


def test_refresh_keeps_everything_above_the_pins(monkeypatch, tmp_path):
    copy = tmp_path / "environment.yml"
    copy.write_bytes(pins.ENVIRONMENT.read_bytes())
    monkeypatch.setattr(pins, "ENVIRONMENT", copy)
    monkeypatch.setattr(pins, "RESOLVE", [sys.executable, "-c", "print('b==2\\ntriton==3')"])
    pins.refresh()
    assert pins.read(copy) == ["b==2", "-e ."]
    assert (
        copy.read_text().partition(pins.HEAD)[0]
        == (ROOT / "environment.yml").read_text().partition(pins.HEAD)[0]
    )


@pytest.mark.parametrize("command", ["list", "nonsense"])
def test_the_command_runs_by_path_without_any_package(command):
    done = subprocess.run(
        [sys.executable, "-S", "-E", str(ROOT / ".ci/pins.py"), command],
        capture_output=True,
        text=True,
    )
    if command == "list":
        assert (done.returncode, done.stdout.splitlines()) == (0, pins.read())
    else:
        assert done.returncode == 2
        assert "usage" in done.stderr
