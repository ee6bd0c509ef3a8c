"""Read and write files of other tools, local or in S3: byte ranges, zip, tar, npz, inert pickles, atomic
outputs. Imports neither torch nor ray.
"""
