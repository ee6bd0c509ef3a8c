"""Time maps, random numbers, samplers, guidance and losses: the mathematics of guided diffusion, in plain
torch.
"""
