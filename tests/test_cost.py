"""What a run is said to cost, against what it does cost."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from emofuse.cli.app import app
from emofuse.corpora import read_corpus
from emofuse.cost import _held, estimate
from emofuse.errors import ManifestError
from emofuse.experiment import extract, run
from emofuse.manifest import read_manifest
from emofuse.plan import Plan, resolve
from emofuse.recipe import Recipe, recipe_from
from emofuse.settings import ProtocolSettings
from emofuse.testing import tiny_corpus, tiny_text_encoder
from emofuse.training.folder import MANIFEST

pytestmark = pytest.mark.usefixtures("no_report")

OTHER = {"text": "speech", "audio": "text"}


LATE = {"name": "late", "of": ["speech", "text"]}
WORDS = {"encoder": "words"}


def recipe(folder: Path, **changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "name": "plan",
        "models": ["speech", "text", "early-frame"],
        "ensembles": [LATE] if "models" not in changes else [],
        "seeds": [0, 1],
        "speech": {"encoder": "logmel", "frames_per_step": 2},
        "text": {"encoder": str(tiny_text_encoder(folder / "bert", family="bert"))},
        "model": {"width": 8},
        "protocol": {"kind": "speaker", "validation_groups": 1},
    }
    return recipe_from({**values, **changes}, source="the test")


def make_plan(folder: Path, **changes: Any) -> Plan:
    return resolve(recipe(folder, **changes))


def test_the_plan_writes_as_much_as_the_run(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    manifest = read_corpus("table", tiny_corpus(tmp_path / "corpus", utterances=2)).manifest
    cost = estimate(manifest, plan, jobs=2)
    reported = {stage.name: stage.disk for stage in cost.stages}
    features = extract(manifest, plan, tmp_path / "store")
    for modality, found in (("speech", features.speech), ("text", features.text)):
        assert found is not None
        real = sum(
            path.stat().st_size
            for feature_set in found.feature_sets.values()
            for path in feature_set.folder.glob("*.safetensors")
        )
        assert reported[f"{modality} features"] == pytest.approx(real, rel=0.3)
    assert cost.memory > 1e8


def test_the_plan_names_every_stage_in_its_order(tmp_path: Path) -> None:
    manifest = read_corpus("table", tiny_corpus(tmp_path / "corpus", utterances=1)).manifest
    early = ["early-frame", "early-phone", "early-syllable", "early-word"]
    ensembles = [
        LATE,
        {"name": "multi-granularity", "of": early},
        {"name": "multi-level", "of": ["late", "multi-granularity"]},
    ]
    plan = make_plan(tmp_path, models=["speech", "text", *early], ensembles=ensembles, text=WORDS)
    stages = estimate(manifest, plan, jobs=2).stages
    assert [stage.name for stage in stages] == [
        "manifest", "align", "speech features", "speech", "text", "early-frame", "early-phone", "early-syllable",
        "early-word", "late", "multi-granularity", "multi-level", "controls", "report",
    ]  # fmt: skip
    folds = manifest["speaker"].nunique()
    assert all(stage.what.startswith(f"{2 * folds + 1} models") for stage in stages if stage.name.startswith("early"))
    # Two seeds are trained anyway: of six, four of the dearest network and four of speech are not.
    assert stages[-2].what == f"{2 * 4 * folds} models more, each with a seed of its own"
    free = ("manifest", "late", "multi-granularity", "multi-level", "report")
    assert all(stage.seconds > 0 for stage in stages if stage.name not in free)


def test_what_is_done_costs_nothing(tmp_path: Path) -> None:
    table = tiny_corpus(tmp_path / "corpus", utterances=1)
    chosen = recipe(tmp_path, models=["speech", "text", "early-word"], seeds=[0], train={"epochs": 1})
    out = run(chosen, "table", table, tmp_path / "run", jobs=1).out
    manifest = read_manifest(out / MANIFEST)
    costs = ("align", "speech features", "text features", "speech", "text", "early-word")

    def cost(of: Recipe) -> dict[str, float]:
        stages = {stage.name: stage for stage in estimate(manifest, resolve(of), jobs=1, out=out).stages}
        assert all(("done already" in stages[name].what) >= (stages[name].seconds == 0) for name in costs)
        assert all((stages[name].disk == 0) == (stages[name].seconds == 0) for name in costs if "features" in name)
        return {name: stages[name].seconds for name in costs}

    assert set(cost(chosen).values()) == {0.0}
    # One model less, as where the run was cut off.
    (out / "trials/text/final-seed0/trial.json").unlink()
    (out / "result.json").unlink()
    assert [name for name, seconds in cost(chosen).items() if seconds] == ["text"]
    # Other settings train again, from the same features.
    changed = chosen.model_copy(update={"protocol": ProtocolSettings(kind="speakers", folds=2)})
    assert [name for name, seconds in cost(changed).items() if seconds] == ["speech", "text", "early-word"]
    # As if nothing were done.
    stages = {stage.name: stage.seconds for stage in estimate(manifest, resolve(chosen), jobs=1).stages}
    assert all(stages[name] > 0 for name in costs)


def test_memory_is_what_the_process_has_held() -> None:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("another system")
    peak = 1024 * int(next(line for line in status.read_text().splitlines() if "VmHWM" in line).split()[1])
    assert _held() == pytest.approx(peak, rel=0.1)


def test_what_nobody_can_align_is_reported(tmp_path: Path) -> None:
    manifest = read_corpus("table", tiny_corpus(tmp_path / "corpus", utterances=1)).manifest
    plan = make_plan(tmp_path, models=["early-word"], text=WORDS)
    polish = manifest.assign(language="pl")
    mixed = manifest.assign(language=["en", *["pl"] * (len(manifest) - 1)])
    shipped = polish.assign(corpus="emodb")
    recognised = shipped.assign(text_source="whisper base")
    reported, disk = {}, {}
    for name, one in {
        "none": polish,
        "some": mixed,
        "all": manifest,
        "shipped": shipped,
        "recognised": recognised,
    }.items():
        stages = {stage.name: stage for stage in estimate(one, plan, jobs=1).stages}
        reported[name] = stages["align"].what
        disk[name] = stages["speech features"].disk
        assert (stages["align"].seconds > 0) == (name in ("some", "all"))
    count = len(manifest)
    assert reported["all"] == reported["shipped"] == f"words, syllables and phones of {count} utterances"
    some = f"; {count - 1} keep their frames, since sphinx does not know their language"
    assert reported["some"] == f"words, syllables and phones of 1 utterances{some}"
    assert reported["recognised"] == reported["none"]
    assert disk["recognised"] == disk["none"] > disk["some"] > disk["all"] == disk["shipped"]


def test_steps_of_training_are_timed_where_they_would_be_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = read_corpus("table", tiny_corpus(tmp_path / "corpus", utterances=1)).manifest
    plan = make_plan(tmp_path, models=["text"], text=WORDS)
    places: list[str] = []

    def noted(work: Any) -> float:
        step = work.__self__
        held = [getattr(step.batch, one.name) for one in fields(step.batch)]
        tensors = [*(one for one in held if isinstance(one, torch.Tensor)), *step.model.parameters()]
        assert len(tensors) > 4
        places.extend(sorted({one.device.type for one in tensors}))
        return 1.0

    monkeypatch.setattr("emofuse.cost._timed", noted)
    # Torch's device that holds no numbers stands for an accelerator.
    for device in ("cpu", "meta"):
        estimate(manifest, plan, jobs=1, device=device)
    assert places == ["cpu", "meta"]


def test_the_command_only_plans(tmp_path: Path) -> None:
    corpus = tiny_corpus(tmp_path / "corpus", utterances=1)
    done = CliRunner().invoke(
        app,
        ["run", "fusion", "--corpus", "table", "--root", str(corpus), "--out", str(tmp_path / "run"), "--plan",
         "--speech-encoder", "logmel", "--text-encoder", "words"],
    )  # fmt: skip
    assert done.exit_code == 0
    assert "early-frame" in done.output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("absent", ["text", "audio"])
@pytest.mark.parametrize("encoder", ["words", "bert"])
def test_what_the_run_refuses_is_not_planned(absent: str, encoder: str, tmp_path: Path) -> None:
    manifest = read_corpus("table", tiny_corpus(tmp_path / "corpus", utterances=1)).manifest.assign(**{absent: None})
    plan = make_plan(tmp_path, **({"text": WORDS} if encoder == "words" else {}))
    said = []
    for work in (lambda: estimate(manifest, plan, jobs=1), lambda: extract(manifest, plan, tmp_path / "store")):
        with pytest.raises(ManifestError) as caught:
            work()
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert {"text": "no utterance has text", "audio": "has no audio"}[absent] in said[0]
    estimate(manifest, make_plan(tmp_path, models=[OTHER[absent]]), jobs=1)
