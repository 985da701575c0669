"""Our mask updates and HAM beside public code of others on the same numbers: `make parity` writes results/parity.md."""
