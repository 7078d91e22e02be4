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
from emofuse.settings import (
    LEARNT,
    Command,
    Recipe,
    SpeechSettings,
    TrainSettings,
    given_unread,
    load_recipe,
    recipe_from,
    setting_names,
    settings_from,
    unread,
)

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
    with pytest.raises(SettingsError, match=r"^run: a value holds half a character; write its text anew"):
        recipe_from({"name": "\ud800", "models": ["speech"]}, source="run")


def test_a_setting_without_a_name_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"^run: a setting has no name; "):
        recipe_from({"name": "x", "models": ["speech"], "": [0, 0]}, source="run")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epoch=5", "there is no setting train.epoch; did you mean train.epochs."),
        ("train_early.epoc=5", "there is no setting train_early.epoc; did you mean train_early.epochs."),
        ("epochs=5", "no setting epochs; did you mean train.epochs or train_early.epochs or finetune.epochs."),
        ("modle.width=8", "there is no setting modle; did you mean model."),
        ('"[["=1', "there is no setting "),
        ("zzz=1", "there is no setting zzz; use one of name, models, seeds,"),
        ("models=['speach']", "setting models.0 is 'speach'; did you mean speech."),
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

    whole = Recipe(name="x", train_early=TrainSettings())
    assert setting_names(Recipe) == leaves(whole)


# Every setting, in every command that takes a recipe


OTHERWISE = {
    "models": '["speech"]', "seeds": "[7]", "speech.layers": "-1", "speech.segments": "max", "text.layers": "-1",
    "speech.precision": "bfloat16", "finetune.precision": "float32", "model.pooling": "mean", "model.final": "models",
    "model.speech_granularity": "frame", "model.late_rule": "mean", "model.late_weights": "tuned",
    "protocol.kind": "speaker", "protocol.fixed": "published", "protocol.validation_by": "speaker",
    "protocol.labels": '["sad", "angry"]', "protocol.merge": '{calm = "sad"}', "protocol.apart": "script",
    "text.max_tokens": "64", "model.heads": "8", "model.width": "64", "model.vocabulary": "90",
}  # fmt: skip


def otherwise(name: str) -> str:
    """Another value of a setting than its default, as --set takes it."""
    section, _, last = name.rpartition(".")
    kind = type(getattr(Recipe(name="x", train_early=TrainSettings()), section)) if section else Recipe
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
                assert changed.finetune_of("text") != plain.finetune_of("text")
            elif command == "train" and name.startswith("train."):
                assert changed.train_of("text") != plain.train_of("text")


def test_what_a_command_does_not_read_names_what_it_reads() -> None:
    expected = {"finetune.epochs": "train.epochs", "finetune.precision": "speech.precision", "finetune.layer_decay": ""}
    assert {name: unread("run")[name] for name in expected} == expected
    assert unread("finetune")["train_early.learning_rate"] == "finetune.learning_rate"
    assert unread("finetune")["train.refit"] == ""
    with pytest.raises(SettingsError, match=r"finetune` does not read setting models; use --model"):
        load_recipe("fusion", overrides=["models=['speech']"], command="finetune")
    # Whole sections count as what they hold.
    with pytest.raises(SettingsError, match=r"does not read setting train\.epochs"):
        load_recipe("fusion", overrides=["train={epochs=3}"], command="finetune")
    # A file may serve several commands; what one of them leaves aside it says.
    assert "train.refit" in given_unread(load_recipe("fusion", command="finetune"), "finetune")
    assert given_unread(load_recipe("fusion"), "run") == []


def test_fine_tuning_learns_what_the_recipe_learns_unless_it_says_otherwise() -> None:
    given = {
        "name": "x",
        "train": {"soft_labels": True, "class_weights": True},
        "train_early": {"label_smoothing": 0.1},
    }
    recipe = recipe_from(given, source="test")
    assert recipe.finetune_of("speech").soft_labels is recipe.finetune_of("text").class_weights is True
    early = recipe.finetune_of("early-frame")
    assert (early.soft_labels, early.class_weights, early.label_smoothing) == (False, False, 0.1)
    other = recipe_from({**given, "finetune": {"soft_labels": False}}, source="test").finetune_of("speech")
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
    with pytest.raises(SettingsError) as caught:
        check_encoder_settings(recipe_from({"name": "x", **given}, source="test"), ("speech", "text"))
    assert message in str(caught.value)
