"""Folds test each utterance once, share no speaker, and say what they share all the same."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from emofuse import leakage as leakage_module
from emofuse.corpora import read_corpus
from emofuse.errors import ProtocolError
from emofuse.leakage import NEAR, leakage, normalise
from emofuse.manifest import make_manifest
from emofuse.protocols import Protocol, check_split, make_protocol, save_protocol
from emofuse.settings import ProtocolSettings
from emofuse.testing import miniature_iemocap
from emofuse.types import Fold

few = settings(deadline=None, derandomize=True, max_examples=60)
# Manifests take long to make, and far longer to shrink.
fewer = settings(
    deadline=None,
    derandomize=True,
    max_examples=settings.default.max_examples // 3,
    phases=(Phase.explicit, Phase.generate),
)

# From the data's README, not from the code.
RAVDESS = "01 11 20 21 / 04 10 12 14 / 08 09 19 23 / 03 05 07 24 / 02 15 16 18 / 06 13 17 22"


def corpus(
    *,
    speakers: int = 6,
    sessions: int = 0,
    takes: int = 2,
    labels: Sequence[str] = ("angry", "happy", "sad"),
    name: str = "table",
    number: str = "s{}",
) -> pd.DataFrame:
    """Speakers who all say every emotion; session n has the speakers whose number leaves n."""
    rows = [
        {
            "utterance": f"{number.format(speaker)}_{label}_{take}",
            "corpus": name,
            "text": f"take {take} of {speaker}, {label}",
            "label": label,
            "speaker": number.format(speaker),
            "session": f"ses{speaker % sessions}" if sessions else None,
        }
        for speaker in range(speakers)
        for label in labels
        for take in range(takes)
    ]
    return make_manifest(rows, source="test")


def ravdess() -> pd.DataFrame:
    return corpus(speakers=24, name="ravdess").assign(
        speaker=lambda frame: [f"{int(name[1:]) + 1:02d}" for name in frame["speaker"]]
    )


def value_of(manifest: pd.DataFrame, names: Sequence[str], column: str) -> set[str]:
    return set(manifest.set_index("utterance").loc[list(names), column])


def assert_sound(manifest: pd.DataFrame, protocol: Protocol, *, everyone: bool = True) -> None:
    """What holds for every protocol: folds are disjoint, and each utterance is tested once."""
    tested = Counter(name for fold in protocol.folds for name in fold.test)
    if everyone:
        assert tested == dict.fromkeys(protocol.labels, 1)
    for fold in protocol.folds:
        parts = [set(fold.train), set(fold.validation), set(fold.test)]
        assert all(parts)
        assert sum(map(len, parts)) == len(set.union(*parts)) == len(protocol.labels)
        assert set.union(*parts) == set(protocol.labels)
        assert len(fold.train) == len(parts[0])
        assert {protocol.labels[name] for name in fold.train} == set(protocol.classes)


def assert_apart(manifest: pd.DataFrame, protocol: Protocol, column: str) -> None:
    for fold in protocol.folds:
        sides = [value_of(manifest, names, column) for names in (fold.train, fold.validation, fold.test)]
        assert sum(map(len, sides)) == len(set.union(*sides))


@st.composite
def manifests(draw: st.DrawFn, least: int = 3) -> pd.DataFrame:
    """Random numbers of utterances of random emotions from speakers who sit in sessions, in any order."""
    speakers = draw(st.integers(least, 9))
    sessions = draw(st.integers(2, 4))
    rows = []
    for speaker in range(speakers):
        for number, label in enumerate(draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=5))):
            row = {"speaker": f"p{speaker}", "session": f"x{speaker % sessions}", "label": label}
            rows.append(
                {"utterance": f"u{speaker}-{number}", "audio": "a.wav", "text": draw(st.sampled_from(TEXTS)), **row}
            )
    return make_manifest(draw(st.permutations(rows)), source="test")


TEXTS = (
    "Oh no!",
    "oh, no",
    "I am so happy to see you here again today",
    "I am so happy to see you, here, again today!",
    "I am so happy to see you here again to-day",
    "I am so happy to see them here",
    "you are here again today",
    "what is it",
    "...",
    None,
    "it",
)


def split(manifest: pd.DataFrame, **values: Any) -> Protocol:
    return make_protocol(manifest, ProtocolSettings(**values))


# Which folds.


def test_leave_one_session_out() -> None:
    manifest = corpus(speakers=6, sessions=3)
    protocol = split(manifest, kind="session", validation_by="session")
    assert [fold.name for fold in protocol.folds] == ["session-ses0", "session-ses1", "session-ses2"]
    for fold in protocol.folds:
        assert value_of(manifest, fold.test, "session") == {fold.name.removeprefix("session-")}
    assert_sound(manifest, protocol)
    assert_apart(manifest, protocol, "session")
    assert_apart(manifest, protocol, "speaker")


def test_leave_one_speaker_out() -> None:
    manifest = corpus(speakers=5)
    protocol = split(manifest, kind="speaker")
    assert [fold.name for fold in protocol.folds] == [f"speaker-s{n}" for n in range(5)]
    for fold in protocol.folds:
        assert value_of(manifest, fold.test, "speaker") == {fold.name.removeprefix("speaker-")}
        assert len(value_of(manifest, fold.validation, "speaker")) == 1
    assert_sound(manifest, protocol)
    assert_apart(manifest, protocol, "speaker")


@pytest.mark.parametrize(("speakers", "folds"), [(20, 5), (7, 3), (5, 5)])
def test_folds_by_speaker_are_as_even_as_can_be(speakers: int, folds: int) -> None:
    manifest = corpus(speakers=speakers)
    protocol = split(manifest, kind="speakers", folds=folds)
    counts = [len(value_of(manifest, fold.test, "speaker")) for fold in protocol.folds]
    assert (len(counts), sum(counts)) == (folds, speakers)
    assert max(counts) - min(counts) <= 1
    assert_sound(manifest, protocol)
    assert_apart(manifest, protocol, "speaker")


def test_folds_by_speaker_are_not_cut_from_the_sorted_list() -> None:
    manifest = corpus(speakers=20)
    protocol = split(manifest, kind="speakers", folds=2)
    first = sorted(manifest["speaker"].unique())[:10]
    assert value_of(manifest, protocol.folds[0].test, "speaker") not in ({*first}, {*manifest["speaker"]} - {*first})


@pytest.mark.parametrize("kind", ["auto", "fixed"])
def test_the_folds_of_ravdess_are_those_that_were_published(kind: str) -> None:
    manifest = ravdess()
    protocol = split(manifest, kind=kind, fixed=None if kind == "auto" else "published")
    expected = [set(part.split()) for part in RAVDESS.split("/")]
    assert [value_of(manifest, fold.test, "speaker") for fold in protocol.folds] == expected
    assert (protocol.settings.kind, protocol.settings.fixed) == ("fixed", "published")
    assert all(len(value_of(manifest, fold.validation, "speaker")) == 4 for fold in protocol.folds)
    assert_sound(manifest, protocol)
    assert_apart(manifest, protocol, "speaker")


def test_auto_makes_folds_of_its_own_where_speakers_of_ravdess_are_missing() -> None:
    manifest = ravdess()
    protocol = split(manifest[manifest["speaker"] != "20"].reset_index(drop=True))
    assert protocol.settings.kind == "speakers"
    assert_apart(manifest, protocol, "speaker")


def test_folds_by_list() -> None:
    manifest = corpus(speakers=5)
    protocol = split(manifest, kind="fixed", fixed=(("S4 ", "s0"), ("s1",)))
    assert [value_of(manifest, fold.test, "speaker") for fold in protocol.folds] == [{"s0", "s4"}, {"s1"}]
    assert_sound(manifest, protocol, everyone=False)


def own_split(manifest: pd.DataFrame) -> pd.DataFrame:
    parts = {"s0": "test", "s1": "dev", "s2": "dev"}
    return manifest.assign(session=[parts.get(name, "train") for name in manifest["speaker"]])


@pytest.mark.parametrize("kind", ["auto", "split"])
def test_a_split_of_the_corpus_itself_is_kept(kind: str) -> None:
    manifest = own_split(corpus(speakers=6))
    protocol = split(manifest, kind=kind)
    (fold,) = protocol.folds
    for part, name in ((fold.train, "train"), (fold.validation, "dev"), (fold.test, "test")):
        assert set(part) == set(manifest.loc[manifest["session"] == name, "utterance"])
    assert protocol.settings.kind == "split"
    assert_sound(manifest, protocol, everyone=False)


@pytest.mark.parametrize(
    ("guest", "named", "kind"), [("train", True, "speaker"), ("test", True, "split"), ("train", False, "split")]
)
def test_auto_keeps_no_split_that_tests_nobody_new(guest: str, named: bool, kind: str) -> None:
    """ESD's tests sentences of known speakers; MELD's known and new ones; some corpora do not name speakers."""
    manifest = corpus(speakers=4)
    parts = {"s1": guest, "s2": "train", "s3": "dev"}
    take = manifest["utterance"].str[-1].map({"0": "test", "1": "train"})
    manifest["session"] = manifest["speaker"].map(parts).fillna(take).astype("string")
    if not named:
        manifest["speaker"] = None
    assert split(manifest).settings.kind == kind


@pytest.mark.parametrize("name", ["iemocap", "msp-improv"])
def test_actors_who_talk_to_each_other_are_left_out_together(name: str) -> None:
    manifest = corpus(speakers=4).assign(corpus=name)
    manifest["session"] = manifest["speaker"].map({"s0": "1", "s1": "1", "s2": "2", "s3": "2"})
    protocol = split(manifest, validation_by="speaker")
    assert [value_of(manifest, fold.test, "speaker") for fold in protocol.folds] == [{"s0", "s1"}, {"s2", "s3"}]


@pytest.mark.parametrize(("speakers", "kind", "folds"), [(12, "speaker", 12), (13, "speakers", 5)])
def test_auto_leaves_one_of_few_speakers_out_and_makes_folds_of_many(speakers: int, kind: str, folds: int) -> None:
    protocol = split(corpus(speakers=speakers))
    assert (protocol.settings.kind, len(protocol.folds)) == (kind, folds)


@fewer
@given(manifest=manifests(), kind=st.sampled_from(["speaker", "speakers", "session"]), by_session=st.booleans())
def test_no_fold_of_any_corpus_shares_an_utterance_or_speaker(
    manifest: pd.DataFrame, kind: str, by_session: bool
) -> None:
    by = "session" if by_session and kind == "session" else "speaker"
    try:
        protocol = split(manifest, kind=kind, folds=2, validation_by=by)
    except ProtocolError:
        assume(False)
    assert_sound(manifest, protocol)
    assert_apart(manifest, protocol, by)
    assert_apart(manifest, protocol, "speaker")
    assert protocol.leakage["speakers"] == 0


# Scripts.


@few
@given(
    counts=st.lists(st.integers(6, 25), min_size=2, max_size=4),
    folds=st.integers(2, 4),
    kind=st.sampled_from(["auto", "stratified"]),
)
def test_without_speakers_every_fold_has_as_much_of_each_label(counts: list[int], folds: int, kind: str) -> None:
    rows = [
        {"utterance": f"{label}-{number}", "text": f"{label} {number}", "label": f"label{label}"}
        for label, count in enumerate(counts)
        for number in range(count)
    ]
    manifest = make_manifest(rows, source="test")
    protocol = split(manifest, kind=kind, folds=folds)
    assert (protocol.settings.kind, protocol.settings.validation_by) == ("stratified", "utterance")
    assert sorted(name for fold in protocol.folds for name in fold.test) == sorted(manifest["utterance"])
    for fold in (*protocol.folds, protocol.final):
        parts = [set(fold.train), set(fold.validation), set(fold.test)]
        assert set.union(*parts) == set(manifest["utterance"])
        assert sum(map(len, parts)) == len(manifest)
        rest = len(parts[0] | parts[1])
        validations = rest / round(rest / 5)
        for label, count in enumerate(counts):
            tested, validated = (
                sum(name.startswith(f"{label}-") for name in part) for part in (fold.test, fold.validation)
            )
            assert fold is protocol.final or abs(tested - count / folds) < 1
            assert abs(validated - (count - tested) / validations) < 1
    assert "Speakers are unknown, and one may both train and test: the figures are optimistic." in protocol.notes
    again = split(manifest.sample(frac=1, random_state=0), kind=kind, folds=folds)
    assert again.fingerprint == protocol.fingerprint


@pytest.mark.parametrize("groups", [1, 6, 9, 14, 17])
def test_as_many_utterances_validate_as_are_asked_for(groups: int) -> None:
    rows = [
        {"utterance": f"{label}{n:02d}", "text": f"{label} {n}", "label": label} for label in "ab" for n in range(20)
    ]
    protocol = split(make_manifest(rows, source="test"), folds=2, validation_groups=groups)
    assert [len(fold.validation) for fold in protocol.folds] == [groups] * 2
    assert [len(fold.train) for fold in protocol.folds] == [20 - groups] * 2


def test_speakers_that_are_known_and_ignored_are_said() -> None:
    note = "The same speakers train and test: the figures are optimistic."
    assert note in split(acted(), kind="stratified").notes
    one = acted()
    one["speaker"] = "me"
    alone = split(one)
    assert alone.settings.kind == "stratified"
    assert note in alone.notes
    assert not any("optimistic" in each for each in split(acted()).notes)


def test_values_need_no_speakers_either() -> None:
    rows = [{"utterance": f"u{n:02d}", "text": f"word {n}", "values.valence": n / 9} for n in range(20)]
    protocol = make_protocol(make_manifest(rows, source="test"), ProtocolSettings(folds=4), values=("valence",))
    assert protocol.settings.kind == "stratified"
    assert sorted(len(fold.test) for fold in protocol.folds) == [5] * 4


def acted(*, scripts: Sequence[str | None] = ("script01", "script02", "impro01"), sessions: int = 4) -> pd.DataFrame:
    """Sessions of two speakers who all act the same scripts, with every emotion in each."""
    rows = [
        {
            "utterance": f"{session}{speaker}-{script}-{label}",
            "text": f"{script} {label}",
            "label": label,
            "speaker": f"{session}{speaker}",
            "session": str(session),
            "script": script,
        }
        for session in range(sessions)
        for speaker in "FM"
        for script in scripts
        for label in ("angry", "sad")
    ]
    return make_manifest(rows, source="test")


def scripts_of(manifest: pd.DataFrame, names: Sequence[str]) -> set[str]:
    """Scripts with given words among some utterances."""
    return {one for one in value_of(manifest, names, "script") if not pd.isna(one) and not one.startswith("impro")}


def test_no_fold_trains_on_a_script_that_it_tests() -> None:
    manifest = acted()
    assert split(manifest, kind="session").leakage["scripts"] == 2
    protocol = split(manifest, kind="session", apart="script")
    assert protocol.leakage["scripts"] == 0
    for fold in protocol.folds:
        tested = manifest[manifest["utterance"].isin(fold.test)]
        (session,) = tested["session"].unique()
        (script,) = tested["script"].unique()
        # Everything else trains: no other session is lost, and no other script.
        others = manifest[manifest["session"] != session]
        if script != "impro01":
            others = others[others["script"] != script]
        assert {*fold.train, *fold.validation} == set(others["utterance"])
        assert fold.train
        assert fold.validation
    assert Counter(name for fold in protocol.folds for name in fold.test) == dict.fromkeys(manifest["utterance"], 1)
    assert [fold.name for fold in protocol.folds][:3] == [
        "session-0",
        "session-0, script script01",
        "session-0, script script02",
    ]
    assert len(protocol.folds) == 4 * 3


@fewer
@given(manifest=manifests(), data=st.data(), kind=st.sampled_from(["speaker", "speakers", "session"]))
def test_folds_of_any_corpus_can_keep_scripts_apart(manifest: pd.DataFrame, data: st.DataObject, kind: str) -> None:
    names = st.lists(
        st.sampled_from(["p1", "p2", "p3", "impro1", None]), min_size=len(manifest), max_size=len(manifest)
    )
    manifest["script"] = pd.array(data.draw(names), dtype="string")
    try:
        protocol = split(manifest, kind=kind, folds=2, apart="script")
    except ProtocolError:
        assume(False)
    assert Counter(name for fold in protocol.folds for name in fold.test) == dict.fromkeys(protocol.labels, 1)
    assert len({fold.name for fold in protocol.folds}) == len(protocol.folds)
    assert protocol.leakage["scripts"] == 0
    for fold in protocol.folds:
        seen = (*fold.train, *fold.validation)
        assert not scripts_of(manifest, fold.test) & scripts_of(manifest, seen)
        assert not value_of(manifest, fold.test, "speaker") & value_of(manifest, seen, "speaker")
        assert not set(fold.train) & set(fold.validation)


def test_a_script_that_one_session_has_alone_divides_nothing() -> None:
    manifest = acted(scripts=("impro01", None)).assign(script=lambda frame: "play of " + frame["session"])
    plain = split(manifest, kind="session")
    kept = split(manifest, kind="session", apart="script")
    assert kept.folds == plain.folds
    assert kept.fingerprint == plain.fingerprint
    assert kept.leakage["scripts"] == 0


def test_many_scripts_are_drawn_into_groups() -> None:
    manifest = acted(scripts=[f"sentence {number}" for number in range(7)])
    protocol = split(manifest, kind="session", folds=3, apart="script")
    assert len(protocol.folds) == 4 * 3
    sizes = sorted(len(scripts_of(manifest, fold.test)) for fold in protocol.folds)
    assert sizes == [2] * 8 + [3] * 4
    assert protocol.leakage["scripts"] == 0


def test_a_development_part_of_tested_scripts_only_cannot_validate() -> None:
    names = {"0": "test", "1": "dev"}
    manifest = acted().assign(session=lambda frame: frame["session"].map(names).fillna("train"))
    manifest = manifest[(manifest["session"] != "dev") | (manifest["script"] == "script01")]
    with pytest.raises(ProtocolError, match=r"fold test, script script01 has nothing left to validate on; use a kind"):
        split(manifest.reset_index(drop=True), kind="split", apart="script")


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (acted(scripts=("script01",)), r"protocol.apart = script: fold session-0 has nothing left to train on without"),
        (
            acted(scripts=("impro01", None)),
            r"no utterance has a script whose words were given; fill in column 'script'",
        ),
    ],
)
def test_scripts_that_cannot_be_kept_apart_are_reported(manifest: pd.DataFrame, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        split(manifest, kind="session", apart="script")


def test_the_corpus_own_split_can_keep_scripts_apart_too() -> None:
    manifest = acted().assign(session=lambda frame: frame["session"].map({"0": "test", "1": "dev"}).fillna("train"))
    for fold in split(manifest, kind="split", apart="script").folds:
        assert value_of(manifest, fold.train, "session") == {"train"}
        assert value_of(manifest, fold.validation, "session") == {"dev"}
        assert not scripts_of(manifest, fold.test) & scripts_of(manifest, (*fold.train, *fold.validation))


# Validation.


@pytest.mark.parametrize(("wanted", "found"), [(None, 2), (1, 1), (4, 4), (8, 8)])
def test_validation_is_whole_speakers_and_as_many_as_asked(wanted: int | None, found: int) -> None:
    manifest = corpus(speakers=10)
    protocol = split(manifest, kind="speaker", validation_groups=wanted)
    for fold in protocol.folds:
        chosen = value_of(manifest, fold.validation, "speaker")
        assert len(chosen) == found
        assert set(fold.validation) == set(manifest.loc[manifest["speaker"].isin(chosen), "utterance"])


def test_folds_do_not_all_validate_on_the_same_speakers() -> None:
    manifest = corpus(speakers=10)
    chosen = [value_of(manifest, fold.validation, "speaker") for fold in split(manifest, kind="speaker").folds]
    assert len(set.union(*chosen)) > 4


def talks(*, sessions: int, dialogues: int = 4, named: bool = True, name: str = "table") -> pd.DataFrame:
    """Sessions of two speakers each who talk to each other, as IEMOCAP's and MSP-IMPROV's."""
    rows = [
        {
            "utterance": f"{session}-{dialogue}-{speaker}-{label}",
            "corpus": name,
            "text": f"{session} {dialogue} {speaker} {label}",
            "label": label,
            "speaker": f"{session}{speaker}",
            "session": str(session),
            "dialogue": f"{session}-{dialogue}" if named else None,
        }
        for session in range(sessions)
        for dialogue in range(dialogues)
        for speaker in "FM"
        for label in ("angry", "sad")
    ]
    return make_manifest(rows, source="test")


@pytest.mark.parametrize("name", ["iemocap", "msp-improv"])
@pytest.mark.parametrize("kind", ["auto", "session", "speaker", "speakers"])
def test_validation_shares_no_dialogue_and_no_speaker_with_training(kind: str, name: str) -> None:
    manifest = talks(sessions=5, name=name)
    protocol = split(manifest, kind=kind)
    for fold in (*protocol.folds, protocol.final):
        for column in ("dialogue", "speaker"):
            assert not value_of(manifest, fold.validation, column) & value_of(manifest, fold.train, column)
        assert value_of(manifest, fold.validation, "session").isdisjoint(value_of(manifest, fold.train, "session"))
    assert protocol.settings.validation_by == "session"
    assert protocol.notes == ()
    for part in ("validation", "final"):
        assert (protocol.leakage[part]["speakers"], protocol.leakage[part]["dialogues"]) == (0, 0)


@pytest.mark.parametrize(
    ("manifest", "unit", "shared", "note"),
    [
        (talks(sessions=3), "session", (0, 0), r"In fold session-0 one session trains and the others validate or test"),
        (talks(sessions=2), "dialogue", (2, 0), r"not split by session, since fold session-0 has 1 sessions .*wanted"),
        (talks(sessions=2, named=False), "speaker", (0, 0), r"not split by session, since fold session-0 has 1"),
    ],
)
def test_validation_is_carved_by_what_few_sessions_allow_and_says_so(
    manifest: pd.DataFrame, unit: str, shared: tuple[int, int], note: str
) -> None:
    protocol = split(manifest, kind="session")
    assert protocol.settings.validation_by == unit
    assert (protocol.leakage["validation"]["speakers"], protocol.leakage["validation"]["dialogues"]) == shared
    assert re.search(note, protocol.notes[0])
    assert len(protocol.notes) == 1 + any(shared)


def test_validation_by_speaker_where_speakers_talk_is_said_to_share_their_dialogues() -> None:
    protocol = split(talks(sessions=5), kind="session", validation_by="speaker")
    assert protocol.leakage["dialogues"] == 0
    assert protocol.leakage["validation"]["dialogues"] == protocol.leakage["final"]["dialogues"] == 8
    assert protocol.leakage["validation"]["speakers"] == 0
    assert "Validation shares up to 8 dialogues with training" in protocol.notes[0]


def test_the_final_model_trains_on_everyone_but_validation() -> None:
    manifest = corpus(speakers=10)
    fold = make_protocol(manifest, ProtocolSettings()).final
    assert fold.test == ()
    assert set(fold.train) | set(fold.validation) == set(manifest["utterance"])
    assert not value_of(manifest, fold.train, "speaker") & value_of(manifest, fold.validation, "speaker")


def test_the_final_model_keeps_off_the_test_part_of_the_corpus_own_split() -> None:
    manifest = own_split(corpus(speakers=6))
    fold = make_protocol(manifest, ProtocolSettings()).final
    assert value_of(manifest, fold.train, "session") == {"train"}
    assert value_of(manifest, fold.validation, "session") == {"dev"}


# Fingerprint.


@fewer
@given(manifest=manifests(least=5), data=st.data())
def test_the_order_of_rows_does_not_matter(manifest: pd.DataFrame, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(manifest))))
    try:
        before = split(manifest, kind="speaker")
    except ProtocolError:
        assume(False)
    after = split(manifest.iloc[list(order)].reset_index(drop=True), kind="speaker")
    assert after == before


def test_the_fingerprint_changes_with_each_label_and_fold() -> None:
    manifest = corpus(speakers=5)
    base = split(manifest, kind="speaker")
    marks = {base.fingerprint}
    for row in range(0, len(manifest), 7):
        other = manifest.copy()
        other.loc[row, "label"] = "sad" if manifest["label"][row] != "sad" else "happy"
        marks.add(split(other, kind="speaker").fingerprint)
        marks.add(split(manifest.drop(index=row), kind="speaker").fingerprint)
    swapped = manifest.copy()
    swapped.loc[[0, 29], "speaker"] = ["s4", "s0"]
    marks.add(split(swapped, kind="speaker").fingerprint)
    marks.add(split(manifest, kind="speaker", validation_groups=2).fingerprint)
    marks.add(split(manifest, kind="speakers", folds=2).fingerprint)
    marks.add(split(manifest, kind="speaker", labels=("happy", "angry", "sad")).fingerprint)
    assert len(marks) == 1 + 2 * 5 + 4


def test_the_fingerprint_does_not_hang_on_what_is_no_part_of_the_protocol() -> None:
    manifest = corpus(speakers=5)
    moved = manifest.assign(audio="/elsewhere/a.wav", duration=3.0)
    assert split(moved, kind="speaker").fingerprint == split(manifest, kind="speaker").fingerprint
    assert split(manifest, kind="auto").fingerprint == split(manifest, kind="speaker").fingerprint


# Labels.


def test_labels_are_merged_then_chosen_in_the_order_given() -> None:
    manifest = corpus(labels=("angry", "excited", "happy", "sad", "xxx"))
    protocol = split(manifest, kind="speaker", labels=("sad", "happy"), merge={"excited": "happy"})
    assert protocol.classes == ("sad", "happy")
    kept = manifest["label"].isin(["sad", "happy", "excited"])
    assert set(protocol.labels) == set(manifest.loc[kept, "utterance"])
    assert Counter(protocol.labels.values()) == {"sad": 12, "happy": 24}
    assert manifest["label"].nunique() == 5
    assert_sound(manifest, protocol)


def test_a_label_to_merge_that_nobody_knows_is_refused_with_those_there_are() -> None:
    manifest = corpus(labels=("angry", "excited", "happy"))
    for work in (make_protocol, check_split):
        with pytest.raises(ProtocolError) as caught:
            work(manifest, ProtocolSettings(kind="speaker", merge={"angry": "happy", "exited": "happy"}))
        assert str(caught.value) == ("protocol.merge: no utterance is labelled 'exited'; did you mean excited.")


def test_a_recipe_for_several_corpora_serves_one_that_lacks_a_label() -> None:
    """RAVDESS alone has calm, and `default-speech` merges it wherever it is run."""
    lacking, having = corpus(labels=("angry", "neutral")), corpus(labels=("calm", "neutral"))
    having = having.assign(utterance="other/" + having["utterance"], speaker="other/" + having["speaker"])
    for manifest in (lacking, pd.concat([lacking, having], ignore_index=True)):
        assert split(manifest, kind="speaker", merge={"calm": "neutral"}).classes == ("angry", "neutral")


def test_a_swap_of_labels_is_no_chain() -> None:
    manifest = corpus(labels=("angry", "happy"))
    protocol = split(manifest, kind="speaker", merge={"angry": "happy", "happy": "angry"})
    for name, label in zip(manifest["utterance"], manifest["label"], strict=True):
        assert {protocol.labels[name], label} == {"angry", "happy"}


def test_utterances_without_a_label_take_no_part() -> None:
    manifest = corpus()
    manifest.loc[[1, 4], "label"] = None
    protocol = split(manifest, kind="speaker")
    assert set(protocol.labels) == set(manifest["utterance"].drop(index=[1, 4]))
    assert protocol.classes == ("angry", "happy", "sad")


# Errors.


def unlabelled(manifest: pd.DataFrame) -> pd.DataFrame:
    return manifest.assign(label=pd.array([None] * len(manifest), dtype="string"))


def without(column: str, row: int, manifest: pd.DataFrame) -> pd.DataFrame:
    manifest.loc[row, column] = None
    return manifest


def only_from(speaker: str, label: str, manifest: pd.DataFrame) -> pd.DataFrame:
    return manifest[(manifest["label"] != label) | (manifest["speaker"] == speaker)]


@pytest.mark.parametrize(
    ("manifest", "values", "message"),
    [
        (
            corpus(),
            {"labels": ("sad", "joy")},
            r"protocol.labels: no utterance .* 'joy'; use one of angry, happy, sad",
        ),
        (corpus(labels=("sad",)), {}, r"protocol.labels: there are fewer than two emotions; keep at least two"),
        (unlabelled(corpus()), {}, r"protocol.labels: there are fewer than two emotions"),
        (
            unlabelled(corpus()),
            {"labels": ("a", "b")},
            r"protocol.labels: .*'a'; fill in column 'label' of the manifest",
        ),
        (
            without("speaker", 7, corpus()),
            {"kind": "speaker"},
            r"'s1_angry_1' has no speaker; fill in column 'speaker'",
        ),
        (
            corpus(),
            {"kind": "session"},
            r"'s0_angry_0' has no session; fill in column 'session' .*or use protocol.kind=stratified",
        ),
        (
            corpus(),
            {"kind": "speakers", "folds": 7},
            r"protocol.folds: 6 speakers cannot make 7 folds; set at most 6",
        ),
        (corpus(sessions=2), {"kind": "split"}, r"sessions are ses0, ses1, not train, dev and test; use a kind"),
        (
            corpus(),
            {"kind": "fixed", "fixed": "published"},
            r"published folds for table; use it on ravdess, or list",
        ),
        (
            corpus(),
            {"kind": "fixed", "fixed": (("s0",), ("s9",))},
            r"speaker 's9' is not in the manifest; use one of s0, s1",
        ),
        (corpus(), {"kind": "fixed", "fixed": (("s0",), ("s0", "s1"))}, r"fewer than two or overlap; list every"),
        (
            corpus(),
            {"kind": "fixed", "fixed": (("s0",),)},
            r"fewer than two or overlap; list every tested speaker once",
        ),
        (corpus(), {"kind": "fixed"}, r"protocol.fixed: the folds are fewer than two"),
        (
            corpus(speakers=2),
            {"kind": "speaker"},
            r"speaker-s0 has 1 speakers outside .* 1 are wanted .*; set fewer",
        ),
        (corpus(), {"kind": "speaker", "validation_groups": 5}, r"has 5 speakers .* 5 are wanted .*; set fewer"),
        (
            corpus(sessions=2),
            {"kind": "session", "validation_by": "session"},
            r"session-ses0 has 1 sessions outside .*; set fewer, or split by something finer",
        ),
        (only_from("s3", "sad", corpus()), {"kind": "speaker"}, r"trains without a single 'sad' utterance; use fewer"),
    ],
)
def test_a_corpus_that_cannot_be_split_so_says_why_and_what_to_do(
    manifest: pd.DataFrame, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ProtocolError, match=message):
        split(manifest, **values)


def test_a_class_that_only_the_tested_speaker_has_is_refused_in_that_fold() -> None:
    # Validation would never draw it, so that only the fold that tests it trains without.
    manifest = only_from("s3", "sad", corpus(speakers=4))
    with pytest.raises(ProtocolError, match=r"fold fold-1 trains without a single 'sad'"):
        split(manifest, kind="fixed", fixed=(("s3",), ("s0",)), validation_groups=1)


# The file.


# Values in place of classes.


def rated(manifest: pd.DataFrame) -> pd.DataFrame:
    numbers = np.arange(len(manifest), dtype=float)
    return manifest.assign(**{"values.valence": numbers / 4, "values.arousal": -numbers})


SPLITS = ("train", "dev", "test")
KINDS_OF_SPLIT: dict[str, tuple[pd.DataFrame, dict[str, Any]]] = {
    "speaker": (corpus(), {"kind": "speaker"}),
    "speakers": (corpus(speakers=9), {"kind": "speakers", "folds": 3}),
    "session": (corpus(sessions=5, speakers=10), {"kind": "session"}),
    "auto": (corpus(), {}),
    "fixed": (ravdess(), {"kind": "fixed", "fixed": "published"}),
    "split": (
        corpus(speakers=9).assign(session=lambda frame: frame["speaker"].map(lambda n: SPLITS[int(n[1:]) % 3])),
        {"kind": "split"},
    ),
    "corpus": (
        pd.concat(
            [corpus(name=name, number=f"{name}{{}}").assign(corpus=name) for name in ("one", "two", "three")],
            ignore_index=True,
        ),
        {"kind": "corpus"},
    ),
    "apart": (acted(), {"kind": "session", "apart": "script"}),
}


@pytest.mark.parametrize("kind", KINDS_OF_SPLIT)
def test_values_are_split_as_classes_are(kind: str) -> None:
    manifest, values = KINDS_OF_SPLIT[kind]
    settings, manifest = ProtocolSettings(**values), rated(manifest)
    ours = make_protocol(manifest, settings, values=("arousal", "valence"))
    theirs = make_protocol(manifest, settings)
    assert (ours.folds, ours.final) == (theirs.folds, theirs.final)
    assert (ours.classes, ours.labels, ours.names) == ((), {}, ("arousal", "valence"))
    expected = {row.utterance: (-place, place / 4) for place, row in enumerate(manifest.itertuples())}
    assert ours.values == expected
    for part in (ours.leakage, ours.leakage["validation"], ours.leakage["final"]):
        assert part["exact"]["agreement"] is None
        assert part["exact"]["lookup"] is None
    for kind_of_copy in ("exact", "near"):
        assert ours.leakage[kind_of_copy]["fraction"] == theirs.leakage[kind_of_copy]["fraction"]
    assert ours.leakage["speakers"] == theirs.leakage["speakers"]


def test_utterances_without_a_value_take_no_part_and_those_without_a_label_do() -> None:
    manifest = rated(corpus())
    manifest.loc[0, "values.valence"] = None
    manifest.loc[1, "values.arousal"] = np.nan
    manifest.loc[2:, "label"] = None
    names = manifest["utterance"].tolist()
    settings = ProtocolSettings(kind="speaker")
    assert list(make_protocol(manifest, settings, values=["valence"]).values) == names[1:]
    assert list(make_protocol(manifest, settings, values=["valence", "arousal"]).values) == names[2:]
    tested = Counter(chain(*(fold.test for fold in make_protocol(manifest, settings, values=["valence"]).folds)))
    assert tested == dict.fromkeys(names[1:], 1)


def test_the_fingerprint_changes_with_each_value_and_name() -> None:
    manifest, settings = rated(corpus()), ProtocolSettings(kind="speaker")
    marks = {make_protocol(manifest, settings, values=[name]).fingerprint for name in ("valence", "arousal")}
    manifest.loc[3, "values.valence"] += 0.25
    marks.add(make_protocol(manifest, settings, values=["valence"]).fingerprint)
    assert len(marks) == 3


@pytest.mark.parametrize(
    ("values", "settings", "message"),
    [
        (["valance"], {}, r"task\.values: no utterance has a value 'valance'; did you mean valence"),
        (["empty"], {}, r"task\.values: no utterance has a value 'empty'"),
        (["early", "late"], {}, r"task\.values: no utterance has all of early, late; predict fewer at once"),
        (["valence"], {"labels": ("sad",)}, r"protocol\.labels: classes are chosen, where valence is predicted"),
        (["valence"], {"merge": {"sad": "angry"}}, r"protocol\.merge: classes are chosen"),
    ],
)
def test_values_that_cannot_be_predicted_are_refused(values: list[str], settings: dict[str, Any], message: str) -> None:
    manifest = rated(corpus())
    first = np.arange(len(manifest)) < 5
    manifest["values.empty"] = np.nan
    manifest["values.early"], manifest["values.late"] = (np.where(half, 1.0, np.nan) for half in (first, ~first))
    with pytest.raises(ProtocolError, match=message):
        make_protocol(manifest, ProtocolSettings(**settings), values=values)


def test_a_saved_protocol_lists_every_fold(tmp_path: Path) -> None:
    protocol = split(corpus(speakers=4), kind="speaker")
    save_protocol(protocol, tmp_path / "protocol.json")
    values = json.loads((tmp_path / "protocol.json").read_text())
    assert values["fingerprint"] == protocol.fingerprint
    assert values["labels"] == protocol.labels
    assert [
        Fold(name=fold["name"], **{part: tuple(fold[part]) for part in ("train", "validation", "test")})
        for fold in values["folds"]
    ] == list(protocol.folds)
    assert ProtocolSettings(**values["settings"]) == protocol.settings
    assert list(tmp_path.iterdir()) == [tmp_path / "protocol.json"]


# Leakage.


def slow_normalise(text: str) -> str:
    letters = [letter if letter.isalnum() or letter in "_'" else " " for letter in text.lower()]
    return " ".join("".join(letters).split())


def grams(text: str) -> Counter[str]:
    """Character n-grams of 3 to 5 within words, a space at both ends of each; a short word counts whole, once."""
    found: Counter[str] = Counter()
    for word in text.split():
        padded = f" {word} "
        for size in (3, 4, 5):
            if len(padded) <= size:
                found[padded] += 1
                break
            for start in range(len(padded) - size + 1):
                found[padded[start : start + size]] += 1
    return found


def cosines(texts: Sequence[str]) -> dict[tuple[str, str], float]:
    """Cosine of every pair, with n-grams weighed by how few of the texts hold them."""
    counts = {text: grams(text) for text in texts}
    holders = Counter(gram for found in counts.values() for gram in found)

    def weigh(found: Counter[str]) -> dict[str, float]:
        raw = {gram: n * (math.log((1 + len(texts)) / (1 + holders[gram])) + 1) for gram, n in found.items()}
        length = math.sqrt(sum(value**2 for value in raw.values()))
        return {gram: value / length for gram, value in raw.items()}

    vectors = {text: weigh(found) for text, found in counts.items()}
    return {
        (one, other): sum(value * vectors[other].get(gram, 0.0) for gram, value in vectors[one].items())
        for one in texts
        for other in texts
    }


def slow_leakage(frame: pd.DataFrame, folds: Sequence[Fold]) -> dict[str, Any]:
    rows = {row["utterance"]: row for row in frame.to_dict("records")}
    words = {name: "" if pd.isna(row["text"]) else slow_normalise(row["text"]) for name, row in rows.items()}
    similar = cosines(sorted({text for text in words.values() if text}))
    shared = {"speaker": [0], "dialogue": [0], "script": [0]}
    found: dict[str, list[float]] = {"exact": [], "near": []}
    guessed: dict[str, list[float]] = {"exact": [], "near": []}
    tested = 0
    for fold in folds:
        seen = (*fold.train, *fold.validation)
        for column, values in shared.items():
            both = {rows[a][column] for a in fold.test for b in seen if rows[a][column] == rows[b][column]} - {None}
            values.append(len([one for one in both if column != "script" or not one.startswith("impro")]))
        for name in fold.test:
            if not words[name]:
                continue
            tested += 1
            copies = [other for other in seen if words[other] == words[name]]
            close = [o for o in seen if words[o] and words[o] != words[name] and similar[words[o], words[name]] >= NEAR]
            for kind, others in (("exact", copies), ("near", [] if copies else close)):
                if others:
                    agree = [rows[other]["label"] == rows[name]["label"] for other in others]
                    found[kind].append(sum(agree) / len(agree))
                    labels = [rows[other]["label"] for other in others]
                    best = [one for one in set(labels) if labels.count(one) == max(map(labels.count, labels))]
                    guessed[kind].append(best.count(rows[name]["label"]) / len(best))
    return {
        **{f"{column}s": max(values) for column, values in shared.items()},
        **{
            kind: {
                "fraction": len(values) / tested if tested else None,
                "agreement": sum(values) / len(values) if values else None,
                "lookup": sum(guessed[kind]) / len(values) if values else None,
            }
            for kind, values in found.items()
        },
    }


@fewer
@given(manifest=manifests(), seed=st.integers(0, 1000))
def test_leakage_is_that_of_a_plain_loop(manifest: pd.DataFrame, seed: int) -> None:
    generator = np.random.default_rng(seed)
    manifest["dialogue"] = pd.array(generator.choice(["d1", "d2", "d3", None], len(manifest)), dtype="string")
    manifest["script"] = pd.array(generator.choice(["p1", "p2", "impro1", None], len(manifest)), dtype="string")
    frame = manifest.astype("object").where(manifest.notna(), None)
    names = generator.permutation(frame["utterance"].to_numpy(dtype=object)).tolist()
    folds = []
    for number in range(2):
        # Folds that share speakers, as a protocol's own would not.
        train, validation, test = np.split(np.roll(names, number * len(names) // 2), [len(names) // 2, len(names) - 1])
        folds.append(Fold(name=str(number), train=tuple(train), validation=tuple(validation), test=tuple(test)))
        folds.append(Fold(name=f"{number}b", train=tuple(test), validation=tuple(validation), test=tuple(train)))
    found = leakage(manifest, folds)
    carved = [replace(fold, test=fold.validation, validation=()) for fold in folds]
    for part, expected in ((found, slow_leakage(frame, folds)), (found["validation"], slow_leakage(frame, carved))):
        for kind in ("speakers", "dialogues", "scripts"):
            assert part[kind] == expected[kind]
        for kind in ("exact", "near"):
            assert part[kind] == pytest.approx(expected[kind])


def test_the_wordings_above_include_near_copies_and_others() -> None:
    texts = sorted({slow_normalise(text) for text in TEXTS if text} - {""})
    pairs = {pair: value for pair, value in cosines(texts).items() if pair[0] < pair[1]}
    assert [pair for pair, value in pairs.items() if value >= NEAR - 0.1] == [
        ("i am so happy to see you here again to day", "i am so happy to see you here again today")
    ]
    assert sum(0.5 < value < NEAR - 0.1 for value in pairs.values()) > 2
    rows = [{"utterance": text, "text": text, "label": "sad", "speaker": text} for text in texts]
    # Each wording is tested against all others, and only the two above are near copies of one another.
    folds = [Fold(name=one, train=tuple(o for o in texts if o != one), validation=(), test=(one,)) for one in texts]
    found = leakage(make_manifest(rows, source="test"), folds)
    assert found["near"] == {"fraction": pytest.approx(2 / len(texts)), "agreement": 1.0, "lookup": 1.0}
    assert found["exact"]["fraction"] == 0.0


def test_copies_with_the_label_are_distinguished_from_those_without() -> None:
    rows = [
        ("a", "It is over.", "sad", "1"),
        ("b", "it is OVER", "sad", "2"),
        ("c", "It, is over!", "angry", "2"),
        ("d", "something quite different", "angry", "2"),
        ("e", "Something quite different?", "sad", "3"),
        ("f", "never said before", "sad", "3"),
    ]
    columns = ["utterance", "text", "label", "speaker"]
    frame = make_manifest(pd.DataFrame(rows, columns=columns).assign(dialogue="one"), source="test")
    fold = Fold(name="1", train=("b", "c"), validation=("d",), test=("a", "e", "f"))
    found = leakage(frame, [fold])
    # Of two labels that are as frequent, one is drawn.
    halves = pytest.approx((1 / 2 + 0) / 2)
    assert found["exact"] == {"fraction": pytest.approx(2 / 3), "agreement": halves, "lookup": halves}
    assert found["near"] == {"fraction": 0.0, "agreement": None, "lookup": None}
    assert (found["speakers"], found["dialogues"]) == (0, 1)
    assert leakage(frame, [Fold(name="1", train=("b",), validation=("e",), test=("c", "f"))])["speakers"] == 2


def test_too_many_wordings_leave_near_copies_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = split(corpus(), kind="speaker")
    assert protocol.leakage["near"] is not None
    monkeypatch.setattr(leakage_module, "LARGEST", 10)
    assert split(corpus(), kind="speaker").leakage["near"] is None
    assert split(corpus(), kind="speaker").leakage["exact"] == protocol.leakage["exact"]


def test_a_corpus_without_words_has_no_copies() -> None:
    manifest = corpus().assign(text=pd.array([None] * 36, dtype="string"), audio="a.wav")
    nothing = {"fraction": None, "agreement": None, "lookup": None}
    found = split(manifest, kind="speaker").leakage
    none = {"speakers": 0, "dialogues": 0, "scripts": 0, "exact": nothing, "near": nothing}
    assert found == {**none, "validation": none, "final": none}


def test_a_look_up_answers_with_the_most_frequent_label_of_the_copies() -> None:
    labels = {"a": "sad", "b": "sad", "c": "angry", "d": "sad", "e": "angry"}
    rows = [{"utterance": name, "text": "it is over", "label": label} for name, label in labels.items()]
    fold = Fold(name="1", train=("a", "b"), validation=("c",), test=("d", "e"))
    found = leakage(make_manifest(rows, source="test"), [fold])["exact"]
    assert found == {"fraction": 1.0, "agreement": pytest.approx((2 / 3 + 1 / 3) / 2), "lookup": 1 / 2}


@few
@given(text=st.text(max_size=30))
def test_normalising_is_that_of_a_plain_loop_and_settles(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once or once.lower() != once  # A few letters have a lower case of two letters.
    if text.isascii():
        assert once == slow_normalise(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Well,  I DON'T!", "well i don't"), ("...", ""), (" a\tb\n", "a b"), ("Grüß Gott", "grüß gott")],
)
def test_normalising_drops_case_and_punctuation(text: str, expected: str) -> None:
    assert normalise(text) == expected


def test_iemocap_leaves_one_session_out_where_nothing_else_is_asked_for(tmp_path: Path) -> None:
    manifest = read_corpus("iemocap", miniature_iemocap(tmp_path / "mini"), partial=True).manifest
    folds = make_protocol(manifest, ProtocolSettings(validation_groups=1)).folds
    assert [fold.name for fold in folds] == [f"session-{number}" for number in range(1, 6)]
