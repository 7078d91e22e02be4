"""Ensembles: the calibrated posteriors of several models, fused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import nn

from emofuse.errors import SettingsError
from emofuse.features.dataset import Batch
from emofuse.models.base import EmotionModel
from emofuse.scoring.fuse import Fusion


class Ensemble(nn.ModuleList):
    """Several models with fused scores: late fusion and other ensembles.

    Members are networks or ensembles. It is never trained as a whole, and uses the same function as the fusion of score
    tables, so that prediction equals evaluation.

    Args:
        members: The models, by name.
        how: Rule, weights and temperatures.

    Example:
        >>> from emofuse.models.base import Shapes
        >>> from emofuse.models.frontend import InputShape
        >>> from emofuse.models.unimodal import SpeechModel
        >>> from emofuse.task import Classification
        >>> shapes, task = Shapes(speech=InputShape(3, 8)), Classification(("angry", "sad"))
        >>> members = {name: SpeechModel(SpeechModel.Settings(), shapes, task) for name in ("frames", "words")}
        >>> batches = {name: Batch(speech=torch.zeros(2, 3, steps, 8), speech_mask=torch.ones(2, steps).bool())
        ...            for name, steps in (("frames", 9), ("words", 2))}
        >>> Ensemble(members, Fusion("mean", weights=(0.5, 0.5), temperatures=(1.0, 1.0)))(batches).shape
        torch.Size([2, 2])
    """

    def __init__(self, members: Mapping[str, EmotionModel | Ensemble], how: Fusion) -> None:
        # By number: not every model name is a valid module name.
        super().__init__(members.values())
        self.names, self.how = tuple(members), how

    @property
    def members(self) -> dict[str, EmotionModel | Ensemble]:
        """The models, by name."""
        return dict(zip(self.names, cast("list[EmotionModel | Ensemble]", list(self)), strict=True))

    @property
    def needs(self) -> tuple[str, ...]:
        """The required modalities.

        If every member reads one modality, members without input are left out.
        """
        needs = [set(needs_of(member)) for member in self.members.values()]
        alone = all(len(one) == 1 for one in needs)
        found = set.intersection(*needs) if alone else set.union(*needs)
        return tuple(modality for modality in ("speech", "text") if modality in found)

    def forward(self, batches: Mapping[str, Batch]) -> torch.Tensor:
        """Give scores `(batch, outputs)`, in double precision on the CPU.

        Args:
            batches: Batch of each network; see `needs` for optional ones.

        Raises:
            SettingsError: No member has an input.
            ScoresError: The scores of a member are not finite.
        """
        given = {}
        silences = self.how.silences or (None,) * len(self)
        fits = zip(self.members.items(), self.how.weights, self.how.temperatures, silences, strict=True)
        for (name, member), *fit in fits:
            if isinstance(member, Ensemble):
                given[name] = (member(batches), *fit)
            elif self.needs or name in batches:
                given[name] = (member.task.scores(member(batches[name]).logits).detach().cpu(), *fit)
        if not given:
            raise SettingsError("late fusion was given neither speech nor text", remedy="give at least one modality")
        scores, weights, temperatures, silences = zip(*given.values(), strict=True)
        # A single remaining member counts fully, even with weight 0, and what is silent beside others is its answer.
        weights = weights if sum(weights) > 0 else (1.0,) * len(given)
        how = Fusion(self.how.rule, weights, temperatures, silences if len(given) > 1 else ())
        return torch.from_numpy(how(torch.stack(scores).numpy(), names=list(given)))


def needs_of(model: EmotionModel | Ensemble) -> tuple[str, ...]:
    """The modalities that a model requires."""
    return model.needs if isinstance(model, Ensemble) else model.reads.modalities
