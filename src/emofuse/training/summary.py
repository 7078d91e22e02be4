"""The record of a run of trials, whether their encoders are frozen or tuned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from emofuse.manifest import parts, sources_of, text_sources
from emofuse.plan import Plan
from emofuse.protocols import Protocol
from emofuse.scoring.record import ProtocolRecord, Result, Skipped
from emofuse.scoring.result import evaluate, evaluate_parts, tested_fingerprint, versions
from emofuse.scoring.table import Scores


def summarise(
    plan: Plan,
    protocol: Protocol,
    manifest: pd.DataFrame,
    scores: Scores | None,
    *,
    skipped: Mapping[str, str],
    **found: Any,
) -> Result:
    """Record what every run knows: its corpus, protocol and recipe, and the figures of its scores.

    Args:
        plan: The experiment.
        protocol: Its split.
        manifest: The utterances that could be used.
        scores: Of all models; None if no fold was tested.
        skipped: Utterances that were left out, and why.
        **found: Further fields of `Result`.
    """
    about = {
        **protocol.settings.model_dump(mode="json"),
        "fingerprint": protocol.fingerprint,
        "tested_fingerprint": tested_fingerprint(scores) if scores else "",
        "classes": protocol.classes,
        "values": plan.task.values,
        "folds": len(protocol.folds),
        "utterances": len(protocol.utterances),
        "speakers": manifest["speaker"].nunique(),
        "leakage": protocol.leakage,
    }
    used = manifest[manifest["utterance"].isin(list(protocol.utterances))]
    return Result(
        corpus=", ".join(sorted(manifest["corpus"].dropna().unique())),
        sources=sources_of(manifest),
        models=evaluate(scores) if scores else {},
        parts=evaluate_parts(scores, parts(manifest)) if scores else {},
        protocol=ProtocolRecord.model_validate(about),
        text_sources=text_sources(used),
        recipe=dict(plan.recipe),
        skipped=[Skipped(utterance=name, reason=reason) for name, reason in skipped.items()],
        versions=versions(),
        **found,
    )
