"""Head, middle and tail: who serves the rare taxa, and what helps them."""

import pandas as pd

from plankton_study.features.registry import encoder_family
from plankton_study.images.splits import Splits
from plankton_study.probes.judging import evaluate
from plankton_study.questions.compare import Results
from plankton_study.run.study import Study

#: remedy → (head, whether probabilities are divided by the training prior)
REMEDIES = {
    "plain": ("linear", False),
    "class weights": ("weighted", False),
    "logit adjustment": ("linear", True),
}


def label_counts(splits: Splits) -> pd.Series:
    """Return the number of labelled training images of each taxon, the commonest first."""
    return pd.Series(splits.taxa(splits["train"])).value_counts()


def tail_regions(counts: pd.Series, bounds: tuple[int, int]) -> dict[str, tuple[str, ...]]:
    """Divide taxa into tail, middle and head by their number of labelled images.

    Args:
        counts: taxon → images.
        bounds: a taxon with fewer images than the first is of the tail, than the second of the
            middle.

    Returns:
        Region → its taxa; a region without taxa is left out.
    """
    low, high = bounds
    regions = {
        "tail": counts.index[counts < low],
        "middle": counts.index[(counts >= low) & (counts < high)],
        "head": counts.index[counts >= high],
    }
    return {region: tuple(taxa) for region, taxa in regions.items() if len(taxa)}


def describe_region(region: str, bounds: tuple[int, int]) -> str:
    """Return how many images a taxon of a region has, in words."""
    low, high = bounds
    return {
        "tail": f"fewer than {low}",
        "middle": f"{low} to {high - 1}",
        "head": f"{high} or more",
    }[region]


def regions_table(
    study: Study, splits: Splits, results: Results, regions: dict[str, tuple[str, ...]]
) -> pd.DataFrame:
    """Return macro-F1 over the taxa of each region, on test images.

    Images of other regions that are taken for a taxon of the region count against it.

    Returns:
        One row for each encoder and region; columns encoder, learnt from, region, taxa, images,
        macro-F1 (%) and diffusion minus it (points).
    """
    diffusion = results["diffusion"]
    lines = []
    for name, result in results.items():
        for region, taxa in regions.items():
            score = evaluate(study, splits, result, "test", taxa=taxa)["macro_f1"]
            gain = evaluate(study, splits, diffusion, "test", minus=result, taxa=taxa)["macro_f1"]
            lines.append(
                {
                    "encoder": name,
                    "learnt from": encoder_family(study, name),
                    "region": region,
                    "taxa": len(taxa),
                    "images": score.n,
                    "macro-F1 (%)": score,
                    "diffusion minus it (points)": None if name == "diffusion" else gain,
                }
            )
    return pd.DataFrame(lines)


def remedies_table(
    study: Study, splits: Splits, results: Results, rare_taxa: tuple[str, ...]
) -> pd.DataFrame:
    """Return linear probes as they are, with equal class weights, and with logit adjustment.

    Args:
        study, splits, results: of the natural setting.
        rare_taxa: over which the last column is taken.

    Returns:
        One row for each encoder and remedy; columns encoder, probe, accuracy (%), macro-F1 (%)
        and macro-F1, rare taxa (%).
    """
    lines = []
    for name, result in results.items():
        for remedy, (head, adjusted) in REMEDIES.items():
            scores = evaluate(study, splits, result, "test", head, adjusted)
            rare = evaluate(study, splits, result, "test", head, adjusted, taxa=rare_taxa)
            lines.append(
                {
                    "encoder": name,
                    "probe": remedy,
                    "accuracy (%)": scores["accuracy"],
                    "macro-F1 (%)": scores["macro_f1"],
                    "macro-F1, rare taxa (%)": rare["macro_f1"],
                }
            )
    return pd.DataFrame(lines)
