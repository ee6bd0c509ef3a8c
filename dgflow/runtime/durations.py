"""Formatting of durations."""


def duration(seconds: float) -> str:
    """Formats seconds: `< 0.01 s`, `0.42 s`, `41 s`, `3 min 05 s`, `2 h 10 min`, `4 d 06 h`."""
    if 0 < seconds < 0.01:
        return "< 0.01 s"
    if seconds < 59.5:
        return f"{seconds:.2g} s" if seconds < 9.95 else f"{seconds:.0f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400:,} d {whole % 86_400 // 3600:02d} h"
