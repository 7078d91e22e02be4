"""Building blocks that several models share: plain modules and functions on tensors and masks.

Sequences are `(batch, steps, width)`; masks are `(batch, steps)`, True where a step is valid. What a block gives for an
utterance does not depend on how far its batch is padded.
"""
