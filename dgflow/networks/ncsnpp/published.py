"""Published file of Soft Truncation."""

from __future__ import annotations

from dgflow.networks.ncsnpp.spec import NCSNpp
from dgflow.networks.published import NONE_STATED, Published, PublishedFile

FILES = (
    PublishedFile(
        name="soft-truncation-celeba64",
        file_name="celeba_ddpmpp_fid_st.pth",
        source=None,
        format="soft_truncation",
        network={"": Published(NCSNpp(), 64)},
        licence=NONE_STATED,
        page="https://drive.google.com/drive/folders/1Wyk0ucFW-QDS_g1EcPm361LWWgWqJ6L_ (CelebA, DDPM++ VP "
        "FID with ST; the file may have another name there)",
        image_size=64,
        published_fid=1.90,
        fid_note="131 evaluations",
    ),
)
