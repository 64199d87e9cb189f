"""The operators' commands: what a person types at night, and what health checks run."""
