"""Convert between the forms of class labels: indices int64 [B], or rows [B, K] that mark the class.

Another form or width raises `ValueError`. Values are not checked: reading them in a network's forward would
synchronise with the device.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def label_indices(class_labels: Tensor | None, num_classes: int) -> Tensor:
    """Class indices [B] for a label embedding, from indices or from rows [B, K], K <= num_classes, whose
    largest entry marks the class.

    Raises:
        ValueError: labels are missing or have another form.
    """
    if class_labels is None:
        raise ValueError(
            f"this network has {num_classes} classes and needs class_labels: int64 [B] or one-hot [B, K]"
        )
    if class_labels.ndim == 2 and class_labels.shape[1] <= num_classes:
        return class_labels.argmax(dim=1)
    if class_labels.ndim != 1 or class_labels.is_floating_point():
        raise ValueError(
            f"class_labels must be int64 [B] or one-hot [B, K] with K <= {num_classes}, found "
            f"{_form(class_labels)}"
        )
    return class_labels


def with_labels(emb_BE: Tensor, label_emb: nn.Embedding | None, class_labels: Tensor | None) -> Tensor:
    """`emb_BE` plus the embedded labels; unchanged for a network without classes (`label_emb` None).

    Raises:
        ValueError: labels are missing, unexpected or of another form.
    """
    if label_emb is not None:
        return emb_BE + label_emb(label_indices(class_labels, label_emb.num_embeddings))
    if class_labels is not None:
        raise ValueError(
            "class_labels given to a network without classes: leave them out, or build it with num_classes"
        )
    return emb_BE


def one_hot_labels(class_labels: Tensor | None, label_dim: int, device: torch.device) -> Tensor | None:
    """Float32 rows for a linear layer: None if the network has no classes, zeros [1, label_dim] if no labels
    are given.

    Raises:
        ValueError: labels are neither int64 [B] nor rows [B, label_dim].
    """
    if label_dim == 0:
        return None
    if class_labels is None:
        return torch.zeros(1, label_dim, device=device)
    if class_labels.ndim == 1 and not class_labels.is_floating_point():
        # Not F.one_hot, which reads the labels on the host of a CPU.
        rows = torch.zeros(len(class_labels), label_dim, device=class_labels.device)
        return rows.scatter(1, class_labels.long()[:, None], 1.0)
    if class_labels.ndim != 2 or class_labels.shape[1] != label_dim:
        raise ValueError(
            f"class_labels must be int64 [B] or one-hot [B, {label_dim}], found {_form(class_labels)}"
        )
    return class_labels.to(torch.float32)


def _form(class_labels: Tensor) -> str:
    return f"{class_labels.dtype} {list(class_labels.shape)}"
