"""Clips: where they come from, and how they become [B, 3, T, H, W]."""
