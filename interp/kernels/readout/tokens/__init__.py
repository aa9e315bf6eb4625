"""Logits of a few tokens for every row; the tokens are those of the row's prompt."""
