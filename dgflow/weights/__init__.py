"""Weight files: downloads locked at first use, and readers that never run code from a file."""
