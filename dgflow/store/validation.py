"""Short descriptions of validation errors of records."""

from pydantic import ValidationError

_SHOWN = 3


def shortened(error: ValidationError) -> str:
    """The first errors on one line, each with its field: `part: Field required; ... and 11 more`."""
    lines = [
        f"{'.'.join(map(str, line['loc']))}: {text}" if line["loc"] else text
        for line in error.errors(include_url=False, include_input=False)
        for text in [line["msg"].removeprefix("Value error, ")]
    ]
    more = f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return "; ".join(lines[:_SHOWN]) + more
