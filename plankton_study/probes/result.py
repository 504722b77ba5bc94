"""What a probe gives: the fitted model, what was selected, and what it says of each part."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file
from scipy.special import softmax

from plankton_study.features.bank import FeatureBank
from plankton_study.features.encoder import Cell, Encoder
from plankton_study.probes.scaling import ScaledFeatures, Scaler
from plankton_study.run.errors import StudyError
from plankton_study.run.files import read_json, write_json


@dataclass(frozen=True)
class LinearProbe:
    """A fitted linear probe: everything it needs to name images by their features.

    Attributes:
        cell: whose features it reads.
        classes: (K,) taxa that it knows.
        scaler: of the training features.
        weights: (C, K) float32, of standardised features.
        bias: (K,) float32.
        strength: of its regularisation, scikit-learn's C.
    """

    cell: Cell
    classes: np.ndarray
    scaler: Scaler
    weights: np.ndarray
    bias: np.ndarray
    strength: float

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Return class probabilities (n, K) float32 of features (n, C) of the cell."""
        return self.probabilities_of_scaled(self.scaler.transform(features))

    def probabilities_of_scaled(self, scaled: np.ndarray) -> np.ndarray:
        """Return class probabilities (n, K) float32 of standardised features (n, C)."""
        return softmax(scaled @ self.weights + self.bias, axis=1)

    def save(self, folder: Path) -> None:
        """Write probe.safetensors and probe.json into a folder; nothing is pickled."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {
            "mean": self.scaler.mean,
            "scale": self.scaler.scale,
            "weights": self.weights,
            "bias": self.bias,
        }
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        save_file(contiguous, folder / "probe.safetensors")
        about = {
            "layer": self.cell.layer,
            "timestep": self.cell.timestep,
            "classes": self.classes.tolist(),
            "strength": self.strength,
        }
        write_json(folder / "probe.json", about)

    @classmethod
    def load(cls, folder: Path) -> "LinearProbe":
        """Read what `save` has written.

        Raises:
            StudyError: the folder holds no whole probe.
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
                strength=about["strength"],
            )
        except Exception as error:  # safetensors, json and the disk each fail in their own way
            raise StudyError(f"{folder} holds no readable probe ({error}): save it again") from None


@dataclass(frozen=True)
class ProbeResult:
    """What the probes of one encoder give in one setting of one set.

    Attributes:
        name: of the encoder.
        encoder: what reads the images.
        setting: "natural" or "balanced".
        budget: of the encoder's training, see `make_encoder`.
        linear: the fitted probe that validation data selected.
        grid: a row for each candidate cell, in the encoder's order: layer, timestep; accuracy and
            macro_f1 of the best ridge probe on validation images, and its penalty; equal_width
            (accuracy after PCA to a common width); near_best_equal_width (one standard error or
            less below the best of these); stage, resolution, channels, order of the layer.
        finalists: a row for each fitted logistic regression: layer, timestep, C, and validation
            accuracy and macro_f1.
        validation: accuracy and macro_f1 of the selected probe.
        standard_error: of the best cell's validation accuracy by ridge.
        near_best: cell → share of bootstrap draws won, for the cells within one standard error.
        rows: part → (n,) rows of the collection.
        heads: head → part → (n, K) float32 class probabilities, columns as in `classes`. Heads
            are "linear"; "end to end" for encoders that learnt from labels; and after a search
            over all cells "weighted" (classes weighted equally) and "k-NN".
        prior: (K,) shares of the classes among the training images.
    """

    name: str
    encoder: Encoder
    setting: str
    budget: str
    linear: LinearProbe
    grid: pd.DataFrame
    finalists: pd.DataFrame
    validation: dict[str, float]
    standard_error: float
    near_best: dict[str, float]
    rows: dict[str, np.ndarray]
    heads: dict[str, dict[str, np.ndarray]]
    prior: np.ndarray

    @property
    def selected(self) -> Cell:
        """The cell that validation data selected."""
        return self.linear.cell

    @property
    def classes(self) -> np.ndarray:
        """The taxa that the probe knows, (K,)."""
        return self.linear.classes

    def named(self, part: str, head: str = "linear", adjusted: bool = False) -> np.ndarray:
        """Return the taxa (n,) that a head names on the images of a part.

        Args:
            part: a key of `rows`.
            head: a key of `heads`.
            adjusted: divide by the training prior first (Menon et al. 2021).
        """
        chances = self.heads[head][part]
        if adjusted:
            chances = chances / self.prior
        return self.classes[chances.argmax(axis=1)]

    def predict(self, images: np.ndarray, ids: list[str] | None = None) -> np.ndarray:
        """Return the taxa (n,) of any images.

        Args:
            images: (n, R, R) uint8, prepared as those of the study.
            ids: of the images; needed where noise is seeded by them (noise = "by_image").
        """
        return self.classes[self.predict_probabilities(images, ids).argmax(axis=1)]

    def predict_probabilities(
        self, images: np.ndarray, ids: list[str] | None = None, batch_size: int = 32
    ) -> np.ndarray:
        """Return class probabilities (n, K) float32 of any images; see `predict`."""
        if ids is None:
            self._refuse_missing_ids()
            ids = [""] * len(images)
        parts = []
        for start in range(0, len(images), batch_size):
            batch = slice(start, start + batch_size)
            features = self.encoder.encode(images[batch], ids[batch], [self.selected])
            parts.append(self.linear.probabilities(features[self.selected]))
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
        """Return the result with other parts, about which only the linear probe is asked.

        Args:
            banks: part → features of the same encoder, perhaps of another collection.
            parts: part → rows of its bank.
        """
        chances = {part: self.probabilities(banks[part], rows) for part, rows in parts.items()}
        return replace(self, rows=parts, heads={"linear": chances})
