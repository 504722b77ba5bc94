"""The heavy part of a profile from the command line, on one machine or on several.

`accelerate launch -m plankton_study PROFILE` trains the denoisers and extracts the features of the
encoders that need no labels. The notebooks then find both in the cache. Every part continues after
an interruption. For a machine that lacks the image files, `--pack` writes the prepared images to a
folder, and `--adopt` takes over the results that came back.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from plankton_study.features.registry import make_encoder
from plankton_study.images.collection import pack_collection
from plankton_study.images.splits import make_splits
from plankton_study.probes.probe import read_features
from plankton_study.questions.training.variants import denoised_sets
from plankton_study.run.cache import adopt
from plankton_study.run.errors import StudyError
from plankton_study.run.schema import BASIC_ENCODERS
from plankton_study.run.study import Study, load_study

#: subfolders of a pack: the data folder, and the results to adopt
PACKED_DATA, PACKED_RESULTS = "data", "results"


def main(arguments: list[str]) -> None:
    """Do what the arguments say; a mistake of the user ends in one sentence."""
    chosen = _parser().parse_args(arguments)
    try:
        study = load_study(chosen.profile, chosen.seed)
        if chosen.pack:
            pack(study, chosen.pack)
        elif chosen.adopt:
            take_over(study, chosen.adopt)
        elif chosen.train:
            train_encoders(study, chosen.train)
        else:
            extract_basic_features(study)
    except StudyError as error:
        sys.exit(str(error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m plankton_study", description=__doc__)
    parser.add_argument("profile", nargs="?", help="a name or the path of a TOML file")
    parser.add_argument("--seed", type=int, help="the training seed")
    actions = parser.add_mutually_exclusive_group()
    actions.add_argument("--pack", type=Path, metavar="FOLDER", help="write the prepared images")
    actions.add_argument("--adopt", type=Path, metavar="FOLDER", help="take over finished results")
    actions.add_argument("--train", nargs="+", metavar="ENCODER", help="train these, in this order")
    return parser


def extract_basic_features(study: Study) -> None:
    """Train the denoiser of every set, and extract the features of the basic encoders."""
    for denoised in denoised_sets(study).values():
        for encoder in BASIC_ENCODERS:
            read_features(*denoised, encoder)


def train_encoders(study: Study, encoders: list[str]) -> None:
    """Train some encoders on every set, with the labels of the natural setting if they need any."""
    sets = {name: make_splits(study, name) for name in study.profile.sets}
    for encoder in encoders:
        for name, splits in sets.items():
            trained = make_encoder(study, splits, encoder)
            print(f"{name}: {encoder} is in {trained.folder}", flush=True)


def pack(study: Study, folder: Path) -> None:
    """Write everything that training needs to a folder: the prepared images and their splits."""
    packed = replace(study, cache=folder / PACKED_RESULTS)
    for name in study.profile.sets:
        target = pack_collection(study, name, folder / PACKED_DATA)
        make_splits(replace(packed, data=folder / PACKED_DATA), name)
        print(f"packed {target}")


def take_over(study: Study, folder: Path) -> None:
    """Copy the finished results of another machine into the cache."""
    for name in adopt(study, folder):
        print(f"adopted {name}")


if __name__ == "__main__":
    main(sys.argv[1:])
