"""Lists of recipients from files: what a file is, its columns and rows, and what is in it."""
