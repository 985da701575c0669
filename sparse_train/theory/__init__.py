"""The paper's theory, measured: each file is one task, an ordinary run of the entrypoint with its record."""
