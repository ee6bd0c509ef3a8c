"""Images from and to the files of other tools: npz, folders, zips and tars of pictures, Parquet, CIFAR's
archives, and the steps of a run.

`sources.open_images` opens what is to be evaluated, `statistics.read_statistics` reads the moments that
references are published as, and `write.export_images` converts. For an import, `look.list_images` lists a
source once, `listed.open_listed` reads what is listed anywhere, and `preparation.prepare` makes the squares
that networks see. No torch, no ray.
"""
