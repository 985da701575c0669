"""Sending a run to W&B while it trains."""
