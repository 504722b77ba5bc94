"""Studies with another denoiser: those of the ablation, and that of larger images."""

from dataclasses import replace
from typing import NamedTuple

from plankton_study.images.splits import Splits, make_splits
from plankton_study.models.recipe import images_to_see, with_images_seen
from plankton_study.run.schema import DenoiserChanges, changed
from plankton_study.run.study import Study


class DenoisedSet(NamedTuple):
    """A set of images, and the study that trains its denoiser."""

    study: Study
    splits: Splits


def with_changes(
    study: Study, splits: Splits, changes: DenoiserChanges, images_seen: int | None = None
) -> Study:
    """Return the study with another denoiser.

    Args:
        study, splits: the set that the denoiser is trained on.
        changes: keys of the profile's tables that differ.
        images_seen: its number of images seen; None: as many as the main denoiser.
    """
    budgeted = with_images_seen(study, splits, images_seen or images_to_see(study, splits))
    tables = changes.applied_to(study.profile)
    return replace(budgeted, profile=budgeted.profile.model_copy(update=tables))


def size_for_maps(study: Study) -> int:
    """Return the side of the images that the claim about map sizes is judged from, px."""
    return study.profile.maps.size or study.profile.images.size


def title_for_maps(study: Study) -> str:
    """Return the title of these images among the `denoised_sets`."""
    name = next(iter(study.profile.sets))
    size = study.profile.maps.size
    return f"{name}, {size} px" if size else name


def set_for_maps(study: Study, first: Splits) -> DenoisedSet:
    """Return the images that the claim about map sizes is judged from.

    These are the first set, at the size that the profile's [maps] names, with its denoiser there.

    Args:
        study: the study.
        first: the splits of its first set, at its own size.
    """
    maps = study.profile.maps
    if maps.size is None:
        return DenoisedSet(study, first)
    images = changed(study.profile.images, {"size": maps.size})
    larger = replace(study, profile=study.profile.model_copy(update={"images": images}))
    splits = make_splits(larger, first.collection.name)
    return DenoisedSet(with_changes(larger, splits, maps, maps.images_seen), splits)


def denoised_sets(study: Study) -> dict[str, DenoisedSet]:
    """Return all images that a denoiser is trained on, by title.

    These are the sets of the profile and, if there is a [maps], the larger images.
    """
    sets = {name: DenoisedSet(study, make_splits(study, name)) for name in study.profile.sets}
    first = next(iter(sets.values())).splits
    return sets | {title_for_maps(study): set_for_maps(study, first)}
