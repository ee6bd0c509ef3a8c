"""Published files of the network that defines FID.

All hold TensorFlow's weights of 2015-12-05, under the licence of those weights.
"""

from __future__ import annotations

from dgflow.networks.inception.spec import InceptionV3
from dgflow.networks.published import Published, PublishedFile

_FIDELITY = "https://github.com/toshas/torch-fidelity"
_PYTORCH_FID = "https://github.com/mseitzer/pytorch-fid"


def _file(publisher: str, source: str, format: str, page: str) -> PublishedFile:
    return PublishedFile(
        name=f"inception-2015-12-05{publisher}",
        file_name=source.rpartition("/")[2],
        source=source,
        format=format,
        network={"": Published(InceptionV3(), 299, num_classes=1008)},
        licence="Apache 2.0",
        page=page,
        image_size=299,
    )


FILES = (
    _file(
        "",
        f"{_FIDELITY}/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
        "inception_pth",
        _FIDELITY,
    ),
    _file(
        "-pytorch-fid",
        f"{_PYTORCH_FID}/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
        "inception_pth",
        _PYTORCH_FID,
    ),
    _file(
        "-nvidia",
        "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
        "inception_torchscript",
        "https://github.com/NVlabs/stylegan2-ada-pytorch",
    ),
    _file(
        "-openai",
        "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/ref_batches/classify_image_graph_def.pb",
        "inception_graph",
        "https://github.com/openai/guided-diffusion/tree/main/evaluations",
    ),
)
