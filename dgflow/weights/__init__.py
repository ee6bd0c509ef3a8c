"""Published weight files: where they are, getting them whole, and reading them without running anything that
is in them."""
