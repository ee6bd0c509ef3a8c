"""Adds to the site what lies outside docs/: README.md as the first page, CONTRIBUTING.md, CHANGELOG.md, and
the files of the repository that pages link to. Links of pages are paths of the repository; they become
paths of the site.
"""

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"(\]\()([^)#:\s]+)((?:#[^)]*)?\))")


def on_files(files: Files, config) -> Files:
    """Add the pages and files from outside docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    sources = [
        (Path("docs") / path.relative_to(ROOT / "docs"), path) for path in (ROOT / "docs").rglob("*.md")
    ]
    sources += [(Path(name), ROOT / name) for name in PAGES]
    for place, path in sources:
        for _, link, _ in LINK.findall(path.read_text()):
            target = normpath(str(PurePosixPath(place.as_posix()).parent / link))
            inside = target in PAGES or target.startswith("docs/")
            if not inside and (ROOT / target).is_file() and not files.get_file_from_path(target):
                files.append(File.generated(config, target, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page, **_) -> str:
    """Change the links of a page from paths of the repository to those of the site."""
    uri = page.file.src_uri
    source = next((name for name, own in PAGES.items() if own == uri), f"docs/{uri}")

    def changed(match: re.Match[str]) -> str:
        before, link, after = match.groups()
        target = normpath(str(PurePosixPath(source).parent / link))
        target = PAGES.get(target, target.removeprefix("docs/"))
        return before + relpath(target, str(PurePosixPath(uri).parent)) + after

    return LINK.sub(changed, markdown)
