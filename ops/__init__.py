"""Running the courier: simulator, command line, exporter, bench and configurations."""
