"""The result of a probe: the fitted model, the selection, its predictions, and their evaluation."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file
from scipy.special import softmax

from plankton_study.features.bank import FeatureBank
from plankton_study.features.interface import HEAD, Cell, Encoder, joined_cells
from plankton_study.images.splits import Splits
from plankton_study.probes import metrics
from plankton_study.probes.intervals import Estimate, units_of
from plankton_study.probes.linear.scaling import ScaledFeatures, Scaler
from plankton_study.run.errors import StudyError
from plankton_study.run.files import read_json, write_json
from plankton_study.run.study import Study

#: the head that a supervised network was trained with
END_TO_END = "end to end"


@dataclass(frozen=True)
class LinearProbe:
    """A fitted linear probe, with everything it needs to classify images by their features.

    Attributes:
        cell: the cell whose features it uses.
        classes: (K,) names of the classes that it predicts.
        scaler: the scaling of the training features.
        weights: (C, F) float32, for standardised features and F fitted classes.
        bias: (F,) float32.
        method: how it was fitted, "LDA" or "logistic".
        strength: the regularisation: the penalty of LDA, or the C of logistic regression.
        merging: (F, K) float32 of zeros and ones: which fitted class has which name, see
            `merge_classes`. None: each fitted class has its own name, F = K.
    """

    cell: Cell
    classes: np.ndarray
    scaler: Scaler
    weights: np.ndarray
    bias: np.ndarray
    method: str
    strength: float
    merging: np.ndarray | None = None

    def __post_init__(self) -> None:
        fitted = self.weights.shape[1]
        names = fitted if self.merging is None else self.merging.shape[1]
        if self.bias.shape != (fitted,) or self.classes.shape != (names,):
            raise ValueError("weights, bias and class names differ in their number of classes")

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Return class probabilities (n, K) float32 for features (n, C) of the cell."""
        return self.probabilities_of_scaled(self.scaler.transform(features))

    def probabilities_of_scaled(self, scaled: np.ndarray) -> np.ndarray:
        """Return class probabilities (n, K) float32 for standardised features (n, C)."""
        probabilities = softmax(scaled @ self.weights + self.bias, axis=1)
        if self.merging is None:
            return probabilities
        return merge_classes(probabilities, self.merging)

    def save(self, folder: Path) -> None:
        """Write probe.safetensors and probe.json into a folder; nothing is pickled."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {
            "mean": self.scaler.mean,
            "scale": self.scaler.scale,
            "weights": self.weights,
            "bias": self.bias,
        }
        if self.merging is not None:
            arrays["merging"] = self.merging
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        save_file(contiguous, folder / "probe.safetensors")
        about = {
            "layer": self.cell.layer,
            "timestep": self.cell.timestep,
            "classes": self.classes.tolist(),
            "method": self.method,
            "strength": self.strength,
        }
        write_json(folder / "probe.json", about)

    @classmethod
    def load(cls, folder: Path) -> "LinearProbe":
        """Read a probe that `save` wrote.

        Raises:
            StudyError: the folder does not hold a complete probe.
        """
        try:
            arrays = load_file(folder / "probe.safetensors")
            about = read_json(folder / "probe.json")
            return cls(
                cell=Cell(about["layer"], about["timestep"]),
                classes=np.array(about["classes"]),
                scaler=Scaler(arrays["mean"], arrays["scale"]),
                weights=arrays["weights"],
                bias=arrays["bias"],
                method=about["method"],
                strength=about["strength"],
                merging=arrays.get("merging"),
            )
        except Exception as error:  # safetensors, json and the disk raise different errors
            raise StudyError(f"{folder} holds no readable probe ({error}): save it again") from None


def head_probabilities(bank: FeatureBank, rows: np.ndarray) -> np.ndarray:
    """Return the class probabilities (n, K) of an encoder's own classifier."""
    return softmax(bank.take(HEAD, rows), axis=1)


def merge_classes(probabilities: np.ndarray, merging: np.ndarray) -> np.ndarray:
    """Return the probabilities of merged classes: those of classes with the same name are summed.

    Classes without a name are left out, as if the probe knew that they cannot occur.

    Args:
        probabilities: (n, F) class probabilities.
        merging: (F, K) of zeros and ones: which class has which name.
    """
    merged = (probabilities @ merging).clip(1e-12)
    return merged / merged.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class ProbeResult:
    """The result of one encoder's probes, in one setting of one set.

    Attributes:
        name: name of the encoder.
        encoder: the encoder.
        setting: "natural" or "balanced".
        budget: training budget of the encoder, see `make_encoder`.
        linear: the fitted probe that was selected on validation images.
        grid: a row for each candidate cell, in the encoder's order: layer, timestep; accuracy and
            macro_f1 of the best LDA probe on validation images, and its penalty; equal_width
            (its score after PCA to a common width); near_best_equal_width (whether it cannot be
            distinguished from the best of these); stage, resolution, channels, order of the layer.
        finalists: a row for each fit on one of the best cells: layer, timestep, method ("LDA" or
            "logistic"), strength (penalty or C), iterations, converged, and validation accuracy
            and macro_f1. Searches over joined layers and "all by LDA" have LDA only.
        validation: head → accuracy and macro_f1 on validation images.
        equal_width: the common width, the smallest number of features among the cells.
        standard_error: standard error of the best LDA probe's validation score.
        near_best: cell → share of bootstrap draws won, for the cells that cannot be distinguished
            from the best, see `selection.near_best`.
        rows: part → (n,) rows of the collection.
        heads: head → part → (n, K) float32 class probabilities, columns as in `classes`. Heads
            are "linear"; "end to end" for encoders that learnt from labels; and after the
            search "all" also "weighted" (classes weighted equally) and "k-NN".
        prior: (K,) the shares of the classes that the linear probe's probabilities hold: those of
            the training images, and for LDA the same flattened as its probabilities are.
        repeats: the results of the other random draws of the labelled images, if there are any.
    """

    name: str
    encoder: Encoder
    setting: str
    budget: str
    linear: LinearProbe
    grid: pd.DataFrame
    finalists: pd.DataFrame
    validation: dict[str, dict[str, float]]
    equal_width: int
    standard_error: float
    near_best: dict[str, float]
    rows: dict[str, np.ndarray]
    heads: dict[str, dict[str, np.ndarray]]
    prior: np.ndarray
    repeats: tuple["ProbeResult", ...] = ()

    @property
    def of_each_draw(self) -> tuple["ProbeResult", ...]:
        """This result and its repeats, one for each random draw of the labelled images."""
        return self, *self.repeats

    @property
    def selected(self) -> Cell:
        """The cell that was selected on validation images."""
        return self.linear.cell

    @property
    def classes(self) -> np.ndarray:
        """The taxa that the probe can predict, (K,)."""
        return self.linear.classes

    def predicted_taxa(self, part: str, head: str = "linear", adjusted: bool = False) -> np.ndarray:
        """Return the taxa (n,) that a head predicts for the images of a part.

        Args:
            part: a key of `rows`.
            head: a key of `heads`.
            adjusted: divide by the prior first (Menon et al. 2021).
        """
        probabilities = self.heads[head][part]
        if adjusted:
            probabilities = probabilities / self.prior
        return self.classes[probabilities.argmax(axis=1)]

    def predict(self, images: np.ndarray, ids: list[str] | None = None) -> np.ndarray:
        """Return the predicted taxa (n,) of any images.

        Args:
            images: (n, R, R) uint8, prepared like those of the study.
            ids: ids of the images; needed if they seed the noise (noise = "by_image").
        """
        return self.classes[self.predict_probabilities(images, ids).argmax(axis=1)]

    def predict_probabilities(
        self, images: np.ndarray, ids: list[str] | None = None, batch_size: int = 32
    ) -> np.ndarray:
        """Return class probabilities (n, K) float32 for any images; see `predict`."""
        if ids is None:
            self._refuse_missing_ids()
            ids = [""] * len(images)
        cells = joined_cells(self.selected, self.encoder.cells)
        parts = []
        for start in range(0, len(images), batch_size):
            batch = slice(start, start + batch_size)
            features = self.encoder.encode(images[batch], ids[batch], cells)
            joined = np.concatenate([features[cell] for cell in cells], axis=1)
            parts.append(self.linear.probabilities(joined))
        if not parts:
            return np.zeros((0, len(self.classes)), np.float32)
        return np.concatenate(parts)

    def _refuse_missing_ids(self) -> None:
        if self.encoder.identity.get("noise") == "by_image":
            raise StudyError(
                f"{self.name} seeds noise by the ids of images: pass ids, one for each image"
            )

    def features(self, bank: FeatureBank, rows: np.ndarray) -> ScaledFeatures:
        """Return the standardised features of the selected cell for rows of a bank."""
        return ScaledFeatures(bank, self.selected, rows, self.linear.scaler)

    def probabilities(self, bank: FeatureBank, rows: np.ndarray) -> np.ndarray:
        """Return class probabilities (n, K) float32 for rows of a bank of the same encoder."""
        blocks = self.features(bank, rows)
        return np.concatenate([self.linear.probabilities_of_scaled(block) for block in blocks])

    def on_parts(
        self, banks: dict[str, FeatureBank], parts: dict[str, np.ndarray]
    ) -> "ProbeResult":
        """Return the result for other parts, predicted by the linear probe and by an own head.

        Args:
            banks: part → features of the same encoder, perhaps of another collection.
            parts: part → rows of its bank.
        """
        heads = {
            "linear": {part: self.probabilities(banks[part], rows) for part, rows in parts.items()}
        }
        if END_TO_END in self.heads:
            heads[END_TO_END] = {
                part: head_probabilities(banks[part], rows) for part, rows in parts.items()
            }
        return replace(self, rows=parts, heads=heads, repeats=())

    def keep_images(self, part: str, is_kept: np.ndarray) -> "ProbeResult":
        """Return the result for some images of one part only.

        Args:
            part: a key of `rows`.
            is_kept: (n,) bool.
        """
        heads = {head: {part: parts[part][is_kept]} for head, parts in self.heads.items()}
        return replace(self, rows={part: self.rows[part][is_kept]}, heads=heads, repeats=())


def evaluate(
    study: Study,
    splits: Splits,
    result: ProbeResult,
    part: str,
    head: str = "linear",
    adjusted: bool = False,
    minus: ProbeResult | None = None,
    minus_head: str | None = None,
    taxa: tuple[str, ...] | None = None,
) -> dict[str, Estimate]:
    """Return accuracy, macro_f1 and balanced_accuracy of a part with 95 % intervals.

    Args:
        study: provides the number of bootstrap draws.
        splits: splits of the part's images, which are resampled.
        result: the result of a probe; the scores are means over its draws of labels.
        part: a key of `result.rows`.
        head, adjusted: see `ProbeResult.predicted_taxa`.
        minus: another encoder's result; the estimates are then paired differences to it.
        minus_head: the head of the other encoder; None: the same.
        taxa: evaluate only these taxa, see `metrics.scores`.

    Raises:
        ValueError: the two results are for different images.
    """
    rows = result.rows[part]
    other_predictions = None
    if minus is not None:
        if not np.array_equal(rows, minus.rows[part]):
            raise ValueError("paired differences need the same images")
        other_predictions = _predictions(minus, part, minus_head or head, adjusted)
    return metrics.estimates(
        truth=splits.taxa(rows).astype(str),
        predicted=_predictions(result, part, head, adjusted),
        units=units_of(splits, rows),
        draws=study.profile.probes.draws,
        minus=other_predictions,
        taxa=taxa,
    )


def _predictions(result: ProbeResult, part: str, head: str, adjusted: bool) -> np.ndarray:
    """Return the taxa predicted by the probe of each draw of labels, (L, n)."""
    return np.array([draw.predicted_taxa(part, head, adjusted) for draw in result.of_each_draw])
