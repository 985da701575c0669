"""Other people's training loops, each with RigL and SparseOpt: `python -m trainers`."""
