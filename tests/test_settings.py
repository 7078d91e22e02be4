"""Recipes: any file is read or refused in one sentence, and what is refused names the nearest that there is."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from emofuse.errors import SettingsError
from emofuse.settings import Recipe, TrainSettings, load_recipe, setting_names, settings_from

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


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epoch=5", "there is no setting train.epoch; did you mean train.epochs."),
        ("train_early.epoc=5", "there is no setting train_early.epoc; did you mean train_early.epochs."),
        ("epochs=5", "no setting epochs; did you mean train.epochs or train_early.epochs or finetune.epochs."),
        ("modle.width=8", "there is no setting modle; did you mean model."),
        ("zzz=1", "there is no setting zzz; use one of name, models, seeds, speech, text, model, train, train_early,"),
        ("models=['speach']", "setting models.0 is 'speach'; did you mean speech."),
        ("protocol.kind=sesion", "setting protocol.kind is 'sesion'; did you mean session."),
        ("protocol.fixed=emobx", "setting protocol.fixed is 'emobx'; did you mean emobox."),
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


def test_every_setting_has_its_name() -> None:
    def leaves(value: BaseModel, before: str = "") -> list[str]:
        found = []
        for name in type(value).model_fields:
            inner = getattr(value, name)
            found += leaves(inner, f"{before}{name}.") if isinstance(inner, BaseModel) else [before + name]
        return found

    whole = Recipe(name="x", train_early=TrainSettings())
    assert setting_names(Recipe) == leaves(whole)
