"""The attentive probe: learned queries attend to all layers and timesteps of a frozen encoder."""

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy, dropout

from plankton_study.features.bank import FeatureBank
from plankton_study.features.interface import HEAD, Cell
from plankton_study.images.splits import Splits
from plankton_study.probes import metrics
from plankton_study.probes.linear.scaling import fit_scaler
from plankton_study.probes.probe import read_features
from plankton_study.probes.result import ProbeResult
from plankton_study.probes.selection import probed_parts
from plankton_study.run.cache import computed, digest
from plankton_study.run.progress import progress
from plankton_study.run.schema import Attentive
from plankton_study.run.study import Study

#: its head in a `ProbeResult`
ATTENTIVE = "attentive"
#: modules whose code turns features and labels into the predictions of an attentive probe
SHAPED_BY = (
    "probes.attentive",
    "probes.metrics",
    "probes.linear.scaling",
    "features.bank",
    "features.interface",
)
BATCH_SIZE = 128
#: share of the training during which the learning rate rises
WARMUP = 0.1
#: standard deviation of the initial queries and origins
INITIAL_SCALE = 0.02


class AttentiveProbe(torch.nn.Module):
    """A small network that reads all cells of an image at once.

    The features of each cell become a value of a common width: by a projection of its layer, and a
    vector that says which cell it is. Every query weighs the values of an image by the softmax of
    its products with their keys. The weighted means are classified.

    Args:
        widths: cell → number of its features.
        classes: number of classes.
        config: width, queries and dropout.
    """

    def __init__(self, widths: dict[Cell, int], classes: int, config: Attentive) -> None:
        super().__init__()
        self.dropout = config.dropout
        of_layer = {cell.layer: width for cell, width in widths.items()}
        self.layer_of = [list(of_layer).index(cell.layer) for cell in widths]
        self.project = torch.nn.ModuleList(
            torch.nn.Linear(features, config.width) for features in of_layer.values()
        )
        self.origin = torch.nn.Parameter(INITIAL_SCALE * torch.randn(len(widths), config.width))
        self.norm = torch.nn.LayerNorm(config.width)
        self.key = torch.nn.Linear(config.width, config.width)
        self.queries = torch.nn.Parameter(INITIAL_SCALE * torch.randn(config.queries, config.width))
        self.classify = torch.nn.Linear(config.queries * config.width, classes)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        """Return the logits (B, K) for the standardised features (B, C) of each cell."""
        projected = [
            self.project[layer](x) for layer, x in zip(self.layer_of, features, strict=True)
        ]
        values = torch.stack(projected, dim=1) + self.origin  # (B, cells, width)
        products = self.key(self.norm(values)) @ self.queries.T / values.shape[-1] ** 0.5
        if self.training:  # some cells are hidden, so that no query relies on a single one
            is_hidden = torch.rand(products.shape) < self.dropout
            products = products.masked_fill(is_hidden, -1e4)
        weights = products.softmax(dim=1)  # (B, cells, queries)
        means = torch.einsum("bcq,bcw->bqw", weights, values).flatten(1)
        return self.classify(dropout(means, self.dropout, self.training))


def attend(study: Study, splits: Splits, result: ProbeResult) -> ProbeResult:
    """Return the result with one more head, "attentive"; the first call fits it.

    The head is fitted to the same images as the linear probe, on all cells of the encoder. The
    length of its training is selected on validation images.

    Args:
        study, splits: as for `probe_encoder`.
        result: the result of the encoder's probes.
    """
    draws = [
        _attend_draw(study, own_splits, own)
        for own_splits, own in zip(
            splits.each_draw(result.setting), result.of_each_draw, strict=True
        )
    ]
    return replace(draws[0], repeats=tuple(draws[1:]))


def _attend_draw(study: Study, splits: Splits, result: ProbeResult) -> ProbeResult:
    """Return the result for one draw of the labelled images."""
    encoder, bank = read_features(study, splits, result.name, result.setting, result.budget)
    cells = [cell for cell in encoder.cells if cell != HEAD]
    train = probed_parts(splits, result.setting)["train"]
    taxa = splits.taxa(train).astype(str)
    fitting = _Fitting(
        study, result.name, bank, cells, train, np.searchsorted(result.classes, taxa)
    )
    truth = splits.taxa(result.rows["validation"]).astype(str)
    inputs = {
        "bank": bank.folder.name,
        "cells": [str(cell) for cell in cells],
        "train": digest(train, taxa),
        "parts": {part: digest(rows) for part, rows in result.rows.items()},
        "validation": digest(truth),
        "attentive": study.profile.attentive.model_dump(),
        "metric": study.profile.probes.metric,
        "seed": study.seed,
    }
    compute = partial(fitting.run, result.rows, result.classes, truth)
    stored = computed(study, "attentive", inputs, SHAPED_BY, compute)
    scores = stored.pop("scores")
    return replace(
        result,
        heads=result.heads | {ATTENTIVE: stored},
        validation=result.validation | {ATTENTIVE: scores},
        repeats=(),
    )


class _Fitting:
    """Fits attentive probes to the features of some rows."""

    def __init__(
        self,
        study: Study,
        encoder: str,
        bank: FeatureBank,
        cells: list[Cell],
        train: np.ndarray,
        codes: np.ndarray,
    ) -> None:
        self.config = study.profile.attentive
        self.metric = study.profile.probes.metric
        self.seed = study.seed
        self.encoder = encoder
        self.bank = bank
        self.train = train
        self.codes = torch.from_numpy(codes)
        self.cells = cells

    def run(
        self, parts: dict[str, np.ndarray], classes: np.ndarray, truth: np.ndarray
    ) -> dict[str, Any]:
        """Return part → class probabilities (n, K) float32, and the validation "scores".

        Args:
            parts: part → rows, with "validation".
            classes: (K,) taxa.
            truth: taxa of the validation images.
        """
        self.scalers = {cell: fit_scaler(self.bank, cell, self.train) for cell in self.cells}
        fits = []
        for epochs in self.config.epochs:
            probe = self._fit(epochs, len(classes))
            predicted = classes[self._probabilities(probe, parts["validation"]).argmax(axis=1)]
            fits.append((probe, metrics.scores(truth, predicted)))
        probe, scores = max(fits, key=lambda fit: fit[1][self.metric][0])
        probabilities = {part: self._probabilities(probe, rows) for part, rows in parts.items()}
        own_scores = {name: float(scores[name][0]) for name in ("accuracy", "macro_f1")}
        return probabilities | {"scores": own_scores}

    def _read(self, rows: np.ndarray) -> list[torch.Tensor]:
        """Return the standardised features (n, C) of each cell."""
        return [
            torch.from_numpy(self.scalers[cell].transform(self.bank.take(cell, rows)))
            for cell in self.cells
        ]

    def _fit(self, epochs: int, classes: int) -> AttentiveProbe:
        torch.manual_seed(self.seed)
        widths = {cell: self.bank.width(cell) for cell in self.cells}
        probe = AttentiveProbe(widths, classes, self.config)
        rate, decay = self.config.learning_rate, self.config.weight_decay
        optimiser = torch.optim.AdamW(probe.parameters(), lr=rate, weight_decay=decay)
        batches = -(-len(self.train) // BATCH_SIZE)
        factor = partial(_rate_factor, steps=epochs * batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        for _ in progress(f"attentive probe of {self.encoder}", range(epochs)):
            for positions in torch.randperm(len(self.train)).tensor_split(batches):
                logits = probe(self._read(self.train[positions.numpy()]))
                cross_entropy(logits, self.codes[positions]).backward()
                optimiser.step()
                optimiser.zero_grad()
                schedule.step()
        return probe.eval()

    @torch.no_grad()
    def _probabilities(self, probe: AttentiveProbe, rows: np.ndarray) -> np.ndarray:
        batches = np.array_split(rows, -(-len(rows) // BATCH_SIZE) or 1)
        parts = [probe(self._read(batch)).softmax(dim=1) for batch in batches]
        return torch.cat(parts).numpy()


def _rate_factor(step: int, steps: int) -> float:
    """Return the share of the full learning rate: a short linear rise, then half a cosine."""
    rising = (step + 1) / max(WARMUP * steps, 1)
    falling = (1 + math.cos(math.pi * step / steps)) / 2
    return min(rising, falling)
