"""Resistive crossbars as GDSII masks."""
