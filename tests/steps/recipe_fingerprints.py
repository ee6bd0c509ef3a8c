"""Prints the fingerprint of every shipped recipe, with its defaults and with the options that make it another
system."""

import importlib
import sys
from pathlib import Path

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
VARIANTS = {
    "cifar10_edm": [{"conditional": True}, {"classifier_data": "data/imagenet/train"}],
    "imagenet256_adm": [{"row": "3.73"}, {"row": "4.45"}],
    "imagenet256_dit": [{"train_classifier": True}],
}

sys.path.insert(0, str(WORKFLOWS))
for name in sorted(path.stem for path in WORKFLOWS.glob("*.py")):
    workflow = importlib.import_module(name).workflow
    for options in [{}, *VARIANTS.get(name, [])]:
        told = " ".join(f"{option}={value}" for option, value in options.items())
        print(" ".join(filter(None, [name, told, workflow(**options).fingerprint])))
