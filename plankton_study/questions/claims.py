"""The claims: the evidence for each, how training seeds are combined, and the rules for judging.

The rules, for the differences between diffusion and other encoders (diffusion minus the other, in
the metric of the profile, by default macro-F1):

- *Competitive with supervised* is met if the lower bound of the difference is above -3 points, and
  refuted if the upper bound is below. It is judged twice: against the supervised network as it was
  trained, end to end, and against a linear probe on its features, chosen like diffusion's.
- *Competitive with a network off the shelf* has the same rule, against the best encoder that was
  trained elsewhere. It is not a claim of the paper, and not a controlled comparison: such a network
  saw other images, and far more of them.
- *Better than self-supervised* is met if the difference to each such encoder is above 0 after
  Holm's correction, and refuted if one of them is better.
- *k-means recovers classes* has the same rule for normalised mutual information, against every
  encoder that saw no labels.
- *16 × 16 maps are best* is met if all cells that cannot be distinguished from the best, at equal
  width, have 16 × 16 maps, and refuted if none has.

A claim that is neither met nor refuted is undecided.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import t

from plankton_study.features.registry import SAW_NO_LABELS, encoder_family
from plankton_study.images.splits import Splits
from plankton_study.probes import intervals
from plankton_study.probes.probe import probe_encoder
from plankton_study.probes.result import END_TO_END, ProbeResult, evaluate
from plankton_study.questions.clusters import cluster_encoder
from plankton_study.questions.compare import (
    ProbeResults,
    best_on_validation,
    compare_encoders,
)
from plankton_study.questions.shift.other_sets import (
    Crossing,
    coarse_results,
    crossings,
    fine_result,
)
from plankton_study.questions.training.variants import set_for_maps, title_for_maps
from plankton_study.run.files import read_json
from plankton_study.run.study import Study

MAPS = "16 × 16 maps are best"
AS_TRAINED = "competitive with supervised, as trained"
RE_PROBED = "competitive with supervised, re-probed"
OFF_THE_SHELF = "competitive with a network off the shelf"
BETTER = "better than self-supervised"
CLUSTERS = "k-means recovers classes"
GEOGRAPHY = "geographical shift, one instrument"

#: the two claims about supervised networks → the head of the network that is judged
COMPETITIVE = {AS_TRAINED: END_TO_END, RE_PROBED: "linear"}
#: the claims about the one rival that is best on validation images, which may differ between seeds
ABOUT_BEST = (*COMPETITIVE, OFF_THE_SHELF)

BEST_SIDE = 16  # px, of the maps that the paper found best
MARGIN = 0.03  # of the score, that a competitive encoder may lose
LEVEL = intervals.LEVEL
POWER = 0.8  # of the test for the smallest difference
SEEDS_NEEDED = 3
SIDE_NEEDED = 64  # px, for the claim about maps

MET, REFUTED, UNDECIDED = "met", "refuted", "undecided"
VERDICTS = {MET: "supported", REFUTED: "not supported", UNDECIDED: "undecided"}
ALL_OTHER_MAPS = "all other maps"

#: columns that identify a difference, and those that hold its value
NAMES = ["claim", "place", "rival"]
NUMBERS = ["value", "low", "high", "n", "p"]


# --- the evidence for the claims in one run


class Place(NamedTuple):
    """Where encoders are compared: a setting, a shifted part, or another set.

    Attributes:
        name: as shown in the ledger.
        splits: splits of the predicted images.
        results: encoder → result of its probe.
        as_trained: supervised encoder → result that has its own head "end to end".
        part: key of the results' rows.
    """

    name: str
    splits: Splits
    results: ProbeResults
    as_trained: ProbeResults
    part: str

    @property
    def home(self) -> str:
        """What the probes were fitted on: a set, with its shifted parts, or a pair of sets."""
        is_shifted_or_home = self.part in self.splits.parts
        return self.splits.collection.name if is_shifted_or_home else self.name


def places(study: Study, sets: dict[str, Splits]) -> list[Place]:
    """Return all places where the claims about encoders are judged.

    They are the two settings of the first set, every shifted part, and every pair of sets in which
    the probes of one predict the other.
    """
    first = next(iter(sets.values()))
    all_places = []
    for setting in ("balanced", "natural"):
        results = compare_encoders(study, first, setting).results
        all_places.append(Place(setting, first, results, _with_own_head(results), "test"))
    for name, splits in sets.items():
        if splits.shifts:
            results = compare_encoders(study, splits, "natural").results
            trained = _with_own_head(results)
            for part in splits.shifts:
                if part in results["diffusion"].rows:
                    all_places.append(Place(f"{name}: {part}", splits, results, trained, part))
    return all_places + [_place_across(study, crossing) for crossing in crossings(study, sets)]


def _with_own_head(results: ProbeResults) -> ProbeResults:
    return {name: result for name, result in results.items() if END_TO_END in result.heads}


def _place_across(study: Study, crossing: Crossing) -> Place:
    """Return the place where probes of one set predict coarse classes of another.

    A network as trained knows only the fine classes of its set; their probabilities are summed.
    """
    away = {name: result for name, (_, result) in coarse_results(study, crossing).items()}
    fine = {name: fine_result(study, crossing, name) for name in away}
    trained = _with_own_head(fine)
    return Place(crossing.title, crossing.away_splits, away, trained, crossing.away)


def claim_differences(study: Study, sets: dict[str, Splits]) -> pd.DataFrame:
    """Return the differences that each claim rests on in this run.

    Returns:
        Columns claim, place, rival, and value, low, high (as shares of 1), n, p (not corrected).
        Of the claim about maps the value is a share without an interval, and n a number of cells.
    """
    first = next(iter(sets.values()))
    all_places = places(study, sets)
    lines = [_share_of_best_maps(*set_for_maps(study, first))]
    for claim, head in COMPETITIVE.items():
        for place in all_places:
            rivals = place.as_trained if claim == AS_TRAINED else place.results
            rival = best_on_validation(study, rivals, "labels", head)
            lines.append(_line(claim, place.name, rival, _lead(study, place, rivals, rival, head)))
    lines += [_off_the_shelf(study, place) for place in all_places if _has_elsewhere(study, place)]
    for place in all_places:
        for rival in place.results:
            if encoder_family(study, rival) == "self-supervised":
                lead = _lead(study, place, place.results, rival, "linear")
                lines.append(_line(BETTER, place.name, rival, lead))
    lines += _cluster_differences(study, first)
    return pd.DataFrame(lines)


def _has_elsewhere(study: Study, place: Place) -> bool:
    return any(encoder_family(study, name) == "elsewhere" for name in place.results)


def _off_the_shelf(study: Study, place: Place) -> dict[str, Any]:
    rival = best_on_validation(study, place.results, "elsewhere")
    lead = _lead(study, place, place.results, rival, "linear")
    return _line(OFF_THE_SHELF, place.name, rival, lead)


def _line(claim: str, place: str, rival: str, estimate: intervals.Estimate) -> dict[str, Any]:
    numbers = {key: getattr(estimate, key) for key in NUMBERS}
    return {"claim": claim, "place": place, "rival": rival, **numbers}


def _lead(
    study: Study, place: Place, rivals: ProbeResults, rival: str, head: str
) -> intervals.Estimate:
    """Return diffusion's linear probe minus a head of another encoder, in the profile's metric."""
    differences = evaluate(
        study,
        place.splits,
        place.results["diffusion"],
        place.part,
        minus=rivals[rival],
        minus_head=head,
    )
    return differences[study.profile.probes.metric]


def _share_of_best_maps(study: Study, splits: Splits) -> dict[str, Any]:
    """Return the share of 16 × 16 maps among the near-best cells at equal width."""
    grid = probe_encoder(study, splits, "diffusion").grid
    sides = grid["resolution"][grid["near_best_equal_width"]]
    share = float((sides == BEST_SIDE).mean())
    estimate = intervals.Estimate(share, np.nan, np.nan, len(sides))
    return _line(MAPS, "", ALL_OTHER_MAPS, estimate)


def _cluster_differences(study: Study, splits: Splits) -> list[dict[str, Any]]:
    results = compare_encoders(study, splits, "natural").results
    unlabelled = [name for name in results if encoder_family(study, name) in SAW_NO_LABELS]
    clusters = {name: cluster_encoder(study, splits, name) for name in unlabelled}
    diffusion = clusters.pop("diffusion")
    return [
        _line(CLUSTERS, "", name, diffusion.difference(other)) for name, other in clusters.items()
    ]


def estimates_of(table: pd.DataFrame) -> list[intervals.Estimate]:
    """Return the estimates in the rows of `claim_differences` or `join_seeds`.

    That of the claim about maps is a share, not a difference.
    """
    estimates = []
    for row in table.to_dict("records"):
        p = None if row["claim"] == MAPS else row["p"]
        estimates.append(
            intervals.Estimate(row["value"], row["low"], row["high"], int(row["n"]), p)
        )
    return estimates


def table_of_differences(table: pd.DataFrame) -> pd.DataFrame:
    """Return `claim_differences` or `join_seeds` in the form that is stored and shown.

    Returns:
        Columns claim, place, rival, difference (points), and share of cells (%) for the claim
        about maps.
    """
    is_share = table["claim"] == MAPS
    estimates = pd.Series(estimates_of(table), index=table.index, dtype=object)
    shown = table[NAMES].copy()
    shown["difference (points)"] = estimates.mask(is_share, None)
    shown["share of cells (%)"] = estimates.where(is_share, None)
    return shown


class ProbeFits(NamedTuple):
    """How well the grid of regularisation strengths served the selected probes.

    Attributes:
        count: number of selected probes, over encoders, places and draws of labels.
        not_converged: number of logistic regressions, among all candidates, that did not converge.
        at_an_end: number of selected probes with the smallest or the largest strength.
    """

    count: int
    not_converged: int
    at_an_end: int


def probe_fits(study: Study, sets: dict[str, Splits]) -> ProbeFits:
    """Return whether any probe of this run may be worse than the profile allows."""
    config = study.profile.probes
    ends = {
        "LDA": (min(config.penalties), max(config.penalties)),
        "logistic": (min(config.logistic), max(config.logistic)),
    }
    selected = {}
    for place in places(study, sets):
        for name, result in place.results.items():
            for number, draw in enumerate(result.of_each_draw):
                selected[place.home, name, result.setting, number] = draw
    of_maps = _probe_for_maps(study, sets)
    selected[title_for_maps(study), "diffusion", of_maps.setting, 0] = of_maps
    return ProbeFits(
        count=len(selected),
        not_converged=int(sum((~draw.finalists["converged"]).sum() for draw in selected.values())),
        at_an_end=sum(
            draw.linear.strength in ends[draw.linear.method] for draw in selected.values()
        ),
    )


def _probe_for_maps(study: Study, sets: dict[str, Splits]) -> ProbeResult:
    """Return the probe of the denoiser that the claim about maps is judged from."""
    first = next(iter(sets.values()))
    return probe_encoder(*set_for_maps(study, first), "diffusion")


def trainings_table(study: Study, sets: dict[str, Splits]) -> pd.DataFrame:
    """Return every network that the claims rest on, how it was made, and its cost.

    The loss of the first batch depends on the initial weights and on the first images, so it
    identifies a training: another seed, other images or other labels give another value.

    Returns:
        One row for each network; columns set, encoder, labels ("none", or the setting and which
        random draw of its labels), first loss, made on (the device, and the version of torch if
        it is recorded), and seconds.
    """
    probes = {}
    for place in places(study, sets):
        for name, result in place.results.items():
            if place.part in place.splits.parts:
                probes[place.home, name, result.setting] = result
    of_maps = _probe_for_maps(study, sets)
    probes[title_for_maps(study), "diffusion", of_maps.setting] = of_maps
    networks: dict[Path, tuple] = {}
    for (home, name, setting), result in probes.items():
        saw_labels = encoder_family(study, name) not in SAW_NO_LABELS
        for number, draw in enumerate(result.of_each_draw, start=1):
            cost, folder = draw.encoder.cost, draw.encoder.folder
            if "first_loss" in cost and folder not in networks:
                labels = f"{setting}, draw {number}" if saw_labels else "none"
                made_on, seconds = _made_on(folder), round(cost["seconds"])
                networks[folder] = (home, name, labels, cost["first_loss"], made_on, seconds)
    columns = ["set", "encoder", "labels", "first loss", "made on", "seconds"]
    return pd.DataFrame(networks.values(), columns=columns)


def _made_on(folder: Path) -> str:
    """Return the device that trained a network, such as "cuda, torch 2.11.0"."""
    origin = read_json(folder / "origin.json")
    version = origin.get("libraries", {}).get("torch")
    return f"{origin['device']}, torch {version}" if version else origin["device"]


# --- all training seeds


def join_seeds(runs: Mapping[int, pd.DataFrame]) -> pd.DataFrame:
    """Combine the differences that the claims rest on over training seeds.

    The value is the mean over seeds, with the error of `intervals.mean_of_seeds`. Differences that
    are missing in some seeds are left out. The supervised rival and the one off the shelf may
    differ between seeds, since each is the best one on validation images.

    Args:
        runs: seed → table of `claim_differences`.

    Returns:
        Columns claim, place, rival; value, low, high; n, the smallest number of images; p, after
        Holm's correction within a claim and place; error, the standard error; and freedom, its
        degrees of freedom.
    """
    table = pd.concat(runs, names=["seed", "row"]).reset_index()
    is_about_best = table["claim"].isin(ABOUT_BEST)
    table["role"] = table["rival"].mask(is_about_best, "best on validation")
    by_role = table.groupby(["claim", "place", "role"], sort=False)
    complete = table[by_role["seed"].transform("nunique") == len(runs)]
    joined = pd.DataFrame(
        [
            _join_difference(claim, place, rows)
            for (claim, place, _), rows in complete.groupby(["claim", "place", "role"], sort=False)
        ]
    )
    by_place = joined.groupby(["claim", "place"], sort=False)["p"]
    joined["p"] = by_place.transform(lambda p: intervals.holm(p.to_numpy(dtype=float)))
    return joined


def incomplete_rivals(runs: Mapping[int, pd.DataFrame]) -> list[str]:
    """Return the rivals that `join_seeds` leaves out, since some seeds lack them."""
    table = pd.concat(runs, names=["seed", "row"]).reset_index()
    others = table[~table["claim"].isin(ABOUT_BEST)]
    seeds = others.groupby(["claim", "place", "rival"])["seed"].transform("nunique")
    return sorted(set(others["rival"][seeds < len(runs)]))


def _join_difference(claim: str, place: str, rows: pd.DataFrame) -> dict[str, Any]:
    """Combine one difference over seeds, given one row for each seed."""
    rivals = " or ".join(dict.fromkeys(rows["rival"]))
    line: dict[str, Any] = {"claim": claim, "place": place, "rival": rivals}
    if claim == MAPS:  # a share, of which the error is not known
        cells = int(rows["n"].sum())
        share = (rows["value"] * rows["n"]).sum() / cells
        unknown = dict.fromkeys(("low", "high", "p", "error", "freedom"), np.nan)
        return line | {"value": share, "n": cells} | unknown
    mean = intervals.mean_of_seeds(*rows[["value", "low", "high"]].to_numpy(dtype=float).T)
    p = rows["p"].iloc[0] if len(rows) == 1 else _p_of(mean)
    return line | mean._asdict() | {"n": int(rows["n"].min()), "p": p}


def _p_of(mean: intervals.SeedMean) -> float:
    """Return the two-sided p-value of a difference; NaN if it has no interval."""
    if mean.error == 0:
        return float(mean.value == 0)
    return float(2 * t.sf(abs(mean.value) / mean.error, mean.freedom))


def detectable_difference(error: float, freedom: float) -> float:
    """Return the smallest true difference that would be detected with 80 % power.

    Its estimate would be significant (two-sided, 5 %, one comparison) in 80 % of repetitions:
    (t at 97.5 % + t at 80 %) times the standard error.
    """
    return float((t.ppf(1 - LEVEL / 2, freedom) + t.ppf(POWER, freedom)) * error)


def detectable_differences(joined: pd.DataFrame) -> pd.Series:
    """Return the detectable difference of each row of `join_seeds`, a share of 1.

    It is NaN where the error is not known, as for the claim about maps.
    """
    return joined.apply(lambda row: detectable_difference(row["error"], row["freedom"]), axis=1)


# --- the rules


def judge_maps(differences: pd.DataFrame) -> str:
    """Judge whether 16 × 16 maps are best, from their share among the best cells."""
    share = differences["value"]
    if (share == 1).all():
        return MET
    if (share == 0).all():
        return REFUTED
    return UNDECIDED


def judge_competitive(differences: pd.DataFrame) -> str:
    """Judge whether diffusion is worse by at most the margin."""
    if (differences["low"] > -MARGIN).all():
        return MET
    if (differences["high"] < -MARGIN).all():
        return REFUTED
    return UNDECIDED


def judge_better(differences: pd.DataFrame) -> str:
    """Judge whether diffusion is better than each rival."""
    is_clear = differences["p"] < LEVEL
    if (is_clear & (differences["value"] > 0)).all():
        return MET
    if (is_clear & (differences["value"] < 0)).any():
        return REFUTED
    return UNDECIDED


RULES: dict[str, Callable[[pd.DataFrame], str]] = {
    MAPS: judge_maps,
    AS_TRAINED: judge_competitive,
    RE_PROBED: judge_competitive,
    OFF_THE_SHELF: judge_competitive,
    BETTER: judge_better,
    CLUSTERS: judge_better,
}


class Conditions(NamedTuple):
    """The properties of a run that decide whether a verdict is possible.

    Attributes:
        synthetic: whether any images are synthetic.
        seeds: number of training seeds.
        size: side of the images that the claim about maps is judged from, px.
        over_linear_filter: largest error of the denoisers of the sets over that of a linear filter.
        maps_over_linear_filter: the same of the denoiser that the claim about maps is judged from.
    """

    synthetic: bool
    seeds: int
    size: int
    over_linear_filter: float
    maps_over_linear_filter: float

    def against_verdict(self, claim: str) -> list[str]:
        """Return the reasons why a claim cannot be judged."""
        reasons = []
        if self.synthetic:
            reasons.append("synthetic images")
        if self.seeds < SEEDS_NEEDED:
            reasons.append(f"{seeds_text(self.seeds)}, {SEEDS_NEEDED} needed")
        ratio = self.maps_over_linear_filter if claim == MAPS else self.over_linear_filter
        if ratio > 1:
            reasons.append("a denoiser that is worse than a linear filter")
        if claim == MAPS and self.size < SIDE_NEEDED:
            reasons.append(f"images of {self.size} px, {SIDE_NEEDED} needed")
        return reasons

    def not_judged(self, claim: str) -> str:
        """Return "not judged" with the reasons; "" if the claim can be judged."""
        reasons = self.against_verdict(claim)
        return f"not judged ({'; '.join(reasons)})" if reasons else ""


def seeds_text(seeds: int) -> str:
    """Return a number of training seeds in words."""
    return "one training seed" if seeds == 1 else f"{seeds} training seeds"


def judge(joined: pd.DataFrame, conditions: Conditions) -> pd.DataFrame:
    """Judge every claim by its rule.

    Args:
        joined: from `join_seeds`.
        conditions: of the run.

    Returns:
        Columns claim, place, by the rule, and verdict ("not judged (…)" if a condition is not
        met). The last row is the claim that none of the sets can test.
    """
    lines = []
    for (claim, place), rows in joined.groupby(["claim", "place"], sort=False):
        word = RULES[claim](rows)
        verdict = conditions.not_judged(claim) or VERDICTS[word]
        lines.append((claim, place, word, verdict))
    lines.append((GEOGRAPHY, "", "not tested", "not judged (no such set)"))
    return pd.DataFrame(lines, columns=["claim", "place", "by the rule", "verdict"])


def of_the_paper(judged: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `judge` about claims that the paper makes."""
    return judged[judged["claim"] != OFF_THE_SHELF]


def count_words(words: Iterable[str]) -> str:
    """Return how often each outcome of the rules occurs: "1 met, 5 refuted, 6 undecided"."""
    counts = pd.Series(list(words)).value_counts()
    return ", ".join(f"{counts.get(word, 0)} {word}" for word in (MET, REFUTED, UNDECIDED))


def count_verdicts(verdicts: Iterable[str]) -> str:
    """Return how often each verdict was passed, or "none"."""
    judged = [verdict for verdict in verdicts if not verdict.startswith("not judged")]
    counts = pd.Series(judged, dtype=object).value_counts()
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items()) or "none"


def claim_title(claim: str, place: str) -> str:
    """Return a claim with its place, as shown in the ledger."""
    return f"{claim} ({place})" if place else claim


def ledger_table(joined: pd.DataFrame, judged: pd.DataFrame) -> pd.DataFrame:
    """Return the ledger as readable text, with a row for each claim and place.

    Returns:
        Columns claim, statistic (95 %), detectable difference (points), by the rule, verdict.
    """
    lines = []
    for row in judged.to_dict("records"):
        is_row = (joined["claim"] == row["claim"]) & (joined["place"] == row["place"])
        lines.append(
            {
                "claim": claim_title(row["claim"], row["place"]),
                "statistic (95 %)": statistic_text(joined[is_row]),
                "detectable difference (points)": _power_text(joined[is_row]),
                "by the rule": row["by the rule"],
                "verdict": row["verdict"],
            }
        )
    return pd.DataFrame(lines)


def statistic_text(differences: pd.DataFrame) -> str:
    """Return the differences of one claim and place in words."""
    if differences.empty:
        return "no instrument at two real sites"
    estimates = estimates_of(differences)
    if differences["claim"].iloc[0] == MAPS:
        share, cells = estimates[0].value, estimates[0].n
        best = round(share * cells)
        return f"{best} of {cells} cells near the best are of {BEST_SIDE} px"
    pairs = zip(estimates, differences["rival"], strict=True)
    return "; ".join(f"{estimate} to {rival}" for estimate, rival in pairs)


def _power_text(differences: pd.DataFrame) -> str:
    if differences.empty or differences["claim"].iloc[0] == MAPS:
        return ""
    points = 100 * detectable_differences(differences)
    return "; ".join(
        "unknown" if np.isnan(value) else intervals.number_text(value, 1) for value in points
    )
