"""Networks and samples of a root as others can take them: a folder, or a repository on the Hugging Face hub,
with a card that is written from receipts."""
