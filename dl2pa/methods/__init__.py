"""Classifier heads behind one small interface (heads.py)."""
