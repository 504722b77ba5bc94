"""Profiles: what is accepted, what is refused, and how it is said."""

from pathlib import Path

import pytest

from plankton_study.run.errors import StudyError
from plankton_study.run.profile import PROFILES, read_profile
from plankton_study.run.schema import BASIC_ENCODERS, Profile


def write_profile(folder: Path, text: str, name: str = "changed") -> str:
    """Write a profile and return its path, as a user would give it."""
    file = folder / f"{name}.toml"
    file.write_text(text)
    return str(file)


def read_changed_demo(folder: Path, changes: str) -> Profile:
    return read_profile(write_profile(folder, f'extends = "demo"\n{changes}'))


@pytest.mark.parametrize("name", sorted(file.stem for file in PROFILES.glob("*.toml")))
def test_every_profile_of_the_package_is_valid(name):
    profile = read_profile(name)
    assert profile.name == name and profile.sets


# --- a profile that extends another


def test_extends_changes_a_few_keys_and_keeps_the_rest(tmp_path):
    changed = read_changed_demo(tmp_path, "[training]\nimages_seen = 99\n")
    demo = read_profile("demo")
    assert changed.name == "changed" and changed.training.images_seen == 99
    assert changed.unet == demo.unet
    assert changed.training.learning_rate == demo.training.learning_rate


def test_a_profile_with_sets_of_its_own_drops_its_parents_sets(tmp_path):
    changed = read_changed_demo(tmp_path, '[sets.birds]\nsource = "/somewhere"\n')
    assert list(changed.sets) == ["birds"]


def test_paths_of_a_linked_profile_are_relative_to_its_own_folder(tmp_path):
    (tmp_path / "station").mkdir()
    (tmp_path / "links").mkdir()
    write_profile(tmp_path, 'extends = "demo"\n', "parent")
    text = 'extends = "parent.toml"\n[sets.station]\nsource = "station"\n'
    own = write_profile(tmp_path, text, "Bob's station")
    link = tmp_path / "links" / "Bob_s_station.toml"
    link.symlink_to(own)
    profile = read_profile(str(link))
    assert profile.name == "Bob_s_station"
    assert profile.sets["station"].source == str(tmp_path / "station")


def test_a_profile_may_leave_out_transfers_of_its_parent(tmp_path):
    assert read_profile("demo").transfers
    assert not read_changed_demo(tmp_path, "[transfers]\nflowcam_wheel = false").transfers


def test_a_profile_may_leave_out_encoders_of_its_parent(tmp_path):
    fewer_text = 'extends = "demo"\n[encoders]\n"MAE" = false\n"SimCLR" = { crop = 0.2 }\n'
    again_text = 'extends = "fewer.toml"\n[encoders."MAE"]\nkind = "mae"\nnetwork = "vit"\n'
    fewer = read_profile(write_profile(tmp_path, fewer_text, "fewer")).encoders
    again = read_profile(write_profile(tmp_path, again_text, "again")).encoders
    demo = read_profile("demo").encoders
    assert set(demo) - set(fewer) == {"MAE"} and fewer["SimCLR"].crop == 0.2
    assert again["MAE"].kind == "mae" and set(again) == set(demo)


def test_a_profile_adds_encoders_and_changes_those_it_inherits(tmp_path):
    changes = '[encoders.SimCLR]\nbatch_size = 8\n[encoders."two words"]\nkind = "mae"'
    changed, demo = read_changed_demo(tmp_path, changes).encoders, read_profile("demo").encoders
    assert list(changed) == [*demo, "two words"]
    assert list(demo)[:3] == list(BASIC_ENCODERS) == ["diffusion", "random U-Net", "pixels + PCA"]
    assert changed["SimCLR"] == demo["SimCLR"].model_copy(update={"batch_size": 8})


def test_a_profile_may_take_back_the_weights_of_its_parent(tmp_path):
    parent = read_profile("quick").noise
    assert parent.min_snr == 5.0
    text = 'extends = "quick"\n[noise]\nmin_snr = "none"\n'
    assert read_profile(write_profile(tmp_path, text, "unweighted")).noise.min_snr is None


def test_paths_in_a_profile_start_at_its_own_folder(tmp_path, monkeypatch):
    for folder in ("images", "model"):
        (tmp_path / folder).mkdir()
    changes = """
        [sets.own]
        source = "images"
        [unet]
        pretrained = "model"
        [encoders.x]
        kind = "pretrained"
        folder = "model"
    """
    monkeypatch.chdir("/")
    profile = read_changed_demo(tmp_path, changes)
    model = str((tmp_path / "model").resolve())
    assert profile.sets["own"].source == str((tmp_path / "images").resolve())
    assert profile.unet.pretrained == profile.encoders["x"].folder == model
    # there is no such folder: a name of the Hub
    assert profile.encoders["CLIP"].folder == "openai/clip-vit-base-patch32"


# --- refusals


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ("[training]\nimage_seen = 5", ["training.image_seen", "images_seen"]),
        ("[images]\nsize = 'big'", ["images.size", "'big'"]),
        ("[features]\npooling = 'max'", ["features.pooling", "mean_std"]),
        ("[features]\ntimesteps = [2000]", ["features.timesteps", "999"]),
        ("[unet]\nchannels = [30]", ["unet.channels", "groups"]),
        ("[sets.x.split]\ntests = 0.2", ["sets.x.split.tests", "test"]),
        ("nonsense = 1", ["nonsense", "training"]),
        ("[training", ["TOML"]),
        ("[sets.synthetic.split.shifts]\ntest = {}", ["shifts", "test", "another part"]),
        ("[unet]\nattention = [7]", ["unet.attention", "7", "16, 8, 4"]),
        ("[maps]\nimages_seen = 100", ["maps needs a size"]),
        ("[maps]\nsize = 64\nunet = { channels = [30] }", ["maps.unet.channels", "[30]"]),
        ("[maps]\nsize = 64\nnoise = { steps = 500 }", ["maps.features.timesteps", "499"]),
        ("[maps]\nsize = 64\nunet = { pretrained = 'x' }", ["maps.unet", "trained here"]),
        ("[maps]\nsize = 64\ntraining = { images_seen = 9 }", ["set maps.images_seen"]),
        ("[maps]\nsize = 64\nunet = { attention = [4] }", ["maps.unet.attention", "32, 16, 8"]),
        ("[maps]\nsize = 36\nunet = { attention = [] }", ["maps.size", "divisible by 8"]),
        ("[unet]\nunshuffle = 3", ["unet.unshuffle", "3"]),
        ("[images]\nsize = 36\n[unet]\nattention = []", ["images.size", "8", "unshuffle = 2"]),
        ("[noise]\nschedule = 'cosine'", ["noise.schedule", "'linear_signal'"]),
        ("[noise]\nmin_snr = 0.0", ["noise.min_snr", "greater than 0"]),
        ("[training]\ncooldown = 1.0", ["training.cooldown", "less than 1"]),
        ("[curve]\nimages_seen = [40, 20]", ["curve", "must ascend"]),
        ("[curve]\nimages_seen = [40]", ["curve", "at least two"]),
        ("[curve]\nencoders = ['SimCLR']", ["curve", "diffusion among"]),
        (
            "[curve]\nencoders = ['diffusion', 'random U-Net']",
            ["curve.encoders", "random U-Net", "not trained"],
        ),
        ("[curve]\nencoders = ['diffusion', 'DINO']", ["curve.encoders", "'DINO'"]),
        ("[ablation.denoisers.x]\nunet = { width = 3 }", ["ablation.denoisers.x.unet", "width"]),
        ("[ablation.denoisers.x]\nnoises = {}", ["ablation.denoisers.x.noises", "noise"]),
        ("[probes]\npenalties = []", ["probes.penalties", "at least 1"]),
        ("[probes]\nlogistic = [0.0]", ["probes.logistic", "greater than 0"]),
        ("[probes]\ncandidates = 0", ["probes.candidates", "greater than or equal to 1"]),
        ("[vit]\npatch = 5", ["vit.patch", "images.size"]),
        ("[vit]\nheads = 3", ["vit.heads", "vit.width"]),
        ("[resnet]\nwidths = [8, 16]", ["resnet.widths", "resnet.depths"]),
        ("[encoders.x]\nkind = 'gan'", ["encoders.x.kind", "'simclr'", "'gan'"]),
        ("[encoders.x]\nnetwork = 'unet'", ["encoders.x.kind", "required"]),
        ("[encoders.x]\nkind = 'mae'\nmasks = 0.5", ["encoders.x.masks", "mask,"]),
        ("[encoders.x]\nkind = 'mae'\nnetwork = 'unet'", ["encoders.x", "network", "'vit'"]),
        (
            "[encoders.x]\nkind = 'labels'\nstart = 'denoiser'",
            ["encoders.x", "network = 'unet'", "denoiser"],
        ),
        ("[encoders.x]\nkind = 'pretrained'", ["encoders.x", "'pretrained' needs a folder"]),
    ],
)
def test_wrong_changes_are_refused_in_one_sentence(tmp_path, changes, words):
    assert_is_refused(tmp_path, f'extends = "demo"\n{changes}', [*words, "changed.toml"])


def test_a_profile_without_sets_is_refused_in_one_sentence(tmp_path):
    assert_is_refused(tmp_path, "title = 'x'\nsets = {}", ["sets", "at least 1", "changed.toml"])


def test_a_profile_that_extends_a_missing_one_is_refused_in_one_sentence(tmp_path):
    assert_is_refused(tmp_path, "extends = 'nowhere'", ["no profile 'nowhere'", "demo"])
    assert_is_refused(tmp_path, "extends = 'nowhere.toml'", ["'nowhere.toml'", "changed.toml"])


def assert_is_refused(folder: Path, text: str, words: list[str]) -> None:
    profile = write_profile(folder, text)
    with pytest.raises(StudyError) as error:
        read_profile(profile)
    message = str(error.value)
    assert "\n" not in message and all(word in message for word in words)


def test_a_profile_in_another_encoding_is_one_sentence(tmp_path):
    text = 'extends = "demo"\ntitle = "Méduses"'
    (tmp_path / "changed.toml").write_bytes(text.encode("cp1252"))
    with pytest.raises(StudyError, match=r"changed\.toml is not valid TOML in UTF-8"):
        read_profile(str(tmp_path / "changed.toml"))


def test_a_circle_of_profiles_is_refused(tmp_path):
    write_profile(tmp_path, 'extends = "b.toml"', "a")
    write_profile(tmp_path, 'extends = "a.toml"', "b")
    with pytest.raises(StudyError, match="itself"):
        read_profile(str(tmp_path / "a.toml"))


def test_a_profile_may_not_take_the_name_of_one_of_the_package(tmp_path):
    profile = write_profile(tmp_path, 'extends = "smoke"', "demo")
    with pytest.raises(StudyError, match="rename"):
        read_profile(profile)


# --- the rules of the comparison, in the profiles of the package


ALL_PROFILES = sorted(path.stem for path in PROFILES.glob("*.toml"))


@pytest.mark.parametrize("name", ALL_PROFILES)
def test_one_metric_selects_and_judges_and_labels_are_drawn_often_enough(name):
    profile = read_profile(name)
    assert profile.probes.metric == "macro_f1"
    if name != "smoke":  # which is for tests
        assert profile.labels.draws >= 5
        least = 3 if profile.synthetic else 5  # a first run has to be short
        assert all(config.split.balanced.draws >= least for config in profile.sets.values())


@pytest.mark.parametrize("name", ["quick", "overnight", "full"])
def test_all_test_images_that_exist_are_used(name):
    """Predicting them costs seconds; half of them would make every interval 1.4 times as wide."""
    assert all(config.split.test_images is None for config in read_profile(name).sets.values())


def test_captions_say_what_chose_the_predeclared_cell(tmp_path):
    assert "a pilot on PlanktonSet" in read_profile("demo").features.predeclared_in_words
    text = 'extends = "demo"\n[features]\npredeclared = "up16.resnet0@t50"\n'
    own = read_profile(write_profile(tmp_path, text)).features.predeclared_in_words
    assert own == "up16.resnet0@t50, chosen by the author of the profile"
    other = text + 'predeclared_by = "a trial on other images"\n'
    named = read_profile(write_profile(tmp_path, other)).features.predeclared_in_words
    assert named.endswith("chosen by a trial on other images")
