"""The setting `layers`: which hidden states of an encoder are kept."""

from __future__ import annotations

import re

from emofuse.errors import EncoderError

_MOST = 1000


def select_layers(choice: str, *, layers: int, encoder: str) -> tuple[int, ...]:
    """Read a choice of hidden states.

    Args:
        choice: `all`, one hidden state (`6`, or `-1` counted from the end), a range with both ends (`4-10`), or
            several of them (`4,7,10`).
        layers: Hidden states that the encoder has, counted from 0, its input projection.
        encoder: Name of the encoder, for messages.

    Returns:
        Indices of the chosen hidden states, ascending.

    Raises:
        EncoderError: The choice cannot be read, or names a hidden state that the encoder does not have.

    Example:
        >>> select_layers("4-6", layers=13, encoder="wav2vec2-base")
        (4, 5, 6)
        >>> select_layers("-1", layers=13, encoder="wav2vec2-base")
        (12,)
        >>> select_layers("4, 7-8", layers=13, encoder="wav2vec2-base")
        (4, 7, 8)
    """
    if not 0 < layers <= _MOST:
        raise EncoderError(
            f"config.json describes {layers} hidden states", where=encoder, remedy="fetch or write the files again"
        )
    text = choice.strip()
    if text == "all":
        return tuple(range(layers))
    if "," in text:
        chosen = [select_layers(part, layers=layers, encoder=encoder) for part in text.split(",")]
        return tuple(sorted({index for part in chosen for index in part}))
    if re.fullmatch(r"-?\d+", text):
        index = int(text)
        first = last = index + layers if index < 0 else index
    elif match := re.fullmatch(r"(\d+)\s*-\s*(\d+)", text):
        first, last = int(match[1]), int(match[2])
    else:
        raise EncoderError(
            f"layers {choice!r} is not a choice of hidden states",
            where=encoder,
            remedy="write all, one number such as 6 or -1, a range such as 4-10, or several with commas",
        )
    if not 0 <= first <= last < layers:
        raise EncoderError(
            f"layers {choice!r} does not fit an encoder with {layers} hidden states",
            where=encoder,
            remedy=f"choose from 0 to {layers - 1}, the smaller number first",
        )
    return tuple(range(first, last + 1))
