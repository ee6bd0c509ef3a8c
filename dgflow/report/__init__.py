"""Presents a run: the table and the page of its result, and the texts of `plan` and `status`. It reads the
store and needs neither torch nor ray."""
