"""The page in a real browser, at desktop and phone width: nothing overflows, and no text of a figure is cut
off, overlaps others or becomes small. Skipped without Chromium."""

import html
import json
import re
import shutil
import subprocess

import pytest
from report.made_up_figures import Ladder, commit_ladder

from dgflow.report.page import render

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = (1280, 390)
LEAST_FONT = 10.5  # pixels
MEASURE = """
function measured(frame) {
  const page = frame.contentDocument, faults = [];
  const overflow = page.documentElement.scrollWidth - page.documentElement.clientWidth;
  if (overflow > 0) faults.push(`the page overflows by ${overflow} pixels`);
  for (const svg of page.querySelectorAll("svg[role=img]")) {
    const name = svg.getAttribute("aria-label"), outer = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll("text")].map(text => [text, text.getBoundingClientRect()]);
    texts.forEach(([text, box], number) => {
      const words = `${name}: ${text.textContent}`;
      const size = parseFloat(frame.contentWindow.getComputedStyle(text).fontSize) * svg.getScreenCTM().a;
      if (size < LEAST_FONT) faults.push(`${words} has ${size} pixels`);
      if (box.left < outer.left - 1 || box.right > outer.right + 1 || box.top < outer.top - 1
          || box.bottom > outer.bottom + 1) faults.push(`${words} is cut`);
      for (const [other, its] of texts.slice(number + 1))
        if (box.left + 1 < its.right && its.left + 1 < box.right && box.top + 3 < its.bottom
            && its.top + 3 < box.bottom) faults.push(`${words} lies on ${other.textContent}`);
    });
  }
  return {faults, figures: page.querySelectorAll("svg[role=img]").length};
}
onload = () => {
  const found = [...document.querySelectorAll("iframe")].map(measured);
  document.querySelector("pre").textContent = JSON.stringify(found);
}
""".replace("LEAST_FONT", str(LEAST_FONT))


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_no_words_are_cut_or_lie_on_others_at_any_width(finished, tmp_path):
    evaluation, store = finished
    target = Ladder(table=evaluation.result())
    commit_ladder(target, store)
    page = html.escape(render(target, store))
    frames = "".join(
        f'<iframe style="width: {width}px; height: 900px" srcdoc="{page}"></iframe>' for width in WIDTHS
    )
    path = tmp_path / "frames.html"
    path.write_text(f"<!DOCTYPE html><meta charset=utf-8><script>{MEASURE}</script>{frames}<pre></pre>")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    shown = subprocess.run(
        [str(BROWSER), *options, "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    (found,) = re.findall(r"<pre>(.*?)</pre>\s*</body>", shown, re.DOTALL)
    results = json.loads(html.unescape(found))
    assert [result["faults"] for result in results] == [[]] * len(WIDTHS)
    assert all(result["figures"] > 10 for result in results)
