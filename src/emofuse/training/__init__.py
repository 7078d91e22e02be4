"""Training on stored features: one loop, and folds x seeds as independent, resumable trials."""
