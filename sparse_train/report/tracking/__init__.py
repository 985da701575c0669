"""Records in W&B, afterwards."""
