"""Reading and writing images in the files of other tools: npz, folders, zips and tars of pictures, Parquet,
CIFAR's archives, and the steps of a run. No torch, no ray.

`discovery.list_images` lists a source once; `readers.open_reader` reads by that listing in any process.
`sources.open_images` combines both for evaluation and export. `preparation.prepare` makes the squares that
networks see, `write.export_images` converts between formats, `statistics.read_statistics` reads published
moments.
"""
