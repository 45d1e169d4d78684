"""What a recipe can ask for: pretraining, the linear probe, fine-tuning, and evaluation without training."""
