"""From audio to answers: the predictor, and the writers of what it says."""
