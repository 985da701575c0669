"""Training what is missing: here, side by side, or by SLURM."""
