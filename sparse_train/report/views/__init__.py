"""Rows as tables and figures."""
