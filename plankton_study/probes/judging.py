"""Evaluating a result: metrics of its parts with intervals, and a quick score of an encoder."""

import numpy as np

from plankton_study.features.bank import extract_features
from plankton_study.features.encoder import Encoder
from plankton_study.images.splits import Splits
from plankton_study.probes import metrics
from plankton_study.probes.metrics import Estimate
from plankton_study.probes.result import ProbeResult
from plankton_study.probes.ridge import ridge_grid
from plankton_study.probes.selection import candidate_cells, near_best, probed_parts
from plankton_study.run.study import Study


def evaluate(
    study: Study,
    splits: Splits,
    result: ProbeResult,
    part: str,
    head: str = "linear",
    adjusted: bool = False,
    minus: ProbeResult | None = None,
    taxa: tuple[str, ...] | None = None,
) -> dict[str, Estimate]:
    """Return accuracy, macro_f1 and balanced_accuracy of a part with 95 % intervals.

    Args:
        study: provides the number of bootstrap draws.
        splits: splits of the part's images; their groups are resampled.
        result: the result of a probe.
        part: a key of `result.rows`.
        head, adjusted: see `ProbeResult.named`.
        minus: another encoder's result; the estimates are then paired differences to it.
        taxa: evaluate only these taxa, see `metrics.scores`.

    Raises:
        ValueError: the two results are for different images.
    """
    rows = result.rows[part]
    other_predictions = None
    if minus is not None:
        if not np.array_equal(rows, minus.rows[part]):
            raise ValueError("paired differences need the same images")
        other_predictions = minus.named(part, head, adjusted)
    return metrics.estimates(
        truth=splits.taxa(rows).astype(str),
        predicted=result.named(part, head, adjusted),
        groups=splits.groups(rows),
        draws=study.profile.probes.draws,
        minus=other_predictions,
        taxa=taxa,
    )


def best_ridge_accuracy(
    study: Study, splits: Splits, encoder: Encoder, setting: str = "natural"
) -> tuple[float, float]:
    """Return the best validation accuracy of ridge on an encoder's cells, and its standard error.

    It needs no probe result, so it is a fast score for encoders that are only ranked.
    """
    parts = probed_parts(splits, setting)
    rows = {part: parts[part] for part in ("train", "validation")}
    taxa = {part: splits.taxa(index).astype(str) for part, index in rows.items()}
    bank = extract_features(study, encoder, splits, np.union1d(*rows.values()))
    cells = candidate_cells(encoder, "all", 0)
    grid = ridge_grid(bank, cells, rows, taxa, study.profile.probes)
    groups = splits.groups(rows["validation"])
    certainty = near_best(grid.is_right, groups, study.profile.probes.draws)
    return float(grid.table["accuracy"].max()), certainty.standard_error
