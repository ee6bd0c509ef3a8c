"""Presentation of a run for people: the table and page of its result, the texts of `plan` and `status`. Reads
the store; needs neither torch nor ray."""
