"""When the words, syllables and phones of an utterance are said: readers, aligners, writers."""
