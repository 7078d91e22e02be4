"""Models on top of encoders, each in one file, and their short names."""

from __future__ import annotations

from emofuse.models.base import EmotionModel
from emofuse.outside import load_class

MODELS = {
    "speech": "emofuse.models.unimodal:SpeechModel",
    "text": "emofuse.models.unimodal:TextModel",
    "concat": "emofuse.models.concat:ConcatModel",
    "early-frame": "emofuse.models.early:EarlyFusion",
    "early-phone": "emofuse.models.early:EarlyPhone",
    "early-syllable": "emofuse.models.early:EarlySyllable",
    "early-word": "emofuse.models.early:EarlyWord",
    "early-joint": "emofuse.models.early:EarlyJoint",
    "attention-pooling": "emofuse.models.attention_pooling:AttentionPooling",
    "mgat": "emofuse.models.mgat:MGAT",
    "mmer": "emofuse.models.mmer:MMER",
    "belief": "emofuse.models.belief:Belief",
    "kbca": "emofuse.models.kbca:KBCA",
}
"""Short names of built-in classes."""


def model_class(name: str) -> type[EmotionModel]:
    """The class of a short name, or of a path such as `my_models:MyFusion`.

    Raises:
        SettingsError: There is none, or it is no `EmotionModel`.

    Example:
        >>> model_class("early-frame").__name__
        'EarlyFusion'
    """
    return load_class(name, MODELS, kind="model", base=EmotionModel)
