"""``courier console``: pages for the people on duty and the people who run campaigns."""
