"""Prediction from audio and text, and writers of predictions."""
