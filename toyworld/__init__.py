"""A whole tiny text-to-image world: renderer, captions, checkpoints in several architectures, and a judge.

Real weights cannot be shipped with this project, so everything it does on Stable Diffusion is shown and tested
here, through the same nodes and files. Nothing in the product imports this package.
"""
