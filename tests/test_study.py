"""Profiles: what is accepted, what is refused, and how it is said."""

import pytest

from plankton_study.profile import PROFILES, StudyError, read_profile
from plankton_study.study import load


@pytest.mark.parametrize("name", sorted(p.stem for p in PROFILES.glob("*.toml")))
def test_every_profile_of_the_package_is_valid(name):
    profile = read_profile(name)
    assert profile.name == name and profile.sets


def test_extends_changes_a_few_keys_and_keeps_the_rest(tmp_path):
    (tmp_path / "mine.toml").write_text('extends = "demo"\n[training]\nimages_seen = 99\n')
    mine, demo = read_profile(str(tmp_path / "mine.toml")), read_profile("demo")
    assert mine.name == "mine" and mine.training.images_seen == 99
    assert mine.unet == demo.unet and mine.training.learning_rate == demo.training.learning_rate


def test_a_profile_with_sets_of_its_own_drops_its_parents_sets(tmp_path):
    (tmp_path / "mine.toml").write_text('extends = "demo"\n[sets.birds]\nsource = "/somewhere"\n')
    assert list(read_profile(str(tmp_path / "mine.toml")).sets) == ["birds"]


def test_a_profile_may_leave_out_transfers_of_its_parent(tmp_path):
    (tmp_path / "mine.toml").write_text('extends = "demo"\n[transfers]\nflowcam_wheel = false')
    assert (
        read_profile("demo").transfers and not read_profile(str(tmp_path / "mine.toml")).transfers
    )


def test_a_profile_may_leave_out_encoders_of_its_parent(tmp_path):
    (tmp_path / "fewer.toml").write_text(
        'extends = "demo"\n[encoders]\n"MAE" = false\n"SimCLR" = { crop = 0.2 }\n'
    )
    (tmp_path / "again.toml").write_text(
        'extends = "fewer.toml"\n[encoders."MAE"]\nkind = "mae"\nnetwork = "vit"\n'
    )
    fewer, again = (
        read_profile(str(tmp_path / f"{name}.toml")).encoders for name in ("fewer", "again")
    )
    assert (
        set(read_profile("demo").encoders) - set(fewer) == {"MAE"} and fewer["SimCLR"].crop == 0.2
    )
    assert again["MAE"].kind == "mae" and set(again) == set(read_profile("demo").encoders)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[training]\nimage_seen = 5", ["training.image_seen", "images_seen"]),
        ("[images]\nsize = 'big'", ["images.size", "'big'"]),
        ("[features]\npooling = 'max'", ["features.pooling", "mean_std"]),
        ("[features]\ntimesteps = [2000]", ["features.timesteps", "999"]),
        ("[unet]\nchannels = [30]", ["unet.channels", "groups"]),
        ("[sets.x.split]\ntests = 0.2", ["sets.x.split.tests", "test"]),
        ("title = 'x'\nsets = {}", ["sets"]),
        ("nonsense = 1", ["nonsense", "training"]),
        ("[training", ["TOML"]),
        ("[sets.synthetic.split.shifts]\ntest = {}", ["shifts", "test", "another part"]),
        ("[unet]\nattention = [7]", ["unet.attention", "7", "32"]),
        ("[probes]\nridge = []", ["probes.ridge", "at least 1"]),
        ("[probes]\nlogistic = [0.0]", ["probes.logistic", "greater than 0"]),
        ("[probes]\ncandidates = 0", ["probes.candidates", "greater than or equal to 1"]),
        ("[vit]\npatch = 5", ["vit.patch", "images.size"]),
        ("[vit]\nheads = 3", ["vit.heads", "vit.width"]),
        ("[resnet]\nwidths = [8, 16]", ["resnet.widths", "resnet.depths"]),
        ("[encoders.x]\nkind = 'gan'", ["encoders.x.kind", "'simclr'", "'gan'"]),
        ("[encoders.x]\nnetwork = 'unet'", ["encoders.x.kind", "required"]),
        ("[encoders.x]\nkind = 'mae'\nmasks = 0.5", ["encoders.x.masks", "mask,"]),
        (
            "[encoders.x]\nkind = 'simclr'\nnetwork = 'unet'",
            ["encoders.x", "network", "'resnet' or 'vit'"],
        ),
        (
            "[encoders.x]\nkind = 'vicreg'\nnetwork = 'unet'",
            ["encoders.x", "network", "'resnet' or 'vit'"],
        ),
        (
            "[encoders.x]\nkind = 'labels'\nstart = 'denoiser'",
            ["encoders.x", "network = 'unet'", "denoiser"],
        ),
        ("extends = 'nowhere'", ["nowhere"]),
    ],
)
def test_a_wrong_profile_is_refused_in_one_sentence(tmp_path, text, words):
    file = tmp_path / "bad.toml"
    file.write_text(
        text if "extends" in text or "sets = {}" in text else 'extends = "demo"\n' + text
    )
    with pytest.raises(StudyError) as error:
        read_profile(str(file))
    message = str(error.value)
    assert "\n" not in message and all(word in message for word in words)
    assert "bad.toml" in message or "nowhere" in message


def test_a_profile_in_another_encoding_is_one_sentence(tmp_path):
    (tmp_path / "mine.toml").write_bytes('extends = "demo"\ntitle = "Méduses"'.encode("cp1252"))
    with pytest.raises(StudyError, match=r"mine\.toml is not valid TOML in UTF-8"):
        read_profile(str(tmp_path / "mine.toml"))


def test_a_circle_of_profiles_is_refused(tmp_path):
    (tmp_path / "a.toml").write_text('extends = "b.toml"')
    (tmp_path / "b.toml").write_text('extends = "a.toml"')
    with pytest.raises(StudyError, match="itself"):
        read_profile(str(tmp_path / "a.toml"))


def test_a_profile_may_not_take_the_name_of_one_of_the_package(tmp_path):
    (tmp_path / "demo.toml").write_text('extends = "smoke"')
    with pytest.raises(StudyError, match="rename"):
        read_profile(str(tmp_path / "demo.toml"))


def test_paths_in_a_profile_start_at_its_own_folder(tmp_path, monkeypatch):
    for folder in ("images", "model"):
        (tmp_path / folder).mkdir()
    model = '[unet]\npretrained = "model"\n[encoders.x]\nkind = "pretrained"\nfolder = "model"'
    (tmp_path / "mine.toml").write_text(
        f'extends = "demo"\n[sets.mine]\nsource = "images"\n{model}'
    )
    monkeypatch.chdir("/")
    profile = read_profile(str(tmp_path / "mine.toml"))
    assert profile.sets["mine"].source == str((tmp_path / "images").resolve())
    assert (
        profile.unet.pretrained
        == profile.encoders["x"].folder
        == str((tmp_path / "model").resolve())
    )
    assert (
        profile.encoders["CLIP"].folder == "openai/clip-vit-base-patch32"
    )  # no folder here: a name of the Hub


def test_a_profile_adds_encoders_and_changes_those_it_inherits(tmp_path):
    changed = '[encoders.SimCLR]\nbatch_size = 8\n[encoders."two words"]\nkind = "mae"'
    (tmp_path / "mine.toml").write_text(f'extends = "demo"\n{changed}')
    mine, demo = (read_profile(name).encoders for name in (str(tmp_path / "mine.toml"), "demo"))
    assert list(mine) == [*demo, "two words"] and list(demo)[:3] == [
        "diffusion",
        "random U-Net",
        "pixels + PCA",
    ]
    assert mine["SimCLR"] == demo["SimCLR"].model_copy(update={"batch_size": 8})


def test_none_means_the_environment_then_demo(monkeypatch):
    monkeypatch.delenv("PLANKTON_PROFILE", raising=False)
    monkeypatch.delenv("PLANKTON_SEED", raising=False)
    monkeypatch.delenv("PLANKTON_DATA", raising=False)
    assert (load().profile.name, load().seed) == ("demo", 0)
    monkeypatch.setenv("PLANKTON_PROFILE", "smoke")
    monkeypatch.setenv("PLANKTON_SEED", "3")
    assert (load().profile.name, load().seed) == ("smoke", 3)


@pytest.mark.parametrize(
    ("variable", "value"), [("PLANKTON_SEED", "-1"), ("PLANKTON_THREADS", "0")]
)
def test_a_number_that_cannot_be_is_refused(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(StudyError, match=f"{variable}={value} is no whole number"):
        load("demo")


def test_a_missing_data_folder_is_named(monkeypatch):
    monkeypatch.setenv("PLANKTON_DATA", "/no/such/folder")
    with pytest.raises(StudyError, match="/no/such/folder"):
        load("demo")


def test_the_hub_is_off_unless_the_profile_asks(monkeypatch):
    import os

    monkeypatch.delenv("PLANKTON_DATA", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    load("demo")
    assert os.environ["HF_HUB_OFFLINE"] == "1"
