"""Alignments of words, syllables and phones: readers, aligners, writers."""
