"""Optional packages, and the extras of dgflow that install them.

Optional packages are imported in the functions that use them. If one is missing, the error names its extra.
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
"""Import name of a package -> the extras that install it, each of which suffices."""


def installed(package: str) -> bool:
    """True if a package can be imported; does not import it."""
    return importlib.util.find_spec(package) is not None


def require(package: str, purpose: str) -> None:
    """Raise ValueError if `package`, which `purpose` ("training") needs, is missing."""
    if not installed(package):
        raise ValueError(f"{purpose} needs the package {package}: {_install(package)}")


def explained(error: ModuleNotFoundError) -> str | None:
    """Explain a failed import, with the remedy; None if no extra installs the package."""
    package = (error.name or "").partition(".")[0]
    if package not in EXTRAS or installed(package):
        return None
    return f"expected the package {package}, which is not installed: {_install(package)}"


def _install(package: str) -> str:
    first, *others = EXTRAS[package]
    smaller = "; 'dgflow[metrics]' suffices for metrics on one machine" if "metrics" in others else ""
    return f"pip install 'dgflow[{first}]'{smaller}"
