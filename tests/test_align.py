"""Words as they are said, their pronunciations and syllables, and the aligners that find them in the audio."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import soxr
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from emofuse.align import run
from emofuse.align.base import align_clip
from emofuse.align.coverage import coverage
from emofuse.align.ctc import CtcAligner, forced_path
from emofuse.align.normalise import spoken_words
from emofuse.align.pronounce import dictionary, letters_to_phones, pronounce
from emofuse.align.run import align_manifest
from emofuse.align.sphinx import SphinxAligner
from emofuse.align.syllables import ONSETS, PHONES, VOWELS, phones_by_word, syllabify
from emofuse.align.table import read_alignments, read_keys, write_alignments
from emofuse.align.writers import write_files
from emofuse.audio import SAMPLING_RATE, load_audio
from emofuse.corpora import read_corpus
from emofuse.errors import AlignmentError, EncoderError, SettingsError
from emofuse.manifest import make_manifest
from emofuse.testing import tone
from emofuse.types import TIERS, Alignment, Segment, Utterance
from emofuse.workers import in_processes

SHARED = Path(__file__).parents[2] / "shared" / "data"

Clip = NDArray[np.float32]


def labels(segments: tuple[Segment, ...]) -> list[str]:
    return [segment.label for segment in segments]


# Words


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("I don't know.", "i don't know"),
        ("It\u2019s \u201cfine\u201d, 'really' --- isn't it?!", "it's fine really isn't it"),
        ("well-known e-mail/post", "well known e mail post"),
        ("0 7 13 20 21 100 101 999", "zero seven thirteen twenty twenty one one hundred one hundred one nine hundred "
         "ninety nine"),
        ("1,250,000 people", "one million two hundred fifty thousand people"),
        ("3.14 and .5", "three point one four and point five"),
        ("1st 2nd 3rd 12th 21st 30th", "first second third twelfth twenty first thirtieth"),
        ("in 1984, 1900, 1905, 2000, 2003 and 2024", "in nineteen eighty four nineteen hundred nineteen oh five two "
         "thousand two thousand three and twenty twenty four"),
        ("the 1980s, the '90s", "the nineteen eighties the nineties"),
        ("at 7:30, 7:05 and 7:00", "at seven thirty seven oh five and seven"),
        ("$5.50, $1, $0.99 and £2", "five dollars fifty cents one dollar ninety nine cents and two pounds"),
        ("$2.5 million, £1 billion (€3 Thousand)", "two point five million dollars one billion pounds three thousand "
         "euros"),
        ("-$2.50million and $2 millionaires", "minus two point five zero million dollars and two dollars millionaires"),
        ("a $2.5-million house, $3, million", "a two point five million dollars house three dollars million"),
        ("2.5 million for $1.01", "two point five million for one dollar one cent"),
        ("50% & more", "fifty percent and more"),
        ("1/2 3/4 2/3", "one half three quarters two thirds"),
        ("-5 but 1990-1995", "minus five but nineteen ninety nineteen ninety five"),
        ("agent 007", "agent zero zero seven"),
        ("Mr. Smith, Mrs. Jones, Dr. No", "mister smith missus jones doctor no"),
        ("the U.S. at 5 a.m.", "the u s at five a m"),
        ("the boys' goin' out 'cause 'em", "the boys' goin' out 'cause 'em"),
        ("[LAUGHTER] oh <noise> no ++BREATHING++ *sighs*", "oh no"),
        ("naïve café", "naïve café"),
        ("...", ""),
        ("", ""),
    ],
)  # fmt: skip
def test_words_are_written_as_they_are_said(written: str, said: str) -> None:
    assert " ".join(spoken_words(written)) == said


def test_other_languages_lose_case_and_punctuation_only() -> None:
    assert spoken_words("Der LAPPEN: 25 Stück – größer!", language="de") == ("der", "lappen", "25", "stück", "größer")
    assert spoken_words("L'été, c'est où?", language="fr") == ("l'été", "c'est", "où")


def test_remarks_are_left_out_wherever_they_stand() -> None:
    text = "[NOISE] I'm 25[LAUGHTER] -- she's<noise>well-known (they *sighs* say)."
    assert " ".join(spoken_words(text)) == "i'm twenty five she's well known they say"


@given(st.text(st.characters(codec="utf-8"), max_size=60))
@settings(max_examples=80, deadline=None)
def test_any_text_gives_plain_words(text: str) -> None:
    for language in ("en", "de"):
        for word in spoken_words(text, language=language):
            assert word == word.lower() or not word.isascii()
            assert word.strip("'")
            assert not set(word) & set(' .,!?[]"')


# Pronunciations


@pytest.mark.parametrize(
    ("word", "phones"),
    [
        ("hello", "HH AH L OW"),
        ("nooooo", "N OW"),
        ("pleeease", "P L IY Z"),
        ("hmmm", "HH M"),
        ("shhh", "SH"),
        ("bbc", "B IY B IY S IY"),
        ("spaceship", "S P EY S SH IH P"),
        ("googled", "G UW G AH L D"),
        ("snape's", "S N EY P S"),
        ("splinks", "S P L IH NG K Z"),
        ("blorch's", "B L AO R CH IH Z"),
        ("phight", "F AY T"),
        ("naïve", "N AY IY V"),
    ],
)
def test_words_are_pronounced(word: str, phones: str) -> None:
    assert " ".join(pronounce(word)) == phones


def test_endings_depend_on_the_phone_before_them() -> None:
    known = dictionary()
    for base, ending, suffix in (
        ("selfie", "s", "Z"),
        ("emoji", "'s", "Z"),
        ("blog", "'s", "Z"),
        ("text", "ed", "IH D"),
    ):
        if base in known:
            assert pronounce(base + ending) == (*known[base], *suffix.split())


@given(st.text("abcdefghijklmnopqrstuvwxyz'éß", min_size=1, max_size=14))
@settings(max_examples=100, deadline=None)
def test_every_word_with_a_letter_is_pronounced(word: str) -> None:
    """None is dropped, whatever its spelling."""
    phones = pronounce(word)
    assert set(phones) <= PHONES
    assert bool(phones) == any(letter in "abcdefghijklmnopqrstuvwxyzé" for letter in word)


def test_spelling_rules_come_near_the_dictionary() -> None:
    """Rules of spelling alone, against dictionary words that they have never seen: four phones in five."""
    known = dictionary()
    names = sorted(word for word in known if word.isalpha() and len(word) > 2)
    wrong = total = 0
    for word in np.random.default_rng(1).choice(names, 1000, replace=False):
        table = np.arange(len(known[word]) + 1)
        for row, phone in enumerate(letters_to_phones(str(word)), start=1):
            new = [row]
            for column, other in enumerate(known[word], start=1):
                new.append(min(table[column] + 1, new[-1] + 1, table[column - 1] + (phone != other)))
            table = np.asarray(new)
        wrong += int(table[-1])
        total += len(known[word])
    assert wrong / total < 0.25


# Syllables


@pytest.mark.parametrize(
    ("phones", "syllables"),
    [
        ("HH AH L OW", "HH AH . L OW"),
        ("EH K S T R AH", "EH K . S T R AH"),
        ("AE T L AH S", "AE T . L AH S"),
        ("S IH NG IH NG", "S IH NG . IH NG"),
        ("T AO K IH NG", "T AO . K IH NG"),
        ("W IH N D OW", "W IH N . D OW"),
        ("K AH M P Y UW T ER", "K AH M . P Y UW . T ER"),
        ("AH B S T R AE K T", "AH B . S T R AE K T"),
        ("K R IY EY T", "K R IY . EY T"),
        ("S T R EH NG K TH S", "S T R EH NG K TH S"),
        ("HH M", "HH M"),
        ("AH0 B AW1 T", "AH0 . B AW1 T"),
        ("", ""),
    ],
)
def test_syllables_take_the_longest_onset(phones: str, syllables: str) -> None:
    assert " . ".join(" ".join(one) for one in syllabify(phones.split())) == syllables


@given(st.lists(st.sampled_from(sorted(PHONES)), max_size=20))
def test_syllables_hold_each_phone_once_and_one_vowel_each(phones: list[str]) -> None:
    found = syllabify(phones)
    assert [phone for one in found for phone in one] == phones
    vowels = [sum(phone in VOWELS for phone in one) for one in found]
    if any(phone in VOWELS for phone in phones):
        assert vowels == [1] * len(found)
    else:
        assert len(found) == bool(phones)
    for number, one in enumerate(found[1:], start=1):
        nucleus = next(place for place, phone in enumerate(one) if phone in VOWELS)
        onset = one[:nucleus]
        assert not onset or onset in ONSETS
        # Maximal: the phone before could not have joined it.
        before = found[number - 1][-1]
        assert before in VOWELS or (before, *onset) not in ONSETS


def test_every_word_of_the_dictionary_has_legal_syllables() -> None:
    for word in list(dictionary())[::200]:
        phones = dictionary()[word]
        assert len(syllabify(phones)) == max(sum(phone in VOWELS for phone in phones), 1)


def test_phones_find_their_words() -> None:
    words = [Segment(start=0.0, end=0.3, label="a"), Segment(start=0.5, end=0.6, label="b")]
    phones = [Segment(start=one, end=one + 0.1, label=str(one)) for one in (0.0, 0.21, 0.35, 0.5, 0.7)]
    assert [[phone.start for phone in own] for own in phones_by_word(words, phones)] == [[0.0, 0.21], [0.5]]


# CTC


def collapsed(path: tuple[int, ...]) -> list[int]:
    """What a path of symbols says: repeats are one, blanks (0) nothing."""
    return [symbol for symbol, _ in itertools.groupby(path) if symbol]


@given(
    st.integers(1, 6),
    st.lists(st.integers(1, 3), min_size=1, max_size=4),
    st.integers(0, 10**6),
)
@settings(max_examples=60, deadline=None)
def test_the_best_path_is_the_best_of_all_paths(frames: int, targets: list[int], seed: int) -> None:
    log_probs = np.log(np.random.default_rng(seed).dirichlet(np.ones(4), size=frames))
    ways = {
        path: sum(log_probs[frame, symbol] for frame, symbol in enumerate(path))
        for path in itertools.product(range(4), repeat=frames)
        if collapsed(path) == targets
    }
    if not ways:
        with pytest.raises(AlignmentError, match="too few"):
            forced_path(log_probs, targets, blank=0)
        return
    found = forced_path(log_probs, targets, blank=0)
    symbols = tuple(0 if place < 0 else targets[place] for place in found)
    assert collapsed(symbols) == targets
    assert ways[symbols] == pytest.approx(max(ways.values()))
    said = found[found >= 0]
    assert sorted(set(said.tolist())) == list(range(len(targets)))
    assert (np.diff(said) >= 0).all()


LETTERS = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, **{letter: 5 + n for n, letter in enumerate("ABEHLO'")}}


def tiny_recogniser(folder: Path, symbols: dict[str, int] = LETTERS, *, delimiter: str | None = "|") -> Path:
    """A CTC model of random weights."""
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(symbols))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), word_delimiter_token=delimiter)
    tokenizer.save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    config = transformers.Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, conv_dim=(8,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, vocab_size=max(symbols.values()) + 1,
        pad_token_id=symbols["<pad>"],
    )  # fmt: skip
    torch.manual_seed(0)
    network = transformers.Wav2Vec2ForCTC(config)
    torch.nn.init.normal_(network.lm_head.weight, std=3.0)
    network.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_recogniser(tmp_path_factory.mktemp("ctc") / "letters")


def plain_alignment(folder: Path, clip: Clip, targets: list[int]) -> list[int | None]:
    """For each frame a place in `targets`, by a plain recursion over what transformers gives."""
    inputs = transformers.AutoFeatureExtractor.from_pretrained(folder)(clip, sampling_rate=16000, return_tensors="pt")
    with torch.inference_mode():
        model = transformers.Wav2Vec2ForCTC.from_pretrained(folder).eval()
        scores = model(**inputs).logits[0].log_softmax(-1).tolist()
    best: dict[tuple[int, int], tuple[float, list[int | None]]] = {(-1, 0): (0.0, [])}
    for frame in scores:
        new: dict[tuple[int, int], tuple[float, list[int | None]]] = {}
        for (last, said), (score, path) in best.items():
            moves = [(0, said, None)]
            if said and last != 0:
                moves.append((targets[said - 1], said, said - 1))
            if said < len(targets) and last != targets[said]:
                moves.append((targets[said], said + 1, said))
            for symbol, count, place in moves:
                value = (score + frame[symbol], [*path, place])
                if (symbol, count) not in new or new[symbol, count][0] < value[0]:
                    new[symbol, count] = value
        best = new
    return max((value for (_, count), value in best.items() if count == len(targets)), key=lambda value: value[0])[1]


def test_letters_are_placed_as_a_plain_search_places_them(recogniser: Path) -> None:
    clip = tone(1.2, seed=3)
    tiers = CtcAligner(str(recogniser)).align(clip, "Hello, Abe!", language="de")
    assert labels(tiers["word"]) == ["hello", "abe"]
    assert set(tiers) == {"word"}
    path = plain_alignment(recogniser, clip, [LETTERS[letter] for letter in "HELLO|ABE"])
    frames = [[frame for frame, place in enumerate(path) if place in own] for own in (range(5), range(6, 9))]
    for segment, own in zip(tiers["word"], frames, strict=True):
        # Frames are 20 ms apart with windows of 25 ms: boundaries lie 2.5 ms behind multiples of 20 ms.
        assert segment.start == pytest.approx(own[0] * 0.02 + 0.0025 if own[0] else 0.0, abs=1e-4)
        assert segment.end == pytest.approx((own[-1] + 1) * 0.02 + 0.0025, abs=1e-4)


def test_words_that_a_model_cannot_spell_keep_their_place(recogniser: Path) -> None:
    tiers = CtcAligner(str(recogniser)).align(tone(1.5, seed=3), "Hello 25 zzz bell", language="de")
    assert labels(tiers["word"]) == ["hello", "25", "zzz", "bell"]
    check_tier(tiers["word"], 1.5)


def test_a_model_of_phones_gives_all_tiers(tmp_path: Path) -> None:
    ipa = [
        "ɑː",
        "æ",
        "ʌ",
        "ɔː",
        "aʊ",
        "aɪ",
        "b",
        "tʃ",
        "d",
        "ð",
        "ɛ",
        "ɜː",
        "eɪ",
        "f",
        "ɡ",
        "h",
        "ɪ",
        "iː",
        "dʒ",
        "k",
        "l",
        "m",
        "n",
        "ŋ",
        "oʊ",
        "ɔɪ",
        "p",
        "ɹ",
        "s",
        "ʃ",
        "t",
        "θ",
        "ʊ",
        "uː",
        "v",
        "w",
        "j",
        "z",
        "ʒ",
    ]
    for name, phones in (("ipa", ipa), ("arpabet", sorted(PHONES))):
        symbols = {"<pad>": 0, **{phone: 1 + place for place, phone in enumerate(phones)}}
        aligner = CtcAligner(str(tiny_recogniser(tmp_path / name, symbols, delimiter=None)))
        tiers = aligner.align(tone(2.0, seed=3), "Hello there")
        assert labels(tiers["word"]) == ["hello", "there"]
        assert labels(tiers["syllable"]) == ["HH AH", "L OW", "DH EH R"]
        assert labels(tiers["phone"]) == ["HH", "AH", "L", "OW", "DH", "EH", "R"]
        with pytest.raises(AlignmentError, match="symbols are phones"):
            aligner.align(tone(2.0, seed=3), "Guten Tag", language="de")


def test_what_ctc_cannot_do_is_said(recogniser: Path, tmp_path: Path) -> None:
    aligner = CtcAligner(str(recogniser))
    with pytest.raises(AlignmentError, match="no words"):
        aligner.align(tone(1.0), "...")
    with pytest.raises(AlignmentError, match="none of the transcript's letters"):
        aligner.align(tone(1.0), "привет", language="ru")
    with pytest.raises(AlignmentError, match="too few"):
        aligner.align(tone(0.1), "hello hello hello hello")
    with pytest.raises(EncoderError, match="no CTC model that can be loaded"):
        CtcAligner(str(tmp_path))
    odd = tiny_recogniser(tmp_path / "odd", {"<pad>": 0, "12": 1, "34": 2}, delimiter=None)
    with pytest.raises(EncoderError, match="neither letters nor phones"):
        CtcAligner(str(odd))


# Sphinx


def check_tier(segments: tuple[Segment, ...], duration: float) -> None:
    """In order, without overlaps, within the audio."""
    last = 0.0
    for segment in segments:
        assert last - 1e-9 <= segment.start < segment.end <= duration + 1e-9
        assert segment.label
        last = segment.end


FIRST = "The wedding was wonderful from start to end."
SECOND = "My brother zorked 25 blorfts!"
BRIEF = "Oh no."


@pytest.fixture(scope="module")
def speech() -> dict[str, Clip]:
    """Sentences by the synthesiser of the demo extra."""
    if importlib.util.find_spec("hibari") is None:
        pytest.skip("needs the demo extra: hibari-tts")
    from hibari import Hibari

    voice = Hibari()
    return {
        text: np.asarray(soxr.resample(voice(text, seed=0), 24000, SAMPLING_RATE), np.float32)
        for text in (FIRST, SECOND, BRIEF)
    }


@pytest.fixture(scope="module")
def sphinx() -> SphinxAligner:
    return SphinxAligner()


def test_sphinx_gives_every_word_its_syllables_and_phones(speech: dict[str, Clip], sphinx: SphinxAligner) -> None:
    for text, said in (
        (FIRST, "the wedding was wonderful from start to end"),
        (SECOND, "my brother zorked twenty five blorfts"),
    ):
        tiers = sphinx.align(speech[text], text)
        duration = len(speech[text]) / SAMPLING_RATE
        assert tuple(tiers) == TIERS
        assert labels(tiers["word"]) == said.split()
        for tier in TIERS:
            check_tier(tiers[tier], duration)
        phones = [label for one in tiers["syllable"] for label in one.label.split()]
        assert phones == labels(tiers["phone"])
        for tier in ("syllable", "phone"):
            own = phones_by_word(tiers["word"], tiers[tier])
            assert sum(map(len, own)) == len(tiers[tier])
            for word, parts in zip(tiers["word"], own, strict=True):
                assert (parts[0].start, parts[-1].end) == (word.start, word.end)


def test_sphinx_finds_the_pause_between_two_sentences(speech: dict[str, Clip], sphinx: SphinxAligner) -> None:
    pause = (1e-4 * np.random.default_rng(0).standard_normal(SAMPLING_RATE)).astype(np.float32)
    clip = np.concatenate([speech[FIRST], pause, speech[SECOND]])
    tiers = sphinx.align(clip, f"{FIRST} {SECOND}")
    middle = len(speech[FIRST]) / SAMPLING_RATE
    count = len(spoken_words(FIRST))
    assert tiers["word"][count - 1].end <= middle + 0.1
    assert tiers["word"][count].start >= middle + 0.9


def test_sphinx_keeps_time_when_silence_comes_first(speech: dict[str, Clip], sphinx: SphinxAligner) -> None:
    noise = (1e-4 * np.random.default_rng(0).standard_normal(SAMPLING_RATE // 2)).astype(np.float32)
    clip = np.concatenate([noise, speech[FIRST], noise])
    later = sphinx.align(np.concatenate([noise, clip]), FIRST)["phone"]
    moved = [two.start - one.start for one, two in zip(sphinx.align(clip, FIRST)["phone"], later, strict=True)]
    assert np.median(moved) == pytest.approx(0.5, abs=0.011)


def test_sphinx_does_not_depend_on_what_came_before(speech: dict[str, Clip], sphinx: SphinxAligner) -> None:
    """The decoder keeps a frame of its last utterance, which once moved boundaries."""
    clip = speech[BRIEF]
    alone = SphinxAligner().align(clip, BRIEF)
    quiet, loud = 0.01 * clip, np.clip(20 * clip, -1, 1)
    for before in (clip, tone(5.0, seed=1), tone(1.0, seed=2), quiet, loud):
        sphinx.align(before, "hello")
        assert sphinx.align(clip, BRIEF) == alone


@pytest.mark.parametrize(
    ("text", "language", "what"),
    [
        (FIRST, "de", "Sphinx knows English only"),
        ("Das will sie am Mittwoch abgeben.", None, "not English"),
        ("...", None, "no words"),
        ("привет", None, "not English"),
        ("привет", "en", "no English letters"),
        ("one two three four five six seven eight nine ten " * 8, None, "too short"),
    ],
)
def test_what_sphinx_cannot_do_is_said(
    sphinx: SphinxAligner, speech: dict[str, Clip], text: str, language: str | None, what: str
) -> None:
    with pytest.raises(AlignmentError, match=what) as caught:
        sphinx.align(speech[FIRST], text, language=language)
    assert len(caught.value.remedy) > 5
    # And goes on with the next.
    assert sphinx.align(speech[FIRST], FIRST)["word"]


def test_words_that_are_squeezed_into_the_audio_do_not_fit_it(sphinx: SphinxAligner, speech: dict[str, Clip]) -> None:
    long = "Everybody remembered what the extraordinary archbishop of Canterbury promised"
    with pytest.raises(AlignmentError, match=r"do not fit|too short"):
        sphinx.align(speech[FIRST], long)


# Whole manifests


@pytest.fixture
def manifest(speech: dict[str, Clip], tmp_path: Path) -> pd.DataFrame:
    both = np.concatenate([speech[FIRST], speech[SECOND]])
    soundfile.write(tmp_path / "both.wav", both, SAMPLING_RATE)
    soundfile.write(tmp_path / "first.flac", speech[FIRST], SAMPLING_RATE)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    cut = len(speech[FIRST]) / SAMPLING_RATE
    rows: list[dict[str, Any]] = [
        {"utterance": "one", "audio": str(tmp_path / "first.flac"), "text": FIRST, "language": "en"},
        {"utterance": "two", "audio": str(tmp_path / "both.wav"), "start": cut, "text": SECOND},
        {"utterance": "broken", "audio": str(tmp_path / "broken.wav"), "text": "hello"},
        {"utterance": "missing", "audio": str(tmp_path / "none.wav"), "text": "hello"},
        {"utterance": "silent", "text": "hello"},
        {"utterance": "wordless", "audio": str(tmp_path / "first.flac")},
        {"utterance": "german", "audio": str(tmp_path / "first.flac"), "text": "Guten Tag", "language": "de"},
    ]
    return make_manifest(rows, source="test")


def test_a_manifest_is_aligned_and_its_failures_are_counted(
    manifest: pd.DataFrame, speech: dict[str, Clip], tmp_path: Path
) -> None:
    out = tmp_path / "alignments.parquet"
    found = align_manifest(manifest, out, jobs=1)
    assert list(found) == manifest["utterance"].tolist()
    assert read_alignments(out) == found
    assert labels(found["two"].tiers["word"]) == ["my", "brother", "zorked", "twenty", "five", "blorfts"]
    # Times are of the utterance, wherever it lies in its file.
    check_tier(found["two"].tiers["phone"], len(speech[SECOND]) / SAMPLING_RATE)
    counted = coverage(found.values())
    assert counted.utterances == 7
    assert counted.aligned == {"word": 2, "syllable": 2, "phone": 2}
    assert counted.fraction("phone") == pytest.approx(2 / 7)
    assert sorted(name for names in counted.problems.values() for name in names) == [
        "broken", "german", "missing", "silent", "wordless",
    ]  # fmt: skip
    for name, problem in (("missing", "no such file"), ("silent", "no audio"), ("wordless", "no transcript")):
        assert problem in str(found[name].problem)
        assert found[name].tiers == {}
    assert counted.sources == {"sphinx": 2}
    assert counted.summary().endswith("word 28.6 %, syllable 28.6 %, phone 28.6 % (sphinx 2)")
    assert len(counted.reasons()) == len(counted.problems)


def test_the_number_of_processes_changes_nothing(manifest: pd.DataFrame) -> None:
    assert align_manifest(manifest, jobs=2) == align_manifest(manifest, jobs=1)


def test_what_is_aligned_is_kept_until_its_audio_or_words_change(manifest: pd.DataFrame, tmp_path: Path) -> None:
    out = tmp_path / "alignments.parquet"
    found = align_manifest(manifest[:3], out, jobs=1)
    marked = {
        name: replace(one, tiers={"word": (Segment(start=0, end=0.1, label="kept"),)}) if one.tiers else one
        for name, one in found.items()
    }
    other = Alignment(utterance="of another manifest", tiers={}, source="sphinx", problem="none")
    write_alignments([*marked.values(), other], out, keys=read_keys(out))
    again = align_manifest(manifest[:3], out, jobs=1)
    assert labels(again["one"].tiers["word"]) == labels(again["two"].tiers["word"]) == ["kept"]
    assert again["broken"].problem == found["broken"].problem
    failed = replace(found["one"], tiers={}, problem="the aligner crashed on this recording; make more memory free")
    write_alignments([failed], tmp_path / "failed.parquet", keys=read_keys(out))
    assert align_manifest(manifest[:1], tmp_path / "failed.parquet", jobs=1)["one"].problem is None
    assert list(read_alignments(out)) == ["one", "two", "broken", "of another manifest"]

    changed = manifest[:3].assign(text=["The wedding was wonderful.", SECOND, "hello"])
    third = align_manifest(changed, out, jobs=1)
    assert labels(third["one"].tiers["word"]) == ["the", "wedding", "was", "wonderful"]
    assert labels(third["two"].tiers["word"]) == ["kept"]
    soundfile.write(tmp_path / "both.wav", soundfile.read(tmp_path / "both.wav")[0] * 0.5, SAMPLING_RATE)
    assert labels(align_manifest(changed, out, jobs=1)["two"].tiers["word"])[0] == "my"


def test_what_is_done_stays_when_work_is_interrupted(
    manifest: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupting:
        def start(self, description: str, total: float | None) -> None: ...
        def finish(self, description: str) -> None: ...
        def note(self, message: str) -> None: ...
        def advance(self, description: str, steps: float = 1) -> None:
            if steps == 1:
                raise KeyboardInterrupt

    out = tmp_path / "alignments.parquet"
    with pytest.raises(KeyboardInterrupt):
        align_manifest(manifest, out, jobs=1, progress=Interrupting())
    assert list(read_alignments(out)) == ["one"]
    assert align_manifest(manifest, out, jobs=1) == align_manifest(manifest, jobs=1)


class Deadly(str):
    """Ends the process that unpickles it."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (9,)


def test_a_process_that_dies_costs_one_utterance(tmp_path: Path) -> None:
    def task(name: str, language: str | None) -> Any:
        one = Utterance(utterance=name, audio=tmp_path / "none.wav", text="hello")
        return run._Task(utterance=one, corpus=None, language=language, aligner="sphinx")

    tasks = [task("a", None), task("b", Deadly("en")), task("c", None)]
    work, crashed = (partial(one, "sphinx", None, "cpu") for one in (run._in_process, run._crashed))
    done = in_processes(work, tasks, jobs=2, crashed=crashed)
    found = {one.utterance: one.problem for one, _ in done}
    assert found.keys() == {"a", "b", "c"}
    assert "crashed" in str(found["b"])
    assert "no such file" in str(found["a"])
    assert "no such file" in str(found["c"])


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"aligner": "mfa"}, "there is no aligner 'mfa'"),
        ({"aligner": "ctc"}, "no model is named"),
        ({"model": "x"}, "no aligner with a model is named"),
        ({"aligner": "sphinx", "model": "x"}, "SphinxAligner: this aligner has no model to choose"),
        ({"aligner": "ctc", "model": "x", "files": Path()}, "either read or made"),
    ],
)
def test_choices_that_do_not_go_together_are_refused(options: dict[str, Any], what: str) -> None:
    with pytest.raises(SettingsError, match=what):
        align_manifest(make_manifest([{"utterance": "a", "text": "x"}], source="test"), **options)


def test_a_manifest_is_aligned_by_ctc(recogniser: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(1.0, seed=0), SAMPLING_RATE)
    rows = [{"utterance": "a", "audio": str(tmp_path / "a.wav"), "text": "Abe, hello", "language": "de"}]
    found = align_manifest(make_manifest(rows, source="test"), aligner="ctc", model=str(recogniser))
    assert found["a"].source.startswith(f"ctc {recogniser} ")
    assert labels(found["a"].tiers["word"]) == ["abe", "hello"]


def test_what_other_weights_have_aligned_is_aligned_again(recogniser: Path, tmp_path: Path) -> None:
    """Weights count, not where they lie."""
    soundfile.write(tmp_path / "a.wav", tone(1.0, seed=0), SAMPLING_RATE)
    rows = [{"utterance": "a", "audio": str(tmp_path / "a.wav"), "text": "Abe, hello"}]
    manifest, out = make_manifest(rows, source="test"), tmp_path / "alignments.parquet"
    model, moved = shutil.copytree(recogniser, tmp_path / "model"), tmp_path / "moved"

    def marked(place: Path) -> bool:
        """Whether an alignment that was made before is kept."""
        (found,) = align_manifest(manifest, out, aligner="ctc", model=str(place)).values()
        kept = labels(found.tiers["word"]) == ["kept"]
        write_alignments(
            [replace(found, tiers={"word": (Segment(start=0, end=0.1, label="kept"),)})], out, keys=read_keys(out)
        )
        return kept

    assert [marked(model), marked(model)] == [False, True]
    model.rename(moved)
    assert marked(moved)
    network = transformers.Wav2Vec2ForCTC.from_pretrained(moved)
    torch.nn.init.normal_(network.lm_head.weight, std=1.0)
    network.save_pretrained(moved)
    assert not marked(moved)


# Real recordings


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the recordings in {SHARED} are not at hand")
class TestSharedRecordings:
    def test_ravdess(self) -> None:
        manifest = read_corpus("ravdess", SHARED).manifest.sample(8, random_state=0)
        found = align_manifest(manifest, jobs=1)
        counted = coverage(found.values())
        assert all(counted.fraction(tier) == 1 for tier in TIERS), counted.reasons()
        for alignment in found.values():
            assert len(alignment.tiers["word"]) == 6
            # The last word is not drowned in the silence after it: both sentences end with "door".
            assert alignment.tiers["word"][-1].label == "door"

    def test_another_language_is_not_aligned_as_english(self) -> None:
        manifest = read_corpus("emodb", SHARED).manifest[:2]
        found = align_manifest(manifest, aligner="sphinx", jobs=1)
        assert all("knows en only" in str(one.problem) for one in found.values())

    def test_hand_labels_begin_where_the_audio_does(self) -> None:
        """Read as beginnings, sibilants have their noise; read as ends, they would not."""
        manifest = read_corpus("emodb", SHARED).manifest[::20]
        found = align_manifest(manifest)
        fractions = []
        for name, path in zip(manifest["utterance"], manifest["audio"], strict=True):
            clip = load_audio(path)
            for phone in found[name].tiers.get("phone", ()):
                if phone.label in ("s", "S", "z") and phone.end - phone.start > 0.03:
                    part = clip[int(phone.start * SAMPLING_RATE) : int(phone.end * SAMPLING_RATE)]
                    energy = np.abs(np.fft.rfft(part * np.hanning(len(part)))) ** 2
                    high = np.fft.rfftfreq(len(part), 1 / SAMPLING_RATE) > 3500
                    fractions.append(energy[high].sum() / energy.sum())
        assert len(fractions) > 20
        assert np.median(fractions) > 0.5


def test_an_aligner_does_not_take_another_s_work_for_its_own(tmp_path: Path) -> None:
    """Read from a file in between, an utterance is aligned again when Sphinx is asked for."""
    clip = tmp_path / "a.wav"
    soundfile.write(clip, tone(1.0, seed=0), 16000)
    manifest = make_manifest([{"utterance": "a", "audio": str(clip), "text": "Hello there"}], source="test")
    out, grids = tmp_path / "table.parquet", tmp_path / "grids"
    first = align_manifest(manifest, out, aligner="sphinx", jobs=1)
    other = Alignment(utterance="a", tiers={"word": (Segment(start=0.2, end=0.4, label="x"),)}, source="test")
    write_files([other], grids, style="textgrid", durations={"a": 1.0})
    assert align_manifest(manifest, out, files=grids)["a"].source == "textgrid"
    again = align_manifest(manifest, out, aligner="sphinx", jobs=1)
    assert again["a"].source == first["a"].source == "sphinx"


def test_the_spoken_words_are_aligned_where_the_text_differs(tmp_path: Path) -> None:
    clip = tmp_path / "a.wav"
    soundfile.write(clip, tone(1.0, seed=0), 16000)
    row = {"utterance": "a", "audio": str(clip), "text": "Something else", "spoken": "Hello there"}
    found = align_manifest(make_manifest([row], source="test"), jobs=1)["a"]
    assert [segment.label for segment in found.tiers["word"]] == ["hello", "there"]


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the recordings in {SHARED} are not at hand")
def test_transcripts_of_other_recordings_are_doubted() -> None:
    """Against what is said, of actors and, with few false alarms, of people who learn English."""
    aligner = SphinxAligner()

    def doubted(pairs: list[tuple[Path, str]]) -> int:
        found = [align_clip(aligner, load_audio(clip), text) for clip, text in pairs]
        return sum("fit" in f"{one.note} {one.problem}" for one in found)

    acted = [next((SHARED / "ravdess" / actor).glob("03-01-0[1345]-01-01-01-*.flac")) for actor in ("01", "08", "15")]
    assert doubted([(clip, "Kids are talking by the door") for clip in acted]) == 0
    assert doubted([(clip, "Don't forget a jacket please, my dear") for clip in acted]) == len(acted)
    table = pd.read_csv(SHARED / "speech" / "speechocean762.tsv", sep="\t", dtype=str).set_index("utterance")["text"]
    clips = {path.stem: path for path in (SHARED / "speech" / "speechocean762").rglob("*.opus")}
    names = [name for name in table.index if name in clips][::150]
    assert len(names) >= 10
    assert doubted([(clips[name], table[name]) for name in names]) <= len(names) // 10
