"""Where queries and keys stand once rows are sorted by their prompts, found on the device without a look at it."""
