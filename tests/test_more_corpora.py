"""Corpora from MELD to CBP: their layouts in miniature, and copies with holes in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
import soundfile

from emofuse.align.shipped import read_shipped
from emofuse.corpora import CORPORA, Corpus, read_corpus
from emofuse.errors import EmofuseError, ManifestError
from emofuse.manifest import utterances
from emofuse.protocols import make_protocol
from emofuse.settings import ProtocolSettings

NOISE = 0.1 * np.random.default_rng(0).standard_normal(8000)


def make_audio(path: Path, *, seconds: float = 0.5) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.resize(NOISE, round(16000 * seconds)), 16000)
    return path


def film(path: Path) -> Path:
    """A clip as television has it: AAC in MP4."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        modality = container.add_stream("aac", rate=16000)
        samples = np.resize(NOISE, 8192).astype(np.float32)
        for start in range(0, 8192, 1024):
            frame = av.AudioFrame.from_ndarray(samples[None, start : start + 1024], format="fltp", layout="mono")
            frame.sample_rate = 16000
            container.mux(modality.encode(frame))  # type: ignore[attr-defined]
        container.mux(modality.encode(None))  # type: ignore[attr-defined]
    return path


def write(path: Path, *lines: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


def get(name: str, root: Path, **options: str) -> Corpus:
    return read_corpus(name, root, partial=True, options=options)


def rows(corpus: Corpus) -> dict[str, dict[str, object]]:
    manifest = corpus.manifest.set_index("utterance")
    return {str(name): manifest.loc[name].dropna().to_dict() for name in manifest.index}


# Miniatures: each writes a corpus and names its table and one clip


def meld(root: Path) -> tuple[Path, Path]:
    header = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"
    times = '4,7,"00:20:57,256","00:21:00,049"'
    write(
        root / "train" / "train_sent_emo.csv",
        header,
        f'1,"Oh, you\u2019re here!",Mia,joy,positive,0,0,{times}',
        f"2,Where?,Tom,surprise,negative,0,1,{times}",
        f'3,"""Never,"" he said.",Mia,sadness,negative,125,3,{times}',
    )
    write(root / "dev_sent_emo.csv", header, f"1,Go away.,Tom,anger,negative,0,0,{times}")
    write(root / "test_sent_emo.csv", header, f"1,Fine.,Mia,neutral,neutral,0,0,{times}")
    clip = make_audio(root / "train" / "train_splits" / "dia0_utt0.wav")
    film(root / "train" / "train_splits" / "dia0_utt1.mp4")
    make_audio(root / "dev_splits_complete" / "dia0_utt0.wav", seconds=0.6)
    make_audio(root / "output_repeated_splits_test" / "dia0_utt0.wav", seconds=0.7)
    return root / "train" / "train_sent_emo.csv", clip


def crema_d(root: Path) -> tuple[Path, Path]:
    names = ["1001_DFA_ANG_XX", "1001_IEO_HAP_LO", "1002_DFA_NEU_XX", "1040_ITH_SAD_X"]
    for name in names:
        make_audio(root / "AudioWAV" / f"{name}.wav")
    lines = [f'{number},"{name}"' for number, name in enumerate(names, start=1)]
    table = write(root / "SentenceFilenames.csv", '"Stimulus_Number","Filename"', *lines)
    return table, root / "AudioWAV" / "1001_DFA_ANG_XX.wav"


def esd(root: Path) -> tuple[Path, Path]:
    clip = make_audio(root / "0011" / "Angry" / "train" / "0011_000401.wav")
    make_audio(root / "0011" / "Surprise" / "evaluation" / "0011_001405.wav")
    make_audio(root / "0011" / "Neutral" / "test" / "0011_000050.wav")
    make_audio(root / "0003" / "Sad" / "train" / "0003_001051.wav")
    table = write(
        root / "0011" / "0011.txt",
        "0011_000050\tThe nine the eggs, I keep.\tNeutral",
        "0011_000401\tI did go, and made many prisoners.\tAngry",
        "0011_001405\tOur house, I say!\tSurprise",
    )
    write(root / "0003" / "0003.txt", "0003_001051\t\u4f60\u597d\u3002\t\u4f24\u5fc3", encoding="utf-16")
    return table, clip


def msp_improv(root: Path) -> tuple[Path, Path]:
    table = write(
        root / "Evalution.txt",
        "UTD-IMPROV-S01A-F01-S-FM02.avi; A; A:4.2; V:1.6; D:3.8 ; N:4.0;",
        "judge_1; Angry; Angry,Frustrated; A:4.0; V:2.0; D:4.0; N:4.0;",
        "judge_2; Neutral; Neutral; A:4.4; V:1.2; D:3.6; N:4.0;",
        "judge_1; Angry; Angry,Frustrated; A:4.0; V:2.0; D:4.0; N:4.0;",
        "UTD-IMPROV-S01A-M01-S-FM01.avi; N; A:3.0; V:NaN; D:3.0 ; N:NaN;",
        "judge_1; Neutral; Neutral; A:3.0; V:NaN; D:3.0; N:NaN;",
        "UTD-IMPROV-S01A-F01-R-FM01.avi; H; A:4.0; V:4.5; D:3.0 ; N:4.0;",
        "UTD-IMPROV-S03S-M06-T-MF01.avi; X; A:2.0; V:2.0; D:3.0 ; N:4.0;",
        "judge_1; Sad; Sad; A:2.0; V:2.0; D:3.0; N:4.0;",
    )
    for place in ("session1/S01A/S/MSP-IMPROV-S01A-F01-S-FM02", "session1/S01A/S/MSP-IMPROV-S01A-M01-S-FM01"):
        make_audio(root / f"{place}.wav")
    make_audio(root / "session1/S01A/R/MSP-IMPROV-S01A-F01-R-FM01.wav")
    make_audio(root / "session6/S03S/T/MSP-IMPROV-S03S-M06-T-MF01.wav")
    write(root / "Transcripts" / "MSP-IMPROV-S01A-F01-S-FM02.txt", "Did you go", "there?")
    return table, root / "session1/S01A/S/MSP-IMPROV-S01A-F01-S-FM02.wav"


def msp_podcast(root: Path) -> tuple[Path, Path]:
    table = write(
        root / "Labels" / "labels_consensus.csv",
        "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set",
        "MSP-PODCAST_0001_0008.wav,N,2.2,4.0,2.6,30,Male,Test1",
        "MSP-PODCAST_0001_0009.wav,H,3.5,5.5,3.7,30,Male,Test2",
        "MSP-PODCAST_0002_0001.wav,U,4.0,4.0,4.0,Unknown,Unknown,Train",
        "MSP-PODCAST_0003_0001.wav,X,4.0,4.0,4.0,12,Female,Development",
    )
    for name in ("0001_0008", "0001_0009", "0002_0001", "0003_0001"):
        make_audio(root / "Audios" / f"MSP-PODCAST_{name}.wav")
    write(root / "Transcripts" / "MSP-PODCAST_0001_0008.txt", "Well, that is it.")
    (root / "Transcripts" / "MSP-PODCAST_0001_0009.txt").touch()
    return table, root / "Audios" / "MSP-PODCAST_0001_0008.wav"


def cmu_mosei(root: Path) -> tuple[Path, Path]:
    table = write(
        root / "labels.csv",
        "video_id,clip_id,anger,disgust,fear,happiness,sadness,surprise,split",
        "-3g5yACwYnA,0,0,0,0,0.6667,0.3333,0,train",
        "-3g5yACwYnA,1,0,0,0,0,0,0,train",
        "03bSnISJMiM,0,1,0,0,0,1,0,valid",
        "zzz_1,10,2,1,0,0,0,0,test",
    )
    audio, words = root / "Raw/Audio/Full/WAV_16000", root / "Raw/Transcript/Segmented/Combined"
    clip = make_audio(audio / "-3g5yACwYnA.wav", seconds=3)
    make_audio(audio / "03bSnISJMiM.wav", seconds=2)
    make_audio(root / "Segmented" / "zzz_1_10.wav")
    write(
        words / "-3g5yACwYnA.txt",
        "-3g5yACwYnA___1___1.5___2.5___And then, it ___ ends.",
        "-3g5yACwYnA___0___-0.4___1.25___It begins.",
    )
    write(words / "03bSnISJMiM.txt", "03bSnISJMiM___0___0.5___2.0___Sad and cross.")
    return table, clip


def cbp(root: Path) -> tuple[Path, Path]:
    def row(number: str, speaker: str, words: str, belief: float, clip: str, start: float) -> str:
        times = [[start + 0.1 * place, start + 0.1 * place + 0.08] for place in range(len(words.split()))]
        fields = {"number": number, "speaker": speaker, "turn": 3, "words": words.split(), "word_times": times}
        fields |= {"cb_val": belief, "cb_target": "it works", "clip_start": start, "clip_end": start + 0.5}
        return json.dumps({**fields, "audio_file": f"audio/{clip}.wav"})

    table = write(
        root / "annotations.jsonl",
        row("sw4001", "A", "I don't think it works", -1.5, "clip1", 60.25),
        row("sw4001", "B", "I know it works and it always did", 2.75, "clip2", 75.0),
        row("sw4022", "A", "maybe it works", 0.5, "clip3", 1.0),
        row("", "A", "of no dialogue", 0.0, "clip4", 0.0),
        row("sw4022", "B", "it never works", -3.0, "clip5", 20.0),
    )
    for number in (1, 2, 3, 5):
        make_audio(root / "audio" / f"clip{number}.wav")
    return table, root / "audio" / "clip1.wav"


MAKERS: dict[str, Callable[[Path], tuple[Path, Path]]] = {
    "meld": meld,
    "crema-d": crema_d,
    "esd": esd,
    "msp-improv": msp_improv,
    "msp-podcast": msp_podcast,
    "cmu-mosei": cmu_mosei,
    "cbp": cbp,
}


# What is read


def test_meld(tmp_path: Path) -> None:
    meld(tmp_path)
    found = rows(get("meld", tmp_path))
    assert list(found) == ["train_dia0_utt0", "train_dia0_utt1", "dev_dia0_utt0", "test_dia0_utt0"]
    assert found["train_dia0_utt0"] == {
        "corpus": "meld",
        "audio": str(tmp_path / "train/train_splits/dia0_utt0.wav"),
        "duration": 0.5,
        "text": "Oh, you\u2019re here!",
        "text_source": "reference",
        "language": "en",
        "label": "happy",
        "speaker": "Mia",
        "session": "train",
        "dialogue": "train_dia0",
    }
    assert found["train_dia0_utt1"]["duration"] == pytest.approx(0.5, abs=0.1)
    assert [found[f"{split}_dia0_utt0"]["duration"] for split in ("dev", "test")] == [0.6, 0.7]
    assert [row["label"] for row in found.values()] == ["happy", "surprised", "angry", "neutral"]


@pytest.mark.parametrize(
    "places",
    [
        ("train_splits", "dev_splits_complete", "output_repeated_splits_test"),
        ("MELD.Raw/train/train_splits", "MELD.Raw/train/dev_splits_complete", "MELD.Raw/test/output/test"),
        ("for training and test/train/16k", "for training and test/dev/16k", "for training and test/test/16k"),
    ],
)
def test_the_nearest_folder_that_names_a_split_decides(tmp_path: Path, places: tuple[str, ...]) -> None:
    meld(tmp_path / "tables")
    for path in tmp_path.rglob("dia*"):
        path.unlink()
    for number, place in enumerate(places):
        make_audio(tmp_path / place / "dia0_utt0.wav", seconds=0.5 + 0.1 * number)
    found = rows(get("meld", tmp_path))
    assert [found[f"{split}_dia0_utt0"]["duration"] for split in ("train", "dev", "test")] == [0.5, 0.6, 0.7]


def test_melds_two_clips_without_audio_are_no_fault(tmp_path: Path) -> None:
    meld(tmp_path)
    make_audio(tmp_path / "train/train_splits/dia125_utt3.wav")
    corpus = get("meld", tmp_path)
    assert corpus.skipped == ()
    assert "train_dia125_utt3" not in set(corpus.manifest["utterance"])


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
def test_punctuation_of_windows_is_read_as_it_was_written(tmp_path: Path, encoding: str) -> None:
    """MELD's tables have it as characters 0x80 to 0x9f in UTF-8."""
    table, _ = meld(tmp_path)
    said = "Well\u2026 the company\u2019s \u201cbig\u201d \u2013 \u2018huge\u2019 \u2014 deal, na\u00efve\u2026"
    wrong = said.encode("cp1252").decode("latin-1")
    assert {"\x85", "\x91", "\x92", "\x93", "\x94", "\x96", "\x97"} <= set(wrong)
    content = table.read_text().replace("Oh, you\u2019re here!", "@").replace("Mia", "Zo\u00eb")
    table.write_bytes(content.replace("@", wrong if encoding == "utf-8" else said).encode(encoding))
    row = rows(get("meld", tmp_path))["train_dia0_utt0"]
    assert (row["text"], row["speaker"]) == (said, "Zo\u00eb")


def test_crema_d(tmp_path: Path) -> None:
    _, clip = crema_d(tmp_path)
    found = rows(get("crema-d", tmp_path))
    assert found["1001_DFA_ANG_XX"] == {
        "corpus": "crema-d",
        "audio": str(clip),
        "duration": 0.5,
        "text": "Don't forget a jacket.",
        "text_source": "reference",
        "language": "en",
        "label": "angry",
        "speaker": "1001",
        "script": "DFA",
    }
    assert [found[name]["label"] for name in sorted(found)] == ["angry", "happy", "neutral", "sad"]


def test_crema_d_counts(tmp_path: Path) -> None:
    """Every actor has 82 clips, of which 20 are missing, as published; none of a sentence is said in two ways."""
    source = make_audio(tmp_path / "source.wav", seconds=0.1)
    place = tmp_path / "AudioWAV"
    place.mkdir()
    sentences = ["IEO", "TIE", "IOM", "IWW", "TAI", "MTI", "IWL", "ITH", "DFA", "ITS", "TSI", "WSI"]
    levels = [("IEO", level) for level in ("LO", "MD", "HI")] + [(code, "XX") for code in sentences[1:]]
    clips = [
        f"{actor}_{sentence}_{emotion}_{level}.wav"
        for emotion in ("ANG", "DIS", "FEA", "HAP", "SAD")
        for actor in range(1001, 1092)
        for sentence, level in levels
    ]
    kept = [name for emotion in ("ANG", "DIS", "FEA", "HAP", "SAD") for name in clips if emotion in name]
    kept = [name for number, name in enumerate(kept) if number % 1274 < 1271]
    kept += [f"{actor}_{code}_NEU_XX.wav" for actor in range(1001, 1092) for code in sentences][:1087]
    for name in kept:
        (place / name).hardlink_to(source)
    corpus = read_corpus("crema-d", tmp_path)
    assert (len(corpus.manifest), corpus.skipped, corpus.notes) == (7442, (), ())
    assert corpus.manifest["speaker"].nunique() == 91


def test_esd(tmp_path: Path) -> None:
    _, clip = esd(tmp_path)
    found = rows(get("esd", tmp_path))
    assert found["0011_000401"] == {
        "corpus": "esd",
        "audio": str(clip),
        "duration": 0.5,
        "text": "I did go, and made many prisoners.",
        "text_source": "reference",
        "language": "en",
        "label": "angry",
        "speaker": "0011",
        "session": "train",
        "script": "en-051",
    }
    assert found["0003_001051"]["text"] == "\u4f60\u597d\u3002"
    assert [(row["label"], row["session"], row["script"]) for name, row in sorted(found.items())] == [
        ("sad", "dev", "zh-001"),
        ("neutral", "test", "en-050"),
        ("angry", "train", "en-051"),
        ("surprised", "dev", "en-005"),
    ]
    assert list(rows(get("esd", tmp_path, language="zh"))) == ["0003_001051"]


def test_esds_parts_end_where_the_publishers_folders_do(tmp_path: Path) -> None:
    parts = {1: "evaluation", 20: "evaluation", 21: "test", 50: "test", 51: "train", 350: "train"}
    for first, emotion in enumerate(("Neutral", "Angry", "Happy", "Sad", "Surprise")):
        for sentence, part in parts.items():
            make_audio(tmp_path / "0015" / emotion / part / f"0015_{350 * first + sentence:06d}.wav")
    manifest = get("esd", tmp_path).manifest
    assert len(manifest) == 30
    folders = manifest["audio"].map(lambda path: Path(path).parent.name)
    assert (folders.replace("evaluation", "dev") == manifest["session"]).all()
    assert manifest["script"].nunique() == 6


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "gb18030"])
@pytest.mark.parametrize("separator", ["\t", "  "])
def test_esds_transcripts_come_in_many_ways(tmp_path: Path, encoding: str, separator: str) -> None:
    make_audio(tmp_path / "Emotion Speech Dataset" / "0002" / "Happy" / "0002_000701.wav")
    line = separator.join(["0002_000701", "\u6253\u8fdc\u4e00\u770b\u3002", "\u5feb\u4e50"])
    write(tmp_path / "Emotion Speech Dataset/0002/0002.txt", line, "0002_000702", encoding=encoding)
    assert rows(get("esd", tmp_path))["0002_000701"]["text"] == "\u6253\u8fdc\u4e00\u770b\u3002"


def test_msp_improv(tmp_path: Path) -> None:
    _, clip = msp_improv(tmp_path)
    corpus = get("msp-improv", tmp_path, labels="all")
    found = rows(corpus)
    votes = json.loads(str(found["MSP-IMPROV-S01A-F01-S-FM02"].pop("votes")))
    assert votes == {"angry": 1, "neutral": 1}
    assert found["MSP-IMPROV-S01A-F01-S-FM02"] == {
        "corpus": "msp-improv",
        "audio": str(clip),
        "duration": 0.5,
        "text": "Did you go there?",
        "text_source": "reference",
        "language": "en",
        "label": "angry",
        "values.valence": 1.6,
        "values.arousal": 4.2,
        "values.dominance": 3.8,
        "speaker": "F01",
        "gender": "female",
        "session": "1",
        "dialogue": "1-S01A-FM-S",
    }
    assert "values.valence" not in found["MSP-IMPROV-S01A-M01-S-FM01"]
    assert found["MSP-IMPROV-S01A-F01-R-FM01"]["script"] == "S01"
    read = found["MSP-IMPROV-S03S-M06-T-MF01"]
    assert (read["speaker"], read["session"], read["script"], read.get("label")) == ("M06", "6", "S03", None)
    assert read["gender"] == "male"
    improvised = corpus.manifest[corpus.manifest["dialogue"] == "1-S01A-FM-S"]
    assert improvised["speaker"].tolist() == ["M01", "F01"]
    four = rows(get("msp-improv", tmp_path))
    assert len(four) == 3
    assert [row.get("omitted") for row in four.values()] == [None] * 3
    clip.unlink()
    (clip.parent / "MSP-IMPROV-S01A-M01-S-FM01.wav").rename(clip)
    kept = rows(read_corpus("msp-improv", tmp_path, partial=True))["MSP-IMPROV-S01A-F01-S-FM02"]
    # One turn without a transcript has lost its audio before it.
    assert kept["omitted"] == '[""]'


def test_msp_podcast(tmp_path: Path) -> None:
    _, clip = msp_podcast(tmp_path)
    found = rows(read_corpus("msp-podcast", tmp_path))
    assert found["MSP-PODCAST_0001_0008"] == {
        "corpus": "msp-podcast",
        "audio": str(clip),
        "duration": 0.5,
        "text": "Well, that is it.",
        "text_source": "reference",
        "language": "en",
        "label": "neutral",
        "values.valence": 4.0,
        "values.arousal": 2.2,
        "values.dominance": 2.6,
        "speaker": "30",
        "gender": "male",
        "session": "test",
        "dialogue": "MSP-PODCAST_0001",
    }
    assert [row["session"] for row in found.values()] == ["test", "test2", "train", "dev"]
    assert [row.get("speaker") for row in found.values()] == ["30", "30", None, "12"]
    assert [row.get("gender") for row in found.values()] == ["male", "male", None, "female"]
    assert [row.get("label") for row in found.values()] == ["neutral", "happy", "surprised", None]


def test_further_test_sets_are_neither_trained_nor_validated_on(tmp_path: Path) -> None:
    header = "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set"
    parts = ("Train", "Development", "Test1", "Test2", "Test3")
    lines = [f"MSP-PODCAST_{part}_{code}.wav,{code},1,1,1,{part},Male,{part}" for part in parts for code in "AHS"]
    write(tmp_path / "Labels/labels_concensus.csv", header, *lines)
    for line in lines:
        make_audio(tmp_path / "Audios" / line.split(",")[0])
    manifest = read_corpus("msp-podcast", tmp_path).manifest
    for kind in ("auto", "split"):
        protocol = make_protocol(manifest, ProtocolSettings(kind=kind))  # type: ignore[arg-type]
        (fold,) = protocol.folds
        for names, part in ((fold.train, "Train"), (fold.validation, "Development"), (fold.test, "Test1")):
            assert [name.split("_")[1] for name in names] == [part] * 3
    last = make_protocol(manifest, ProtocolSettings(kind="split")).final
    assert {name.split("_")[1] for name in (*last.train, *last.validation)} == {"Train", "Development"}


def test_cmu_mosei(tmp_path: Path) -> None:
    _, clip = cmu_mosei(tmp_path)
    found = rows(read_corpus("cmu-mosei", tmp_path))
    assert json.loads(str(found["-3g5yACwYnA_0"].pop("votes"))) == {"happy": 0.6667, "sad": 0.3333}
    assert found["-3g5yACwYnA_0"] == {
        "corpus": "cmu-mosei",
        "audio": str(clip),
        "start": 0.0,
        "end": 1.25,
        "duration": 1.25,
        "text": "It begins.",
        "text_source": "reference",
        "language": "en",
        "label": "happy",
        "speaker": "-3g5yACwYnA",
        "session": "train",
        "dialogue": "-3g5yACwYnA",
    }
    assert found["-3g5yACwYnA_1"]["text"] == "And then, it ___ ends."
    assert [row.get("label") for row in found.values()] == ["happy", "neutral", None, "angry"]
    assert [row["session"] for row in found.values()] == ["train", "train", "dev", "test"]
    assert (found["zzz_1_10"]["duration"], found["zzz_1_10"].get("start")) == (0.5, None)


def test_cbp(tmp_path: Path) -> None:
    _, clip = cbp(tmp_path)
    corpus = get("cbp", tmp_path)
    found = rows(corpus)
    assert found["clip1"] == {
        "corpus": "cbp",
        "audio": str(clip),
        "duration": 0.5,
        "text": "I don't think it works",
        "text_source": "reference",
        "language": "en",
        "label": "doubted",
        "values.belief": -1.5,
        "speaker": "sw4001-A",
        "dialogue": "sw4001",
    }
    assert {name: row["label"] for name, row in found.items()} == {
        "clip1": "doubted", "clip2": "believed", "clip3": "open", "clip5": "disbelieved"
    }  # fmt: skip
    names = {row.utterance: row for row in utterances(corpus.manifest)}
    words = read_shipped(names["clip1"], corpus="cbp", duration=0.5)["word"]
    assert [word.label for word in words] == ["I", "don't", "think", "it", "works"]
    assert [word.start for word in words] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert [word.end for word in words] == pytest.approx([0.08, 0.18, 0.28, 0.38, 0.48])
    # What is said after the clip has ended is no part of it.
    inside = read_shipped(names["clip2"], corpus="cbp", duration=0.5)["word"]
    assert [word.label for word in inside] == ["I", "know", "it", "works", "and"]


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_published_about_a_corpus(name: str) -> None:
    card = CORPORA[name]
    sizes = {"meld": 13706, "crema-d": 7442, "esd": 35000, "msp-improv": 7798, "msp-podcast": None, "cmu-mosei": None}
    sizes |= {"cbp": 337}
    assert card.utterances == sizes[name]
    if card.utterances is None:
        assert "no number is expected" in card.note
    assert card.licence
    assert card.citation[-4:].isdecimal()


# Damage: each kind changes the table or the clip of a miniature and says what must come of it


@dataclass(frozen=True)
class Damage:
    """A change of table and clip, whether it is read as before, and what the report says of which file."""

    change: Callable[[Path, Path], object]
    where: str = ""
    what: str = ""


def edit(convert: Callable[[bytes], bytes]) -> Callable[[Path, Path], object]:
    return lambda table, clip: table.write_bytes(convert(table.read_bytes()))


def line(number: int, convert: Callable[[str], str]) -> Callable[[Path, Path], object]:
    """Change one line of the table, counted from 1."""

    def change(table: Path, clip: Path) -> None:
        lines = table.read_text(encoding="utf-8").split("\n")
        assert convert(lines[number - 1]) != lines[number - 1]
        lines[number - 1] = convert(lines[number - 1])
        table.write_text("\n".join(lines), encoding="utf-8")

    return change


def swap(old: str, new: str, *, number: int = 2) -> Callable[[Path, Path], object]:
    return line(number, lambda content: content.replace(old, new, 1))


def again(number: int) -> Callable[[Path, Path], object]:
    return line(number, lambda content: f"{content}\n{content}")


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


ANY_TABLE = {
    "the table is empty": Damage(edit(lambda _: b""), what="empty"),
    "the table is blank": Damage(edit(lambda _: b"\n \n"), what="empty"),
    "the table is bytes": Damage(edit(lambda _: bytes(range(256)) * 3), what="not text"),
    "a folder for the table": Damage(lambda table, _: to_folder(table), what="folder"),
}
ANY_CLIP = {
    "the clip is missing": Damage(lambda _, clip: clip.unlink(), where="clip", what="no such file"),
    "a folder for the clip": Damage(lambda _, clip: to_folder(clip), where="clip", what="no such file"),
    "the clip is empty": Damage(lambda _, clip: clip.write_bytes(b""), where="clip", what="empty"),
    "the clip is no audio": Damage(lambda _, clip: clip.write_text("hello"), where="clip", what="not"),
    "the clip is cut short": Damage(lambda _, clip: clip.write_bytes(clip.read_bytes()[:3000]), "clip", "cut short"),
}
ANY_CSV = {
    **ANY_TABLE,
    "a header alone": Damage(edit(lambda content: content.split(b"\n")[0]), what="no rows"),
    "an open quote": Damage(line(2, lambda content: f'"{content}'), what="breaks off"),
    "a line is cut short": Damage(line(2, lambda content: content[:12]), where="line 2", what="cells"),
    "a line is too long": Damage(line(2, lambda content: f"{content},more"), where="line 2", what="cells"),
    "a line twice": Damage(again(2), where="line 3", what="occurs twice"),
}
NO_COLUMN = "there is no column"
KINDS: dict[str, dict[str, Damage]] = {
    "meld": {
        **ANY_CSV,
        **ANY_CLIP,
        "a line is cut short": Damage(line(3, lambda content: content[:12]), where="line 3", what="cells"),
        "no column of emotions": Damage(swap("Emotion", "Mood", number=1), what=f"{NO_COLUMN} 'Emotion'"),
        "no column of dialogues": Damage(swap("Dialogue_ID", "ID", number=1), what=f"{NO_COLUMN} 'Dialogue_ID'"),
        "an unknown emotion": Damage(swap("joy", "glee"), where="line 2", what="'glee'"),
        "a number is NaN": Damage(swap("positive,0", "positive,nan"), where="line 2", what="'nan'"),
        "a number is below zero": Damage(swap("positive,0,0", "positive,0,-1"), where="line 2", what="'-1'"),
        "the table is missing": Damage(
            lambda table, _: table.unlink(), where="train_sent_emo.csv", what="no such file"
        ),
    },
    "crema-d": {
        **ANY_TABLE,
        **ANY_CLIP,
        "no column of names": Damage(swap("Filename", "Name", number=1), what=f"{NO_COLUMN} 'Filename'"),
        "a line is cut short": Damage(line(3, lambda _: "3"), where="line 3", what="cells"),
        "a clip that is only named": Damage(
            line(3, lambda content: f'{content}\n5,"1003_WSI_SAD_XX"'), where="1003_WSI_SAD_XX.wav", what="no such file"
        ),
    },
    "esd": {
        **ANY_TABLE,
        **{name: damage for name, damage in ANY_CLIP.items() if "missing" not in name and "folder" not in name},
        "the table is missing": Damage(lambda table, _: table.unlink(), where="0011.txt", what="no such file"),
        "an unknown emotion": Damage(
            lambda _, clip: clip.parents[1].rename(clip.parents[2] / "Bored"), where="Bored", what="five emotions"
        ),
        "a clip of another speaker": Damage(
            lambda _, clip: clip.rename(clip.with_name("0012_000401.wav")), where="0012_000401.wav", what="not named"
        ),
        "a clip with a high number": Damage(
            lambda _, clip: clip.rename(clip.with_name("0011_001751.wav")), where="0011_001751.wav", what="not named"
        ),
        "a clip with another name": Damage(
            lambda _, clip: clip.rename(clip.with_name("take2.wav")), where="take2.wav", what="not named"
        ),
    },
    "msp-improv": {
        **ANY_TABLE,
        **ANY_CLIP,
        "a table of something else": Damage(edit(lambda _: b"hello\n"), what="no turn in it"),
        "a line is cut short": Damage(line(1, lambda content: content[:30]), where="line 1", what="the line is not"),
        "no ratings": Damage(line(1, lambda content: content[:36]), where="line 1", what="A is 'absent'"),
        "an unknown emotion": Damage(swap("; A;", "; Q;", number=1), where="line 1", what="'Q'"),
        "a rating is no number": Damage(swap("V:1.6", "V:high", number=1), where="line 1", what="V is 'high'"),
        "a rating is infinite": Damage(swap("V:1.6", "V:inf", number=1), where="line 1", what="V is 'inf'"),
        "a strange name": Damage(swap("S01A-F01-S", "S01-F01", number=1), where="line 1", what="the line is not"),
        "a line twice": Damage(again(1), where="line 2", what="occurs twice"),
    },
    "msp-podcast": {
        **ANY_CSV,
        **ANY_CLIP,
        "no column of emotions": Damage(swap("EmoClass", "Emo", number=1), what=f"{NO_COLUMN} 'EmoClass'"),
        "no column of splits": Damage(swap("Split_Set", "Set", number=1), what=f"{NO_COLUMN} 'Split_Set'"),
        "an unknown emotion": Damage(swap(",N,", ",joy,"), where="line 2", what="'joy'"),
        "an unknown split": Damage(swap("Test1", "Exam"), where="line 2", what="'Exam'"),
        "a rating is no number": Damage(swap("2.2", "high"), where="line 2", what="EmoAct is 'high'"),
        "a rating is infinite": Damage(swap("2.2", "inf"), where="line 2", what="EmoAct is 'inf'"),
        "no name": Damage(swap("MSP-PODCAST_0001_0008.wav", ""), where="line 2", what="FileName is empty"),
    },
    "cmu-mosei": {
        **ANY_CSV,
        **ANY_CLIP,
        "no column of an emotion": Damage(swap("fear", "panic", number=1), what=f"{NO_COLUMN} 'fear'"),
        "no column of videos": Damage(swap("video_id", "name", number=1), what=f"{NO_COLUMN} 'video_id'"),
        "an intensity is NaN": Damage(swap("0.6667", "nan"), where="line 2", what="happiness is 'nan'"),
        "an intensity is absent": Damage(swap("0.6667", ""), where="line 2", what="happiness is ''"),
        "an intensity is too high": Damage(swap("0.6667", "66"), where="line 2", what="happiness is '66'"),
        "an intensity is below zero": Damage(swap("0.6667", "-1"), where="line 2", what="happiness is '-1'"),
        "an unknown split": Damage(swap("train", "exam"), where="line 2", what="'exam'"),
        "no name": Damage(swap("-3g5yACwYnA,", ","), where="line 2", what="no name"),
        "times are reversed": Damage(
            lambda table, _: write(
                table.parent / "Raw/Transcript/Segmented/Combined/-3g5yACwYnA.txt",
                "-3g5yACwYnA___0___2.5___1.25___It begins.",
                "-3g5yACwYnA___1___1.5___2.5___It ends.",
            ),
            where="line 2",
            what="the segment lasts from 2.5 to 1.25",
        ),
        "no times": Damage(
            lambda table, _: (table.parent / "Raw/Transcript/Segmented/Combined/-3g5yACwYnA.txt").unlink(),
            where="line 2",
            what="from nowhere to nowhere",
        ),
        "a segment outside its video": Damage(
            lambda _, clip: make_audio(clip, seconds=1.0), where="-3g5yACwYnA.wav", what="outside the audio"
        ),
    },
    "cbp": {
        **ANY_TABLE,
        **ANY_CLIP,
        "no belief": Damage(swap("cb_val", "value", number=1), where="line 1", what="there is no 'cb_val'"),
        "a belief off the scale": Damage(swap("-1.5", "5", number=1), where="line 1", what="cb_val is 5"),
        "a belief that is no number": Damage(swap("-1.5", "NaN", number=1), where="line 1", what="cb_val is nan"),
        "a word without a time": Damage(swap('"I", ', "", number=1), where="line 1", what="4 words and 5 times"),
        "half a line": Damage(line(1, lambda content: content[:30]), where="line 1", what="not an object"),
        "a list in its place": Damage(line(1, lambda content: "[1]"), where="line 1", what="there is no 'speaker'"),
        "a time in words": Damage(swap("60.25", '"late"', number=1), where="line 1", what="not an object"),
    },
}
CASES = [(name, kind) for name, kinds in KINDS.items() for kind in kinds]


@pytest.mark.parametrize(("name", "kind"), CASES, ids=lambda value: value.replace(" ", "-"))
def test_damage_is_reported_by_name_and_the_rest_is_read(tmp_path: Path, name: str, kind: str) -> None:
    table, clip = MAKERS[name](tmp_path)
    before = set(get(name, tmp_path).manifest["utterance"])
    damage = KINDS[name][kind]
    damage.change(table, clip)
    errors: tuple[EmofuseError, ...]
    try:
        corpus = get(name, tmp_path)
    except ManifestError as error:
        errors = (error,)
    else:
        errors = corpus.skipped
        # What is left is what was there, but for what the report is about.
        assert set(corpus.manifest["utterance"]) <= before
        assert len(before) - len(corpus.manifest) <= 3
    where = clip.stem if damage.where == "clip" else damage.where or table.name
    assert [error for error in errors if where in str(error.where) or where in error.what], [str(e) for e in errors]
    assert any(damage.what in error.what for error in errors), [str(e) for e in errors]
    assert all(error.remedy for error in errors)


def test_there_are_kinds_of_damage_enough() -> None:
    assert {name: len(kinds) >= 12 for name, kinds in KINDS.items()} == dict.fromkeys(MAKERS, True)


@pytest.mark.parametrize("name", ["msp-podcast", "cmu-mosei"])
def test_without_partial_one_hole_is_enough_to_refuse(tmp_path: Path, name: str) -> None:
    _, clip = MAKERS[name](tmp_path)
    read_corpus(name, tmp_path)
    clip.unlink()
    with pytest.raises(ManifestError, match=clip.stem) as caught:
        read_corpus(name, tmp_path)
    assert "--partial" in caught.value.remedy


HARMLESS: dict[str, Callable[[Path, Path], object]] = {
    "BOM": edit(lambda content: b"\xef\xbb\xbf" + content),
    "CRLF": edit(lambda content: content.replace(b"\n", b"\r\n")),
    "UTF-16": edit(lambda content: content.decode().encode("utf-16")),
    "no line at the end": edit(lambda content: content.rstrip()),
    "blank lines at the end": edit(lambda content: content + b"\n\n"),
    "upper-case endings": lambda _, clip: clip.rename(clip.with_suffix(".WAV")),
    "what macOS leaves": lambda _, clip: clip.with_name(f"._{clip.name}").write_bytes(b"\0\5\26\7"),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("kind", HARMLESS)
def test_what_does_no_harm_is_read_as_it_was(tmp_path: Path, name: str, kind: str) -> None:
    table, clip = MAKERS[name](tmp_path)
    before = get(name, tmp_path)
    HARMLESS[kind](table, clip)
    after = get(name, tmp_path)
    # Of the twenty speakers of ESD two are there.
    assert [str(error) for error in after.skipped] == [str(error) for error in before.skipped]
    assert len(after.skipped) == (18 if name == "esd" else 0)
    lower = after.manifest.assign(audio=after.manifest["audio"].str.replace(".WAV", ".wav"))
    pd.testing.assert_frame_equal(lower, before.manifest)


@pytest.mark.parametrize("name", MAKERS)
def test_files_of_any_kind_may_end_in_upper_case(tmp_path: Path, name: str) -> None:
    MAKERS[name](tmp_path)
    before = get(name, tmp_path).manifest
    for path in [path for path in tmp_path.rglob("*") if path.is_file()]:
        path.rename(path.with_suffix(path.suffix.upper()))
    after = get(name, tmp_path).manifest
    endings = after["audio"].str.replace(r"\.\w+$", lambda ending: ending[0].lower(), regex=True)
    pd.testing.assert_frame_equal(after.assign(audio=endings), before)


@pytest.mark.parametrize("name", ["meld", "msp-podcast", "cmu-mosei"])
@pytest.mark.parametrize("separator", [";", "\t"])
def test_tables_from_spreadsheets(tmp_path: Path, name: str, separator: str) -> None:
    table, _ = MAKERS[name](tmp_path)
    before = get(name, tmp_path).manifest
    pd.read_csv(table, dtype=str, keep_default_na=False).to_csv(table, sep=separator, index=False)
    pd.testing.assert_frame_equal(get(name, tmp_path).manifest, before)


@pytest.mark.parametrize("name", MAKERS)
def test_the_folder_may_be_named_from_above(tmp_path: Path, name: str) -> None:
    MAKERS[name](tmp_path / name)
    assert len(get(name, tmp_path).manifest) == len(get(name, tmp_path / name).manifest)


def test_of_several_tables_the_one_with_the_labels_is_asked_for(tmp_path: Path) -> None:
    table, _ = cmu_mosei(tmp_path)
    table.rename(tmp_path / "mine.csv")
    assert len(get("cmu-mosei", tmp_path).manifest) == 4
    write(tmp_path / "other.csv", "a,b", "1,2")
    with pytest.raises(ManifestError, match=r"2 tables are here, such as mine\.csv and other\.csv"):
        get("cmu-mosei", tmp_path)
