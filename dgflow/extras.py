"""Optional packages, and the extras that install them.

They are imported in the functions that use them. If one is missing, the message names the extra.
"""

import importlib.util

_RUN = ("run", "metrics")
EXTRAS: dict[str, tuple[str, ...]] = {
    "torch": _RUN,
    "torchvision": _RUN,
    "scipy": _RUN,
    "cleanfid": _RUN,
    "safetensors": _RUN,
    "google": _RUN,
    "cloudpickle": _RUN,
    "yaml": _RUN,
    "ray": ("run",),
    "huggingface_hub": ("publish",),
    "s3fs": ("s3",),
    "aiohttp": ("s3",),
    "botocore": ("s3",),
    "fsspec": ("s3",),
    "mlxtend": ("digits",),
    "sklearn": ("digits",),
    "diffusers": ("diffusers",),
    "pandas": ("python",),
    "matplotlib": ("python",),
    "tensorboard": ("tensorboard",),
    "mlflow": ("mlflow",),
    "wandb": ("wandb",),
    "trackio": ("trackio",),
}
"""The extras that install a package, by import name; the first one suffices."""


def installed(package: str) -> bool:
    """True if a package can be imported; does not import it."""
    return importlib.util.find_spec(package) is not None


def require(package: str, purpose: str) -> None:
    """Raise ValueError if `package`, which `purpose` ("training") needs, is missing."""
    if not installed(package):
        raise ValueError(f"{purpose} needs the package {package}: {_install(package)}")


def explained(error: ModuleNotFoundError) -> str | None:
    """The remedy for a failed import; None if no extra has the package."""
    package = (error.name or "").partition(".")[0]
    if package not in EXTRAS or installed(package):
        return None
    return f"expected the package {package}, which is not installed: {_install(package)}"


def _install(package: str) -> str:
    first, *others = EXTRAS[package]
    alone = "; 'dgflow[metrics]' has what metrics on one machine need" if "metrics" in others else ""
    return f"pip install 'dgflow[{first}]'{alone}"
