"""From raw videos to a cache."""
