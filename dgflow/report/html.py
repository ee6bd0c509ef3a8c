"""Renders the templates of pages: one style sheet, one small script, and no external resource.

The content security policy of a page allows only the page's own script, named by digest. A script injected
through a text from the store does not run.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

from markupsafe import Markup

_FOLDER = Path(__file__).parent


def rendered(template: str, **values: Any) -> str:
    """Returns the page as HTML. All values except `Markup` are escaped; an undefined name is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_FOLDER, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (_FOLDER / "script.html").read_text(encoding="utf-8").rstrip("\n")
    inner = re.sub(r"^<script>|</script>$", "", script)
    digest = "sha256-" + base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
    return environment.get_template(template).render(script=Markup(script), script_digest=digest, **values)
