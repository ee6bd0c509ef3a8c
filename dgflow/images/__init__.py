"""Reads and writes images in the file formats of other tools: npz, folders, zips and tars of pictures,
Parquet, CIFAR's archives, and the steps of a run. Neither torch nor ray is needed.

- `discovery.list_images` lists a source once.
- `readers.open_reader` reads the images of a listing in any process.
- `sources.open_images` combines both for evaluation and export.
- `preparation.prepare` makes the square images that networks see.
- `write.export_images` converts between formats.
- `statistics.read_statistics` reads published moments.

A picture is an encoded image, such as a PNG file.
"""
