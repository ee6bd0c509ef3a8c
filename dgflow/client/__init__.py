"""Access to a root from Python: steps, samples, measurements, figures and networks, without a recipe and
without Ray.
"""
