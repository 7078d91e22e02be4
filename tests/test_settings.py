"""Recipes: any file is read or refused in one sentence, and what is refused names the nearest that there is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from emofuse.align.run import align_manifest
from emofuse.corpora import CORPORA, read_corpus
from emofuse.encoders import load_speech_encoder
from emofuse.errors import EmofuseError, SettingsError
from emofuse.experiment import check_encoder_settings
from emofuse.manifest import make_manifest
from emofuse.plan import resolve
from emofuse.recipe import LEARNT, Command, Recipe, given_unread, load_recipe, recipe_from, unread
from emofuse.settings import SpeechSettings, TrainSettings, setting_names, settings_from

HOSTILE = {
    "latin.toml": ('# für den Test\nname = "x"\n'.encode("latin-1"), "line 1 is not text in UTF-8; save the recipe as"),
    "second.toml": (b'name = "x"\n# f\xfcr\n', "line 2 is not text in UTF-8"),
    "utf16.toml": ('name = "x"'.encode("utf-16"), "not text in UTF-8"),
    "picture.toml": (b"\x89PNG\r\n\x1a\n\x00", "not text in UTF-8"),
    "nul.toml": (b'name = "x\x00"', "not valid TOML"),
    "list.toml": (b"name = " + b"[" * 100_000, "not valid TOML (its brackets are nested too deep)"),
    "table.toml": (b"name = " + b"{a=" * 5000 + b"1" + b"}" * 5000, "nested too deep"),
    "dots.toml": (b'name = "x"\n' + b".".join([b"a"] * 5000) + b" = 1", "there is no setting a; use one of name,"),
    "digits.toml": (b'name = "x"\nseeds = [' + b"1" * 9000 + b"]", "not valid TOML"),
    "half.toml": (b'name = "\\ud800"', "not valid TOML"),
    "empty.toml": (b"", "setting name is not given; add it"),
    "large.toml": (b"#" * 2_000_000, "too large for a recipe"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_recipe_of_any_bytes_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    content, expected = HOSTILE[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        load_recipe(str(path))
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_and_windows_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.TOML"
    path.write_bytes(b'\xef\xbb\xbfname = "x"\r\n[train]\r\nepochs = 3\r\n')
    assert load_recipe(str(path)).train.epochs == 3


def test_a_folder_or_nothing_is_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "a.toml").mkdir()
    for name, message in (("a.toml", "cannot be read"), ("b.toml", "no such recipe file; check the path")):
        with pytest.raises(SettingsError, match=message):
            load_recipe(str(tmp_path / name))


def test_half_a_character_of_stored_settings_is_refused() -> None:
    """JSON may hold one, and what is computed by such settings could not be stored."""
    with pytest.raises(SettingsError, match=r"^run: a value holds half a character; write its text again"):
        recipe_from({"name": "\ud800", "models": ["speech"]}, source="run")


def test_a_setting_without_a_name_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"^run: a setting has no name; "):
        recipe_from({"name": "x", "models": ["speech"], "": [0, 0]}, source="run")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epoch=5", "there is no setting train.epoch; did you mean train.epochs."),
        ("epochs=5", "no setting epochs; did you mean train.epochs or finetune.epochs."),
        ("modle.width=8", "there is no setting modle; did you mean model."),
        ('"[["=1', "there is no setting "),
        ("zzz=1", "there is no setting zzz; use one of name, models, ensembles,"),
        ("models=[3]", "setting models[0] is 3"),
        ("models[0].settigns.width=3", "there is no setting models[0].settigns; "),
        ("models[3].settings.width=3", "the recipe has no 'models[3]' among its models; "),
        ("models.speach.settings.width=3", "the recipe has no 'speach' among its models; did you mean speech."),
        ("ensembles=[{name='late', of=['speech']}]", "ensembles[0]: an ensemble has two members or more"),
        (
            "ensembles=[{name='late', of=['speech', 'txt']}]",
            "has a member 'txt', and no model before it is called that",
        ),
        ("ensembles=[{name='x', of=['speech'], seeds=1}]", "setting ensembles[0].seeds is 1: "),
        ("ensembles=[{name='speech', of=['speech'], seeds=2}]", "two models are called 'speech'"),
        ("protocol.kind=sesion", "setting protocol.kind is 'sesion'; did you mean session."),
        ("protocol.fixed=published", "fixed needs kind fixed, and kind is auto"),
        ("protocol.fixed=publishd", "setting protocol.fixed is 'publishd'; did you mean published."),
        ("speech.segments=zzz", "setting speech.segments is 'zzz'; use one of mean, max, mean+std, attentive."),
        ("train.epochs=0", "setting train.epochs is 0: input should be greater than or equal to 1; change its value."),
        ("train.learning_rate=inf", "setting train.learning_rate is inf: input should be a finite number"),
        ("train.learning_rate=nan", "setting train.learning_rate is nan"),
        ("train.epochs=5\nseeds=[1]", "setting train.epochs is '5\\nseeds=[1]'"),
        ("name=\udcff", "is not UTF-8; write it in UTF-8."),
        ("train.epochs=1" + "0" * 5000, "setting train.epochs is '10"),
        ("seeds=" + "[" * 5000, "setting seeds is '[["),
    ],
)
def test_a_refused_setting_names_the_nearest(override: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_recipe("speech", overrides=[override])
    assert message in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("models=['speach']", "models[0].class: there is no model 'speach' (known: speech, text, "),
        ("model.wdth=8", "there is no setting model.wdth of any model; did you mean model.width."),
        ("model.width=2", "setting model.width is 2: input should be greater than or equal to 4"),
        ("models[0].settings.width=2", "setting models[0].settings.width is 2: input should be greater"),
        ("models[1].settings.heads=3", "setting models[1].settings: width 256 is not a multiple of heads 3"),
        ("models.speech.train.epochs=0", "setting models[0].train.epochs is 0: "),
        (
            "models.speech.train.epoch=5",
            "there is no setting models[0].train.epoch; did you mean models[0].train.epochs",
        ),
        ("models[1].settings.steps=['frames']", "setting models[1].settings.steps[0] is 'frames'; did you mean frame."),
        ("task={values=['valence']}", "train.soft_labels: soft_labels is for classes; leave it out."),
        ("speech.segments=mean+std", "early-joint reads frames and segments in one sequence"),
    ],
)
def test_a_refused_setting_of_a_model_is_named_with_its_model(override: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "x"\nmodels = ["speech", "early-joint"]\n[train]\nsoft_labels = true\n')
    with pytest.raises(SettingsError) as caught:
        resolve(load_recipe(path, overrides=[override]))
    assert message in str(caught.value)


def test_models_are_chosen_by_name_among_those_of_the_recipe() -> None:
    """With what they have of their own; an ensemble brings its members along, and others go."""
    plan = resolve(load_recipe("paper", overrides=["models=['late', 'early-word', 'early-joint']"]))
    assert plan.names == ("speech", "text", "early-word", "early-joint", "late")
    assert (plan.model("early-word").train.epochs, plan.model("early-joint").train.epochs) == (30, 40)
    whole = resolve(load_recipe("paper", overrides=["models=['multi-level']"]))
    assert {one.name for one in whole.ensembles} == {"late", "multi-granularity", "multi-level"}


def test_what_holds_for_all_models_stands_above_what_single_ones_have() -> None:
    plain = resolve(load_recipe("paper"))
    assert [one.train.epochs for one in plain.models[2:5]] == [40, 30, 30]
    assert plain.model("early-word").train.weight_decay == plain.model("speech").train.weight_decay == 0.3
    overrides = ["train.epochs=2", "model.width=64", "models.early-phone.train.epochs=3", "models[0].settings.width=32"]
    changed = resolve(load_recipe("paper", overrides=overrides))
    assert {one.name: one.train.epochs for one in changed.models} == {
        **dict.fromkeys((one.name for one in plain.models), 2),
        "early-phone": 3,
    }
    assert [one.settings.model_dump()["width"] for one in changed.models[:2]] == [32, 64]


def test_recipes_and_single_stages_name_the_nearest_too() -> None:
    with pytest.raises(SettingsError, match=r"'fusoin'; did you mean fusion, or give a path to a \.toml file"):
        load_recipe("fusoin")
    with pytest.raises(SettingsError, match="there is no setting epoch; did you mean epochs"):
        settings_from(TrainSettings, ["epoch=5"])


def test_every_other_name_that_is_refused_names_the_nearest_too(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text,feeling\nhello,sad\n")
    made = make_manifest([{"utterance": "a", "text": "b"}], source="x")
    refused: dict[str, Callable[[], Any]] = {
        "ravdess": lambda: read_corpus("ravdes", tmp_path),
        "labels": lambda: CORPORA["iemocap"].chosen({"label": "six"}),
        "six": lambda: CORPORA["iemocap"].chosen({"labels": "sixx"}),
        "label": lambda: read_corpus("table", path, columns={"lable": "feeling"}),
        "feeling": lambda: read_corpus("table", path, columns={"label": "feelings"}),
        "builtin:speech": lambda: load_speech_encoder(SpeechSettings(encoder="builtin:spech")),
        "sphinx": lambda: align_manifest(made, aligner="sphnix"),
    }
    for name, work in refused.items():
        with pytest.raises(EmofuseError, match=f"did you mean '?{name}"):
            work()


def test_every_setting_has_its_name() -> None:
    def leaves(value: BaseModel, before: str = "") -> list[str]:
        found = []
        for name in type(value).model_fields:
            inner = getattr(value, name)
            found += leaves(inner, f"{before}{name}.") if isinstance(inner, BaseModel) else [before + name]
        return found

    whole = Recipe(name="x")
    assert setting_names(Recipe) == leaves(whole)


# Every setting, in every command that takes a recipe


OTHERWISE = {
    "models": '["text", "speech"]', "seeds": "[7]",
    "speech.layers": "-1", "speech.segments": "max", "text.layers": "-1",
    "ensembles": '[{name = "text x 2", of = ["text"], seeds = 2}]', "task.values": '["valence"]', "task.loss": "ccc",
    "speech.precision": "bfloat16", "finetune.precision": "float32", "model": "{width = 64}",
    "protocol.kind": "speaker", "protocol.fixed": "published", "protocol.validation_by": "speaker",
    "protocol.labels": '["sad", "angry"]', "protocol.merge": '{calm = "sad"}', "protocol.apart": "script",
    "text.max_tokens": "64", "text.vocabulary": "90",
}  # fmt: skip


def otherwise(name: str) -> str:
    """Another value of a setting than its default, as --set takes it."""
    section, _, last = name.rpartition(".")
    kind = type(getattr(Recipe(name="x"), section)) if section else Recipe
    default = kind.model_fields[last].default
    if name in OTHERWISE:
        return OTHERWISE[name]
    if isinstance(default, bool) or (last in LEARNT and last != "label_smoothing"):
        return "false" if default else "true"
    if isinstance(default, float) or last == "label_smoothing":
        return "0.25"
    return "3" if isinstance(default, int) or last == "validation_groups" else "other"


@pytest.mark.parametrize("command", get_args(Command))
def test_every_setting_is_taken_or_refused_by_name(command: Command) -> None:
    plain = load_recipe("text", command=command)
    for name in setting_names(Recipe):
        override, before = f"{name}={otherwise(name)}", plain
        if name == "protocol.fixed":
            before = load_recipe("text", overrides=["protocol.kind=fixed"], command=command)
            override = f"protocol={{kind='fixed', fixed='{otherwise(name)}'}}"
        if name in unread(command):
            with pytest.raises(SettingsError) as caught:
                load_recipe("text", overrides=[override], command=command)
            assert str(caught.value).startswith(f"--set: `emofuse {command}` does not read setting {name}; ")
        else:
            changed = load_recipe("text", overrides=[override], command=command)
            assert changed != before, name
            # What is learnt is learnt by whoever trains.
            if command == "finetune" and name.startswith(("train.", "finetune.")):
                assert resolve(changed).model("text").finetune != resolve(plain).model("text").finetune
            elif command == "train" and name.startswith("train."):
                assert resolve(changed).model("text").train != resolve(plain).model("text").train


def test_what_a_command_does_not_read_names_what_it_reads() -> None:
    expected = {"finetune.epochs": "train.epochs", "finetune.precision": "speech.precision", "finetune.layer_decay": ""}
    assert {name: unread("run")[name] for name in expected} == expected
    assert unread("finetune")["train.refit"] == ""
    with pytest.raises(SettingsError, match=r"finetune` does not read setting ensembles; leave it out"):
        load_recipe("fusion", overrides=["ensembles=[]"], command="finetune")
    # Whole sections count as what they hold.
    with pytest.raises(SettingsError, match=r"does not read setting train\.epochs"):
        load_recipe("fusion", overrides=["train={epochs=3}"], command="finetune")
    # A file may serve several commands; what one of them leaves aside it says.
    assert "train.refit" in given_unread(load_recipe("fusion", command="finetune"), "finetune")
    assert given_unread(load_recipe("fusion"), "run") == []


def test_fine_tuning_learns_what_the_recipe_learns_unless_it_says_otherwise() -> None:
    given = {
        "name": "x",
        "models": ["speech", "text", {"name": "early-frame", "train": {"soft_labels": False, "label_smoothing": 0.1}}],
        "train": {"soft_labels": True, "class_weights": True},
    }
    plan = resolve(recipe_from(given, source="test"))
    assert plan.model("speech").finetune.soft_labels is plan.model("text").finetune.class_weights is True
    early = plan.model("early-frame").finetune
    assert (early.soft_labels, early.class_weights, early.label_smoothing) == (False, True, 0.1)
    other = resolve(recipe_from({**given, "finetune": {"soft_labels": False}}, source="test")).model("speech").finetune
    assert (other.soft_labels, other.class_weights) == (False, True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"speech": {"encoder": "logmel", "precision": "bfloat16"}}, "speech.precision: encoder logmel has no"),
        ({"speech": {"revision": "abc"}}, "speech.revision: encoder builtin:speech has no revision to choose;"),
        ({"text": {"encoder": "words", "layers": "1"}}, "text.layers: encoder words has no layers to choose"),
        ({"text": {"encoder": ".", "revision": "abc"}}, "text.revision: encoder . has no revision"),
    ],
)
def test_encoders_that_have_no_such_setting_refuse_it(given: dict[str, Any], message: str) -> None:
    recipe = recipe_from({"name": "x", **given}, source="test")
    with pytest.raises(SettingsError) as caught:
        check_encoder_settings(recipe.speech, recipe.text, ("speech", "text"))
    assert message in str(caught.value)


@pytest.mark.parametrize("section", ["settings", "train"])
@pytest.mark.parametrize("value", [float("inf"), float("nan"), [1.0, float("-inf")]])
def test_no_setting_of_a_model_is_infinite(section: str, value: Any) -> None:
    """JSON, in which recipes are stored, has no such numbers."""
    with pytest.raises(SettingsError, match="a number is not finite"):
        recipe_from({"name": "mine", "models": [{"name": "speech", section: {"new": value}}]}, source="test")
    with pytest.raises(SettingsError, match="a number is not finite"):
        recipe_from({"name": "mine", "model": {"new": value}, "models": ["speech"]}, source="test")
