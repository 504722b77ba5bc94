"""Which taxa are caught where and when."""

from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from plankton_study.images.synthetic.organisms import Rng
from plankton_study.images.synthetic.parameters import STRATA, TAXA

SECONDS_BETWEEN_IMAGES = 7
IMAGES_OF_A_SAMPLE = 9  # on average


def true_mix(site: str, month: int) -> dict[str, float]:
    """Return the expected share of each taxon at a site ("bay" or "sound") in a month (1 to 12)."""
    properties = [(taxon["share"], taxon["peak"], taxon["sound"]) for taxon in TAXA.values()]
    share, peak, factor = np.array(properties).T
    season = np.exp(1.1 * np.cos(2 * np.pi * (month - peak) / 12))
    share = share * season
    if site == "sound":
        share = share * factor
    return dict(zip(TAXA, (share / share.sum()).tolist(), strict=True))


def catch(images: int, seed: int) -> list[list[Any]]:
    """Return [taxon, site, camera, time, number of the sample] for each image.

    The taxa of a sample are drawn from `true_mix`.
    """
    rng = np.random.default_rng([seed, 0])
    rows: list[list[Any]] = []
    for stratum in STRATA.values():
        count = round(stratum["until"] * images) - len(rows)
        _sample_stratum(rows, stratum, count, rng)
    _lend_images_to_rare_taxa(rows, images, rng)
    return rows


def _sample_stratum(rows: list[list[Any]], stratum: dict[str, Any], count: int, rng: Rng) -> None:
    """Append the images of one site, camera and season: samples on random days."""
    site, camera = stratum["site"], stratum["camera"]
    start = datetime(2021, stratum["first"], 1, 6)
    days_in_season = (datetime(2021, stratum["last"] + 1, 1) - start).days + 1
    sampled_days = min(days_in_season, 1 + count // IMAGES_OF_A_SAMPLE)
    days = rng.choice(days_in_season, sampled_days, replace=False)
    for day, number in zip(*np.unique(rng.choice(days, count), return_counts=True), strict=True):
        time = start + timedelta(days=int(day), minutes=int(rng.integers(720)))
        sample = len(rows)
        mix = true_mix(site, time.month)
        taxa = rng.choice(list(mix), number, p=list(mix.values())).tolist()
        for position, taxon in enumerate(taxa):
            seconds = SECONDS_BETWEEN_IMAGES * position
            rows.append([taxon, site, camera, time + timedelta(seconds=seconds), sample])


def _lend_images_to_rare_taxa(rows: list[list[Any]], images: int, rng: Rng) -> None:
    """Turn images of the commonest taxon into rare taxa, so that even a small set can be split."""
    home = rows[: round(STRATA["home"]["until"] * images)]
    rng.shuffle(home)
    minimum = max(4, images // 300)
    for taxon in TAXA:
        present = sum(row[0] == taxon for row in rows)
        for _ in range(minimum - present):
            commonest = Counter(row[0] for row in rows).most_common(1)[0][0]
            next(row for row in home if row[0] == commonest)[0] = taxon
