"""The engine every system trains on."""
