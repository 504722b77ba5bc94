"""Real runs of the demonstration, compared by the rule: a correct run agrees, wrong ones do not.

`compared_runs/` holds all values of six runs of the profile `demo`, written by `keep_values`:

- seed0, seed1 and seed2 were made on a processor with AVX512, with two threads.
- other_machine is seed 0 once more, with one thread and without AVX512 (ATEN_CPU_CAPABILITY=avx2,
  ONEDNN_MAX_CPU_ISA=AVX2, MKL_ENABLE_INSTRUCTIONS=AVX2, NPY_DISABLE_CPU_FEATURES for NumPy), so
  that every sum is rounded differently.
- other_seed is seed 0 with a planted error: `make_encoder` returned the encoders of seed 1.
- shuffled_labels is seed 0 with another one: `Splits.taxa` exchanged the taxa of 5 % of the images,
  in training, validation and test alike.
"""

from pathlib import Path

import pandas as pd
import pytest
from stored_runs import agreement

RUNS = Path(__file__).with_name("compared_runs")
SEEDS = ("seed0", "seed1", "seed2")
NUMBERS = ["value", "low", "high", "error", "n", "p"]


def keep_values(run_folder: Path, name: str) -> None:
    """Store all values of a run, to be read by `kept_values`."""
    values = agreement.all_values(agreement.StoredRun(run_folder))
    table = pd.DataFrame.from_dict(values, "index").rename_axis("name").reset_index()
    # without the time of writing, so that the same values give the same file
    table.to_csv(RUNS / f"{name}.csv.gz", index=False, compression={"method": "gzip", "mtime": 0})


def kept_values(name: str) -> dict[str, dict]:
    """Return the values of a run as `agreement.all_values` does."""
    table = pd.read_csv(RUNS / f"{name}.csv.gz", dtype=str, keep_default_na=False)
    numbers = {column: pd.to_numeric(table[column], errors="coerce") for column in NUMBERS}
    return table.assign(**numbers).set_index("name").to_dict("index")


@pytest.fixture(scope="module")
def verdicts():
    """A function that judges a run by the published seeds: name of a value → verdict."""
    seeds = [kept_values(name) for name in SEEDS]

    def judge(name: str) -> pd.Series:
        return pd.Series(agreement.Rule(seeds, seeds[0], kept_values(name)).judge_all())

    return judge


def failed(verdicts: pd.Series) -> list[str]:
    """Return the names of the values that do not hold."""
    return list(verdicts.index[verdicts.isin(agreement.FAILED)])


def test_a_correct_run_on_another_machine_agrees(verdicts):
    of_machine = verdicts("other_machine")
    assert failed(of_machine) == []
    assert (of_machine == agreement.BEYOND).sum() < 5
    # it is another machine: rounding changed trained networks, so many values are not the same
    assert (of_machine == agreement.AGREES).sum() > 300


def test_intervals_over_test_images_alone_would_refuse_a_correct_run():
    """How far two trainings of the same thing lie apart is more than test images can show."""
    published, live = kept_values("seed0"), kept_values("other_machine")
    of_one_seed = pd.Series(agreement.Rule([published], published, live).judge_all())
    assert len(failed(of_one_seed)) > 20


def test_features_of_another_seed_are_found(verdicts):
    """The networks give themselves away by the losses of their first batches."""
    names = failed(verdicts("other_seed"))
    first_losses = [name for name in names if name.endswith("first loss")]
    published = kept_values("seed0").values()
    networks = sum(value["quantity"] == "first loss" for value in published)
    # by chance, one of them may begin with nearly the same loss
    assert len(first_losses) >= networks - 2 > 30


def test_shuffled_labels_are_found(verdicts):
    """Untrained encoders score worse, and there are other numbers of images of some taxa."""
    names = failed(verdicts("shuffled_labels"))
    assert len(names) > 20
    assert any("random U-Net" in name or "pixels + PCA" in name for name in names)
    assert any("macro-F1" in name for name in names)
