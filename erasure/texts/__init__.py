"""Reading and saying texts."""
