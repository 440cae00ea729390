"""The paper: which class owns which prototype, decided anew while the network trains.

Read matching.py (the equation), statistics.py (what is matched on), then assigner.py (when).
"""
