from pathlib import Path

import pytest

from workflows.errors import SettingsError
from workflows.settings import load_settings

PRESETS = Path(__file__).parents[2] / "infra" / "presets"


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_preset_is_valid(path):
    settings = load_settings(path)
    assert len(settings.words_of_layers()) == len(settings.network.layers)


def test_the_paper_presets_have_the_papers_words():
    for name in ("imagenet_vgg16", "imagenet_resnet50"):
        assert load_settings(PRESETS / f"{name}.toml").fit.words == (100, 200, 450, 1500)


def test_overrides_take_toml_values_and_bare_text():
    settings = load_settings(
        PRESETS / "digits.toml", ["fit.words=7", "mine.images=[]", "runtime.device=cpu", "data.max_train=50"]
    )
    assert settings.words_of_layers() == (7, 7, 7)
    assert settings.mine.images == ()
    assert settings.runtime.device == "cpu"
    assert settings.data.max_train == 50


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("fit.wrds=[3]", r"fit\.wrds: no such field; did you mean words\?"),
        ("nosuch.field=1", r"nosuch: no such field; the fields are name, seed, data"),
        ("fit.words=many", r"fit\.words: .*came: 'many'"),
        ("fit.words=0", "every layer needs at least 1 word"),
        ("fit.words=[3,4]", "fit.words has 2 numbers for 3 layers"),
        ("fit.scope=planet", r"scope 'planet' does not exist; the scopes are: joint"),
        ("extract.batch=33", r"images_per_shard \(200\) must be a multiple of batch"),
        ("preprocessing.std=[1.0, 0.0, 1.0]", "every standard deviation must be above 0"),
        ("fit.exponent=0.4", r"fit\.exponent: .*greater than 0\.5 \(came: 0\.4\)"),
        ("runtime.device=tpu", r"runtime\.device: Input should be 'auto', 'cpu' or 'cuda'"),
        ("fit.words", r"--set 'fit\.words': write section\.field=value"),
        ("name.x=1", "'name' is not a section"),
    ],
)
def test_a_wrong_field_is_refused_by_name(override, words):
    with pytest.raises(SettingsError, match=words):
        load_settings(PRESETS / "digits.toml", [override])


def test_a_missing_or_broken_preset_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"absent\.toml' does not exist; presets ship in infra/presets"):
        load_settings(tmp_path / "absent.toml")
    (tmp_path / "broken.toml").write_text("name = ")
    with pytest.raises(SettingsError, match=r"broken\.toml' is not a TOML file"):
        load_settings(tmp_path / "broken.toml")


def test_training_needs_its_section(tmp_path):
    text = (PRESETS / "digits.toml").read_text()
    (tmp_path / "preset.toml").write_text(text.replace("[training]\nepochs = 8\n", ""))
    with pytest.raises(SettingsError, match=r"network\.weights = 'train' needs a \[training\] section"):
        load_settings(tmp_path / "preset.toml")
