"""The toy network's file: averaged weights under `averages`."""

from dgflow.weights.torch_file import load_torch, save_torch
from dgflow.weights.weight_file import check_state_dict, section


def read_toy_checkpoint(file, source):
    found = load_torch(file, source)
    return check_state_dict(section(found, "averages", source, "a toy checkpoint"), source)


def write_toy_checkpoint(tensors):
    return save_torch({"step": 7, "averages": dict(tensors)})
