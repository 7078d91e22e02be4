"""End-to-end fine-tuning: both encoders and the model on top, on one or many devices."""
