"""A root in Python: its steps, samples, measurements, figures and networks, without a recipe and without
Ray."""
