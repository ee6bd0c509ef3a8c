"""Published files of DiT."""

from __future__ import annotations

from dgflow.networks.dit.spec import DiT
from dgflow.networks.published import Published, PublishedFile


def _file(size: int, fid: float, note: str) -> PublishedFile:
    """DiT-XL/2 on the latents of images of that size."""
    return PublishedFile(
        name=f"dit-xl-2-{size}",
        file_name=f"DiT-XL-2-{size}x{size}.pt",
        source=f"https://dl.fbaipublicfiles.com/DiT/models/DiT-XL-2-{size}x{size}.pt",
        format="dit",
        network={"": Published(DiT(), size // 8, channels=4, num_classes=1000)},
        licence="CC BY-NC 4.0",
        page="https://github.com/facebookresearch/DiT",
        image_size=size // 8,
        published_fid=fid,
        fid_note=note,
    )


FILES = (_file(256, 9.62, "without guidance; 2.27 with cfg_scale 1.5"), _file(512, 3.04, "with guidance"))
