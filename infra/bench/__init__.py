"""Measurements. Each measures itself and what it compares with in the same run; none is a test."""
