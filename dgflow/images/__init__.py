"""Images from and to the files of other tools: npz, folders and zips of pictures, Parquet, and the steps of a run. No torch, no ray.

`sources.open_images` opens any of them, `statistics.read_statistics` reads the moments that references are published as, and
`write.export_images` converts.
"""
