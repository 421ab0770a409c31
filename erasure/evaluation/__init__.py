"""How well an erasure erases and preserves: measures, judges, reports."""
