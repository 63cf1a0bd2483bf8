"""Rows that are not in their table, or are there with a remark: kept with the reason until somebody has looked.

Stored by the writers in the transaction that stores the rest of the slice; listed, shown and replayed from here.
"""
