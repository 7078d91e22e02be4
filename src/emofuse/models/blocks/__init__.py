"""Building blocks that several models share: plain modules and functions on tensors and masks.

Sequences are `(batch, steps, width)`; masks are `(batch, steps)`, True where a step is valid. The output for an
utterance does not depend on padding.
"""
