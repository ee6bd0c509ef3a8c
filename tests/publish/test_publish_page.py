"""docs/publish.md: its commands and its Python, one after the other, on the toy root."""

import re
import shlex
import sys
from pathlib import Path

import pytest
from publish.hub_server import Hub

from dgflow.cli import tool
from dgflow.client.open_root import OpenRoot

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "publish.md").read_text()


def test_the_page_does_what_it_says(
    root: str,
    opened: OpenRoot,
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "digits").symlink_to(root)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    samples = opened.step("evaluate").spec.arms["guided"][0].step.name
    names: dict[str, object] = {}
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.S | re.M):
        if language == "python":
            exec(block, names)
            continue
        for line in block.splitlines():
            line = line.replace("generate-3fa9[0:5000]", f"{samples}[0:32]")
            monkeypatch.setattr(sys, "argv", shlex.split(line))
            with pytest.raises(SystemExit) as ended:
                tool.main()
            assert ended.value.code == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    commit = hub.repos["models/ada/digits-discriminator"].sha
    assert f'In a recipe: official("hf:ada/digits-discriminator@{commit}")' in printed
    assert names["guidance"].weight == 2.0  # type: ignore[attr-defined]
    assert len(names["samples"]) == 32 and "size=8x8" in printed  # type: ignore[arg-type]
    assert set(hub.repos) == {"models/ada/digits-discriminator", "datasets/ada/digits-samples"}
    written = {path.name for path in (tmp_path / "digits-discriminator").iterdir()}
    assert {name for name in written if f"| `{name}` |" in PAGE} == written
