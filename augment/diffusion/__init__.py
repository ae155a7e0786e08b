"""What all samplers share: objectives, the training loop, the solver, what a saved one is."""
