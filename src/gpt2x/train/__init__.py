"""Training: one loop over a small engine for each framework, and the data that it reads."""
