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

import torch

from plankton_study.features.registry import make_encoder
from plankton_study.images.collection import pack_collection
from plankton_study.images.splits import Splits, make_splits
from plankton_study.models.diffusion.denoiser import trained_denoiser
from plankton_study.models.recipe import images_to_see, with_images_seen
from plankton_study.probes.probe import read_features
from plankton_study.questions.training.variants import (
    denoised_sets,
    set_for_maps,
    title_for_maps,
    with_changes,
)
from plankton_study.run.cache import adopt
from plankton_study.run.errors import StudyError
from plankton_study.run.schema import BASIC_ENCODERS
from plankton_study.run.study import Study, load_study

#: subfolders of a pack: the data folder, and the results to adopt
PACKED_DATA, PACKED_RESULTS = "data", "results"
#: in place of an encoder's name: the denoiser of the larger images, and those of the ablation
MAPS, ABLATION = "maps", "ablation"


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
    """Train some encoders on every set, as the main comparisons need them.

    Args:
        study: the study.
        encoders: keys of the profile's `encoders`. Those of its [curve] are trained with each
            budget, and those that need labels also on each draw of the balanced labels. "maps"
            means the denoiser of the larger images of [maps], and "ablation" those of [ablation].
    """
    sets = {name: make_splits(study, name) for name in study.profile.sets}
    first = next(iter(sets.values()))
    for encoder in encoders:
        if encoder == MAPS:
            train_for_maps(study, first)
        elif encoder == ABLATION:
            train_for_ablation(study, first)
        else:
            for splits in reversed(sets.values()):  # last the first, which may have a curve
                _train_on(study, splits, encoder)


def _train_on(study: Study, splits: Splits, encoder: str) -> None:
    """Train an encoder on a set, with each of its budgets and draws of labels."""
    for images_seen in _budgets(study, splits, encoder):
        _train(with_images_seen(study, splits, images_seen), splits, encoder, "natural")
    if _needs_balanced_labels(study, splits, encoder):
        for draw in splits.each_draw("balanced"):
            _train(study, draw, encoder, "balanced")


def _train(study: Study, splits: Splits, encoder: str, setting: str) -> None:
    torch.compiler.reset()  # torch gives up after eight compiled networks
    trained = make_encoder(study, splits, encoder, setting)
    place = f"{images_to_see(study, splits):,} images of {splits.collection.name}"
    print(f"{encoder}, {place} ({setting}): {trained.folder}", flush=True)


def _needs_balanced_labels(study: Study, splits: Splits, encoder: str) -> bool:
    needs_labels = study.profile.encoders[encoder].kind == "labels"
    return needs_labels and bool(splits.balanced_classes)


def _budgets(study: Study, splits: Splits, encoder: str) -> list[int]:
    """Return the numbers of images that an encoder sees of a set, ascending."""
    budgets = {images_to_see(study, splits)}
    is_first = splits.collection.name == next(iter(study.profile.sets))
    if is_first and encoder in study.profile.curve.encoders:
        budgets.update(study.profile.curve.budgets(study.seed))
    return sorted(budgets)


def train_for_maps(study: Study, first: Splits) -> None:
    """Train the denoiser of the larger images that the claim about map sizes is judged from."""
    title = title_for_maps(study)
    folder = trained_denoiser(*set_for_maps(study, first))
    print(f"diffusion, {title}: {folder}", flush=True)


def train_for_ablation(study: Study, first: Splits) -> None:
    """Train the denoisers of the ablation on the first set."""
    ablation = study.profile.ablation
    for label, changes in ablation.denoisers.items():
        variant = with_changes(study, first, changes, ablation.images_seen)
        torch.compiler.reset()
        print(f"diffusion, {label}: {trained_denoiser(variant, first)}", flush=True)


def pack(study: Study, folder: Path) -> None:
    """Write everything that training needs to a folder: the prepared images and their splits."""
    data = folder / PACKED_DATA
    for own_study, splits in denoised_sets(study).values():
        name = splits.collection.name
        target = pack_collection(own_study, name, data)
        make_splits(replace(own_study, cache=folder / PACKED_RESULTS, data=data), name)
        print(f"packed {target}")


def take_over(study: Study, folder: Path) -> None:
    """Copy the finished results of another machine into the cache."""
    for name in adopt(study, folder):
        print(f"adopted {name}")


if __name__ == "__main__":
    main(sys.argv[1:])
