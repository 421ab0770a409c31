"""Concept dictionaries: sparse features of what blocks of a network give out, and which of them a concept excites."""
