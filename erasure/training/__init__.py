"""The one loop of every learned method, and all that it works with."""
