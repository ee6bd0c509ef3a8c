"""Write the files of a user's own recipe: those of docs/own-model.md, .gitignore and .rayignore."""

import importlib.util
import shlex
import shutil
import sys
from pathlib import Path

TEMPLATES = Path(__file__).with_name("templates")
FILES = {
    "own_recipe.py": "own_recipe.txt",
    "my_model.py": "my_model.txt",
    "test_own_recipe.py": "test_own_recipe.txt",
    ".rayignore": "rayignore.txt",
    ".gitignore": "rayignore.txt",
}
"""File name in the folder -> template."""


def new_folder(folder: str) -> str:
    """Write the files into `folder`, which may exist; returns the next actions, one sentence per line.

    Raises ValueError, before anything is written, if one of the files exists or `folder` is a file.
    """
    path = Path(folder)
    if not folder.strip() or "://" in folder:
        raise ValueError(f"expected a folder on this machine, as in dgflow new mine, found {folder!r}")
    if path.exists() and not path.is_dir():
        raise ValueError(f"expected a new folder at {folder}, found a file; give another name")
    if existing := [name for name in FILES if (path / name).exists() or (path / name).is_symlink()]:
        raise ValueError(
            f"expected none of the files to write in {folder}, found {', '.join(existing)}; nothing was "
            "written; give another name"
        )
    path.mkdir(parents=True, exist_ok=True)
    for name, template in FILES.items():
        with open(path / name, "x", encoding="utf-8") as file:
            file.write((TEMPLATES / template).read_text(encoding="utf-8"))
    python = _python()
    needs = "" if importlib.util.find_spec("pytest") else f"  {python} -m pip install pytest\n"
    return (
        f"{folder}: {', '.join(FILES)}\n"
        "change my_model.py and own_recipe.py to your network and data; to try the files as they are:\n"
        f"  cd {shlex.quote(folder)}\n{needs}"
        f"  {python} -m pytest                    the networks' shapes and the plan, in seconds\n"
        f"  {python} own_recipe.py run --smoke    the whole recipe at toy size"
    )


def _python() -> str:
    """Return the command for this interpreter: `python` if that is the one, otherwise its path."""
    found = shutil.which("python")
    same = found is not None and Path(found).parent == Path(sys.executable).parent
    return "python" if same else shlex.quote(sys.executable)
