from pathlib import Path

import pytest

from workflows.errors import SettingsError
from workflows.settings import ExtractSettings, load_settings, parse_settings

PRESETS = Path(__file__).parents[3] / "infra" / "presets"


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_preset_is_valid(path):
    settings = load_settings(path)
    # How many dense layers a chain has, the network tells; one number of words then serves all of them.
    layers = 5 if settings.network.finds_layers else len(settings.network.layers)
    assert len(settings.words_of_layers(layers)) == layers


def test_the_paper_presets_have_the_papers_words():
    for name in ("imagenet_vgg16", "imagenet_resnet50"):
        assert load_settings(PRESETS / f"{name}.toml").fit.words == (100, 200, 450, 1500)


def test_overrides_take_toml_values_and_bare_text():
    settings = load_settings(
        PRESETS / "digits.toml", ["fit.words=7", "mine.images=[]", "runtime.device=cpu", "data.max_train=50"]
    )
    assert settings.words_of_layers(3) == (7, 7, 7)
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
        ("fit.scope=joint", r"fit\.scope: no such field; did you mean scopes\?"),
        ("fit.scopes=planet", r"Input should be 'joint', 'class' or 'list' \(came: 'planet'\)"),
        ("fit.scopes=[]", r"fit\.scopes: .*at least 1 item"),
        ("fit.scopes=['class','class']", "every kind of scope is given once"),
        ("fit.scopes=['list']", r"scopes has 'list', so lists must have one: \[\[fit\.lists\]\] with name, classes"),
        ("fit.lists=[{name='a',classes=[1]}]", r"lists has a, which only scopes = \['list'\] reads: add 'list'"),
        ("fit.lists=[{name='a',clases=[1]}]", r"clases: no such field; did you mean classes\?"),
        ("fit.lists=[{name='a',classes=[]}]", r"fit\.lists\.0\.classes: .*at least 1 item"),
        ("fit.loss=hinge", r"fit\.loss: Input should be 'generative' or 'discriminative' \(came: 'hinge'\)"),
        ("fit.max_neighbours=0", r"fit\.max_neighbours: .*greater than 0"),
        ("discriminative.start=random", r"discriminative\.start: Input should be 'generative' or 'paper'"),
        ("discriminative.columns=none", r"discriminative\.columns: Input should be 'stored' or 'recomputed'"),
        ("discriminative.mixture_rate=inf", r"discriminative\.mixture_rate: .*finite number"),
        ("extract.batch=33", r"images_per_shard \(200\) must be a multiple of batch"),
        ("preprocessing.std=[1.0, 0.0, 1.0]", "every standard deviation must be above 0"),
        ("preprocessing.channel_order=gbr", r"preprocessing\.channel_order: Input should be 'rgb' or 'bgr'"),
        (
            "preprocessing={channels=1,channel_order='bgr',mean=[0.5],std=[0.5]}",
            r"channel_order: must be 'rgb' with channels = 1, got 'bgr', but grey has no order; leave it out",
        ),
        ("data.labels=some", r"data\.labels: Input should be 'given' or 'none' \(came: 'some'\)"),
        ("data.labels=[{nme='a'}]", r"data\.labels\.0\.nme: no such field; did you mean name\?"),
        (
            "data.labels=[{name='a'}]",
            r"data\.labels\.0: must have folders or rest = true, got neither; name class folders",
        ),
        ("data.labels=[{name='a',folders='b',rest=true}]", r"must have folders or rest = true, got both"),
        (
            "data.labels=[{name='a',folders='b'}]",
            r"data\.labels: must have at least 2 labels of different names, got a; a",
        ),
        (
            "data.labels=[{name='a',rest=true},{name='b',rest=true}]",
            r"must have one label with rest = true at most, got several",
        ),
        (
            "data={source='digits',labels=[{name='a',folders='b'},{name='c',rest=true}]}",
            r"data\.labels = a list must have source = 'folders', got 'digits': leave it out",
        ),
        (
            "data={source='folders',class_names='x.json',labels=[{name='a',folders='b'},{name='c',rest=true}]}",
            r"data\.class_names: must be left out with a list of data\.labels, which names the outputs, got 'x\.json'",
        ),
        ("training.trains=head", r"training\.trains = 'head' must have training\.start, which the rest .* got none"),
        (
            "training={start='w.pt',trains='head',shift=2}",
            r"training\.shift: must be left out with training\.trains = 'head'",
        ),
        ("training.trains=tail", r"training\.trains: Input should be 'all' or 'head'"),
        ("fit.exponent=0.4", r"fit\.exponent: .*greater than 0\.5 \(came: 0\.4\)"),
        ("runtime.device=tpu", r"runtime\.device: Input should be 'auto', 'cpu' or 'cuda'"),
        ("fit.words", r"--set 'fit\.words': write section\.field=value"),
        ("name.x=1", "'name' is not a section"),
    ],
)
def test_a_wrong_field_is_refused_by_name(override, words):
    with pytest.raises(SettingsError, match=words):
        load_settings(PRESETS / "digits.toml", [override])


def test_lists_take_names_and_ids_and_have_different_names():
    lists = ["fit.scopes=['joint','list']", "fit.lists=[{name='a',classes=[1,'two'],rest=true},{name='b',classes=[2]}]"]
    settings = load_settings(PRESETS / "digits.toml", lists)
    assert [(one.name, one.classes, one.rest) for one in settings.fit.lists] == [
        ("a", ("1", "two"), True),
        ("b", ("2",), False),
    ]
    assert load_settings(PRESETS / "digits.toml", ["fit.scopes=class"]).fit.scopes == ("class",)
    with pytest.raises(SettingsError, match="lists must have different names, not a, a"):
        load_settings(PRESETS / "digits.toml", [lists[0], lists[1].replace("'b'", "'a'")])


def test_scopes_of_no_class_are_refused():
    words = (
        r"fit\.scopes = \['class'\] makes a scope of every class of mine\.classes, which is \[\]: name classes in "
        r"mine\.classes, set it to \['all'\], or add 'joint' to fit\.scopes"
    )
    with pytest.raises(SettingsError, match=words):
        load_settings(PRESETS / "digits.toml", ["fit.scopes=['class']", "mine.classes=[]"])
    joint = load_settings(PRESETS / "digits.toml", ["fit.scopes=['joint','class']", "mine.classes=[]"])
    assert joint.mine.classes == (), "more classes may come later"


def test_the_discriminative_loss_needs_a_floor():
    with pytest.raises(SettingsError, match="loss = 'discriminative' needs a var_floor above 0"):
        load_settings(PRESETS / "digits.toml", ["fit.loss=discriminative", "fit.var_floor=0"])


@pytest.mark.parametrize("override", ["fit.scopes=['joint','class']", "fit.loss=discriminative"])
def test_a_chain_has_one_scope_and_one_loss(override):
    with pytest.raises(SettingsError, match=r"\[hmm\] has one chain for all classes: set fit\.scopes = \['joint'\]"):
        load_settings(PRESETS / "digits_mlp.toml", [override])


def test_the_network_has_the_last_word_on_the_number_of_layers():
    settings = load_settings(PRESETS / "cifar10_mlp.toml", ["fit.words=[40,30]"])
    assert settings.words_of_layers(2) == (40, 30)
    with pytest.raises(SettingsError, match=r"fit\.words has 2 numbers for 5 layers: give one, or one per layer"):
        settings.words_of_layers(5)


def test_the_papers_dense_preset_has_5_layers_of_1000_units():
    settings = load_settings(PRESETS / "cifar10_mlp.toml")
    assert settings.network.arguments == {"units": [1000] * 5, "n_classes": 10}
    assert settings.fit.words == (40,)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ('network.tap="pre"', r"\[hmm\] reads dense layers behind their ReLU.*set network\.tap = 'post'"),
        ("hmm.output=free", r"hmm\.output: Input should be 'fixed' or 'gaussian' \(came: 'free'\)"),
        (
            "mine.criterion=effect",
            r"mine\.criterion: must be 'likelihood' with \[hmm\], which chooses words by whole paths.*got 'effect'",
        ),
        ("hmm.restarts=0", r"hmm\.restarts: .*greater than 0 \(came: 0\)"),
        ("hmm.clamp=0", r"hmm\.clamp: .*greater than 0"),
        ("hmm.transition_prior=-1", r"hmm\.transition_prior: .*greater than or equal to 0"),
        ("count.folds=1", r"count\.folds: .*at least 2: with one fold every resampling is the same; give 20, or 0"),
        ("triage.min_images=0", r"triage\.min_images: .*greater than 0"),
        ("training.shift=-1", r"training\.shift: .*greater than or equal to 0"),
        ("training.label_smoothing=1", r"training\.label_smoothing: .*less than 1"),
    ],
)
def test_a_wrong_field_of_a_chain_is_refused_by_name(override, words):
    with pytest.raises(SettingsError, match=words):
        load_settings(PRESETS / "cifar10_mlp.toml", [override])


def test_without_outputs_no_graph_is_by_effect():
    fields = ['network.outputs="none"', 'fit.loss="generative"', "mine.criterion=both"]
    with pytest.raises(SettingsError, match=r"must be 'likelihood' with network\.outputs = 'none'.*got 'both'"):
        load_settings(PRESETS / "cifar10_resnet20.toml", fields)


def test_finding_dense_layers_needs_the_hmm_section():
    with pytest.raises(SettingsError, match=r"network\.layers = \['dense'\] needs an \[hmm\] section"):
        load_settings(PRESETS / "digits.toml", ['network.layers=["dense"]', "fit.words=7"])


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


def test_a_start_is_of_training():
    with pytest.raises(
        SettingsError, match=r"training\.start: must have network\.weights = 'train', got 'w\.pt', which is"
    ):
        load_settings(PRESETS / "digits.toml", ["network.weights=w.pt", "training.start=s.pt"])


def test_labels_of_several_folders_survive_the_run_file():
    settings = load_settings(PRESETS / "animals_vgg16.toml")
    assert [label.name for label in settings.data.joined_labels] == ["zebra", "tiger", "rest"]
    assert parse_settings(settings.model_dump(mode="json")) == settings
    assert load_settings(PRESETS / "digits.toml").data.joined_labels == ()


def test_numbers_are_names_and_one_is_a_list(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    overrides = ["network.layers=[0,2]", "fit.words=3", "mine.classes=[0,'cat']", "mine.images=[12]", "draw.paths=7"]
    paths = ["network.weights=~/w.pt", "data.class_names=~/names.json", "data.source=folders", "data.folders=~/images"]
    settings = load_settings(PRESETS / "digits.toml", [*overrides, *paths, "data.validation=['~/val','val']"])
    assert settings.network.layers == ("0", "2")
    assert settings.mine.classes == ("0", "cat")
    assert settings.mine.images == ("12",)
    assert settings.draw.paths == ("7",)
    assert settings.network.weights == "/home/ada/w.pt"
    assert settings.data.class_names == "/home/ada/names.json"
    assert settings.data.folders == ("/home/ada/images",)
    assert settings.data.validation == ("/home/ada/val", "val")


def test_a_preset_saved_by_an_editor_of_windows(tmp_path):
    text = (PRESETS / "digits.toml").read_text(encoding="utf-8")
    (tmp_path / "bom.toml").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert load_settings(tmp_path / "bom.toml") == load_settings(PRESETS / "digits.toml")
    (tmp_path / "wide.toml").write_bytes(text.encode("utf-16"))
    with pytest.raises(SettingsError, match=r"wide.toml' is UTF-16; save it as UTF-8"):
        load_settings(tmp_path / "wide.toml")


@pytest.mark.parametrize(
    "field", ["preprocessing.scale", "fit.tolerance", "runtime.item_timeout_s", "training.learning_rate"]
)
@pytest.mark.parametrize("value", ["inf", "nan"])
def test_numbers_are_finite(field, value):
    with pytest.raises(SettingsError, match=rf"{field}: .*(finite|greater than) .*came: {value}"):
        load_settings(PRESETS / "digits.toml", [f"{field}={value}"])


@pytest.mark.parametrize(
    ("shard", "batches"), [(500, (5, 10, 25, 50)), (200, (5, 10, 25, 50)), (96, (4, 8, 24, 48)), (7, (1, 7)), (1, (1,))]
)
def test_batches_that_may_be_chosen_fill_a_shard(shard: int, batches: tuple[int, ...]) -> None:
    extract = ExtractSettings(images_per_shard=shard, images_per_chunk=1)
    assert (extract.batches, extract.largest_batch) == (batches, batches[-1])
    assert ExtractSettings(batch=100).batches == (100,)


def test_pictures_are_not_decoded_on_a_device_that_is_the_cpu():
    fields = ["extract.decode=device", "runtime.device=cpu"]
    with pytest.raises(
        SettingsError, match=r"extract\.decode: must be 'cpu' with runtime\.device = 'cpu', got 'device'"
    ):
        load_settings(PRESETS / "digits.toml", fields)
    assert load_settings(PRESETS / "digits.toml", fields[:1]).extract.decode == "device"
