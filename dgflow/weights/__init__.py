"""Weight files: downloads whose content is locked at first use, and readers that never run code from a
file."""
