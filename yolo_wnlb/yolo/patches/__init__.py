"""The one place that touches Ultralytics: what is wrapped, and what the wrappers add, a module for a part of it.

Each `patch_*` is given one executed module of Ultralytics by `activate`, which names it. A wrapper calls the stock
function for everything that is not about wNLB. tests/test_contract.py states what is assumed of
the stock code and runs on the oldest and the newest supported release.
"""
