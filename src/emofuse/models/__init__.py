"""The networks above the encoders, as plain `nn.Module`s on tensors and masks."""

from emofuse.models.build import InputShape, build_model
from emofuse.models.coattention import CoAttention, CoAttentionLayer
from emofuse.models.fusion import ConcatModel, EarlyFusion, JoinedModel
from emofuse.models.streams import EmotionModel, SpeechModel, TextModel

__all__ = [
    "CoAttention",
    "CoAttentionLayer",
    "ConcatModel",
    "EarlyFusion",
    "EmotionModel",
    "InputShape",
    "JoinedModel",
    "SpeechModel",
    "TextModel",
    "build_model",
]
