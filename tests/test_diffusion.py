"""Training and the denoiser: what it learns, that it continues after a kill, and what others can do with it."""

import time

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DDPMPipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from plankton_study import diffusion, splits, train
from plankton_study.profile import StudyError
from plankton_study.schema import Noise, UNet

TINY = UNet(channels=(8, 16), attention=(8,), head_channels=8)


def weights(folder):
    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


# --- the loop


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 16), st.integers(0, 5))
def test_every_image_is_seen_once_before_any_is_seen_twice(images, batch, seed):
    rows = np.arange(images) * 3
    seen = np.concatenate(
        [train.batch_rows(rows, step, batch, seed) for step in range(4 * images // batch + 1)]
    )
    for epoch in range(len(seen) // images):
        assert sorted(seen[epoch * images : (epoch + 1) * images]) == list(rows)


def test_flips_and_turns_keep_every_pixel_and_reach_all_eight():
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    turned = train.flips_and_turns(image.repeat(200, 1, 1, 1), torch.Generator().manual_seed(0))
    assert len({tuple(x.flatten().tolist()) for x in turned}) == 8
    assert all(sorted(x.flatten().tolist()) == list(range(16)) for x in turned)


def test_the_learning_rate_warms_up_and_falls_to_zero(shared):
    config = shared.profile.training
    rates = [train.learning_rate(step, 1000, config) for step in range(1000)]
    assert rates[0] < rates[49] == max(rates) == config.learning_rate and rates[-1] < 1e-5


def test_the_same_seed_gives_the_same_weights_and_another_one_others(make_study, tmp_path):
    made = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        study = make_study(cache=tmp_path / name, seed=seed)
        made[name] = weights(diffusion.denoiser(study, splits.make(study, "shapes")))
    assert all(torch.equal(made["a"][k], made["b"][k]) for k in made["a"])
    assert not all(torch.equal(made["a"][k], made["c"][k]) for k in made["a"])


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"replace": {"batch_size = 16": "batch_size = 8"}}]
)
def test_what_determines_a_training_is_in_its_key(make_study, change):
    keys = []
    for study in (make_study(), make_study(**change)):
        parts = splits.make(study, "shapes")
        keys.append(train.inputs(study, parts, parts["pool"], parts["validation"], 320))
    assert keys[0] != keys[1]


RUN = """
import sys
from plankton_study import diffusion, splits, study
s = study.load(sys.argv[1], 0)
print("ready", flush=True)
diffusion.denoiser(s, splits.make(s, "shapes"))
"""


def test_sigkill_in_the_middle_then_again_gives_the_undisturbed_weights(
    make_study, killed_at_step_7, tmp_path
):
    longer = {"images_seen = 320": "images_seen = 480\ncheckpoint_seconds = 1e-9"}
    whole = make_study(longer, cache=tmp_path / "whole")
    undisturbed = weights(diffusion.denoiser(whole, splits.make(whole, "shapes")))

    study = make_study(longer, cache=tmp_path / "killed")
    killed_at_step_7(RUN)
    (checkpoint,) = study.cache.glob("denoiser/*.partial/checkpoint.pt")
    assert torch.load(checkpoint, weights_only=True)["step"] == 7
    resumed = weights(diffusion.denoiser(study, splits.make(study, "shapes")))
    assert all(torch.equal(undisturbed[key], resumed[key]) for key in undisturbed)


def test_a_training_killed_before_its_model_was_saved_is_not_made_again(make_study, monkeypatch):
    study = make_study()  # whose checkpoints are far apart
    parts = splits.make(study, "shapes")

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(diffusion.UNet2DModel, "save_pretrained", interrupted)
        diffusion.denoiser(study, parts)
    with monkeypatch.context() as patch:
        patch.setattr(train.EMAModel, "step", lambda *_: pytest.fail("a step was made again"))
        folder = diffusion.denoiser(study, parts)
    assert weights(folder) and not list(folder.glob("*checkpoint*"))


@pytest.mark.parametrize("harm", ["truncated", "another architecture"])
def test_a_harmed_checkpoint_is_refused_in_one_sentence(make_study, tmp_path, harm):
    study = make_study()
    parts = splits.make(study, "shapes")
    file = tmp_path / "checkpoint.pt"
    other = UNet(channels=(8, 24) if harm == "another architecture" else (8, 16), head_channels=8)
    model = diffusion.build_unet(other, 16, 0)
    optimiser = torch.optim.AdamW(model.parameters())
    average = train.EMAModel(model.parameters()).state_dict()
    state = {"model": model.state_dict(), "average": average, "optimiser": optimiser.state_dict()}
    train._save(file, {**state, "step": 1, "curve": [], "losses": [], "seconds": 1.0})
    if harm == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(StudyError, match="delete it") as error:
        images, held_out = parts.collection.images, parts["validation"]
        model = diffusion.build_unet(TINY, 16, 0)
        train.fit(study, tmp_path, model, None, images, parts["pool"], 320, "test", held_out)
    assert "\n" not in str(error.value)


def test_a_diverging_loss_stops_the_training(make_study, tmp_path):
    study = make_study()
    parts = splits.make(study, "shapes")
    model = diffusion.build_unet(TINY, 16, 0)

    def explode(model, x, rows, generator):
        return model(x, 0).sample.mean() * float("nan")

    with pytest.raises(StudyError, match="no longer finite.*learning rate"):
        images, held_out = parts.collection.images, parts["validation"]
        train.fit(study, tmp_path, model, explode, images, parts["pool"], 320, "test", held_out)


class Dense(torch.nn.Module):
    """One matrix: 2 x 256 x 4 FLOPs an image forward; a second one backward, since the images need no gradient."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(256, 4, bias=False)

    def forward(self, x):
        return self.inner(x.flatten(1))


def square(model, x, rows, generator):
    return model(x).pow(2).mean()


def test_a_training_leaves_its_curve_and_its_cost(make_study, tmp_path):
    study = make_study()
    parts = splits.make(study, "shapes")
    images, rows, held_out = parts.collection.images, parts["pool"], parts["validation"]
    model = Dense()
    train.fit(
        study, tmp_path, model, square, images, rows, 500, "test", held_out, {"batch_size": 20}
    )
    curve, cost = pd.read_csv(tmp_path / "curve.csv"), train.cost(tmp_path)
    assert curve["images_seen"].tolist() == [20 * round(25 * part / 10) for part in range(1, 11)]
    with torch.no_grad():  # the kept weights are those that the curve ends with: the moving average
        last = square(model, train.to_model(images[held_out]), held_out, None).item()
    assert curve["held_out"].iloc[-1] == pytest.approx(last, rel=1e-5)
    assert cost.pop("seconds") > 0
    assert cost == {
        "parameters": 1024,
        "images_seen": 500,
        "batch_size": 20,
        "flops": 2 * 2 * 256 * 4,
    }


def test_the_kept_weights_are_the_moving_average(make_study, tmp_path):
    study, kept = make_study(), {}
    parts = splits.make(study, "shapes")
    for ema in (0.0, 0.999):  # without memory they are those of the last step
        torch.manual_seed(0)
        model, online = Dense(), []

        def loss(model, x, rows, generator, online=online):
            online += [model.inner.weight.detach().clone()] if model.training else []
            return square(model, x, rows, generator)

        (tmp_path / str(ema)).mkdir()
        arguments = (
            parts.collection.images,
            parts["pool"],
            320,
            "test",
            parts["validation"],
            {"ema": ema},
        )
        train.fit(study, tmp_path / str(ema), model, loss, *arguments)
        kept[ema] = [(model.inner.weight - weight).norm().item() for weight in online]
    assert min(kept[0.0]) == kept[0.0][-1]
    assert min(kept[0.999]) < kept[0.999][-1]


def test_batch_norm_keeps_the_statistics_of_the_images_it_was_trained_on(make_study, tmp_path):
    """Those of the training images under the averaged weights, not a memory of the last batches."""
    study = make_study()
    parts = splits.make(study, "shapes")
    images, rows, held_out = parts.collection.images, parts["pool"][:48], parts["validation"]
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.BatchNorm1d(256), torch.nn.Linear(256, 4)
    )
    train.fit(study, tmp_path, model, square, images, rows, 64, "test", held_out)
    pixels = train.to_model(images[rows]).flatten(1)
    assert torch.allclose(model[1].running_mean, pixels.mean(dim=0), atol=1e-4)
    with torch.no_grad():  # and the curve ends with the loss under them
        last = square(model, train.to_model(images[held_out]), held_out, None).item()
    assert pd.read_csv(tmp_path / "curve.csv")["held_out"].iloc[-1] == pytest.approx(last, rel=1e-4)


def test_a_training_killed_behind_its_last_step_still_knows_its_cost(
    make_study, tmp_path, monkeypatch
):
    """Its checkpoint leaves no step to do, and so none to count."""
    study = make_study({"images_seen = 320": "images_seen = 320\ncheckpoint_seconds = 1e-9"})
    parts = splits.make(study, "shapes")
    arguments = square, parts.collection.images, parts["pool"], 320, "test", parts["validation"]
    real = train._save

    def interrupted(path, state):
        real(path, state)
        if state["step"] == 20:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train, "_save", interrupted)
        train.fit(study, tmp_path, Dense(), *arguments)
    train.fit(study, tmp_path, Dense(), *arguments)
    assert train.cost(tmp_path)["flops"] == 2 * 2 * 256 * 4
    assert len(pd.read_csv(tmp_path / "curve.csv")) == 10


# --- the denoiser


def test_the_denoiser_learns_and_its_curves_are_kept(make_study):
    study = make_study({"images_seen = 320": "images_seen = 1600"})
    folder = diffusion.denoiser(study, splits.make(study, "shapes"))
    curve = pd.read_csv(folder / "curve.csv")
    assert (
        curve["images_seen"].iloc[-1] == 1600
        and curve["held_out"].iloc[-1] < 0.6 * curve["held_out"].iloc[0]
    )
    levels = pd.read_csv(folder / "levels.csv")
    assert (
        levels["loss"].iloc[0] > levels["loss"].iloc[-1]
        and levels["signal_to_noise"].is_monotonic_decreasing
    )


def test_the_folder_is_an_ordinary_diffusers_pipeline(shared):
    folder = diffusion.denoiser(shared, splits.make(shared, "shapes"))
    pipeline = DDPMPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(
        num_inference_steps=2, output_type="np", generator=torch.Generator().manual_seed(0)
    ).images
    assert image.shape[:3] == (1, 16, 16) and np.isfinite(image).all()
    assert not list(folder.rglob("*.bin")) and not list(folder.rglob("*.pt"))


def test_the_loss_is_the_mean_squared_error_of_the_noise():
    scheduler = diffusion.build_scheduler(Noise())
    x, noise = torch.rand(3, 1, 8, 8), torch.randn(3, 1, 8, 8)

    class Silent(torch.nn.Module):
        def forward(self, x, t):
            return type("Output", (), {"sample": torch.zeros_like(x)})

    loss = diffusion.denoising_loss(Silent(), scheduler, x, noise, torch.tensor([0, 500, 999]))
    assert torch.allclose(loss, noise.pow(2).mean(dim=(1, 2, 3)))


@pytest.mark.parametrize(
    "key", ["residual_blocks", "resampling", "time_conditioning", "attention", "layers_per_block"]
)
def test_every_key_of_the_network_changes_it(key):
    value = {
        "residual_blocks": "scale_shift",
        "resampling": "resnet",
        "time_conditioning": False,
    }.get(key)
    value = value if value is not None else {"attention": (), "layers_per_block": 2}[key]
    changed = diffusion.build_unet(TINY.model_copy(update={key: value}), 16, 0).eval()
    x = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert changed(x, 10).sample.shape == x.shape
    if key == "time_conditioning":
        assert torch.equal(changed(x, 10).sample, changed(x, 900).sample)
    else:
        assert changed.config != diffusion.build_unet(TINY, 16, 0).config


def test_a_model_made_elsewhere_takes_the_denoisers_place(make_study, shared):
    folder = diffusion.denoiser(shared, splits.make(shared, "shapes"))
    study = make_study({"[unet]": f'[unet]\npretrained = "{folder}"'})
    assert diffusion.denoiser(study, splits.make(study, "shapes")) == folder


@pytest.mark.parametrize("harm", ["missing", "empty", "truncated", "other class"])
def test_a_model_that_cannot_be_read_is_one_sentence(shared, tmp_path, harm):
    folder = tmp_path / "model"
    if harm in ("truncated", "other class"):
        diffusion_folder = diffusion.denoiser(shared, splits.make(shared, "shapes"))
        DDPMPipeline.from_pretrained(diffusion_folder).save_pretrained(folder)
        file = (
            folder
            / "unet"
            / ("diffusion_pytorch_model.safetensors" if harm == "truncated" else "config.json")
        )
        file.write_bytes(file.read_bytes()[:200])
    elif harm == "empty":
        folder.mkdir()
    with pytest.raises(StudyError, match="not a readable folder") as error:
        diffusion.load(folder, 16)
    assert "\n" not in str(error.value)


def test_a_hub_id_without_the_hub_is_one_sentence_and_at_once(make_study):
    study = make_study({"[unet]": '[unet]\npretrained = "google/ddpm-cifar10-32"'})
    start = time.monotonic()
    with pytest.raises(StudyError, match="hub = true"):
        diffusion.denoiser(study, splits.make(study, "shapes"))
    assert time.monotonic() - start < 10


def test_nearest_finds_a_turned_copy():
    rng = np.random.default_rng(0)
    others = rng.integers(0, 256, (20, 16, 16), dtype=np.uint8)
    asked = np.stack([np.rot90(others[7]), others[3][:, ::-1], others[11]])
    rows, distance = diffusion.nearest(asked, others)
    assert rows.tolist() == [7, 3, 11] and distance.max() < 0.5
