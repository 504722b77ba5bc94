"""Head, middle and tail: which encoder is best for rare taxa, and what helps them."""

from typing import Any

import pandas as pd

from plankton_study.features.registry import encoder_family
from plankton_study.images.splits import Splits
from plankton_study.probes.intervals import Estimate
from plankton_study.probes.result import ProbeResult, evaluate
from plankton_study.questions.compare import ProbeResults
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
        bounds: a taxon with fewer images than the first bound belongs to the tail, with fewer than
            the second to the middle.

    Returns:
        Region → its taxa; regions without taxa are left out.
    """
    low, high = bounds
    regions = {
        "tail": counts.index[counts < low],
        "middle": counts.index[(counts >= low) & (counts < high)],
        "head": counts.index[counts >= high],
    }
    return {region: tuple(taxa) for region, taxa in regions.items() if len(taxa)}


def describe_region(region: str, bounds: tuple[int, int]) -> str:
    """Return the number of images per taxon in a region, in words."""
    low, high = bounds
    return {
        "tail": f"fewer than {low}",
        "middle": f"{low} to {high - 1}",
        "head": f"{high} or more",
    }[region]


def regions_table(
    study: Study, splits: Splits, results: ProbeResults, regions: dict[str, tuple[str, ...]]
) -> pd.DataFrame:
    """Return macro-F1 over the taxa of each region, on test images.

    Images of other regions that are predicted as a taxon of the region lower its F1.

    Returns:
        One row for each encoder and each region with test images; columns encoder, learnt from,
        region, taxa, images, macro-F1 (%) and diffusion minus it (points).
    """
    diffusion = results["diffusion"]
    lines = []
    for name, result in results.items():
        for region, taxa in regions.items():
            score = _macro_f1(study, splits, result, taxa)
            if score is None:
                continue
            gain = None
            if name != "diffusion":
                gain = _macro_f1(study, splits, diffusion, taxa, minus=result)
            lines.append(
                {
                    "encoder": name,
                    "learnt from": encoder_family(study, name),
                    "region": region,
                    "taxa": len(taxa),
                    "images": score.n,
                    "macro-F1 (%)": score,
                    "diffusion minus it (points)": gain,
                }
            )
    return pd.DataFrame(lines)


def remedies_table(
    study: Study, splits: Splits, results: ProbeResults, rare_taxa: tuple[str, ...]
) -> pd.DataFrame:
    """Return scores of linear probes: plain, with equal class weights, with logit adjustment.

    Args:
        study, splits, results: the natural setting.
        rare_taxa: the taxa of the last column.

    Returns:
        One row for each encoder and remedy; columns encoder, probe, accuracy (%), macro-F1 (%)
        and macro-F1, rare taxa (%).
    """
    lines = []
    for name, result in results.items():
        for remedy, (head, adjusted) in REMEDIES.items():
            scores = evaluate(study, splits, result, "test", head, adjusted)
            rare = _macro_f1(study, splits, result, rare_taxa, head=head, adjusted=adjusted)
            lines.append(
                {
                    "encoder": name,
                    "probe": remedy,
                    "accuracy (%)": scores["accuracy"],
                    "macro-F1 (%)": scores["macro_f1"],
                    "macro-F1, rare taxa (%)": rare,
                }
            )
    return pd.DataFrame(lines)


def _macro_f1(
    study: Study, splits: Splits, result: ProbeResult, taxa: tuple[str, ...], **how: Any
) -> Estimate | None:
    """Return macro-F1 over some taxa on test images; None if no test image shows one of them.

    Args:
        study, splits, result: the natural setting.
        taxa: the taxa to evaluate.
        how: other arguments of `evaluate`.
    """
    tested = splits.taxa(result.rows["test"])
    if not set(taxa) & set(tested):
        return None
    return evaluate(study, splits, result, "test", taxa=taxa, **how)["macro_f1"]
