"""Published networks that videos are scored or made by, each with its own preprocessing."""
