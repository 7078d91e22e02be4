"""Speech recognition: transcripts of recordings and of corpora."""
