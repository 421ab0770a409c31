"""The drawn world: a small text-to-image model of real drawings, where one subject is drawn by many hands.

Names, keywords and drawings come from icon sets; see ``README.md`` for their authors and licences. Nothing in the
product imports this package.
"""
