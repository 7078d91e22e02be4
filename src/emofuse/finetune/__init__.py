"""End-to-end fine-tuning: both encoders and the model above them trained together, on one or many devices."""
