"""Modules that several systems share."""
