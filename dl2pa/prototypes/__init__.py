"""Fixed class prototypes: C unit vectors in d dimensions, from a formula, an optimiser or a file, and their quality.

kinds.py lists what can be asked for; build.py makes it; geometry.py measures it. Nothing is imported here: kinds.py is
read by the configuration's validation, which must not wait for torch.
"""
