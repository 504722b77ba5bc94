"""Every profile that README and the guide show runs from image files to the PDF, all notebooks.

Only three things are changed: where the images lie, how long is trained, and that the profile
extends a tiny one instead of `demo`. So these tests also hold the notebooks to sets without times,
sites, shifted parts or novel taxa.
"""

import re
import shutil
import tomllib
from pathlib import Path

import build
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import draw_shape
from examples import PROFILES, ROOT

from plankton_study.report import stored
from plankton_study.report.stored import StoredRun
from plankton_study.run import study as study_module
from plankton_study.run.profile import read_profile

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
#: images of a set; of three times as many `leave_unsorted` takes a third
IMAGES = 180
UNSORTED = 180
TAXA, SHARES = ["disc", "bar", "cross", "ring"], [0.35, 0.25, 0.2, 0.2]
TINY = """
extends = "smoke"
title = "Small enough for a test"
[training]
images_seen = 64
[features]
taps = ["mid4.resnet1", "up8.resnet1"]
[probes]
draws = 50
[encoders]
"U-Net encoder, labels" = false
"ViT, labels" = false
"fine-tuned diffusion" = false
"VICReg" = false
"MAE" = false
"ImageNet ResNet-50" = false
"CLIP" = false
"CIFAR-10 diffusion" = false
[encoders."SimCLR"]
equal_flops = false
[transfers]
flowcam_wheel = false
"""


#: the same for names alone, which are given with the denoiser that comes with the repository
TINY_NAMES = """
extends = "names"
title = "Small enough for a test"
[images]
size = 32
[features]
taps = ["up16.*"]
timesteps = [50]
[probes]
draws = 50
[encoders]
"ImageNet ResNet-50" = false
"CLIP" = false
"CIFAR-10 diffusion" = false
"EfficientNet-Lite0, 96 px" = false
"EfficientNet-Lite0, 160 px" = false
[transfers]
flowcam_wheel = false
"""


def titles(profiles: list[str]) -> list[str]:
    return [tomllib.loads(text)["title"] for text in profiles]


@pytest.mark.parametrize("text", PROFILES, ids=titles(PROFILES))
def test_a_profile_that_is_shown_is_valid_as_it_stands(text, tmp_path):
    (tmp_path / "mine.toml").write_text(text)
    assert read_profile(str(tmp_path / "mine.toml")).extends in ("demo", "names")


@pytest.fixture
def paper(tmp_path, monkeypatch) -> Path:
    """A copy of paper/ with nothing but templates, in which results of notebooks lie."""
    paper = tmp_path / "paper"
    ignored = shutil.ignore_patterns("results", "published", "site", "__pycache__")
    shutil.copytree(ROOT / "paper", paper, ignore=ignored)
    monkeypatch.setattr(study_module, "ROOT", tmp_path)
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(build, "PAPER", paper)
    monkeypatch.setattr(stored, "PAPER", paper)
    monkeypatch.setenv("PLANKTON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PLANKTON_DEVICE", "cpu")
    monkeypatch.delenv("PLANKTON_DATA", raising=False)
    monkeypatch.delenv("PLANKTON_SEED", raising=False)
    return paper


FOR_NAMES = [text for text in PROFILES if 'extends = "names"' in text]


@pytest.mark.parametrize("text", FOR_NAMES, ids=titles(FOR_NAMES))
def test_a_profile_for_names_gives_names_without_training(text, tmp_path, paper):
    profile = write_profile(text.replace('"names"', '"tiny_names.toml"'), tmp_path)
    for number in (1, 17):
        run_in_this_process(NOTEBOOKS[number], profile)
    folder = paper / "results" / "mine" / "names"
    names = pd.read_csv(folder / "names.csv")
    assert names["image"].str.startswith("unsorted/").all() and len(names) == UNSORTED
    truth = names["image"].str.extract(r"_([a-z]+)\.png$")[0]
    assert (truth == names["taxon"]).mean() > max(SHARES)
    assert not (tmp_path / "cache" / "denoiser").exists()
    with open(folder / "contact_sheet.pdf", "rb") as file:
        assert file.read(4) == b"%PDF"


FOR_THE_STUDY = [text.replace('extends = "names"', 'extends = "demo"') for text in PROFILES]


@pytest.mark.parametrize("text", FOR_THE_STUDY, ids=titles(FOR_THE_STUDY))
def test_a_profile_that_is_shown_runs_from_images_to_the_pdf(text, tmp_path, paper):
    profile = write_profile(text, tmp_path)
    for notebook in NOTEBOOKS:
        run_in_this_process(notebook, profile)
    assert (paper / "results" / "mine" / "names" / "names.csv").is_file()
    pdf = build.typeset(StoredRun(paper / "results" / "mine"))
    assert pdf.read_bytes().startswith(b"%PDF")


def write_profile(text: str, folder: Path) -> Path:
    """Write a shown profile and the images that it names."""
    (folder / "tiny.toml").write_text(TINY)
    (folder / "tiny_names.toml").write_text(TINY_NAMES)
    text = text.replace('extends = "demo"', 'extends = "tiny.toml"')
    text = re.sub(r"images_seen = [0-9_]+", "images_seen = 64", text)
    if "[sets." not in text:  # a profile about encoders: any images do
        text += '\n[sets.station]\nsource = "/data/station"\n'
        text += "[sets.station.split]\nbalanced = { min_images = 20, train = 12 }\n"
    for place in re.findall(r'source = "(/data/[^"]+)"', text):
        target = folder / place.lstrip("/")
        images = 3 * IMAGES if "unsorted" in text else IMAGES  # the defaults need more
        write_images(target, "ecotaxa" in place, len(place), images)
        if "unsorted" in text:
            leave_unsorted(target)
        text = text.replace(f'"{place}"', f'"{target}"')
    profile = folder / "mine.toml"
    profile.write_text(text)
    return profile


def write_images(folder: Path, table: bool, seed: int, images: int) -> None:
    """Write real image files: class folders, or an export of EcoTaxa with its table."""
    rng = np.random.default_rng(seed)
    lines = []
    for number in range(images):
        taxon = str(rng.choice(TAXA, p=SHARES))
        month, day = (6, 1 + number % 20) if number % 3 else (7, 1 + number % 10)
        name = f"2021{month:02d}{day:02d}T{number % 24:02d}0000_bay_{number:04d}.png"
        place = folder / ("" if table else taxon)
        place.mkdir(parents=True, exist_ok=True)
        draw_shape(taxon, rng).save(place / name)
        lines.append(ecotaxa_line(name, taxon, month, day, number))
    if table:
        pd.DataFrame(lines).to_csv(folder / "ecotaxa_export.tsv", sep="\t", index=False)


def leave_unsorted(folder: Path) -> None:
    """Move some images to the folder "unsorted"; their names still tell their taxon."""
    for number, file in enumerate(sorted(folder.glob("*/*.png"))):
        if number % 3 == 0:
            (folder / "unsorted").mkdir(exist_ok=True)
            file.rename(folder / "unsorted" / f"{file.stem}_{file.parent.name}.png")


def ecotaxa_line(name: str, taxon: str, month: int, day: int, number: int) -> dict[str, str]:
    is_checked = number % 10 > 0
    return {
        "object_id": f"net_{number}",
        "img_file_name": name,
        "object_annotation_category": taxon,
        "object_annotation_status": "validated" if is_checked else "predicted",
        "object_date": f"2021{month:02d}{day:02d}",
        "object_time": f"{number % 24:02d}0000",
        "sample_id": f"tow_{month}_{day}",
    }


def run_in_this_process(notebook: Path, profile: Path) -> None:
    """Run all cells of a notebook on a profile; an error names the cell."""
    names: dict[str, object] = {}
    for cell in nbformat.read(notebook, 4).cells:
        if cell.cell_type == "code":
            source = cell.source.replace("profile = None", f"profile = {str(profile)!r}")
            exec(compile(source, f"{notebook.stem}, cell {cell.id}", "exec"), names)
    plt.close("all")
