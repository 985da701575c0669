"""What a run leaves, and who may write it."""
