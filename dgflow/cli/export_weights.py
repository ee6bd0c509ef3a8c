"""Export the weights of a step as a file for other tools, with a description."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dgflow.files.outputs import new_file
from dgflow.networks.discriminator.spec import Discriminator
from dgflow.store.address import split_address, step_name
from dgflow.store.open import open_store
from dgflow.store.receipts import Receipt
from dgflow.store.step_store import StepStore, read_step
from dgflow.weights.metadata import with_metadata

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt")
OF_ONE_FILE = ("pretrained", "merge")
_LEAST = "held_out_loss"  # metric of "best"


def weights_of(source: str) -> tuple[StepStore, dict[str, Any], str] | None:
    """Find the step at an address without a range; returns its store, its document and the folder of its
    weights. None for a step without weights.
    """
    if source.endswith("]"):
        return None
    root, name = split_address(source)
    store = open_store(root)
    name = step_name(store, name)
    recorded = read_step(store, name)
    if recorded is None:
        return None
    document = recorded["document"]
    kind = document["kind"]
    if "network" not in document["fields"] or not (kind in OF_ONE_FILE or kind.startswith("train-")):
        return None
    folder = "results" if kind in OF_ONE_FILE else "epochs"
    return StepStore(store, name.rpartition("-")[0], recorded["fingerprint"]), document, folder


def export_weights(
    step_store: StepStore, document: Mapping[str, Any], folder: str, output: str, epoch: str
) -> str:
    """Write the weights to `output`, as safetensors or a file of `torch.save`, depending on its name.

    Returns a sentence about the written file.

    Args:
        epoch: for a training, a number, "last", or "best" by held-out loss.

    Raises:
        ValueError: the epoch does not exist, there are weights from several inputs, or the name has another
            suffix.
    """
    suffix = next((suffix for suffix in SUFFIXES if output.lower().endswith(suffix)), None)
    if suffix is None:
        raise ValueError(
            f"expected a name that ends in {', '.join(SUFFIXES)} for weights, found "
            f"{output.rpartition('/')[2]!r}; correct the name"
        )
    receipt = _chosen(step_store, folder, epoch)
    data = step_store.read(receipt)
    facts = _facts(step_store, document, receipt if folder == "epochs" else None)
    content = with_metadata(data, facts) if suffix == ".safetensors" else _as_torch(data)
    with new_file(output) as file:
        file.write(content)
    of = f" of epoch {receipt.number}" if folder == "epochs" else ""
    return f"the weights{of} of {step_store.name} ({_network(document)}) written to {output}"


def _chosen(step_store: StepStore, folder: str, epoch: str) -> Receipt:
    """Choose the receipt of the epoch, or of the only file."""
    committed = step_store.committed(folder)
    where = f"{step_store.name} in {step_store.store.url}"
    if not committed:
        raise ValueError(f"expected weights of {where}, found none yet; run the recipe")
    inputs = {short for keys in committed.values() for short in keys}
    if len(inputs) > 1:
        raise ValueError(
            f"expected weights of {where} from one set of inputs, found {len(inputs)} ({', '.join(inputs)}); "
            f"delete the outdated files from {step_store.name}/{folder}"
        )
    receipts = {number: next(iter(keys.values())) for number, keys in committed.items()}
    if folder == "results" or epoch == "last":
        return step_store.receipt(receipts[max(receipts)])
    if epoch == "best":
        candidates = step_store.receipts(list(receipts.values()))
        if any(_LEAST not in each.metrics for each in candidates):
            raise ValueError(
                f"expected a {_LEAST} of every epoch of {where}, found none; give --epoch NUMBER"
            )
        return min(candidates, key=lambda each: (each.metrics[_LEAST], each.number))
    if not epoch.isdecimal() or int(epoch) not in receipts:
        available = f"{min(receipts)} to {max(receipts)}"
        raise ValueError(
            f"expected --epoch last, best or a number from {available} of {where}, found {epoch!r}"
        )
    return step_store.receipt(receipts[int(epoch)])


def _network(document: Mapping[str, Any]) -> str:
    return str(document["fields"]["network"]["type"])


def _facts(step_store: StepStore, document: Mapping[str, Any], receipt: Receipt | None) -> dict[str, str]:
    """The network's settings, which `Pretrained` compares with a recipe's, and the step that made the
    weights.
    """
    fields = document["fields"]
    facts = {"format": "pt", "network": json.dumps(_settings(document)), "dgflow_step": step_store.name}
    facts |= {
        name: str(fields[name]) for name in ("image_size", "num_classes") if document["kind"] == "pretrained"
    }
    return facts if receipt is None else facts | {"dgflow_epoch": str(receipt.number)}


def _settings(document: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the whole network with defaults filled in; for a discriminator, including those of
    `Discriminator` around its head.
    """
    fields = document["fields"]
    network = fields["network"]
    if document["kind"] == "train-discriminator":
        settings = {name: fields[name] for name in Discriminator.model_fields if name in fields}
        network = {"type": Discriminator.__name__, "head": network} | settings
    if network["type"] != Discriminator.__name__:
        return network
    defaults = {name: Discriminator.model_fields[name].default for name in ("fine_tune", "process", "noise")}
    return defaults | network


def _as_torch(data: bytes) -> bytes:
    from dgflow.weights.tensors import load_weights
    from dgflow.weights.torch_file import save_torch

    return save_torch(load_weights(data))
